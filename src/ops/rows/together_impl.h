// The GPU's part of ops/rows/together.h; no_cuda.cpp has it in a build without CUDA.
#pragma once

#include <span>

#include "ops/rows/together.h"

namespace cachalot::ops {

inline constexpr size_t kMaxTogether = 8;

bool together_cuda_fits(const RowOp& op);
// Up to kMaxTogether that fit. beside: the kernel before, which lets them in.
void together_cuda(device::ExecContext& ctx, std::span<const RowOp> ops, bool beside);

}  // namespace cachalot::ops
