// One Muon step for logical matrices: momentum, Nesterov look-ahead, hybrid Newton-Schulz, RMS
// rescale, decay.
// Source  reference/training 3.2-3.4.
//         M = mu M + G; U = mu M + G; O = HybridNS(U) sqrt(max(rows, columns)) rms; W = W (1 - eta
//         lambda) - eta O.
// Shapes  master, grad, momentum [rows, columns] float, contiguous; no two overlap.
// Numerics  ops/optim/muon_update.h: a matrix's bits depend on no other matrix and not on the
//         threads. Zero gradient and momentum give exactly W (1 - eta lambda).
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::optim {

struct MuonConfig {
  double momentum = 0.95;
  double weight_decay = 0.1;
  double update_rms = 0.18;
  bool round_operands = false;  // bf16 operands in Newton-Schulz
};

struct MuonMatrix {
  int64_t rows;
  int64_t columns;
  float* master;
  const float* grad;
  float* momentum;
};

struct MuonStep {
  double learning_rate;
  float grad_scale = 1;  // of clipping
};

void muon_step(device::ExecContext& ctx, const MuonConfig& config, const MuonStep& step,
               std::span<const MuonMatrix> matrices);

}  // namespace cachalot::optim
