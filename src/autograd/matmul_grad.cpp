#include "autograd/matmul_grad.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/matmul/matmul_backward.h"
#include "ops/quant/act_quant.h"

namespace cachalot::autograd {
namespace {

using Products = std::vector<ops::MatmulParams>;

constexpr int64_t kFp8Tile = 128;

// A product whose dX is not added to in place but has a place of its own first.
struct SeparateGrad {
  const ops::MatmulParams* product;
  float* d_x;
};

// Rows of a matrix one after the other, in the arena. x_rows null: its first m rows.
ops::RowsParams copy_rows(device::ExecContext& exec, const float* x, int64_t stride,
                          const int32_t* x_rows, int64_t m, int64_t columns) {
  auto* copy = exec.arena->allocate<float>(m * columns);
  constexpr int64_t kTaskRows = 64;
  exec.pool->run((m + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
    for (int64_t i = task * kTaskRows; i < std::min(m, (task + 1) * kTaskRows); ++i) {
      std::memcpy(copy + i * columns, x + (x_rows != nullptr ? x_rows[i] : i) * stride,
                  static_cast<size_t>(columns) * sizeof(float));
    }
  });
  return {copy, m, columns, columns};
}

// dX += dY W. Gathered rows are added to the rows they came from product by product: that is the
// order of the sum.
void input_grads(Context ctx, const Products& products, GradientFormat format) {
  const device::ArenaScope scope(*ctx.exec.arena);
  Products grads;
  std::vector<SeparateGrad> separate;
  for (const ops::MatmulParams& p : products) {
    const MatrixGrad* weight = ctx.tape->matrix(p.w);
    const float* d_y = ctx.tape->existing_grad(p.y);
    if (weight == nullptr || d_y == nullptr || p.m == 0) continue;
    float* d_x = ctx.tape->grad(p.x);
    if (d_x == nullptr) continue;
    ops::MatmulParams d{};
    d.x = d_y;
    d.m = p.m;
    d.x_stride = p.y_stride;
    d.w = weight->transposed;
    d.y = d_x;
    d.y_stride = p.x_stride;
    d.math = ops::MatmulMath::f32;
    d.accumulate = true;
    if (format != GradientFormat::f32) {
      const ops::RowsParams rounded =
          copy_rows(ctx.exec, d_y, p.y_stride, nullptr, p.m, p.w->rows());
      if (format == GradientFormat::bf16) {
        ops::round_bf16(ctx.exec, rounded);
      } else {
        ops::simulate_fp8(ctx.exec, rounded, kFp8Tile, ops::kFp8GradientFloor);
      }
      d.x = rounded.x;
      d.x_stride = rounded.row_stride;
      d.math = ops::MatmulMath::bf16;
    }
    if (p.x_rows != nullptr || format != GradientFormat::f32) {
      d.y = ctx.exec.arena->allocate<float>(p.m * p.w->columns());
      d.y_stride = p.w->columns();
      d.accumulate = false;
      separate.push_back({&p, d.y});
    }
    grads.push_back(d);
  }
  ops::grouped_matmul(ctx.exec, grads);
  for (const SeparateGrad& g : separate) {
    const ops::MatmulParams& p = *g.product;
    const int64_t columns = p.w->columns();
    float* d_x = ctx.tape->grad(p.x);
    constexpr int64_t kTaskRows = 64;
    ctx.exec.pool->run((p.m + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
      for (int64_t i = task * kTaskRows; i < std::min(p.m, (task + 1) * kTaskRows); ++i) {
        float* to = d_x + (p.x_rows != nullptr ? p.x_rows[i] : i) * p.x_stride;
        const float* from = g.d_x + i * columns;
        for (int64_t c = 0; c < columns; ++c) to[c] += from[c];
      }
    });
  }
}

void weight_grads(Context ctx, const Products& products, GradientFormat format) {
  const device::ArenaScope scope(*ctx.exec.arena);
  std::vector<ops::MatmulWeightGradParams> grads;
  for (const ops::MatmulParams& p : products) {
    const MatrixGrad* weight = ctx.tape->matrix(p.w);
    const float* d_y = ctx.tape->existing_grad(p.y);
    if (weight == nullptr || weight->grad == nullptr || d_y == nullptr || p.m == 0) continue;
    ops::MatmulWeightGradParams d{
        d_y,          p.m,         p.y_stride,     p.x,           p.x_stride, p.x_rows,
        weight->grad, p.w->rows(), p.w->columns(), weight->stride};
    if (format != GradientFormat::f32) {
      const ops::RowsParams dy = copy_rows(ctx.exec, d_y, p.y_stride, nullptr, p.m, p.w->rows());
      d.dy = dy.x;
      d.dy_stride = dy.row_stride;
      if (format == GradientFormat::bf16) {
        ops::round_bf16(ctx.exec, dy);
      } else {
        const ops::RowsParams x =
            copy_rows(ctx.exec, p.x, p.x_stride, p.x_rows, p.m, p.w->columns());
        ops::simulate_fp8_columns(ctx.exec, dy, kFp8Tile, ops::kFp8GradientFloor);
        ops::simulate_fp8_columns(ctx.exec, x, kFp8Tile);
        d.x = x.x;
        d.x_stride = x.row_stride;
        d.x_rows = nullptr;
      }
    }
    grads.push_back(d);
  }
  ops::grouped_matmul_weight_grad(ctx.exec, grads);
}

}  // namespace

void matmul(Context ctx, std::span<const ops::MatmulParams> products, GradientFormat format) {
  ops::grouped_matmul(ctx.exec, products);
  if (ctx.tape == nullptr) return;
  Op op{.name = "matmul"};
  for (const ops::MatmulParams& p : products) {
    op.reads.push_back(p.x);
    op.writes.push_back(p.y);
  }
  op.needs = op.reads;
  op.backward = [ctx, format, products = Products(products.begin(), products.end())] {
    weight_grads(ctx, products, format);
    input_grads(ctx, products, format);
  };
  ctx.tape->record(std::move(op));
}

}  // namespace cachalot::autograd
