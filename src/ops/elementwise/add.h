// Sums of n contiguous fp32 values.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// x += y; one rounding to bf16 of each sum where round_x.
void add(device::ExecContext& ctx, float* x, const float* y, int64_t n, bool round_x);

}  // namespace cachalot::ops
