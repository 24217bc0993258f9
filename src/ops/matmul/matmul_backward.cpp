#include "ops/matmul/matmul_backward.h"

#include <algorithm>

#include "base/check.h"
#include "ops/matmul/matmul_backward_kernels.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/matmul_plan.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kPanelWidth = PackedWeight::kPanelWidth;

// Rows of x and dy that are packed at a time: the copies stay at eight megabytes, or 256 rows (what
// the kernels take at a time), however many tokens there are. A chain waits in dw between two
// chunks. Smaller chunks are as fast on one thread, but threads wait for each other after every
// one.
int64_t chunk_rows(const MatmulWeightGradParams& p) {
  constexpr int64_t kCopiedFloats = int64_t{1} << 21;
  return std::max<int64_t>(1, kCopiedFloats / (p.n + p.k) / 256) * 256;
}

// dW as a product of the forward's kernels: rows are outputs, lanes are inputs, the chain runs over
// tokens. So dY's columns are prepared as x is there, and X, which has its lanes side by side
// already, is read where it lies if the kernel copies what it reads, and else copied into f32
// panels.
struct Product {
  const MatmulWeightGradParams* p;
  MatmulPlan plan;
  int64_t num_panels;
  int64_t num_blocks;  // of dw's rows
  int64_t first_part;  // among all products' parts to pack: the blocks of dy, then the panels of x
  int64_t first_task;  // among all products': a panel times a block, a panel's blocks in a row
  int64_t begin, count;  // this chunk of the rows
  float* dy;
  bool reads_x;  // where it lies, without a copy
  float* x;      // copied panels

  int64_t block_begin(int64_t block) const { return block * plan.m_block; }
  int64_t block_rows(int64_t block) const {
    return std::min(plan.m_block, p->n - block_begin(block));
  }
  int64_t panel_lanes(int64_t panel) const {
    return std::min(kPanelWidth, p->k - panel * kPanelWidth);
  }
  int64_t panel_width(int64_t panel) const { return (panel_lanes(panel) + 15) / 16 * 16; }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check(const MatmulWeightGradParams& p) {
  CACHALOT_CHECK(p.m >= 0 && p.n > 0 && p.k > 0);
  CACHALOT_CHECK(p.m == 0 || (p.dy != nullptr && p.x != nullptr && p.dw != nullptr));
  CACHALOT_CHECK(p.m <= 1 || p.dy_stride >= p.n);
  CACHALOT_CHECK(p.m <= 1 || p.x_rows != nullptr || p.x_stride >= p.k);
  CACHALOT_CHECK(p.n <= 1 || p.dw_stride >= p.k);
}

// Panels of whole lanes alone, and every block has the rows for which the kernel copies them: a
// copy of X beforehand is as much memory again (a step of nano on AVX2: 2 percent).
bool reads_x(const MatmulKernels& kernels, const Product& product) {
  const MatmulWeightGradParams& p = *product.p;
  return p.k % 16 == 0 && p.x_stride > 0 &&
         product.block_rows(product.num_blocks - 1) >= kernels.copied_rows;
}

void pack_dy(const MatmulKernels& kernels, const Product& product, int64_t block) {
  const MatmulWeightGradParams& p = *product.p;
  const int64_t n = product.block_begin(block);
  kernels.prepare_columns(p.dy + product.begin * p.dy_stride + n, p.dy_stride,
                          product.block_rows(block), product.count, product.dy + n * product.count);
}

void pack_x(const MatmulKernels& kernels, const Product& product, int64_t panel) {
  const MatmulWeightGradParams& p = *product.p;
  const float* x = p.x + panel * kPanelWidth;
  const int64_t lanes = product.panel_lanes(panel);
  const int64_t width = product.panel_width(panel);
  float* out = product.x + panel * kPanelWidth * product.count;
  if (p.x_rows == nullptr) {
    kernels.panel.pack_rows_f32(x + product.begin * p.x_stride, p.x_stride, lanes, product.count,
                                width, out);
    return;
  }
  const int32_t* rows = p.x_rows + product.begin;
  for (int64_t t = 0; t < product.count; ++t) {
    kernels.panel.pack_rows_f32(x + rows[t] * p.x_stride, 0, lanes, 1, width, out + t * width);
  }
}

void run_task(const MatmulKernels& kernels, const Product& product, int64_t panel, int64_t block,
              std::byte* scratch) {
  const MatmulWeightGradParams& p = *product.p;
  const int64_t n = product.block_begin(block);
  PanelTask task{.w = nullptr,
                 .panel_idx = panel,
                 .panel = nullptr,
                 .scales = nullptr,
                 .format = WeightFormat::f32,
                 .math = MatmulMath::f32,
                 .has_nan_codes = false,
                 .width = product.panel_width(panel),
                 .k = product.count,
                 .group = 0,
                 .x = product.dy + n * product.count,
                 .m = product.block_rows(block),
                 .y = p.dw + n * p.dw_stride + panel * kPanelWidth,
                 .y_stride = p.dw_stride,
                 .accumulate = true,
                 .round_y = false,
                 .k_block = product.plan.k_block,
                 .scratch = scratch};
  const float* x = product.x + panel * kPanelWidth * product.count;
  if (product.reads_x) {
    x = p.x + panel * kPanelWidth + (p.x_rows == nullptr ? product.begin * p.x_stride : 0);
    task.input_stride = p.x_stride;
    task.input_rows = p.x_rows == nullptr ? nullptr : p.x_rows + product.begin;
  }
  task.panel = reinterpret_cast<const std::byte*>(x);
  run_task_on_copy(kernels, task, product.panel_lanes(panel),
                   reinterpret_cast<float*>(scratch + kernels.scratch_bytes(task.k_block)));
}

// The product that owns item `i` of those counted by `first`.
const Product& find(std::span<const Product> products, int64_t Product::*first, int64_t i) {
  return std::upper_bound(products.begin(), products.end(), i,
                          [&](int64_t item, const Product& p) { return item < p.*first; })[-1];
}

// Each product's chunk with this number, where it has so many.
void run_chunk(device::ExecContext& ctx, const MatmulKernels& kernels,
               std::span<const MatmulWeightGradParams> params, int64_t chunk) {
  device::ArenaScope scope(*ctx.arena);
  auto* storage = ctx.arena->allocate<Product>(static_cast<int64_t>(params.size()));
  int64_t num_products = 0, num_parts = 0, num_tasks = 0, scratch_bytes = 0;
  for (const MatmulWeightGradParams& p : params) {
    const int64_t begin = chunk * chunk_rows(p);
    if (p.m <= begin) continue;
    Product& product = storage[num_products++];
    product.p = &p;
    product.begin = begin;
    product.count = std::min(chunk_rows(p), p.m - begin);
    product.plan = plan_matmul({p.n, p.k, product.count, WeightFormat::f32, MatmulMath::f32,
                                ctx.isa, ctx.pool->num_threads()});
    product.num_panels = ceil_div(p.k, kPanelWidth);
    product.num_blocks = ceil_div(p.n, product.plan.m_block);
    product.first_part = num_parts;
    product.first_task = num_tasks;
    product.dy = ctx.arena->allocate<float>(p.n * product.count);
    product.reads_x = reads_x(kernels, product);
    const int64_t copied_panels = product.reads_x ? 0 : product.num_panels;
    product.x = ctx.arena->allocate<float>(copied_panels * kPanelWidth * product.count);
    num_parts += product.num_blocks + copied_panels;
    num_tasks += product.num_blocks * product.num_panels;
    scratch_bytes = std::max(scratch_bytes, kernels.scratch_bytes(product.plan.k_block) +
                                                product.plan.m_block * kPanelWidth * 4);
  }
  const std::span<const Product> products(storage, static_cast<size_t>(num_products));

  ctx.pool->run(num_parts, [&](int64_t part, int) {
    const Product& product = find(products, &Product::first_part, part);
    const int64_t i = part - product.first_part;
    i < product.num_blocks ? pack_dy(kernels, product, i)
                           : pack_x(kernels, product, i - product.num_blocks);
  });
  scratch_bytes = ceil_div(scratch_bytes, 64) * 64;
  auto* scratch = ctx.arena->allocate<std::byte>(scratch_bytes * ctx.pool->num_threads());
  ctx.pool->run(num_tasks, [&](int64_t task, int worker) {
    const Product& product = find(products, &Product::first_task, task);
    const int64_t i = task - product.first_task;
    run_task(kernels, product, i / product.num_blocks, i % product.num_blocks,
             scratch + worker * scratch_bytes);
  });
}

}  // namespace

void grouped_matmul_weight_grad(device::ExecContext& ctx,
                                std::span<const MatmulWeightGradParams> params) {
  int64_t num_chunks = 0;
  for (const MatmulWeightGradParams& p : params) {
    check(p);
    num_chunks = std::max(num_chunks, ceil_div(p.m, chunk_rows(p)));
  }
  if (ctx.isa == device::Isa::reference) {
    for (const MatmulWeightGradParams& p : params)
      ctx.pool->run(p.n, [&](int64_t n, int) { matmul_weight_grad_ref(p, n); });
    return;
  }
  const MatmulKernels& kernels = matmul_kernels(ctx.isa);
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) run_chunk(ctx, kernels, params, chunk);
}

void matmul_weight_grad(device::ExecContext& ctx, const MatmulWeightGradParams& p) {
  grouped_matmul_weight_grad(ctx, {&p, 1});
}

}  // namespace cachalot::ops
