#include "device/cuda/launch.cuh"
#include "tests/cuda/kernel_order.h"
#include "tile/copy.cuh"
#include "tile/order.cuh"

namespace cachalot::testing {

__global__ void write_late(int value, int* values) {
  tile::wait_for_producers();
  tile::launch_dependents();
  const long long start = clock64();
  while (clock64() - start < 60000) {
  }
  values[blockIdx.x] = value;
}

__global__ void end_at_once(int) { tile::launch_dependents(); }

__global__ void read_after_a_wait(int value, const int* values, int* stale) {
  tile::wait_for_producers();
  if (tile::load_shared_state(values + blockIdx.x) != value) atomicAdd(stale, 1);
}

void launch_three(const device::cuda::Stream& stream, int value, int* values, int* stale) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(kOrderBlocks);
  shape.block = 1;
  device::cuda::launch(stream, shape, write_late, value, values);
  device::cuda::launch(stream, shape, end_at_once, value);
  device::cuda::launch(stream, shape, read_after_a_wait, value, values, stale);
}

}  // namespace cachalot::testing
