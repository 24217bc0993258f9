// The optimizers' elementwise updates over F32x16 (elementwise/f32x16_*.h and square_root, included
// before this file).
#pragma once

#include "ops/optim/update_kernels.h"

namespace cachalot::ops {
namespace {

void adamw_simd(const AdamwStep& p, int64_t begin, int64_t end) {
  const F32x16 grad_scale = splat(p.grad_scale), decay = splat(p.decay), beta2 = splat(p.beta2);
  const F32x16 one_minus_beta1 = splat(p.one_minus_beta1);
  const F32x16 one_minus_beta2 = splat(p.one_minus_beta2);
  const F32x16 root = splat(p.root), eps = splat(p.eps), step_size = splat(p.step_size);
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t left = end - i;
    const F32x16 g = grad_scale * load_first(p.g + i, left);
    F32x16 m = load_first(p.m + i, left);
    m = fma(one_minus_beta1, g - m, m);
    const F32x16 v = fma(one_minus_beta2 * g, g, beta2 * load_first(p.v + i, left));
    const F32x16 denominator = square_root(v) / root + eps;
    store_first(p.m + i, left, m);
    store_first(p.v + i, left, v);
    store_first(p.w + i, left, decay * load_first(p.w + i, left) - step_size * m / denominator);
  }
}

void muon_momentum_simd(const MuonMomentum& p, int64_t begin, int64_t end) {
  const F32x16 grad_scale = splat(p.grad_scale), mu = splat(p.mu);
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t left = end - i;
    const F32x16 g = grad_scale * load_first(p.g + i, left);
    const F32x16 m = fma(mu, load_first(p.m + i, left), g);
    store_first(p.m + i, left, m);
    store_first(p.u + i, left, fma(mu, m, g));
  }
}

void muon_apply_simd(const MuonApply& p, int64_t begin, int64_t end) {
  const F32x16 decay = splat(p.decay), minus_scale = splat(-p.scale);
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t left = end - i;
    store_first(p.w + i, left,
                fma(minus_scale, load_first(p.o + i, left), decay * load_first(p.w + i, left)));
  }
}

}  // namespace
}  // namespace cachalot::ops
