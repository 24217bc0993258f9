// One AdamW step over flat parameters: Adam with bias correction and decoupled weight decay.
// Source  reference/training 3.5; the formula is that of torch.optim.AdamW, which made the golden
//         losses. With t = step, counted from 1: w = w (1 - lr weight_decay); m = m + (1 - beta1)
//         (g - m); v = beta2 v + (1 - beta2) g g; w = w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1
//         - beta2^t) + eps), g the gradient times grad_scale.
// Shapes  g, w, m, v [n] float; none overlaps another.
// Numerics  Factors are computed in double and rounded to float once; then per element in fp32
//         g = grad_scale g; m = fma(1 - beta1, g - m, m); v = fma((1 - beta2) g, g, beta2 v);
//         w = (decay w) - (step_size m) / (sqrt(v) / root + eps). Bits depend on nothing else;
//         denormals are kept, so that eps = 1e-20 works down to gradients of 1e-21 (below, v
//         underflows, but m / eps is small by then).
// Errors  CHECK: step < 1, beta outside [0, 1).
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

struct AdamwParams {
  int64_t n;
  const float* g;
  float* w;
  float* m;
  float* v;
  int64_t step;
  double learning_rate;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;
  double weight_decay = 0.1;
  float grad_scale = 1;
};
void adamw(device::ExecContext& ctx, const AdamwParams& p);
// Several parameters, shared out to the threads at once.
void adamw(device::ExecContext& ctx, std::span<const AdamwParams> parameters);

}  // namespace cachalot::ops
