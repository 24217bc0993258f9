// The kernels of softmax_simd.h for AVX-512.

// GCC 12 takes the undefined pass-through operand of its own unmasked intrinsics for an
// uninitialised variable.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include "ops/elementwise/f32x16_avx512.h"

// The vector type comes first.
#include "ops/loss/softmax_simd.h"

namespace cachalot::ops {

ExpSum exp_sum_avx512(const float* x, int64_t n, float* e) { return exp_sum_simd(x, n, e); }

void scale_avx512(float* e, int64_t n, float factor) { scale_simd(e, n, factor); }

}  // namespace cachalot::ops
