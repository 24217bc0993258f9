// Routing and experts, recorded. Source: ops/moe/router.h, swiglu.h.
#pragma once

#include "autograd/matmul_grad.h"
#include "autograd/tape.h"
#include "ops/moe/balance_loss.h"
#include "ops/moe/expert_products.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"

namespace cachalot::autograd {

void route(Context ctx, const ops::RouterParams& p);
// Source: ops/moe/expert_products.h; the gradients are matmul's.
void expert_products(Context ctx, const ops::ExpertProductsParams& p, GradientFormat format);
// With a tape, h is not gate.
void swiglu(Context ctx, const ops::SwigluParams& p);
void moe_combine(Context ctx, const ops::MoeCombineParams& p);

// The sum of the sequences' balance losses; `weight` times its gradient goes to the scores' at once
// (an end of the tape).
double balance_loss(Context ctx, const ops::BalanceLossParams& p, float weight);

}  // namespace cachalot::autograd
