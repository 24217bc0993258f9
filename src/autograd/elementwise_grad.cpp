#include "autograd/elementwise_grad.h"

namespace cachalot::autograd {

void copy(Context ctx, const ops::RowsCopy& p) {
  const auto run = [ctx, p] { ops::copy_rows(ctx.exec, p); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "copy", .reads = {p.from}, .writes = {p.to}, .replay = run, .backward = [ctx, p] {
         const float* d_to = ctx.tape->existing_grad(p.to);
         float* d_from = d_to == nullptr ? nullptr : ctx.tape->grad(p.from);
         if (d_from == nullptr) return;
         ops::add_copies(ctx.exec,
                         {d_from, p.from_stride, p.rows, p.columns, d_to, p.to_stride, p.copies});
       }});
}

void add(Context ctx, const ops::RowsAdd& p, bool round_x) {
  const auto run = [ctx, p, round_x] { ops::add_rows(ctx.exec, p, round_x); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "add", .reads = {p.x, p.y}, .writes = {p.x}, .replay = run, .backward = [ctx, p] {
         const float* d_x = ctx.tape->existing_grad(p.x);
         float* d_y = d_x == nullptr ? nullptr : ctx.tape->grad(p.y);
         if (d_y == nullptr) return;
         ops::add_copies(ctx.exec, {d_y, p.y_stride, p.rows, p.columns, d_x, p.x_stride, p.copies});
       }});
}

void add(Context ctx, float* x, const float* y, int64_t n, bool round_x) {
  add(ctx, {x, n, 1, n, y, n}, round_x);
}

void gather_rows(Context ctx, const float* x, std::span<const int64_t> rows, int64_t columns,
                 float* out) {
  const auto count = static_cast<int64_t>(rows.size());
  const auto run = [=](const int64_t* chosen) {
    ops::gather_rows<int64_t>(ctx.exec, {x, columns, chosen, count, columns, out, columns});
  };
  run(rows.data());
  if (ctx.tape == nullptr) return;
  const auto kept = std::make_shared<std::vector<int64_t>>(rows.begin(), rows.end());
  ctx.tape->record({.name = "gather_rows",
                    .reads = {x},
                    .writes = {out},
                    .replay = [run, kept] { run(kept->data()); },
                    .backward =
                        [=] {
                          const float* d_out = ctx.tape->existing_grad(out);
                          float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
                          if (d_x == nullptr) return;
                          ops::scatter_add_rows<int64_t>(ctx.exec, {d_out, columns, kept->data(),
                                                                    count, columns, d_x, columns});
                        }});
}

void scatter(Context ctx, const float* x, const int32_t* to, int64_t n, float* out) {
  const auto run = [=] { ops::scatter_rows<int32_t>(ctx.exec, {x, 1, to, n, 1, out, 1}); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "scatter",
                    .reads = {x},
                    .writes = {out},
                    .replay = run,
                    .backward = [ctx, x, to, n, out] {
                      const float* d_out = ctx.tape->existing_grad(out);
                      float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
                      if (d_x != nullptr)
                        ops::gather_add_rows<int32_t>(ctx.exec, {d_out, 1, to, n, 1, d_x, 1});
                    }});
}

void scale(Context ctx, float* x, int64_t n, float factor) {
  const auto run = [=] { ops::scale(ctx.exec, x, n, factor); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "scale",
                    .reads = {x},
                    .writes = {x},
                    .replay = run,
                    .backward = [ctx, x, n, factor] {
                      float* d_x = ctx.tape->existing_grad(x);
                      if (d_x != nullptr) ops::scale(ctx.exec, d_x, n, factor);
                    }});
}

void hadamard(Context ctx, const ops::RowsParams& p, bool round_x) {
  const auto run = [=] { ops::hadamard(ctx.exec, p, round_x); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "hadamard", .reads = {p.x}, .writes = {p.x}, .replay = run, .backward = [ctx, p] {
         ops::RowsParams d = p;
         d.x = ctx.tape->existing_grad(p.x);
         if (d.x != nullptr) ops::hadamard(ctx.exec, d, false);
       }});
}

namespace {
// Straight-through: the gradient is that of the unrounded values, in the same place or where they
// were read.
template <typename Run>
void rounding(Context ctx, const char* name, const ops::RowsParams& p, Run run) {
  run();
  if (ctx.tape == nullptr) return;
  CACHALOT_CHECK(p.from_rows == nullptr);
  Op op{.name = name, .reads = {p.input(0)}, .writes = {p.x}, .replay = run};
  if (p.from != nullptr) {
    op.backward = [ctx, p] {
      const float* d_x = ctx.tape->existing_grad(p.x);
      float* d_from = d_x == nullptr ? nullptr : ctx.tape->grad(p.from);
      if (d_from == nullptr) return;
      ops::add_rows(ctx.exec, {d_from, p.from_stride, p.rows, p.columns, d_x, p.row_stride}, false);
    };
  }
  ctx.tape->record(std::move(op));
}
}  // namespace

void simulate_fp8(Context ctx, const ops::RowsParams& p, int64_t block) {
  rounding(ctx, "simulate_fp8", p, [=] { ops::simulate_fp8(ctx.exec, p, block); });
}

void simulate_fp4(Context ctx, const ops::RowsParams& p) {
  rounding(ctx, "simulate_fp4", p, [=] { ops::simulate_fp4(ctx.exec, p); });
}

void round_bf16(Context ctx, const ops::RowsParams& p) {
  rounding(ctx, "round_bf16", p, [=] { ops::round_bf16(ctx.exec, p); });
}

}  // namespace cachalot::autograd
