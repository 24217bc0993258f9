#include "optim/muon.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/optim/muon_update.h"
#include "ops/optim/newton_schulz.h"

namespace cachalot::optim {
namespace {

// Look-aheads are kept for this many elements at a time, 16 MB: enough matrices to occupy every thread, few enough to stay in
// a last-level cache between the three passes.
constexpr int64_t kBatchElements = int64_t{1} << 22;

void step_batch(device::ExecContext& ctx, const MuonConfig& config, const MuonStep& step,
                int64_t rows, int64_t columns, std::span<const MuonMatrix> matrices) {
  const int64_t size = rows * columns;
  device::ArenaScope scope(*ctx.arena);
  float* u = ctx.arena->allocate<float>(size * static_cast<int64_t>(matrices.size()));
  std::vector<const float*> from;
  std::vector<float*> to;
  for (const MuonMatrix& matrix : matrices) {
    ops::muon_momentum(ctx, {size, matrix.grad, matrix.momentum, u,
                             static_cast<float>(config.momentum), step.grad_scale});
    from.push_back(u), to.push_back(u);
    u += size;
  }
  ops::newton_schulz(ctx, {rows, columns, from, to, config.round_operands});

  const double scale = std::sqrt(static_cast<double>(std::max(rows, columns))) * config.update_rms;
  for (size_t i = 0; i < matrices.size(); ++i) {
    ops::muon_apply(ctx, {size, to[i], matrices[i].master,
                          static_cast<float>(1 - step.learning_rate * config.weight_decay),
                          static_cast<float>(step.learning_rate * scale)});
  }
}

}  // namespace

void muon_step(device::ExecContext& ctx, const MuonConfig& config, const MuonStep& step,
               int64_t rows, int64_t columns, std::span<const MuonMatrix> matrices) {
  CACHALOT_CHECK(rows > 0 && columns > 0);
  const int64_t batch = std::max<int64_t>(ctx.pool->num_threads(), kBatchElements / rows / columns);
  const auto count = static_cast<int64_t>(matrices.size());
  for (int64_t i = 0; i < count; i += batch) {
    step_batch(
        ctx, config, step, rows, columns,
        matrices.subspan(static_cast<size_t>(i), static_cast<size_t>(std::min(batch, count - i))));
  }
}

}  // namespace cachalot::optim
