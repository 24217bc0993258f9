// The products with bf16 weights (bf16_product_cuda.h) of very many rows, with the same bits. A
// block takes 128 outputs of 128 or 64 rows of x at a time; the tensor cores read x from shared
// memory, where it comes in pieces of 64 inputs, and the weights as they lie.
#pragma once

#include "ops/matmul/bf16_product_cuda.h"

namespace cachalot::ops::bf16_wide {

inline constexpr int kTileUnits = 8;  // of 16 outputs, of a block
inline constexpr int kTileTokens[] = {128, 64};

// Whether such blocks for most multiprocessors come out.
bool fits(int tokens, int64_t m, int64_t columns, int64_t num_units, int64_t num_sms);
// For x.
int64_t scratch_bytes(int tokens, int64_t m, int64_t columns);
void launch(const device::cuda::Device& device, const device::cuda::Stream& stream,
            const Bf16Products& products, int tokens, std::byte* scratch);

}  // namespace cachalot::ops::bf16_wide
