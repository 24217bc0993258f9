#include "ops/optim/muon_update.h"

#include <algorithm>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/optim/newton_schulz_kernels.h"
#include "ops/optim/update_kernels.h"

namespace cachalot::ops {
namespace {

struct Kernels {
  MuonMomentumKernel* momentum;
  MuonApplyKernel* apply;
};

// `for_elements(n, fn)` calls fn(begin, end) over [0, n), `orthogonalise` works in place on u.
template <typename ForElements, typename Orthogonalise>
void update(const Kernels& kernels, const MuonUpdateParams& p, float* u, ForElements&& for_elements,
            Orthogonalise&& orthogonalise) {
  const int64_t n = p.rows * p.columns;
  const MuonMomentum momentum{p.g, p.m, u, p.mu, p.grad_scale};
  const MuonApply apply{u, p.w, p.decay, p.scale};
  for_elements(n, [&](int64_t begin, int64_t end) { kernels.momentum(momentum, begin, end); });
  orthogonalise(NsMatrix{p.rows, p.columns, u, u, p.round_operands});
  for_elements(n, [&](int64_t begin, int64_t end) { kernels.apply(apply, begin, end); });
}

int64_t look_ahead_bytes(const MuonUpdateParams& p) {
  return (p.rows * p.columns * 4 + 63) / 64 * 64;
}

}  // namespace

void muon_update(device::ExecContext& ctx, std::span<const MuonUpdateParams> matrices) {
  const Kernels kernels{
      pick_kernel(ctx.isa, muon_momentum_ref, muon_momentum_avx2, muon_momentum_avx512),
      pick_kernel(ctx.isa, muon_apply_ref, muon_apply_avx2, muon_apply_avx512)};
  const int num_threads = ctx.pool->num_threads();
  double total_flops = 0;
  for (const MuonUpdateParams& p : matrices) {
    CACHALOT_CHECK(p.rows >= 0 && p.columns >= 0);
    total_flops += newton_schulz_flops(p.rows, p.columns);
  }

  device::ArenaScope scope(*ctx.arena);
  auto* whole = ctx.arena->allocate<const MuonUpdateParams*>(static_cast<int64_t>(matrices.size()));
  int64_t num_whole = 0, bytes = 0;
  for (const MuonUpdateParams& p : matrices) {
    if (p.rows == 0 || p.columns == 0) continue;
    if (ns_takes_pool(p.rows, p.columns, total_flops, num_threads)) {
      device::ArenaScope matrix_scope(*ctx.arena);
      update(
          kernels, p, ctx.arena->allocate<float>(p.rows * p.columns),
          [&](int64_t n, auto&& fn) { for_row_blocks(ctx, n, 1, fn); },
          [&](const NsMatrix& matrix) { ns_run_on_pool(ctx, matrix); });
      continue;
    }
    whole[num_whole++] = &p;
    bytes = std::max(bytes, look_ahead_bytes(p) + ns_scratch_bytes(ctx.isa, p.rows, p.columns));
  }

  // Largest first, so that the last tasks to end are short.
  std::stable_sort(
      whole, whole + num_whole, [](const MuonUpdateParams* a, const MuonUpdateParams* b) {
        return newton_schulz_flops(a->rows, a->columns) > newton_schulz_flops(b->rows, b->columns);
      });
  auto* scratch = ctx.arena->allocate<std::byte>(num_whole > 0 ? bytes * num_threads : 0);
  ctx.pool->run(num_whole, [&](int64_t task, int worker) {
    const MuonUpdateParams& p = *whole[task];
    std::byte* own = scratch + worker * bytes;
    update(
        kernels, p, reinterpret_cast<float*>(own), [](int64_t n, auto&& fn) { fn(0, n); },
        [&](const NsMatrix& matrix) { ns_run_here(ctx.isa, matrix, own + look_ahead_bytes(p)); });
  });
}

}  // namespace cachalot::ops
