// fp32 gradients rounded to bf16 stochastically, for their exchange between ranks.
// Source  reference/infrastructure 7.1: bits (u + r) >> 16 of the float's bits u, r uniform in [0,
//         2^16); 5.4: r from a counter-based generator keyed by step, tensor, element and rank, so
//         that a restart or another cut of the tensor rounds alike.
// Shapes  x, out [n]; x[0] is the tensor's element first_element.
// Numerics  Unbiased: the mean over r is x, whenever both neighbours are finite. Values that bf16
//         holds stay; infinity stays, NaN stays NaN (quiet). A finite value above the largest bf16
//         becomes it or infinity. With s = philox4x32(counter {rank, rounding, step, tensor}, key
//         {seed}), r of element e is the (e % 8)-th 16 bits of philox4x32(counter {e / 8, 0, s[2],
//         s[3]}, key {s[0], s[1]}).
// Errors  CHECK: elements from 2^35 on.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

struct StochasticRoundKey {
  uint64_t seed;
  uint32_t step;
  uint32_t tensor;
  uint32_t rank;
};
void stochastic_round_bf16(device::ExecContext& ctx, const StochasticRoundKey& key,
                           int64_t first_element, std::span<const float> x, uint16_t* out);

}  // namespace cachalot::ops
