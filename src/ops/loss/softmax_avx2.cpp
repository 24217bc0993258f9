// The kernels of softmax_simd.h for AVX2.
#include "ops/elementwise/f32x16_avx2.h"

// The vector type comes first.
#include "ops/loss/softmax_simd.h"

namespace cachalot::ops {

ExpSum exp_sum_avx2(const float* x, int64_t n, float* e) { return exp_sum_simd(x, n, e); }

void scale_avx2(float* e, int64_t n, float factor) { scale_simd(e, n, factor); }

}  // namespace cachalot::ops
