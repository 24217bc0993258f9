// The experts' silu on the GPU in both of its forms (ops/moe/swiglu.cuh).
#pragma once

#include <cstdint>

#include "device/cuda/handles.h"

namespace cachalot::testing {

// Of each of the 65,536 values of bf16, in the order of their bits, the bits of silu and, where
// is_ordinary_gate allows it, of silu_of_ordinary, else those of silu again. results [2 * 65,536];
// device memory.
void launch_silu(const device::cuda::Stream& stream, uint32_t* results);

}  // namespace cachalot::testing
