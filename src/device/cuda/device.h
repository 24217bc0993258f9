// A GPU as a value: its number and what kernels are planned by.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace cachalot::device::cuda {

struct Device {
  int ordinal = 0;
  int num_sms = 0;
  int64_t smem_per_sm_bytes = 0;     // all of it, one kernel or several
  int64_t smem_per_block_bytes = 0;  // what one block may take, after opting in
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
};

// unsupported: no driver, no such device, or one that is not sm_90. Makes it the calling thread's.
Result<Device> open_device(int ordinal);

}  // namespace cachalot::device::cuda
