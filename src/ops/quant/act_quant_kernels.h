// The versions of the activation roundings (act_quant.h) over rows [first_row, last_row), and the
// choice of a block's scale that they share with the row codecs.
#pragma once

#include "ops/quant/act_quant.h"

namespace cachalot::ops {

inline constexpr float kFp4AmaxFloor = 6 * 0x1p-126f;
inline constexpr float kInvE4m3Max = 1.0f / 448.0f;
inline constexpr float kInvE2m1Max = 1.0f / 6.0f;
// An infinite value would ask for 2^128; the largest e8m0 scale that is a float keeps the other
// values of its block finite.
inline constexpr int kMaxScaleExponent = 127;

using SimulateFp8Kernel = void(const RowsParams& p, int64_t block, float amax_floor,
                               int64_t first_row, int64_t last_row);
SimulateFp8Kernel simulate_fp8_ref, simulate_fp8_avx2, simulate_fp8_avx512;

using RowsKernel = void(const RowsParams& p, int64_t first_row, int64_t last_row);
RowsKernel simulate_fp4_ref, simulate_fp4_avx2, simulate_fp4_avx512;
RowsKernel round_bf16_ref, round_bf16_avx2, round_bf16_avx512;

using HadamardKernel = void(const RowsParams& p, float factor, bool round_bf16, int64_t first_row,
                            int64_t last_row);
HadamardKernel hadamard_ref, hadamard_avx2, hadamard_avx512;

// The scale exponents of reference/forward 0.4 for a run of n values.
int fp8_scale_exponent(const float* x, int64_t n, float amax_floor = kFp8AmaxFloor);
int fp4_scale_exponent(const float* x, int64_t n);

}  // namespace cachalot::ops
