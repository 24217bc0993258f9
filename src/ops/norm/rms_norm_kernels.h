// The versions of the RMS norms (rms_norm.h) over rows [first_row, last_row).
#pragma once

#include "ops/norm/rms_norm.h"

namespace cachalot::ops {

// Sum of squares of n values, in the 16 chains of rms_norm.h.
float sum_squares_ref(const float* x, int64_t n);

using RmsNormKernel = void(const RmsNormParams& p, int64_t first_row, int64_t last_row);
RmsNormKernel rms_norm_ref, rms_norm_avx2, rms_norm_avx512;
RmsNormKernel rms_norm_bf16_steps_ref, rms_norm_bf16_steps_avx2, rms_norm_bf16_steps_avx512;

// dx of rows [first_row, last_row), and each row's factor r into factors[row].
using RmsNormBackwardRows = void(const RmsNormBackwardParams& p, float* factors, int64_t first_row,
                                 int64_t last_row);
RmsNormBackwardRows rms_norm_backward_rows_ref, rms_norm_backward_rows_avx2,
    rms_norm_backward_rows_avx512;

// dg of columns [first_column, last_column) over all rows.
using RmsNormBackwardGain = void(const RmsNormBackwardParams& p, const float* factors,
                                 int64_t first_column, int64_t last_column);
RmsNormBackwardGain rms_norm_backward_gain_ref, rms_norm_backward_gain_avx2,
    rms_norm_backward_gain_avx512;

}  // namespace cachalot::ops
