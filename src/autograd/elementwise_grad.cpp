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
  for (int64_t row = 0; row < p.rows; ++row) {
    std::memcpy(p.to + row * p.to_stride, p.from + row * p.from_stride,
                static_cast<size_t>(p.columns) * sizeof(float));
  }
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, p] {
    const float* d_to = ctx.tape->existing_grad(p.to);
    float* d_from = d_to == nullptr ? nullptr : ctx.tape->grad(p.from);
    if (d_from == nullptr) return;
    add_rows(ctx.exec, d_from, p.from_stride, d_to, p.to_stride, p.rows, p.columns, false);
  });
}

void add(Context ctx, const RowsAdd& p, bool round_x) {
  add_rows(ctx.exec, p.x, p.x_stride, p.y, p.y_stride, p.rows, p.columns, round_x);
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, p] {
    const float* d_x = ctx.tape->existing_grad(p.x);
    float* d_y = d_x == nullptr ? nullptr : ctx.tape->grad(p.y);
    if (d_y == nullptr) return;
    add_rows(ctx.exec, d_y, p.y_stride, d_x, p.x_stride, p.rows, p.columns, false);
  });
}

void add(Context ctx, float* x, const float* y, int64_t n, bool round_x) {
  add(ctx, {x, n, 1, n, y, n}, round_x);
}

void gather_rows(Context ctx, const float* x, std::span<const int64_t> rows, int64_t columns,
                 float* out) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out + static_cast<int64_t>(i) * columns, x + rows[i] * columns,
                static_cast<size_t>(columns) * sizeof(float));
  }
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, x, rows = std::vector<int64_t>(rows.begin(), rows.end()), columns, out] {
    const float* d_out = ctx.tape->existing_grad(out);
    float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
    if (d_x == nullptr) return;
    for (size_t i = 0; i < rows.size(); ++i) {
      ops::add(ctx.exec, d_x + rows[i] * columns, d_out + static_cast<int64_t>(i) * columns,
               columns, false);
    }
  });
}

void scatter(Context ctx, const float* x, const int32_t* to, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[to[i]] = x[i];
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, x, to, n, out] {
    const float* d_out = ctx.tape->existing_grad(out);
    float* d_x = d_out == nullptr ? nullptr : ctx.tape->grad(x);
    if (d_x == nullptr) return;
    for (int64_t i = 0; i < n; ++i) d_x[i] += d_out[to[i]];
  });
}

void scale(Context ctx, float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, x, n, factor] {
    float* d_x = ctx.tape->existing_grad(x);
    for (int64_t i = 0; d_x != nullptr && i < n; ++i) d_x[i] *= factor;
  });
}

void hadamard(Context ctx, const ops::RowsParams& p, bool round_x) {
  ops::hadamard(ctx.exec, p, round_x);
  if (ctx.tape == nullptr) return;
  ctx.tape->record([ctx, p] {
    ops::RowsParams d = p;
    d.x = ctx.tape->existing_grad(p.x);
    if (d.x != nullptr) ops::hadamard(ctx.exec, d, false);
  });
}

}  // namespace cachalot::autograd
