#include "device/cuda/launch.cuh"
#include "ops/moe/swiglu.cuh"
#include "tests/cuda/silu.h"

namespace cachalot::testing {

__global__ void silu_both(uint32_t* results) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const float gate = __uint_as_float(i << 16);
  const float exact = ops::silu(gate);
  results[2 * i] = __float_as_uint(exact);
  results[2 * i + 1] =
      __float_as_uint(ops::is_ordinary_gate(gate) ? ops::silu_of_ordinary(gate) : exact);
}

void launch_silu(const device::cuda::Stream& stream, uint32_t* results) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(256);
  shape.block = 256;
  shape.edge = device::cuda::Edge::full;
  device::cuda::launch(stream, shape, silu_both, results);
}

}  // namespace cachalot::testing
