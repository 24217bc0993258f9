// The versions of the optimizers' elementwise updates (adamw.h, muon_update.h) over elements
// [begin, end).
#pragma once

#include "ops/optim/adamw.h"
#include "ops/optim/muon_update.h"

namespace cachalot::ops {

// AdamwParams with the factors of adamw.h as floats.
struct AdamwStep {
  const float* g;
  float *w, *m, *v;
  float grad_scale, decay, one_minus_beta1, beta2, one_minus_beta2, root, eps, step_size;
};

using AdamwKernel = void(const AdamwStep& p, int64_t begin, int64_t end);
AdamwKernel adamw_ref, adamw_avx2, adamw_avx512;
// m = fma(mu, m, g); u = fma(mu, m, g), g the gradient times grad_scale.
struct MuonMomentum {
  const float* g;
  float *m, *u;
  float mu, grad_scale;
};
// w = fma(-scale, o, decay w).
struct MuonApply {
  const float* o;
  float* w;
  float decay, scale;
};
using MuonMomentumKernel = void(const MuonMomentum& p, int64_t begin, int64_t end);
MuonMomentumKernel muon_momentum_ref, muon_momentum_avx2, muon_momentum_avx512;
using MuonApplyKernel = void(const MuonApply& p, int64_t begin, int64_t end);
MuonApplyKernel muon_apply_ref, muon_apply_avx2, muon_apply_avx512;

}  // namespace cachalot::ops
