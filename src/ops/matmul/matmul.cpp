#include "ops/matmul/matmul.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "ops/matmul/flush_denormals.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/matmul_plan.h"
#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kPreparedInlineFloats = int64_t{1} << 13;

struct Product {
  const MatmulParams* p;
  MatmulPlan plan;
  int64_t num_blocks;   // of rows
  int64_t first_block;  // among all products' blocks
  int64_t first_task;   // a task is a panel times a block, by blocks or by panels as planned
  std::byte* x;         // prepared, block after block
  int64_t x_block_bytes;
  bool prepares_x;  // false: the product before has the same
};

struct Totals {
  int64_t products = 0, blocks = 0, tasks = 0;
  int64_t x_floats = 0;
  int64_t scratch_bytes = 0;  // per worker
  int64_t panels = 0;         // counted beforehand
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check(const MatmulParams& p) {
  CACHALOT_CHECK(p.w != nullptr && p.m >= 0);
  CACHALOT_CHECK(p.m == 0 || (p.x != nullptr && p.y != nullptr && p.y_stride >= p.w->rows()));
  CACHALOT_CHECK(p.m <= 1 || p.x_rows != nullptr || p.x_stride >= p.w->columns());
  CACHALOT_CHECK(p.math == MatmulMath::f32 || p.w->format() != WeightFormat::f32);
  CACHALOT_CHECK(p.chain_inputs >= 0);
  CACHALOT_CHECK(p.chain_inputs == 0 || (p.w->format() == WeightFormat::f32 && !p.accumulate));
  CACHALOT_CHECK(!p.accumulate || (p.math == MatmulMath::f32 && !p.round_y));
}

#ifndef NDEBUG
void check_bf16_rows(const MatmulParams& p) {
  if (p.math != MatmulMath::bf16) return;
  for (int64_t i = 0; i < p.m; ++i) {
    const float* row = p.x + (p.x_rows != nullptr ? p.x_rows[i] : i) * p.x_stride;
    for (int64_t k = 0; k < p.w->columns(); ++k) {
      CACHALOT_DCHECK((std::bit_cast<uint32_t>(row[k]) & 0xFFFF) == 0 || row[k] != row[k]);
    }
  }
}
#endif

bool same_prepared_x(const Product& before, const Product& product) {
  const MatmulParams& a = *before.p;
  const MatmulParams& b = *product.p;
  return before.plan.m_block == product.plan.m_block && a.x == b.x && a.m == b.m &&
         a.x_stride == b.x_stride && a.x_rows == b.x_rows && a.math == b.math &&
         a.w->format() == b.w->format() && a.w->columns() == b.w->columns() &&
         a.chain_inputs == b.chain_inputs;
}

// The inputs [begin, end) of every chain.
template <typename Body>
void each_chain(const MatmulParams& p, Body body) {
  const int64_t k = p.w->columns();
  for (int64_t begin = 0; begin < k; begin += p.chain_inputs)
    body(begin, std::min(k, begin + p.chain_inputs));
}

// totals, sums: task.m rows of kPanelWidth floats. Sums are added as wide as the panel; rounding
// waits for the last.
void run_chains(const MatmulKernels& kernels, const MatmulParams& p, const PanelTask& whole,
                int64_t lanes, float* totals, float* sums) {
  const int64_t width = whole.width, n = whole.m * width;
  each_chain(p, [&](int64_t begin, int64_t end) {
    PanelTask task = whole;
    task.first_input = begin;
    task.k = end - begin;
    task.panel += begin * width * static_cast<int64_t>(sizeof(float));
    task.x = static_cast<const float*>(whole.x) + begin * whole.m;
    task.y = begin == 0 ? totals : sums;
    task.y_stride = width;
    kernels.run(task);
    for (int64_t i = 0; begin > 0 && i < n; ++i) totals[i] += sums[i];
  });
  if (whole.round_y)
    return kernels.round_rows(totals, width, whole.m, lanes, whole.y, whole.y_stride);
  for (int64_t i = 0; i < whole.m; ++i)
    std::copy_n(totals + i * width, lanes, whole.y + i * whole.y_stride);
}

// One panel times one block of rows. `scratch` is this worker's: the kernel's part, then a padded
// copy of y.
void run_task(const MatmulKernels& kernels, const Product& product, int64_t panel, int64_t block,
              std::byte* scratch) {
  const MatmulParams& p = *product.p;
  const PackedWeight& w = *p.w;
  const int64_t begin = block * product.plan.m_block;
  const int64_t rows = std::min(product.plan.m_block, p.m - begin);
  const int64_t lane0 = panel * PackedWeight::kPanelWidth;
  const int64_t width = w.panel_width(panel);
  const int64_t lanes = std::min(width, w.rows() - lane0);
  float* y = p.y + begin * p.y_stride + lane0;

  PanelTask task{.w = &w,
                 .panel_idx = panel,
                 .panel = w.panel(panel),
                 .scales = w.panel_scales(panel),
                 .format = w.format(),
                 .math = p.math,
                 .has_nan_codes = w.has_nan_codes(),
                 .width = width,
                 .k = w.padded_columns(),
                 .group = w.sum_group(),
                 .x = product.x + block * product.x_block_bytes,
                 .m = rows,
                 .y = y,
                 .y_stride = p.y_stride,
                 .accumulate = p.accumulate,
                 .round_y = p.round_y,
                 .k_block = product.plan.k_block,
                 .scratch = scratch};
  {
    std::optional<FlushDenormals> flush;
    if (p.math == MatmulMath::bf16) flush.emplace(w.format() == WeightFormat::bf16);
    auto* copy = reinterpret_cast<float*>(scratch + kernels.scratch_bytes(product.plan.k_block));
    if (p.chain_inputs == 0) {
      run_task_on_copy(kernels, task, lanes, copy);
    } else {
      run_chains(kernels, p, task, lanes, copy, copy + rows * PackedWeight::kPanelWidth);
    }
  }
}

void add_product(device::ExecContext& ctx, const MatmulKernels& kernels, const MatmulParams& p,
                 Product* products, Totals& totals) {
#ifndef NDEBUG
  check_bf16_rows(p);
#endif
  const PackedWeight& w = *p.w;
  Product& product = products[totals.products];
  product.p = &p;
  product.plan = plan_matmul({p.m, w.rows(), w.columns(), w.format(), p.math, ctx.isa,
                              ctx.pool->num_threads(), totals.panels - w.num_panels()});
  product.num_blocks = ceil_div(p.m, product.plan.m_block);
  product.first_block = totals.blocks;
  product.first_task = totals.tasks;
  const int64_t block = std::min(product.plan.m_block, p.m);
  const Product* before = totals.products == 0 ? nullptr : &products[totals.products - 1];
  product.prepares_x = before == nullptr || !same_prepared_x(*before, product);
  if (product.prepares_x) {
    const int64_t last_block = p.m - (product.num_blocks - 1) * product.plan.m_block;
    const int64_t bytes =
        std::max(kernels.prepared_x_bytes(w.format(), block, w.padded_columns()),
                 kernels.prepared_x_bytes(w.format(), last_block, w.padded_columns()));
    product.x_block_bytes = ceil_div(bytes, 64) * 64;
    product.x = ctx.arena->allocate<std::byte>(product.num_blocks * product.x_block_bytes);
    totals.x_floats += p.m * w.columns();
  } else {
    product.x = before->x;
    product.x_block_bytes = before->x_block_bytes;
  }
  const int64_t scratch = kernels.scratch_bytes(product.plan.k_block) +
                          block * PackedWeight::kPanelWidth * 4 * (p.chain_inputs == 0 ? 1 : 2);
  totals.scratch_bytes = std::max(totals.scratch_bytes, ceil_div(scratch, 64) * 64);
  ++totals.products;
  totals.blocks += product.num_blocks;
  totals.tasks += product.num_blocks * w.num_panels();
}

void prepare_block(const MatmulKernels& kernels, const Product& product, int64_t block) {
  const MatmulParams& p = *product.p;
  const int64_t begin = block * product.plan.m_block;
  const int64_t rows = std::min(product.plan.m_block, p.m - begin);
  const float* x = p.x_rows != nullptr ? p.x : p.x + begin * p.x_stride;
  const int32_t* x_rows = p.x_rows != nullptr ? p.x_rows + begin : nullptr;
  std::byte* out = product.x + block * product.x_block_bytes;
  if (p.chain_inputs == 0) {
    return kernels.prepare_x(p.w->format(), p.math, x, p.x_stride, x_rows, rows, p.w->columns(),
                             p.w->padded_columns(), out);
  }
  each_chain(p, [&](int64_t begin, int64_t end) {  // one after another
    kernels.prepare_x(p.w->format(), p.math, x + begin, p.x_stride, x_rows, rows, end - begin,
                      end - begin, out + begin * rows * static_cast<int64_t>(sizeof(float)));
  });
}

// The product that owns item `i` of those counted by `first`.
const Product& find(const Product* products, int64_t count, int64_t Product::*first, int64_t i) {
  const Product* after =
      std::upper_bound(products, products + count, i,
                       [&](int64_t item, const Product& p) { return item < p.*first; });
  return after[-1];
}

}  // namespace

void count_product(const PackedWeight& w, int64_t rows, device::Work& work) {
  const bool is_narrow = w.format() == WeightFormat::fp8 || w.format() == WeightFormat::fp4;
  (is_narrow ? work.narrow : work.wide) += rows * w.rows() * w.columns();
}

void grouped_matmul(device::ExecContext& ctx, std::span<const MatmulParams> params) {
  for (const MatmulParams& p : params) {
    check(p);
    if (ctx.work != nullptr) count_product(*p.w, p.m, *ctx.work);
  }
  if (ctx.gpu != nullptr) return grouped_matmul_cuda(ctx, params);
  if (!params.empty() && params[0].norm != nullptr) rms_norm(ctx, *params[0].norm);
  if (!params.empty() && params[0].swiglu != nullptr) swiglu(ctx, *params[0].swiglu);
  const MatmulKernels& kernels = matmul_kernels(ctx.isa);
  device::ArenaScope scope(*ctx.arena);
  Product* products = ctx.arena->allocate<Product>(static_cast<int64_t>(params.size()));
  Totals totals;
  for (const MatmulParams& p : params) {
    if (p.m > 0) totals.panels += p.w->num_panels();
  }
  for (const MatmulParams& p : params) {
    if (p.m > 0) add_product(ctx, kernels, p, products, totals);
  }
  if (totals.products == 0) return;

  auto prepare = [&](int64_t block, int) {
    const Product& product = find(products, totals.products, &Product::first_block, block);
    if (product.prepares_x) prepare_block(kernels, product, block - product.first_block);
  };
  if (totals.x_floats <= kPreparedInlineFloats) {  // quicker than waking the pool
    for (int64_t block = 0; block < totals.blocks; ++block) prepare(block, 0);
  } else {
    ctx.pool->run(totals.blocks, prepare);
  }

  std::byte* scratch =
      ctx.arena->allocate<std::byte>(totals.scratch_bytes * ctx.pool->num_threads());
  ctx.pool->run(totals.tasks, [&](int64_t task, int worker) {
    const Product& product = find(products, totals.products, &Product::first_task, task);
    const int64_t i = task - product.first_task;
    const int64_t panels = product.p->w->num_panels(), blocks = product.num_blocks;
    const bool by_rows = product.plan.by_rows;
    run_task(kernels, product, by_rows ? i % panels : i / blocks, by_rows ? i / panels : i % blocks,
             scratch + worker * totals.scratch_bytes);
  });
}

void matmul(device::ExecContext& ctx, const MatmulParams& p) { grouped_matmul(ctx, {&p, 1}); }

}  // namespace cachalot::ops
