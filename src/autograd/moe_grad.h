// Routing and experts, recorded. Source: ops/moe/router.h, swiglu.h.
#pragma once

#include "autograd/tape.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"

namespace cachalot::autograd {

void route(Context ctx, const ops::RouterParams& p);
// With a tape, h is not gate.
void swiglu(Context ctx, const ops::SwigluParams& p);
void moe_combine(Context ctx, const ops::MoeCombineParams& p);

}  // namespace cachalot::autograd
