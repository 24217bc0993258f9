#include "device/cuda/launch.cuh"
#include "tests/cuda/strict_float.h"

namespace cachalot::testing {

__global__ void strict_float(const float* values, float* results, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float a = values[i], b = values[i + 1], c = values[i + 2];
  results[4 * i] = a * b + c;
  results[4 * i + 1] = a / b;
  results[4 * i + 2] = sqrtf(fabsf(a));
  results[4 * i + 3] = a * 0x1p-126f;
}

void launch_strict_float(const device::cuda::Stream& stream, const float* values, float* results,
                         int64_t count) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((count + 127) / 128));
  shape.block = 128;
  shape.edge = device::cuda::Edge::full;
  device::cuda::launch(stream, shape, strict_float, values, results, count);
}

}  // namespace cachalot::testing
