// The limit that whole models on a GPU are compared with.
#pragma once

#include "base/status.h"

namespace cachalot::bench {

// Bytes a second that a kernel reads from the memory of a GPU. unsupported: as Gpu::open().
Result<double> gpu_read_rate(int ordinal);

}  // namespace cachalot::bench
