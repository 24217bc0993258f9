// The updates of update_simd.h for AVX-512.
#include "ops/elementwise/f32x16_avx512.h"

namespace cachalot::ops {
namespace {
inline F32x16 square_root(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
}  // namespace
}  // namespace cachalot::ops

// The vector type comes first.
#include "ops/optim/update_simd.h"

namespace cachalot::ops {

void adamw_avx512(const AdamwStep& p, int64_t begin, int64_t end) { adamw_simd(p, begin, end); }
void muon_momentum_avx512(const MuonMomentum& p, int64_t begin, int64_t end) {
  muon_momentum_simd(p, begin, end);
}
void muon_apply_avx512(const MuonApply& p, int64_t begin, int64_t end) {
  muon_apply_simd(p, begin, end);
}

}  // namespace cachalot::ops
