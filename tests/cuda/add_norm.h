// The kernel that docs/kernels/gpu.md explains.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/cuda/handles.h"

namespace cachalot::testing {

// y = bf16(g (a + b) / rms(a + b)) of rows of `columns`, contiguous.
struct AddNormParams {
  const float *a, *b, *g;
  float* y;
  int64_t rows, columns;
  float eps;
};
Status add_norm(const device::cuda::Stream& stream, const AddNormParams& p);

}  // namespace cachalot::testing
