// The four matrix products of the published code, over one matmul. Internal to model/.
// Source  reference/forward 0.5, 3.9.
#pragma once

#include <array>
#include <string_view>

#include "autograd/matmul_grad.h"
#include "model/step.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::model {

// A [rows, columns] fp32 matrix in the arena or in a larger one.
struct Matrix {
  float* data;
  int64_t columns;
  int64_t stride;
};

// A sublayer's input [rows, columns], of values that bf16 holds where the precision rounds
// activations: in floats, or, where all its readers take it so, in bf16.
struct Input {
  Matrix x;                        // in bf16: data is null
  const uint16_t* bf16 = nullptr;  // contiguous
};

inline Matrix new_matrix(Step& step, int64_t rows, int64_t columns) {
  return {step.floats(rows * columns), columns, columns};
}

// Shows an op's result to the step's probe.
void show(const Step& step, std::string_view op, Matrix x, int64_t rows);

// True where the published code quantises this weight's input (LIN8, LIN4).
bool quantises_input(const Step& step, const ops::PackedWeight& weight);

// True where a product with it takes its input as it is: it quantises nothing, or does so itself.
bool takes_input_as_it_is(const Step& step, const ops::PackedWeight& weight);

// Where an op that could overwrite x puts its result: x itself, or with a tape, which needs x
// again, a new matrix.
inline Matrix result_over(Step& step, Matrix x, int64_t rows) {
  return step.tape == nullptr ? x : new_matrix(step, rows, x.columns);
}

// x to an op that must not pass a gradient back to it.
Matrix detached(Step& step, Matrix x, int64_t rows);

// ACT8 applied to a copy where the weight asks for it; x itself otherwise. Linears that read the
// same input share the result.
Matrix quantised_input(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight);

// y = x W^T; the result is rounded to bf16 where the precision rounds activations (LIN8, LIN4,
// LINB).
void linear(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight, Matrix y);
Matrix linear(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight);

// Several, which do not wait for each other.
struct LinearPart {
  Matrix x;
  const ops::PackedWeight* weight;
  Matrix y;
  bool f32 = false;  // LINF
};
struct LinearParts {
  static constexpr int kMax = 8;
  std::array<LinearPart, kMax> part;
  int count = 0;
  // As MatmulParams has them. An op that makes the input: of parts whose weights take it as it is.
  const ops::RmsNormParams* norm = nullptr;
  const ops::SwigluParams* swiglu = nullptr;
  bool* lets_next_in = nullptr;
  // In place of every part's x, whose data is null (ops/matmul/bf16_rows.h).
  const uint16_t* x_bf16 = nullptr;
  void add(const LinearPart& one) { part.at(count++) = one; }
};
void linears(Step& step, int64_t rows, const LinearParts& parts);
// Whether they may have x_bf16, as far as weights and rows say it.
bool linears_take_bf16(const Step& step, int64_t rows, const LinearParts& parts);

// What such a product is to grouped_matmul.
ops::MatmulParams rounded_product(const Step& step, Matrix x, const ops::PackedWeight& weight,
                                  Matrix y);

// The same with the fp32 result kept (LINF).
void linear_f32(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight, Matrix y);
Matrix linear_f32(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight);
// The same of an mHC map. Its inputs are all streams: where activations are rounded, one chain of
// so many sums would turn roundings of the sublayer's input that shorter chains leave alone.
Matrix linear_maps(Step& step, Matrix x, int64_t rows, const ops::PackedWeight& weight);

// How a weight's product runs at this precision.
ops::MatmulMath matmul_math(const Step& step, const ops::PackedWeight& weight);

// What the gradient of this weight's product is rounded to: fp8 where the forward pass quantises
// the input (the linears of reference/forward 3.9), bf16 where it multiplies bf16 values otherwise;
// and of a product that takes its input as it is (wo_a).
autograd::GradientFormat gradient_format(const Step& step, const ops::PackedWeight& weight);
autograd::GradientFormat unquantised_gradient_format(const Step& step,
                                                     const ops::PackedWeight& weight);

// Weighted RMS norm into a new matrix, rounded as activations are.
Matrix rms_norm(Step& step, Matrix x, int64_t rows, const std::vector<float>& g, float eps);

}  // namespace cachalot::model
