// Orthogonalisation of matrices by Muon's hybrid Newton-Schulz iteration: U = P S Q^T becomes
// nearly P Q^T.
// Source  reference/training 3.3. X = U / |U|_F; ten times, with (a, b, c) of kNewtonSchulzSteps:
//         A = X X^T, X = a X + (b A + c A A) X. It runs on the smaller side: matrices with more
//         rows than columns as they are, the others transposed (Z = X or X^T is [long side, short
//         side], A = Z^T Z, Z = a Z + Z (b A + c A A)).
// Shapes  every u and out [rows, columns] float, contiguous; out[i] is u[i] or overlaps no u.
// Numerics  |U|_F in double: blocks of 64 x 64 of Z in row order, each eight sums by column modulo
//         8, folded ascending. Z = float(double(u) / |U|_F). The products are chains of fp32 fused
//         multiply-adds over ascending k: A[i,j] = chain of Z[k,i] Z[k,j] from 0; B = fma(c, Q, b
//         A) with Q the like chain of A[k,i] A[k,j]; Z[i,j] = chain of Z[i,k] B[k,j] from a Z[i,j].
//         A and B are symmetric to the bit, so half of each is computed. With round_operands Z, A
//         and B are rounded to bf16 before they enter a product (the last Z is not rounded). Bits
//         depend on nothing but u: not on the batch (infra Z6), the threads or the instruction set.
//         A zero matrix gives zeros; NaN and infinity propagate. Scaling u by a power of two
//         changes no bit while no u is denormal.
// Errors  CHECK: sizes that disagree.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

struct NewtonSchulzStep {
  double a, b, c;
};
inline constexpr int kNumNewtonSchulzSteps = 10;
// Eight steps that grow small singular values quickly, two that settle them at 1. The matrices use
// them as floats.
inline constexpr NewtonSchulzStep newton_schulz_step(int i) {
  return i < 8 ? NewtonSchulzStep{3.4445, -4.7750, 2.0315} : NewtonSchulzStep{2.0, -1.5, 0.5};
}

struct NewtonSchulzParams {
  int64_t rows;
  int64_t columns;
  std::span<const float* const> u;
  std::span<float* const> out;
  bool round_operands = false;
};
void newton_schulz(device::ExecContext& ctx, const NewtonSchulzParams& p);

// Floating-point operations that one matrix takes when no symmetry is used: 10 (4 n^2 m + 2 n^3), n
// the short side.
double newton_schulz_flops(int64_t rows, int64_t columns);

}  // namespace cachalot::ops
