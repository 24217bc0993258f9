#include "autograd/moe_grad.h"

#include <vector>

#include "ops/on_gpu.h"

namespace cachalot::autograd {

void route(Context ctx, const ops::RouterParams& p) {
  ops::route(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  // Not to be replayed: the choices are made once.
  ctx.tape->record({.name = "route",
                    .reads = {p.logits},
                    .writes = {p.weights, p.scores},
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          const float* d_weights = tape.existing_grad(p.weights);
                          if (d_weights == nullptr) return;
                          ops::route_backward(
                              ctx.exec, {p.logits, p.scores, p.ids, p.rows, p.n_routed_experts,
                                         p.num_experts_per_tok, p.routed_scaling_factor, d_weights,
                                         tape.existing_grad(p.scores), tape.grad(p.logits)});
                        },
                    .needs = {p.logits, p.scores}});
}

void expert_products(Context ctx, const ops::ExpertProductsParams& p, GradientFormat format) {
  if (ctx.exec.gpu != nullptr) {
    if (p.num_pairs > 0) ops::expert_products_cuda(ctx.exec, p);
    if (ctx.exec.work != nullptr) ops::count_expert_products(p, *ctx.exec.work);
    return;
  }
  auto* products = ctx.exec.arena->allocate<ops::MatmulParams>(p.num_parts * p.num_experts);
  const int64_t count = ops::list_expert_products(p, products);
  matmul(ctx, {products, static_cast<size_t>(count)}, format);
}

void swiglu(Context ctx, const ops::SwigluParams& p) {
  ops::swiglu(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  CACHALOT_CHECK(p.h != p.gate);
  ops::SwigluParams again = p;
  again.clamped = nullptr;  // counted once
  ctx.tape->record({.name = "swiglu",
                    .reads = {p.gate, p.up, p.weight},
                    .writes = {p.h},
                    .replay = [ctx, again] { ops::swiglu(ctx.exec, again); },
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          const float* d_h = tape.existing_grad(p.h);
                          if (d_h == nullptr) return;
                          ops::swiglu_backward(
                              ctx.exec, {p.gate, p.up, p.weight, d_h, p.rows, p.columns, p.limit,
                                         tape.grad(p.gate), tape.grad(p.up),
                                         p.weight == nullptr ? nullptr : tape.grad(p.weight)});
                        },
                    .needs = {p.gate, p.up, p.weight}});
}

void moe_combine(Context ctx, const ops::MoeCombineParams& p) {
  ops::moe_combine(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "moe_combine",
                    .reads = {p.y, p.shared},
                    .writes = {p.out},
                    .replay = [=] { ops::moe_combine(ctx.exec, p); },
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          const float* d_out = tape.existing_grad(p.out);
                          if (d_out == nullptr) return;
                          ops::moe_combine_backward(
                              ctx.exec, {d_out, p.slots, p.rows, p.k, p.columns, tape.grad(p.y),
                                         p.shared == nullptr ? nullptr : tape.grad(p.shared)});
                        }});
}

double balance_loss(Context ctx, const ops::BalanceLossParams& p, float weight) {
  std::vector<float> losses(p.sequences.size());
  const double sum = ops::balance_loss(ctx.exec, p, losses.data());
  if (ctx.tape != nullptr) {
    const std::vector<float> d_losses(p.sequences.size(), weight);
    ops::balance_loss_backward(ctx.exec, p, d_losses.data(), ctx.tape->grad(p.scores));
  }
  return sum;
}

}  // namespace cachalot::autograd
