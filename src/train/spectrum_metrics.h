// Singular values of the weights that Muon moves, for a run's log.
// Cost  optim/spectrum.h: matrices of more than max_elements, and routed experts, are passed over.
// Threads  as ctx.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "optim/optimizer.h"
#include "train/metrics.h"

namespace cachalot::train {

// "spectrum/NAME/max": the largest singular value of a logical matrix (its first one, where the
// tensor holds several), and "spectrum/NAME/stable_rank": the sum of their squares over the
// largest's.
MetricValues spectrum_metrics(device::ExecContext& ctx, const optim::Optimizer& optimizer,
                              int64_t max_elements = int64_t{1} << 17);

}  // namespace cachalot::train
