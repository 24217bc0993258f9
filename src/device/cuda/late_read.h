// Reading results of a GPU without waiting for them at once.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::device::cuda {

// From the memory of ctx's GPU to pinned memory, which holds it when wait_for_read() returns: after
// all that was put off before, before all after it. One at a time.
void start_read(const ExecContext& ctx, void* to, const void* from, int64_t num_bytes);
void wait_for_read(const ExecContext& ctx);

}  // namespace cachalot::device::cuda
