#include "model/linear.h"

#include "autograd/elementwise_grad.h"
#include "autograd/norm_grad.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/quant/act_quant.h"
#include "ops/rows/rows.h"

namespace cachalot::model {

void show(const Step& step, std::string_view op, Matrix x, int64_t rows) {
  if (step.probe == nullptr || rows == 0) return;
  const OnHost<float> values(step.exec, x.data, (rows - 1) * x.stride + x.columns);
  step.probe->on_op(op, values.data(), rows, x.columns, x.stride);
}

bool quantises_input(const Step& step, const ops::PackedWeight& weight) {
  return step.precision.act8 &&
         (weight.format() == ops::WeightFormat::fp8 || weight.format() == ops::WeightFormat::fp4);
}

ops::MatmulMath matmul_math(const Step& step, const ops::PackedWeight& weight) {
  return step.precision.bf16 && weight.format() != ops::WeightFormat::f32 ? ops::MatmulMath::bf16
                                                                          : ops::MatmulMath::f32;
}

Matrix detached(Step& step, Matrix x, int64_t rows) {
  if (step.tape == nullptr) return x;
  auto* copy = step.exec.arena->allocate<float>(rows * x.columns);  // not the tape's
  ops::copy_rows(step.exec, {x.data, x.stride, rows, x.columns, copy, x.columns});
  return {copy, x.columns, x.columns};
}

// Products of streamed weights quantise for themselves; all that read x have their columns.
bool takes_input_as_it_is(const Step& step, const ops::PackedWeight& weight) {
  return !quantises_input(step, weight) || weight.on_gpu() == ops::PackedWeight::OnGpu::streamed;
}

Matrix quantised_input(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight) {
  if (takes_input_as_it_is(step, weight)) return x;
  const Matrix copy = new_matrix(step, rows, x.columns);
  autograd::simulate_fp8(step.context(),
                         {copy.data, rows, copy.columns, copy.stride, x.data, x.stride}, 128);
  return copy;
}

autograd::GradientFormat unquantised_gradient_format(const Step& step,
                                                     const ops::PackedWeight& weight) {
  return matmul_math(step, weight) == ops::MatmulMath::bf16 ? autograd::GradientFormat::bf16
                                                            : autograd::GradientFormat::f32;
}

autograd::GradientFormat gradient_format(const Step& step, const ops::PackedWeight& weight) {
  return quantises_input(step, weight) ? autograd::GradientFormat::fp8
                                       : unquantised_gradient_format(step, weight);
}

namespace {
ops::MatmulParams product_of(const Step& step, Matrix x, int64_t rows,
                             const ops::PackedWeight& weight, Matrix y, bool round_y) {
  ops::MatmulParams p{};
  p.x = x.data;
  p.m = rows;
  p.x_stride = x.stride;
  p.w = &weight;
  p.y = y.data;
  p.y_stride = y.stride;
  p.math = matmul_math(step, weight);
  p.round_y = round_y;
  p.laid = step.laid.find(weight);
  return p;
}
// A result that is not rounded (LINF) is fp32 in both directions.
void product(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight, Matrix y,
             bool round_y, int64_t chain_inputs = 0) {
  ops::MatmulParams p = product_of(step, x, rows, weight, y, round_y);
  p.chain_inputs = chain_inputs;
  autograd::matmul(step.context(), {&p, 1},
                   round_y ? gradient_format(step, weight) : autograd::GradientFormat::f32);
}
}  // namespace

void linear(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight, Matrix y) {
  product(step, x, rows, weight, y, step.precision.bf16);
}
Matrix linear(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight) {
  const Matrix y = new_matrix(step, rows, weight.rows());
  linear(step, x, rows, weight, y);
  return y;
}

void linears(Step& step, int64_t rows, const LinearParts& parts) {
  std::array<ops::MatmulParams, LinearParts::kMax> products;
  for (int i = 0; i < parts.count; ++i) {
    const LinearPart& p = parts.part[i];
    const bool rounds = step.precision.bf16 && !p.f32;
    if (step.tape != nullptr) {  // which adds to one gradient of x by turns
      product(step, p.x, rows, *p.weight, p.y, rounds);
    } else {
      products[i] = product_of(step, p.x, rows, *p.weight, p.y, rounds);
    }
  }
  if (step.tape != nullptr) return;
  if (parts.count == 0) return;
  const std::span<const ops::MatmulParams> all(products.data(), static_cast<size_t>(parts.count));
  if (parts.x_bf16 != nullptr) return ops::grouped_matmul_bf16_input(step.exec, all, parts.x_bf16);
  products[0].norm = parts.norm;
  products[0].swiglu = parts.swiglu;
  products[0].lets_next_in = parts.lets_next_in;
  ops::grouped_matmul(step.exec, all);
}

bool linears_take_bf16(const Step& step, int64_t rows, const LinearParts& parts) {
  std::array<ops::MatmulParams, LinearParts::kMax> products;
  for (int i = 0; i < parts.count; ++i) {
    const LinearPart& p = parts.part[i];
    if (!takes_input_as_it_is(step, *p.weight)) return false;
    products[i] = product_of(step, p.x, rows, *p.weight, p.y, step.precision.bf16 && !p.f32);
  }
  return ops::products_take_bf16_input(step.exec,
                                       {products.data(), static_cast<size_t>(parts.count)});
}

ops::MatmulParams rounded_product(const Step& step, Matrix x, const ops::PackedWeight& weight,
                                  Matrix y) {
  return product_of(step, x, step.rows, weight, y, step.precision.bf16);
}

void linear_f32(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight, Matrix y) {
  product(step, x, rows, weight, y, false);
}
Matrix linear_f32(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight) {
  const Matrix y = new_matrix(step, rows, weight.rows());
  linear_f32(step, x, rows, weight, y);
  return y;
}

Matrix linear_maps(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight) {
  constexpr int64_t kChainInputs = 64;
  const bool in_chains = step.precision.bf16 && weight.format() == ops::WeightFormat::f32;
  const Matrix y = new_matrix(step, rows, weight.rows());
  product(step, x, rows, weight, y, false, in_chains ? kChainInputs : 0);
  return y;
}

Matrix rms_norm(Step& step, Matrix x, int64_t rows, const std::vector<float>& g, float eps) {
  const Matrix y = new_matrix(step, rows, x.columns);
  autograd::rms_norm(step.context(), {x.data, x.stride, g.data(), y.data, y.stride, rows, x.columns,
                                      eps, step.precision.bf16});
  return y;
}

}  // namespace cachalot::model
