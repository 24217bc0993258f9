// Matrix products with packed weights: Y[M, N] = X[M, K] W[N, K]^T, or Y += with `accumulate`.
// Source  reference/forward 0.5: LINF is f32 math with f32 (or widened) weights, LINB bf16 math
//         with bf16 weights, LIN8 and LIN4 either math with fp8 and fp4 weights, the activation's
//         scales (powers of two) already multiplied into x.
// Shapes  x [*, K] float, x_stride floats from row to row; x_rows null (row m of the product is row
//         m of x) or [M] row numbers; y [M, N] float, y_stride >= N. y overlaps nothing. M may be
//         0.
// Numerics  Every output is one chain of fp32 fused multiply-adds over k ascending; nothing else
//         about the call (M, the other rows, the tiles, threads, instruction set) can change its
//         bits. K is padded with zeros as PackedWeight says.
//         f32 math   acc = 0; for k: acc = fma(x[k], w[k], acc), w decoded exactly. Denormals are
//                    kept.
//         bf16 math  acc = 0; for i: acc = fma(x[2i+1], w[2i+1], acc), acc = fma(x[2i], w[2i],
//                    acc): the order and the roundings of vdpbf16ps, which counts as zero every x,
//                    bf16 weight and step result that is denormal; so do all versions.
//         scales     fp8 per 128 inputs, fp4 per 32: total = 0; per group ascending: acc as above
//                    from 0 over the group with unscaled codes, total = fma(acc, scale, total). In
//                    bf16 math a denormal total counts as zero, a denormal scale does not. An fp8
//                    weight may be summed per 32 too (PackedWeight::set_sum_group).
//         chain_inputs  (f32 math and weights, no accumulate) one chain from 0 for every so many
//                    inputs, their sums added in order: errs less than one long chain.
//         round_y    y = bf16(total), nearest even.
//         accumulate (f32 math, no round_y) acc, with scales total, starts as what y holds instead
//         of 0. Without scales a product over
//                    all of K so has the bits of several over consecutive parts of K.
//         NaN and infinity propagate; which NaN is not specified.
// Errors  Shapes and flags are the caller's: CHECK. bf16 math takes x that bf16 can hold (DCHECK)
//         and any weight but f32 (CHECK).
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::ops {

struct LaidWeight;
struct RmsNormParams;
struct SwigluParams;

enum class MatmulMath { f32, bf16 };

struct MatmulParams {
  const float* x;
  int64_t m;
  int64_t x_stride;
  const int32_t* x_rows = nullptr;
  const PackedWeight* w;
  float* y;
  int64_t y_stride;
  MatmulMath math;
  bool round_y = false;
  bool accumulate = false;
  int64_t chain_inputs = 0;          // 0: one chain
  const LaidWeight* laid = nullptr;  // w laid anew (laid_weights.h): the bits are the same
  // --- Of the first product of a call, for all of them.
  // The op whose result is x, at most one: it runs before the products, or on a GPU as a part of
  // them, and then x is not written.
  const RmsNormParams* norm = nullptr;
  const SwigluParams* swiglu = nullptr;
  // Becomes true where the next op, if it reads none of the results, may run beside the products on
  // a GPU (ops/rows/together.h).
  bool* lets_next_in = nullptr;
};
void matmul(device::ExecContext& ctx, const MatmulParams& p);

// Several independent products (the experts of a layer); the pool shares out all their panels at
// once.
void grouped_matmul(device::ExecContext& ctx, std::span<const MatmulParams> products);

// Adds the multiply-adds of so many rows; the functions above do where the context counts.
void count_product(const PackedWeight& w, int64_t rows, device::Work& work);

}  // namespace cachalot::ops
