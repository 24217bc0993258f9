// The kernels of rms_norm_simd.h and rms_norm_backward_simd.h for AVX2.
#include "ops/elementwise/f32x16_avx2.h"

// The vector type comes first.
#include "ops/norm/rms_norm_backward_simd.h"
#include "ops/norm/rms_norm_simd.h"

namespace cachalot::ops {

void rms_norm_avx2(const RmsNormParams& p, int64_t first_row, int64_t last_row) {
  rms_norm_simd(p, first_row, last_row);
}

void rms_norm_bf16_steps_avx2(const RmsNormParams& p, int64_t first_row, int64_t last_row) {
  rms_norm_bf16_steps_simd(p, first_row, last_row);
}

void rms_norm_backward_rows_avx2(const RmsNormBackwardParams& p, float* factors, int64_t first_row,
                                 int64_t last_row) {
  rms_norm_backward_rows_simd(p, factors, first_row, last_row);
}

void rms_norm_backward_gain_avx2(const RmsNormBackwardParams& p, const float* factors,
                                 int64_t first_column, int64_t last_column) {
  rms_norm_backward_gain_simd(p, factors, first_column, last_column);
}

}  // namespace cachalot::ops
