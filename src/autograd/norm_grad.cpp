#include "autograd/norm_grad.h"

namespace cachalot::autograd {
namespace {
void norm(Context ctx, const ops::RmsNormParams& p,
          void (*op)(device::ExecContext&, const ops::RmsNormParams&)) {
  op(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  CACHALOT_CHECK(p.x != p.y);
  ctx.tape->record({.name = "rms_norm",
                    .reads = {p.x, p.g},
                    .writes = {p.y},
                    .replay = [=] { op(ctx.exec, p); },
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          const float* d_y = tape.existing_grad(p.y);
                          if (d_y == nullptr) return;
                          float* d_x = tape.grad(p.x);
                          CACHALOT_CHECK(d_x != nullptr);
                          float* d_g = p.g == nullptr ? nullptr : tape.grad(p.g);
                          ops::rms_norm_backward(
                              ctx.exec, {p.x, p.x_stride, p.g, d_y, p.y_stride, d_x, p.x_stride,
                                         d_g, p.rows, p.columns, p.eps});
                        },
                    .needs = {p.x}});
}
}  // namespace

void rms_norm(Context ctx, const ops::RmsNormParams& p) { norm(ctx, p, ops::rms_norm); }

void rms_norm_bf16_steps(Context ctx, const ops::RmsNormParams& p) {
  norm(ctx, p, ops::rms_norm_bf16_steps);
}

void rope(Context ctx, const ops::RopeParams& p) {
  ops::rope(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "rope",
                    .reads = {p.x},
                    .writes = {p.x},
                    .replay = [=] { ops::rope(ctx.exec, p); },
                    .backward =
                        [=] {
                          ops::RopeParams d = p;
                          d.x = ctx.tape->existing_grad(p.x);
                          d.inverse = !p.inverse;
                          d.round_x = false;
                          if (d.x != nullptr) ops::rope(ctx.exec, d);
                        }});
}

}  // namespace cachalot::autograd
