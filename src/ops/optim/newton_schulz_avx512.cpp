// The tiles of newton_schulz_simd.h for AVX-512.
#include "ops/elementwise/f32x16_avx512.h"

namespace cachalot::ops {
namespace {
constexpr int kNsVectors = 4;
}  // namespace
}  // namespace cachalot::ops

// The vector type and the register tile come first.
#include "ops/optim/newton_schulz_simd.h"

namespace cachalot::ops {

void ns_gram_avx512(const NsGramTile& t) { ns_gram_simd(t); }
void ns_apply_avx512(const NsApplyTile& t) { ns_apply_simd(t); }

}  // namespace cachalot::ops
