// The kernels of swiglu_simd.h for AVX-512.
#include "ops/elementwise/f32x16_avx512.h"

// The vector type comes first.
#include "ops/moe/swiglu_simd.h"

namespace cachalot::ops {

void swiglu_avx512(const SwigluParams& p, const Tile& tile) { swiglu_simd(p, tile); }

void swiglu_backward_avx512(const SwigluBackwardParams& p, int64_t first_row, int64_t last_row) {
  swiglu_backward_simd(p, first_row, last_row);
}

void moe_combine_avx512(const MoeCombineParams& p, const Tile& tile) { moe_combine_simd(p, tile); }

}  // namespace cachalot::ops
