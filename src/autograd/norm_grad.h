// RMS norms and rotations, recorded. Source: ops/norm/rms_norm.h, ops/rope/rope.h.
#pragma once

#include "autograd/tape.h"
#include "ops/norm/rms_norm.h"
#include "ops/rope/rope.h"

namespace cachalot::autograd {

// With a tape, y is not x.
void rms_norm(Context ctx, const ops::RmsNormParams& p);
// The gradient is that of the norm without the steps' roundings.
void rms_norm_bf16_steps(Context ctx, const ops::RmsNormParams& p);

// In place on the values and, with the angle turned round, on their gradient.
void rope(Context ctx, const ops::RopeParams& p);

}  // namespace cachalot::autograd
