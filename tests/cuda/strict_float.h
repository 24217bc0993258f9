// One operation of each kind on the GPU, as every kernel is compiled.
#pragma once

#include <cstdint>

#include "device/cuda/handles.h"

namespace cachalot::testing {

// Four results for each i < count, of a, b, c = values[i], values[i + 1], values[i + 2]: a b + c,
// a / b, sqrt(|a|), 2^-126 a. values [count + 2], results [4 count]; device memory.
void launch_strict_float(const device::cuda::Stream& stream, const float* values, float* results,
                         int64_t count);

}  // namespace cachalot::testing
