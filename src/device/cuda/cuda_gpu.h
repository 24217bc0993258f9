// What a launcher needs of the context's GPU.
#pragma once

#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "device/exec_context.h"

namespace cachalot::device::cuda {

// CHECK: the context has a GPU.
const Device& device_of(const ExecContext& ctx);
const Stream& stream_of(const ExecContext& ctx);

}  // namespace cachalot::device::cuda
