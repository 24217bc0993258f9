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

// Up to this size a thread takes whole matrices, without a barrier between the products; larger ones are cut into tiles, so
// that their scratch is needed once and not once per thread.
constexpr int64_t kWholeMatrixElements = int64_t{1} << 21;

// One matrix in the panels of newton_schulz_kernels.h.
struct Work {
  int64_t m, n;
  bool tall;  // Z = U, else Z = U^T
  float *z, *next, *a, *b;
  double* block_sums;
};

int64_t num_blocks(int64_t rows) { return (rows + kNsTile - 1) / kNsTile; }

int64_t scratch_bytes(int64_t m, int64_t n) {
  const int64_t floats = 2 * (m + n) * ns_padded(n);
  const int64_t doubles = num_blocks(m) * ns_panels(n);
  return (floats * 4 + doubles * 8 + 63) / 64 * 64;
}

Work make_work(int64_t rows, int64_t columns, std::byte* scratch) {
  Work w{std::max(rows, columns), std::min(rows, columns), rows >= columns, {}, {}, {}, {}, {}};
  w.z = reinterpret_cast<float*>(scratch);
  w.next = w.z + w.m * ns_padded(w.n);
  w.a = w.next + w.m * ns_padded(w.n);
  w.b = w.a + w.n * ns_padded(w.n);
  w.block_sums = reinterpret_cast<double*>(w.b + w.n * ns_padded(w.n));
  return w;
}

// The block of Z and of its matrix that a task moves: fn(rows, columns, panel width, z, u, from row to row and from column to
// column of u).
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

// `for_tasks(count, fn)` runs fn(0) ... fn(count - 1) in any order: on the pool, or here where whole matrices are its tasks.
template <typename ForTasks>
void run(const Kernels& kernels, Work w, const float* u, float* out, bool round,
         ForTasks&& for_tasks) {
  const int64_t panels = ns_panels(w.n), blocks = num_blocks(w.m), tiles = blocks * panels;
  for_tasks(tiles, [&](int64_t task) { load_block(w, task, u); });
  double sum = 0;
  for (int64_t i = 0; i < tiles; ++i) sum += w.block_sums[i];
  if (sum == 0) {
    std::fill_n(out, w.m * w.n, 0.0f);
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
  for_tasks(tiles, [&](int64_t task) { store_block(w, task, out); });
}

void run_reference(device::ExecContext& ctx, const NewtonSchulzParams& p) {
  device::ArenaScope scope(*ctx.arena);
  const int64_t floats = ns_ref_scratch_floats(p.rows, p.columns);
  float* scratch = ctx.arena->allocate<float>(floats * ctx.pool->num_threads());
  ctx.pool->run(static_cast<int64_t>(p.u.size()), [&](int64_t idx, int worker) {
    newton_schulz_ref(p, idx, scratch + worker * floats);
  });
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

void newton_schulz(device::ExecContext& ctx, const NewtonSchulzParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns >= 0 && p.u.size() == p.out.size());
  if (p.rows == 0 || p.columns == 0 || p.u.empty()) return;
  if (ctx.isa == device::Isa::reference) return run_reference(ctx, p);
  const Kernels kernels{
      pick_kernel<NsGramKernel>(ctx.isa, nullptr, ns_gram_avx2, ns_gram_avx512),
      pick_kernel<NsApplyKernel>(ctx.isa, nullptr, ns_apply_avx2, ns_apply_avx512)};

  const auto num_matrices = static_cast<int64_t>(p.u.size());
  const int64_t num_threads = ctx.pool->num_threads();
  const int64_t num_whole =
      p.rows * p.columns <= kWholeMatrixElements ? num_matrices / num_threads * num_threads : 0;
  const int64_t bytes = scratch_bytes(std::max(p.rows, p.columns), std::min(p.rows, p.columns));
  device::ArenaScope scope(*ctx.arena);
  std::byte* scratch = ctx.arena->allocate<std::byte>(bytes * (num_whole > 0 ? num_threads : 1));

  ctx.pool->run(num_whole, [&](int64_t idx, int worker) {
    const auto i = static_cast<size_t>(idx);
    run(kernels, make_work(p.rows, p.columns, scratch + worker * bytes), p.u[i], p.out[i],
        p.round_operands, [](int64_t count, auto&& fn) {
          for (int64_t task = 0; task < count; ++task) fn(task);
        });
  });
  for (auto i = static_cast<size_t>(num_whole); i < p.u.size(); ++i) {
    run(kernels, make_work(p.rows, p.columns, scratch), p.u[i], p.out[i], p.round_operands,
        [&](int64_t count, auto&& fn) {
          ctx.pool->run(count, [&](int64_t task, int) { fn(task); });
        });
  }
}

}  // namespace cachalot::ops
