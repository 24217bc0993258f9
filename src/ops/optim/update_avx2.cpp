// The updates of update_simd.h for AVX2.
#include "ops/elementwise/f32x16_avx2.h"

namespace cachalot::ops {
namespace {
inline F32x16 square_root(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
}  // namespace
}  // namespace cachalot::ops

// The vector type comes first.
#include "ops/optim/update_simd.h"

namespace cachalot::ops {

void adamw_avx2(const AdamwStep& p, int64_t begin, int64_t end) { adamw_simd(p, begin, end); }
void muon_momentum_avx2(const MuonMomentum& p, int64_t begin, int64_t end) {
  muon_momentum_simd(p, begin, end);
}
void muon_apply_avx2(const MuonApply& p, int64_t begin, int64_t end) {
  muon_apply_simd(p, begin, end);
}

}  // namespace cachalot::ops
