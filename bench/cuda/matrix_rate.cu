#include <algorithm>

#include "cuda/matrix_rate.h"
#include "device/cuda/device.h"
#include "device/cuda/launch.cuh"
#include "device/cuda/memory.h"
#include "tile/convert.cuh"
#include "tile/order.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::bench {
namespace {

namespace cuda = device::cuda;

constexpr int kGroups = 2;  // of four warps
constexpr int kTurns = 20000;
constexpr int kSteps = 4;  // of a turn
constexpr int kSmemBytes = 64 << 10;

// The sum of four bytes of a hash: about normal, with deviation 1.
__device__ float normal(uint32_t i) {
  uint32_t x = (i + 1) * 0x9E3779B9u;
  x = (x ^ x >> 15) * 0x85EBCA6Bu;
  x ^= x >> 13;
  const uint32_t sum = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
  return (static_cast<float>(sum) - 510.0f) / 147.8f;
}

// Numbers as a layer's, in either format: zeros, or numbers of one size, would draw less power.
template <bool kBf16>
__device__ void fill(uint32_t* words) {
  constexpr float kLargest = 448.0f / 4;  // of a row in e4m3: four deviations
  for (int i = threadIdx.x; i < kSmemBytes / 4; i += kGroups * 128) {
    const auto value = [&](int j) { return normal(i * 4 + j) * (kBf16 ? 1.0f : kLargest); };
    words[i] = kBf16 ? tile::pack_bf16(value(0), value(1))
                     : tile::pack_e4m3(value(0), value(1), value(2), value(3));
  }
  tile::publish_to_async();
  __syncthreads();
}

template <bool kBf16>
__global__ void __launch_bounds__(kGroups * 128) rate_kernel(float* sink) {
  extern __shared__ __align__(1024) uint32_t words[];
  fill<kBf16>(words);
  const uint32_t smem = tile::smem_address(words);
  float d[kBf16 ? 64 : 32] = {};
  [[maybe_unused]] const uint32_t a[4] = {words[threadIdx.x], words[threadIdx.x + 256],
                                          words[threadIdx.x + 512], words[threadIdx.x + 768]};
  for (int turn = 0; turn < kTurns; ++turn) {
    tile::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if constexpr (kBf16) {
        const uint64_t left = tile::SwizzledTile::major_k(smem, step);
        const uint64_t right = tile::SwizzledTile::major_columns(smem + 16384, step, 8192);
        tile::wgmma_bf16_n128_columns(d, left, right, 1);
      } else {
        const uint64_t right = tile::CoreMatrices<64>::advance(
            tile::CoreMatrices<64>::descriptor(smem), step * tile::CoreMatrices<64>::kStepBytes);
        tile::WgmmaE4m3<64>::multiply(d, a, right, 1);
      }
    }
    tile::wgmma_commit();
    tile::wgmma_wait<0>();
  }
  tile::wgmma_arrived(d);
  float sum = 0;
  for (const float value : d) sum += value;
  if (sum == 0.12345f) *sink = sum;
}

template <bool kBf16>
double held_rate(const cuda::Stream& stream, const cuda::Device& device, float* sink,
                 double seconds) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(device.num_sms));
  shape.block = kGroups * 128;
  shape.smem_bytes = kSmemBytes;
  shape.edge = cuda::Edge::full;
  cuda::allow_smem(rate_kernel<kBf16>, kSmemBytes);
  const cuda::Event begin = cuda::Event::create(), end = cuda::Event::create();
  const auto time_us = [&](int launches) {
    begin.record(stream);
    for (int i = 0; i < launches; ++i) cuda::launch(stream, shape, rate_kernel<kBf16>, sink);
    end.record(stream);
    stream.synchronize();
    return cuda::Event::elapsed_us(begin, end);
  };
  time_us(1);  // what a first launch takes more
  const int half = std::max(1, static_cast<int>(seconds / 2 * 1e6 / time_us(1)));
  time_us(half);
  const double us = time_us(half) / half;
  const double flops_per_step = 2.0 * 64 * (kBf16 ? 128 * 16 : 64 * 32);
  return flops_per_step * kSteps * kTurns * kGroups * device.num_sms / us * 1e6;
}

}  // namespace

Result<MatrixRates> gpu_matrix_rates(int ordinal, double seconds) {
  CACHALOT_ASSIGN_OR_RETURN(const cuda::Device device, cuda::open_device(ordinal));
  const cuda::Stream stream = cuda::Stream::create();
  CACHALOT_ASSIGN_OR_RETURN(const cuda::DeviceBuffer sink, cuda::DeviceBuffer::create(stream, 4));
  return MatrixRates{held_rate<true>(stream, device, sink.as<float>(), seconds),
                     held_rate<false>(stream, device, sink.as<float>(), seconds)};
}

}  // namespace cachalot::bench
