// Three kernels of a stream that overlap: the first writes late, the second ends at once without a
// wait, the third waits and reads.
#pragma once

#include "device/cuda/handles.h"

namespace cachalot::testing {

// values [kOrderBlocks], what the first writes; *stale counts what the third reads of it that is
// not `value`. Device memory.
inline constexpr int kOrderBlocks = 66;
void launch_three(const device::cuda::Stream& stream, int value, int* values, int* stale);

}  // namespace cachalot::testing
