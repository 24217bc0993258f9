// The mHC mapping's product with its inputs cut among blocks, once with the blocks' sums added in
// their order and once as they come: what the order of sums costs (reference/infrastructure 5.3,
// B7).
#pragma once

#include <cstdint>

#include "device/cuda/handles.h"

namespace cachalot::bench {

inline constexpr int kOrderOutputs = 24,
                     kOrderBlocks = 128;  // of outputs; that a token is cut into

// y [tokens, kOrderOutputs] = x [tokens, columns] w [columns, kOrderOutputs], columns a multiple of
// 4 kOrderBlocks.
struct OrderParams {
  const float *x, *w;
  float* y;         // in_order false: zero before
  float* partial;   // [tokens, kOrderBlocks, kOrderOutputs]
  uint32_t* count;  // [tokens], zero before and after
  int64_t tokens, columns;
  bool in_order;
};
void launch_order_product(const device::cuda::Stream& stream, const OrderParams& p);

}  // namespace cachalot::bench
