#include "autograd/matmul_grad.h"

#include <algorithm>
#include <vector>

#include "ops/matmul/matmul_backward.h"

namespace cachalot::autograd {
namespace {

using Products = std::vector<ops::MatmulParams>;

// A product over gathered rows: its own gradient of them, and where they came from.
struct GatheredGrad {
  const ops::MatmulParams* product;
  float* d_x;
};

// dX += dY W. Gathered rows are added to the rows they came from product by product: that is the order of the sum.
void input_grads(Context ctx, const Products& products) {
  const device::ArenaScope scope(*ctx.exec.arena);
  Products grads;
  std::vector<GatheredGrad> gathered;
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
    if (p.x_rows != nullptr) {
      d.y = ctx.exec.arena->allocate<float>(p.m * p.w->columns());
      d.y_stride = p.w->columns();
      d.accumulate = false;
      gathered.push_back({&p, d.y});
    }
    grads.push_back(d);
  }
  ops::grouped_matmul(ctx.exec, grads);
  for (const GatheredGrad& g : gathered) {
    const ops::MatmulParams& p = *g.product;
    const int64_t columns = p.w->columns();
    float* d_x = ctx.tape->grad(p.x);
    constexpr int64_t kTaskRows = 64;
    ctx.exec.pool->run((p.m + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
      for (int64_t i = task * kTaskRows; i < std::min(p.m, (task + 1) * kTaskRows); ++i) {
        float* to = d_x + p.x_rows[i] * p.x_stride;
        const float* from = g.d_x + i * columns;
        for (int64_t c = 0; c < columns; ++c) to[c] += from[c];
      }
    });
  }
}

void weight_grads(Context ctx, const Products& products) {
  std::vector<ops::MatmulWeightGradParams> grads;
  for (const ops::MatmulParams& p : products) {
    const MatrixGrad* weight = ctx.tape->matrix(p.w);
    const float* d_y = ctx.tape->existing_grad(p.y);
    if (weight == nullptr || weight->grad == nullptr || d_y == nullptr) continue;
    grads.push_back({d_y, p.m, p.y_stride, p.x, p.x_stride, p.x_rows, weight->grad, p.w->rows(),
                     p.w->columns(), weight->stride});
  }
  ops::grouped_matmul_weight_grad(ctx.exec, grads);
}

}  // namespace

void matmul(Context ctx, std::span<const ops::MatmulParams> products) {
  ops::grouped_matmul(ctx.exec, products);
  if (ctx.tape == nullptr) return;
  Op op{.name = "matmul"};
  for (const ops::MatmulParams& p : products) {
    op.reads.push_back(p.x);
    op.writes.push_back(p.y);
  }
  op.needs = op.reads;
  op.backward = [ctx, products = Products(products.begin(), products.end())] {
    weight_grads(ctx, products);
    input_grads(ctx, products);
  };
  ctx.tape->record(std::move(op));
}

}  // namespace cachalot::autograd
