#include "ops/optim/newton_schulz.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "numeric/formats.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/optim/newton_schulz_kernels.h"

namespace cachalot::ops {
namespace {

struct Kernels {
  NsGramKernel* gram;
  NsApplyKernel* apply;
};

// Above this size a matrix is cut into tiles even where there are enough others to occupy the
// threads: each thread would need scratch for one (five times 8 MB).
constexpr int64_t kWholeMatrixElements = int64_t{1} << 21;
// Below this cost, a millisecond or so, a barrier that waits for a sleeping thread costs more than
// an idle thread does.
constexpr double kWholeMatrixFlops = 1e8;

// One matrix in the panels of newton_schulz_kernels.h.
struct Work {
  int64_t m, n;
  bool tall;  // Z = U, else Z = U^T
  float *z, *next, *a, *b;
  double* block_sums;
};

int64_t num_blocks(int64_t rows) { return (rows + kNsTile - 1) / kNsTile; }

Work make_work(int64_t rows, int64_t columns, std::byte* scratch) {
  Work w{std::max(rows, columns), std::min(rows, columns), rows >= columns, {}, {}, {}, {}, {}};
  w.z = reinterpret_cast<float*>(scratch);
  w.next = w.z + w.m * ns_padded(w.n);
  w.a = w.next + w.m * ns_padded(w.n);
  w.b = w.a + w.n * ns_padded(w.n);
  w.block_sums = reinterpret_cast<double*>(w.b + w.n * ns_padded(w.n));
  return w;
}

// The block of Z and of its matrix that a task moves: fn(rows, columns, panel width, z, u, from row
// to row and from column to column of u).
template <typename U, typename Fn>
void with_block(const Work& w, float* z, int64_t task, U* u, Fn&& fn) {
  const int64_t block = task / ns_panels(w.n), panel = task % ns_panels(w.n);
  const int64_t i = block * kNsTile, j = panel * kNsTile;
  const int64_t row_step = w.tall ? w.n : 1, column_step = w.tall ? 1 : w.m;
  const int64_t width = ns_panel_width(w.n, panel);
  fn(std::min(kNsTile, w.m - i), std::min(kNsTile, w.n - j), width, z + j * w.m + i * width,
     u + i * row_step + j * column_step, row_step, column_step);
}

void load_block(const Work& w, int64_t task, const float* u) {
  with_block(w, w.z, task, u,
             [&](int64_t rows, int64_t columns, int64_t width, float* z, const float* from,
                 int64_t row_step, int64_t column_step) {
               for (int64_t i = 0; i < rows; ++i) {
                 for (int64_t j = 0; j < columns; ++j)
                   z[i * width + j] = from[i * row_step + j * column_step];
                 std::fill(z + i * width + columns, z + (i + 1) * width, 0.0f);
               }
               w.block_sums[task] = ns_sum_squares(z, width, rows, columns);
             });
}

void store_block(const Work& w, int64_t task, float* out) {
  with_block(w, w.z, task, out,
             [&](int64_t rows, int64_t columns, int64_t width, const float* z, float* to,
                 int64_t row_step, int64_t column_step) {
               for (int64_t i = 0; i < rows; ++i) {
                 for (int64_t j = 0; j < columns; ++j)
                   to[i * row_step + j * column_step] = z[i * width + j];
               }
             });
}

// `for_tasks(count, fn)` runs fn(0) ... fn(count - 1) in any order: on the pool, or here where
// whole matrices are its tasks.
template <typename ForTasks>
void run(const Kernels& kernels, const NsMatrix& matrix, std::byte* scratch, ForTasks&& for_tasks) {
  Work w = make_work(matrix.rows, matrix.columns, scratch);
  const bool round = matrix.round_operands;
  const int64_t panels = ns_panels(w.n), blocks = num_blocks(w.m), tiles = blocks * panels;
  for_tasks(tiles, [&](int64_t task) { load_block(w, task, matrix.u); });
  double sum = 0;
  for (int64_t i = 0; i < tiles; ++i) sum += w.block_sums[i];
  if (sum == 0) {
    std::fill_n(matrix.out, w.m * w.n, 0.0f);
    return;
  }
  const double scale = 1 / std::sqrt(sum);
  const int64_t row_floats = ns_padded(w.n);
  for_tasks(blocks, [&](int64_t block) {
    const int64_t begin = block * kNsTile * row_floats;
    const int64_t end = std::min(begin + kNsTile * row_floats, w.m * row_floats);
    for (int64_t i = begin; i < end; ++i) {
      const float z = static_cast<float>(static_cast<double>(w.z[i]) * scale);
      w.z[i] = round ? numeric::round_to_bf16(z) : z;
    }
  });

  // Tiles on and above the diagonal, column by column.
  const int64_t triangle = panels * (panels + 1) / 2;
  const auto gram = [&](int64_t task, const float* x, int64_t k, const NewtonSchulzStep* combined,
                        float* y) {
    int64_t j = 0;
    while (task > j) task -= ++j;
    const auto b = static_cast<float>(combined != nullptr ? combined->b : 0);
    const auto c = static_cast<float>(combined != nullptr ? combined->c : 1);
    kernels.gram({x, k, w.n, task, j, combined != nullptr, b, c, y, round});
  };
  for (int step = 0; step < kNumNewtonSchulzSteps; ++step) {
    const NewtonSchulzStep poly = newton_schulz_step(step);
    const bool last = step + 1 == kNumNewtonSchulzSteps;
    for_tasks(triangle, [&](int64_t task) { gram(task, w.z, w.m, nullptr, w.a); });
    for_tasks(triangle, [&](int64_t task) { gram(task, w.a, w.n, &poly, w.b); });
    for_tasks(tiles, [&](int64_t task) {
      kernels.apply({w.z, w.b, w.m, w.n, task / panels, task % panels, static_cast<float>(poly.a),
                     round && !last, w.next});
    });
    std::swap(w.z, w.next);
  }
  for_tasks(tiles, [&](int64_t task) { store_block(w, task, matrix.out); });
}

Kernels pick_kernels(device::Isa isa) {
  return {pick_kernel<NsGramKernel>(isa, nullptr, ns_gram_avx2, ns_gram_avx512),
          pick_kernel<NsApplyKernel>(isa, nullptr, ns_apply_avx2, ns_apply_avx512)};
}

}  // namespace

double ns_sum_squares(const float* z, int64_t stride, int64_t rows, int64_t columns) {
  double sums[8] = {};
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double value = z[i * stride + j];
      sums[j % 8] += value * value;
    }
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

double newton_schulz_flops(int64_t rows, int64_t columns) {
  const double n = static_cast<double>(std::min(rows, columns));
  const double m = static_cast<double>(std::max(rows, columns));
  return kNumNewtonSchulzSteps * (4 * n * n * m + 2 * n * n * n);
}

int64_t ns_scratch_bytes(device::Isa isa, int64_t rows, int64_t columns) {
  if (isa == device::Isa::reference) return ns_ref_scratch_floats(rows, columns) * 4;
  const int64_t m = std::max(rows, columns), n = std::min(rows, columns);
  const int64_t floats = 2 * (m + n) * ns_padded(n);
  const int64_t doubles = num_blocks(m) * ns_panels(n);
  return (floats * 4 + doubles * 8 + 63) / 64 * 64;
}

void ns_run_here(device::Isa isa, const NsMatrix& matrix, std::byte* scratch) {
  if (isa == device::Isa::reference)
    return newton_schulz_ref(matrix, reinterpret_cast<float*>(scratch));
  run(pick_kernels(isa), matrix, scratch, [](int64_t count, auto&& fn) {
    for (int64_t task = 0; task < count; ++task) fn(task);
  });
}

void ns_run_on_pool(device::ExecContext& ctx, const NsMatrix& matrix) {
  device::ArenaScope scope(*ctx.arena);
  auto* scratch =
      ctx.arena->allocate<std::byte>(ns_scratch_bytes(ctx.isa, matrix.rows, matrix.columns));
  if (ctx.isa == device::Isa::reference) return ns_run_here(ctx.isa, matrix, scratch);
  run(pick_kernels(ctx.isa), matrix, scratch, [&](int64_t count, auto&& fn) {
    ctx.pool->run(count, [&](int64_t task, int) { fn(task); });
  });
}

bool ns_takes_pool(int64_t rows, int64_t columns, double total_flops, int num_threads) {
  if (rows * columns > kWholeMatrixElements) return true;
  const double flops = newton_schulz_flops(rows, columns);
  if (flops <= kWholeMatrixFlops) return false;
  const double share = total_flops / num_threads;
  if (flops > share) return true;  // the other threads would wait for it
  const int64_t panels = ns_panels(std::min(rows, columns));
  return 2 * flops > share && panels * (panels + 1) / 2 >= num_threads;
}

void newton_schulz(device::ExecContext& ctx, const NewtonSchulzParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns >= 0 && p.u.size() == p.out.size());
  if (p.rows == 0 || p.columns == 0) return;
  const auto count = static_cast<int64_t>(p.u.size());
  const auto matrix = [&](int64_t idx) {
    const auto i = static_cast<size_t>(idx);
    return NsMatrix{p.rows, p.columns, p.u[i], p.out[i], p.round_operands};
  };
  const double total = static_cast<double>(count) * newton_schulz_flops(p.rows, p.columns);
  if (ns_takes_pool(p.rows, p.columns, total, ctx.pool->num_threads())) {
    for (int64_t idx = 0; idx < count; ++idx) ns_run_on_pool(ctx, matrix(idx));
    return;
  }
  device::ArenaScope scope(*ctx.arena);
  const int64_t bytes = ns_scratch_bytes(ctx.isa, p.rows, p.columns);
  auto* scratch = ctx.arena->allocate<std::byte>(bytes * ctx.pool->num_threads());
  ctx.pool->run(count, [&](int64_t idx, int worker) {
    ns_run_here(ctx.isa, matrix(idx), scratch + worker * bytes);
  });
}

}  // namespace cachalot::ops
