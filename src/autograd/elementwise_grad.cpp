#include "autograd/elementwise_grad.h"

#include <cstring>

#include "ops/elementwise/add.h"

namespace cachalot::autograd {
namespace {
void add_rows(device::ExecContext& exec, float* x, int64_t x_stride, const float* y,
              int64_t y_stride, int64_t rows, int64_t columns, bool round_x) {
  for (int64_t row = 0; row < rows; ++row)
    ops::add(exec, x + row * x_stride, y + row * y_stride, columns, round_x);
}
}  // namespace

void copy(Context ctx, const RowsCopy& p) {
  const auto run = [p] {
    for (int64_t row = 0; row < p.rows; ++row) {
      std::memcpy(p.to + row * p.to_stride, p.from + row * p.from_stride,
                  static_cast<size_t>(p.columns) * sizeof(float));
    }
  };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "copy", .reads = {p.from}, .writes = {p.to}, .replay = run, .backward = [ctx, p] {
         const float* d_to = ctx.tape->existing_grad(p.to);
         float* d_from = d_to == nullptr ? nullptr : ctx.tape->grad(p.from);
         if (d_from == nullptr) return;
         add_rows(ctx.exec, d_from, p.from_stride, d_to, p.to_stride, p.rows, p.columns, false);
       }});
}

void add(Context ctx, const RowsAdd& p, bool round_x) {
  const auto run = [ctx, p, round_x] {
    add_rows(ctx.exec, p.x, p.x_stride, p.y, p.y_stride, p.rows, p.columns, round_x);
  };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "add", .reads = {p.x, p.y}, .writes = {p.x}, .replay = run, .backward = [ctx, p] {
         const float* d_x = ctx.tape->existing_grad(p.x);
         float* d_y = d_x == nullptr ? nullptr : ctx.tape->grad(p.y);
         if (d_y == nullptr) return;
         add_rows(ctx.exec, d_y, p.y_stride, d_x, p.x_stride, p.rows, p.columns, false);
       }});
}

void add(Context ctx, float* x, const float* y, int64_t n, bool round_x) {
  add(ctx, {x, n, 1, n, y, n}, round_x);
}

void gather_rows(Context ctx, const float* x, std::span<const int64_t> rows, int64_t columns,
                 float* out) {
  const auto run = [=](std::span<const int64_t> chosen) {
    for (size_t i = 0; i < chosen.size(); ++i) {
      std::memcpy(out + static_cast<int64_t>(i) * columns, x + chosen[i] * columns,
                  static_cast<size_t>(columns) * sizeof(float));
    }
  };
  run(rows);
  if (ctx.tape == nullptr) return;
  const auto kept = std::make_shared<std::vector<int64_t>>(rows.begin(), rows.end());
  ctx.tape->record({.name = "gather_rows",
                    .reads = {x},
                    .writes = {out},
                    .replay = [run, kept] { run(*kept); },
                    .backward =
                        [=] {
                          const float* d_out = ctx.tape->existing_grad(out);
                          float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
                          if (d_x == nullptr) return;
                          for (size_t i = 0; i < kept->size(); ++i) {
                            ops::add(ctx.exec, d_x + (*kept)[i] * columns,
                                     d_out + static_cast<int64_t>(i) * columns, columns, false);
                          }
                        }});
}

void scatter(Context ctx, const float* x, const int32_t* to, int64_t n, float* out) {
  const auto run = [=] {
    for (int64_t i = 0; i < n; ++i) out[to[i]] = x[i];
  };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "scatter",
                    .reads = {x},
                    .writes = {out},
                    .replay = run,
                    .backward = [ctx, x, to, n, out] {
                      const float* d_out = ctx.tape->existing_grad(out);
                      float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
                      if (d_x == nullptr) return;
                      for (int64_t i = 0; i < n; ++i) d_x[i] += d_out[to[i]];
                    }});
}

void scale(Context ctx, float* x, int64_t n, float factor) {
  const auto run = [=] {
    for (int64_t i = 0; i < n; ++i) x[i] *= factor;
  };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "scale",
                    .reads = {x},
                    .writes = {x},
                    .replay = run,
                    .backward = [ctx, x, n, factor] {
                      float* d_x = ctx.tape->existing_grad(x);
                      for (int64_t i = 0; d_x != nullptr && i < n; ++i) d_x[i] *= factor;
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
// Straight-through: the gradient is that of the unrounded values, in the same place.
void record_rounding(Context ctx, const char* name, float* x, std::function<void()> run) {
  if (ctx.tape != nullptr)
    ctx.tape->record({.name = name, .reads = {x}, .writes = {x}, .replay = std::move(run)});
}
}  // namespace

void simulate_fp8(Context ctx, const ops::RowsParams& p, int64_t block) {
  ops::simulate_fp8(ctx.exec, p, block);
  record_rounding(ctx, "simulate_fp8", p.x, [=] { ops::simulate_fp8(ctx.exec, p, block); });
}

void simulate_fp4(Context ctx, const ops::RowsParams& p) {
  ops::simulate_fp4(ctx.exec, p);
  record_rounding(ctx, "simulate_fp4", p.x, [=] { ops::simulate_fp4(ctx.exec, p); });
}

void round_bf16(Context ctx, const ops::RowsParams& p) {
  ops::round_bf16(ctx.exec, p);
  record_rounding(ctx, "round_bf16", p.x, [=] { ops::round_bf16(ctx.exec, p); });
}

}  // namespace cachalot::autograd
