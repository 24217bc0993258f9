// Rows of a ring that no forward pass has written.
#pragma once

#include <cstdint>

#include "device/gpu.h"
#include "tensor/rows.h"

namespace cachalot::cache {

// Positions [first, last), of which the ring holds the last `capacity`, become rows of zeros: what
// an earlier owner of the memory left there is never read. A ring without memory is left alone.
// gpu: whose memory it is; null: the host's.
void clear_rows(device::Gpu* gpu, const tensor::RowRing& ring, int64_t first, int64_t last);

}  // namespace cachalot::cache
