#include "autograd/hyper_grad.h"

namespace cachalot::autograd {

void hyper_inv_rms(Context ctx, const float* streams, int64_t rows, int64_t columns, float eps,
                   float* inv_rms) {
  ops::hyper_inv_rms(ctx.exec, streams, rows, columns, eps, inv_rms);
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "hyper_inv_rms",
       .reads = {streams},
       .writes = {inv_rms},
       .replay = [=] { ops::hyper_inv_rms(ctx.exec, streams, rows, columns, eps, inv_rms); },
       .backward =
           [=] {
             const float* d_inv_rms = ctx.tape->existing_grad(inv_rms);
             float* d_streams = d_inv_rms == nullptr ? nullptr : ctx.tape->grad(streams);
             if (d_streams == nullptr) return;
             ops::hyper_inv_rms_backward(ctx.exec, streams, inv_rms, d_inv_rms, rows, columns,
                                         d_streams);
           },
       .needs = {streams, inv_rms}});
}

void hyper_split(Context ctx, const ops::HyperSplitParams& p) {
  ops::hyper_split(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "hyper_split",
                    .reads = {p.mixes, p.inv_rms, p.base, p.scale},
                    .writes = {p.pre, p.post, p.comb},
                    .replay = [=] { ops::hyper_split(ctx.exec, p); },
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          if (tape.existing_grad(p.pre) == nullptr) return;
                          // Backward of a sublayer reaches post and comb before pre: all three are
                          // there.
                          ops::hyper_split_backward(
                              ctx.exec, p,
                              {tape.grad(p.pre), tape.grad(p.post), tape.grad(p.comb),
                               tape.grad(p.mixes), tape.grad(p.inv_rms), tape.grad(p.base),
                               tape.grad(p.scale)});
                        },
                    .needs = {p.mixes, p.inv_rms}});
}

void hyper_head_split(Context ctx, const float* mixes, const float* inv_rms, const float* base,
                      const float* scale, int64_t rows, int64_t n, float hc_eps, float* pre) {
  ops::hyper_head_split(ctx.exec, mixes, inv_rms, base, scale, rows, n, hc_eps, pre);
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "hyper_head_split",
       .reads = {mixes, inv_rms, base, scale},
       .writes = {pre},
       .replay =
           [=] {
             ops::hyper_head_split(ctx.exec, mixes, inv_rms, base, scale, rows, n, hc_eps, pre);
           },
       .backward =
           [=] {
             Tape& tape = *ctx.tape;
             const float* d_pre = tape.existing_grad(pre);
             if (d_pre == nullptr) return;
             ops::hyper_head_split_backward(
                 ctx.exec, {mixes, inv_rms, base, scale, rows, n, d_pre, tape.grad(mixes),
                            tape.grad(inv_rms), tape.grad(base), tape.grad(scale)});
           },
       .needs = {mixes, inv_rms}});
}

void hyper_pre(Context ctx, const float* streams, const float* pre, int64_t rows, int64_t n,
               int64_t d, bool round_u, float* u) {
  ops::hyper_pre(ctx.exec, streams, pre, rows, n, d, round_u, u);
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "hyper_pre",
       .reads = {streams, pre},
       .writes = {u},
       .replay = [=] { ops::hyper_pre(ctx.exec, streams, pre, rows, n, d, round_u, u); },
       .backward =
           [=] {
             const float* d_u = ctx.tape->existing_grad(u);
             if (d_u == nullptr) return;
             ops::hyper_pre_backward(ctx.exec, {streams, pre, d_u, rows, n, d,
                                                ctx.tape->grad(streams), ctx.tape->grad(pre)});
           },
       .needs = {streams, pre}});
}

void hyper_post(Context ctx, const float* streams, const float* y, const float* post,
                const float* comb, int64_t rows, int64_t n, int64_t d, bool round_x, float* out) {
  ops::hyper_post(ctx.exec, streams, y, post, comb, rows, n, d, round_x, out);
  if (ctx.tape == nullptr) return;
  CACHALOT_CHECK(out != streams);
  ctx.tape->record(
      {.name = "hyper_post",
       .reads = {streams, y, post, comb},
       .writes = {out},
       .replay =
           [=] { ops::hyper_post(ctx.exec, streams, y, post, comb, rows, n, d, round_x, out); },
       .backward =
           [=] {
             Tape& tape = *ctx.tape;
             const float* d_out = tape.existing_grad(out);
             if (d_out == nullptr) return;
             ops::hyper_post_backward(
                 ctx.exec, {streams, y, post, comb, d_out, rows, n, d, tape.grad(streams),
                            tape.grad(y), tape.grad(post), tape.grad(comb)});
           },
       .needs = {streams, y, post, comb}});
}

}  // namespace cachalot::autograd
