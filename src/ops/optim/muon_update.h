// One Muon step for logical matrices: momentum, Nesterov look-ahead, hybrid Newton-Schulz, scaled
// step with decay.
// Source  reference/training 3.2; batching reference/infrastructure 7.1.
//         m = mu m + g; u = mu m + g (the new m); o = HybridNS(u); w = decay w - scale o.
// Shapes  g, m, w [rows, columns] float, contiguous; no two overlap, nor do those of different
//         matrices.
// Numerics  fp32: g = grad_scale g; m = fma(mu, m, g); u = fma(mu, m, g); newton_schulz.h; w =
//         fma(-scale, o, decay w). A matrix's bits depend on no other matrix, not on the threads
//         and not on the instruction set.
// Errors  CHECK: negative sizes.
// Threads  concurrent calls need distinct ctx. Small matrices are tasks of their own, largest
//         first, from momentum to weight without a barrier; a large one is cut into tiles.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

struct MuonUpdateParams {
  int64_t rows;
  int64_t columns;
  const float* g;
  float* m;
  float* w;
  float mu;
  float decay;  // 1 - eta lambda
  float scale;  // eta gamma sqrt(max(rows, columns))
  float grad_scale = 1;
  bool round_operands = false;
};
void muon_update(device::ExecContext& ctx, std::span<const MuonUpdateParams> matrices);

}  // namespace cachalot::ops
