#include "autograd/matmul_grad.h"

#include <vector>

#include "ops/matmul/matmul_backward.h"
#include "ops/quant/act_quant.h"
#include "ops/rows/rows.h"

namespace cachalot::autograd {
namespace {

using Products = std::vector<ops::MatmulParams>;

constexpr int64_t kFp8Tile = 128;

// A product whose dX is not added to in place but has a place of its own first.
struct SeparateGrad {
  const ops::MatmulParams* product;
  float* d_x;
};

// A rounded copy of a matrix's rows in the arena, to be made by an op of ops/quant. x_rows null:
// its first m rows.
ops::RowsParams copy_of(device::ExecContext& exec, const float* x, int64_t stride,
                        const int32_t* x_rows, int64_t m, int64_t columns) {
  return {exec.arena->allocate<float>(m * columns), m, columns, columns, x, stride, x_rows};
}

// dX += dY W. Gathered rows are added to the rows they came from product by product: that is the
// order of the sum.
void input_grads(Context ctx, const Products& products, GradientFormat format) {
  const device::ArenaScope scope(*ctx.exec.arena);
  Products grads;
  std::vector<SeparateGrad> separate;
  for (const ops::MatmulParams& p : products) {
    const MatrixGrad* weight = ctx.tape->matrix(p.w);
    const float* d_y = ctx.tape->existing_grad(p.y);
    if (weight == nullptr || d_y == nullptr || p.m == 0) continue;
    float* d_x = ctx.tape->grad(p.x);
    if (d_x == nullptr) continue;
    ops::MatmulParams d{};
    d.x = d_y;
    d.m = p.m;
    d.x_stride = p.y_stride;
    d.w = weight->transposed;
    d.y = d_x;
    d.y_stride = p.x_stride;
    d.math = ops::MatmulMath::f32;
    d.accumulate = true;
    if (format != GradientFormat::f32) {
      const ops::RowsParams rounded = copy_of(ctx.exec, d_y, p.y_stride, nullptr, p.m, p.w->rows());
      if (format == GradientFormat::bf16) {
        ops::round_bf16(ctx.exec, rounded);
      } else {
        ops::simulate_fp8(ctx.exec, rounded, kFp8Tile, ops::kFp8GradientFloor);
      }
      d.x = rounded.x;
      d.x_stride = rounded.row_stride;
      d.math = ops::MatmulMath::bf16;
    }
    if (p.x_rows != nullptr || format != GradientFormat::f32) {
      d.y = ctx.exec.arena->allocate<float>(p.m * p.w->columns());
      d.y_stride = p.w->columns();
      d.accumulate = false;
      separate.push_back({&p, d.y});
    }
    grads.push_back(d);
  }
  ops::grouped_matmul(ctx.exec, grads);
  for (const SeparateGrad& g : separate) {
    const ops::MatmulParams& p = *g.product;
    const int64_t columns = p.w->columns();
    float* d_x = ctx.tape->grad(p.x);
    if (p.x_rows != nullptr) {
      ops::scatter_add_rows<int32_t>(ctx.exec,
                                     {g.d_x, columns, p.x_rows, p.m, columns, d_x, p.x_stride});
    } else {
      ops::add_rows(ctx.exec, {d_x, p.x_stride, p.m, columns, g.d_x, columns}, false);
    }
  }
}

void weight_grads(Context ctx, const Products& products, GradientFormat format) {
  const device::ArenaScope scope(*ctx.exec.arena);
  std::vector<ops::MatmulWeightGradParams> grads;
  for (const ops::MatmulParams& p : products) {
    const MatrixGrad* weight = ctx.tape->matrix(p.w);
    const float* d_y = ctx.tape->existing_grad(p.y);
    if (weight == nullptr || weight->grad == nullptr || d_y == nullptr || p.m == 0) continue;
    ops::MatmulWeightGradParams d{
        d_y,          p.m,         p.y_stride,     p.x,           p.x_stride, p.x_rows,
        weight->grad, p.w->rows(), p.w->columns(), weight->stride};
    if (format != GradientFormat::f32) {
      const ops::RowsParams dy = copy_of(ctx.exec, d_y, p.y_stride, nullptr, p.m, p.w->rows());
      d.dy = dy.x;
      d.dy_stride = dy.row_stride;
      if (format == GradientFormat::bf16) {
        ops::round_bf16(ctx.exec, dy);
      } else {
        const ops::RowsParams x = copy_of(ctx.exec, p.x, p.x_stride, p.x_rows, p.m, p.w->columns());
        ops::simulate_fp8_columns(ctx.exec, dy, kFp8Tile, ops::kFp8GradientFloor);
        ops::simulate_fp8_columns(ctx.exec, x, kFp8Tile);
        d.x = x.x;
        d.x_stride = x.row_stride;
        d.x_rows = nullptr;
      }
    }
    grads.push_back(d);
  }
  ops::grouped_matmul_weight_grad(ctx.exec, grads);
}

}  // namespace

void matmul(Context ctx, std::span<const ops::MatmulParams> products, GradientFormat format) {
  ops::grouped_matmul(ctx.exec, products);
  if (ctx.tape == nullptr) return;
  Op op{.name = "matmul"};
  for (const ops::MatmulParams& p : products) {
    op.reads.push_back(p.x);
    op.writes.push_back(p.y);
  }
  op.needs = op.reads;
  op.backward = [ctx, format, products = Products(products.begin(), products.end())] {
    weight_grads(ctx, products, format);
    input_grads(ctx, products, format);
  };
  ctx.tape->record(std::move(op));
}

}  // namespace cachalot::autograd
