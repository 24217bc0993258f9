// The kernels of act_quant_simd.h for AVX-512.
#include "ops/elementwise/f32x16_avx512.h"

// The vector type comes first.
#include "ops/quant/act_quant_simd.h"

namespace cachalot::ops {

void simulate_fp8_avx512(const RowsParams& p, int64_t block, float amax_floor, int64_t first_row,
                         int64_t last_row) {
  simulate_fp8_simd(p, block, amax_floor, first_row, last_row);
}

void simulate_fp4_avx512(const RowsParams& p, int64_t first_row, int64_t last_row) {
  simulate_fp4_simd(p, first_row, last_row);
}

void hadamard_avx512(const RowsParams& p, float factor, bool round_bf16, int64_t first_row,
                     int64_t last_row) {
  hadamard_simd(p, factor, round_bf16, first_row, last_row);
}

void round_bf16_avx512(const RowsParams& p, int64_t first_row, int64_t last_row) {
  round_bf16_simd(p, first_row, last_row);
}

}  // namespace cachalot::ops
