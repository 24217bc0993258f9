#include "optim/muon.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/optim/muon_update.h"

namespace cachalot::optim {

void muon_step(device::ExecContext& ctx, const MuonConfig& config, const MuonStep& step,
               std::span<const MuonMatrix> matrices) {
  std::vector<ops::MuonUpdateParams> updates;
  for (const MuonMatrix& matrix : matrices) {
    const auto longer = static_cast<double>(std::max(matrix.rows, matrix.columns));
    updates.push_back(
        {.rows = matrix.rows,
         .columns = matrix.columns,
         .g = matrix.grad,
         .m = matrix.momentum,
         .w = matrix.master,
         .mu = static_cast<float>(config.momentum),
         .decay = static_cast<float>(1 - step.learning_rate * config.weight_decay),
         .scale = static_cast<float>(step.learning_rate * std::sqrt(longer) * config.update_rms),
         .grad_scale = step.grad_scale,
         .round_operands = config.round_operands});
  }
  ops::muon_update(ctx, updates);
}

}  // namespace cachalot::optim
