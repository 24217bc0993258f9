// The experts' products where an expert has many tokens: tiles of up to 128 of them, each weight
// read and expanded once a tile.
// Source, shapes, special  expert_layer_cuda.h: from the picks to h and y, official_fp8.
// Numerics  the sums of expert_product.cuh, in the same order with the same instructions (wgmma
//           e4m3, 32 inputs each, whose bits do not depend on the number of columns), so the same
//           bits.
// Kernels   tiles; x quantised; gate and up; h quantised; down.
#pragma once

#include "ops/moe/expert_layer_cuda.h"

namespace cachalot::ops {

// Tokens an expert, on average, from which this is the faster form.
inline constexpr int64_t kManyTokensAnExpert = 16;

int64_t expert_many_bytes(const ExpertShape& shape);
// Once, when a plan is made.
void allow_expert_many();
void launch_expert_many(const ExpertPlan& plan, const device::cuda::Stream& stream,
                        const ExpertParams& params);

}  // namespace cachalot::ops
