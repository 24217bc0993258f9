// The two elementwise halves of a Muon step, before and after Newton-Schulz.
// Source  training.md 3.2.
// Shapes  all [n] float; none overlaps another.
// Numerics  fp32; bits depend on nothing but the operands of an element.
// Errors  CHECK: n < 0.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// m = fma(mu, m, g), then the Nesterov look-ahead with the new m: u = fma(mu, m, g); g is the gradient times grad_scale.
struct MuonMomentumParams {
  int64_t n;
  const float* g;
  float* m;
  float* u;
  float mu;
  float grad_scale = 1;
};
void muon_momentum(device::ExecContext& ctx, const MuonMomentumParams& p);

// w = fma(-scale, o, decay w): decay is 1 - eta lambda, scale eta gamma sqrt(max(rows, columns)).
struct MuonApplyParams {
  int64_t n;
  const float* o;
  float* w;
  float decay;
  float scale;
};
void muon_apply(device::ExecContext& ctx, const MuonApplyParams& p);

}  // namespace cachalot::ops
