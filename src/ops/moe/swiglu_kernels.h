// The versions of the experts' activation and of their sum (swiglu.h), over one tile.
#pragma once

#include "ops/elementwise/tile.h"
#include "ops/moe/swiglu.h"

namespace cachalot::ops {

using SwigluKernel = void(const SwigluParams& p, const Tile& tile);
SwigluKernel swiglu_ref, swiglu_avx2, swiglu_avx512;

using SwigluBackwardKernel = void(const SwigluBackwardParams& p, int64_t first_row,
                                  int64_t last_row);
SwigluBackwardKernel swiglu_backward_ref, swiglu_backward_avx2, swiglu_backward_avx512;

using MoeCombineKernel = void(const MoeCombineParams& p, const Tile& tile);
MoeCombineKernel moe_combine_ref, moe_combine_avx2, moe_combine_avx512;

}  // namespace cachalot::ops
