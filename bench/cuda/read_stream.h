// Reads a range once: to push everything else out of the L2 cache, and to measure the limit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda/handles.h"

namespace cachalot::bench {
void read_stream(const device::cuda::Stream& stream, const std::byte* from, int64_t num_bytes,
                 uint32_t* sink);
}
