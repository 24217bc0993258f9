// Streams, graphs and memory of the GPU.
#include "device/cuda/device.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "device/cuda/error.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/kernel_order.h"
#include "tests/cuda/strict_float.h"

namespace cachalot::device::cuda {
namespace {

using CudaDevice = testing::CudaTest;

TEST_F(CudaDevice, IsAValueThatKernelsArePlannedBy) {
  EXPECT_GT(device_.num_sms, 0);
  EXPECT_GE(device_.smem_per_sm_bytes, device_.smem_per_block_bytes);
  EXPECT_EQ(open_device(1000).error().code(), StatusCode::unsupported);
  EXPECT_EQ(open_device(-1).error().code(), StatusCode::unsupported);
}

TEST_F(CudaDevice, MemoryThatIsOutIsAStatus) {
  const Result<DeviceBuffer> buffer = DeviceBuffer::create(stream_, 2 * device_.memory_bytes);
  ASSERT_FALSE(buffer.has_value());
  EXPECT_EQ(buffer.error().code(), StatusCode::resource_exhausted);
  // and what follows still works
  EXPECT_EQ(get<int>(put(std::vector<int>{1, 2, 3})), (std::vector<int>{1, 2, 3}));
}

TEST_F(CudaDevice, ABufferMayGoWhileTheStreamUsesIt) {
  std::vector<int> values(1 << 20), found(1 << 20);
  std::iota(values.begin(), values.end(), 0);
  const Result<PinnedBuffer> pinned = PinnedBuffer::create(4 << 20);
  ASSERT_TRUE(pinned.has_value());
  std::memcpy((*pinned).data(), values.data(), 4 << 20);
  {
    const Result<DeviceBuffer> buffer = DeviceBuffer::create(stream_, 4 << 20);
    copy_to_device(stream_, (*buffer).data(), (*pinned).data(), 4 << 20);
    copy_to_host(stream_, found.data(), (*buffer).data(), 4 << 20);
  }
  stream_.synchronize();
  EXPECT_EQ(found, values);
}

TEST_F(CudaDevice, AGraphReplaysWhatWasRecorded) {
  const DeviceBuffer buffer = put(std::vector<uint8_t>(16, 7));
  const Graph graph = Graph::capture(stream_, [&] { fill(stream_, buffer.data(), 9, 16); });
  EXPECT_EQ(get<uint8_t>(buffer), std::vector<uint8_t>(16, 7));
  const Event begin = Event::create(), end = Event::create();
  begin.record(stream_);
  graph.launch(stream_);
  end.record(stream_);
  end.synchronize();
  EXPECT_GT(Event::elapsed_us(begin, end), 0);
  EXPECT_EQ(get<uint8_t>(buffer), std::vector<uint8_t>(16, 9));
}

// A kernel that waits waits for all before it, whether or not the one before it has waited: a
// kernel has ended when those before it have. Kernels that run beside others rely on it.
TEST_F(CudaDevice, AWaitIsForAllKernelsBefore) {
  const DeviceBuffer values = room(testing::kOrderBlocks * 4), stale = put(std::vector<int>{0});
  for (int value = 1; value <= 200; ++value)
    testing::launch_three(stream_, value, values.as<int>(), stale.as<int>());
  const Graph graph = Graph::capture(
      stream_, [&] { testing::launch_three(stream_, 0, values.as<int>(), stale.as<int>()); });
  for (int round = 0; round < 50; ++round) {
    fill(stream_, values.data(), 1, values.size());
    graph.launch(stream_);
  }
  EXPECT_EQ(get<int>(stale), std::vector<int>{0});
}

// The canary for options of the compiler that change values: contraction, flushed denormals,
// divisions and roots that are not IEEE's.
TEST_F(CudaDevice, CodeIsCompiledStrictly) {
  constexpr int64_t kCount = 5000;
  testing::Rng rng(1);
  const std::vector<float> values = testing::random_floats(rng, kCount + 2);
  const DeviceBuffer results = room(4 * kCount * 4);
  testing::launch_strict_float(stream_, put(values).as<float>(), results.as<float>(), kCount);
  const std::vector<float> found = get<float>(results);
  int64_t num_contracted = 0, num_reciprocal = 0, num_denormal = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const float a = values[i], b = values[i + 1], c = values[i + 2];
    const float expected[] = {a * b + c, a / b, std::sqrt(std::fabs(a)), a * 0x1p-126f};
    for (int k = 0; k < 4; ++k) ASSERT_EQ(found[4 * i + k], expected[k]) << "result " << k;
    num_contracted += std::fma(a, b, c) != expected[0];
    num_reciprocal += a * (1 / b) != expected[1];
    num_denormal += std::fabs(expected[3]) < 0x1p-126f && expected[3] != 0;
  }
  EXPECT_GT(std::min({num_contracted, num_reciprocal, num_denormal}), kCount / 10);
}

TEST(CudaDeviceDeathTest, AFailedCallEndsTheProcessWithItsName) {
  EXPECT_DEATH(CACHALOT_CUDA_CHECK(cudaSetDevice(-5)), "cudaSetDevice\\(-5\\)");
}

}  // namespace
}  // namespace cachalot::device::cuda
