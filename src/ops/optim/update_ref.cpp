#include <cmath>

#include "ops/optim/update_kernels.h"

namespace cachalot::ops {

void adamw_ref(const AdamwStep& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float g = p.grad_scale * p.g[i];
    p.m[i] = std::fma(p.one_minus_beta1, g - p.m[i], p.m[i]);
    p.v[i] = std::fma(p.one_minus_beta2 * g, g, p.beta2 * p.v[i]);
    const float denominator = std::sqrt(p.v[i]) / p.root + p.eps;
    p.w[i] = p.decay * p.w[i] - p.step_size * p.m[i] / denominator;
  }
}

void muon_momentum_ref(const MuonMomentum& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float g = p.grad_scale * p.g[i];
    p.m[i] = std::fma(p.mu, p.m[i], g);
    p.u[i] = std::fma(p.mu, p.m[i], g);
  }
}

void muon_apply_ref(const MuonApply& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) p.w[i] = std::fma(-p.scale, p.o[i], p.decay * p.w[i]);
}

}  // namespace cachalot::ops
