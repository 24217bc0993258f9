#include "device/gpu.h"

#include <gtest/gtest.h>

#include <numeric>

#include "device/exec_context.h"
#include "device/floats.h"
#include "device/gpu_testing.h"

namespace cachalot::device {
namespace {

TEST(Gpu, TablesMadeBeforeTheFirstUseCostOneCopy) {
  FakeGpu gpu;
  gpu.begin_tables();
  int32_t* first = gpu.table<int32_t>(3);
  std::iota(first, first + 3, 7);
  int32_t** second = gpu.table<int32_t*>(1);
  second[0] = gpu.address_on_device(first + 1);
  EXPECT_EQ(gpu.num_staged, 0);
  const int32_t* const* found = gpu.on_device(second);
  EXPECT_EQ(gpu.num_staged, 1);
  EXPECT_NE(found, second);
  EXPECT_EQ(*found[0], 8);
  EXPECT_EQ(gpu.on_device(first)[2], 9);
  EXPECT_EQ(gpu.num_staged, 1);
  EXPECT_EQ(gpu.on_device(static_cast<int32_t*>(nullptr)), nullptr);
}

TEST(Gpu, LaterTablesAreCopiedToo) {
  FakeGpu gpu;
  for (int step = 0; step < 2; ++step) {
    gpu.begin_tables();
    int64_t* small = gpu.table<int64_t>(1);
    small[0] = step;
    EXPECT_EQ(*gpu.on_device(small), step);
    constexpr int64_t kMany = 1 << 18;  // more than a block of tables
    int64_t* many = gpu.table<int64_t>(kMany);
    std::iota(many, many + kMany, step);
    EXPECT_EQ(gpu.on_device(many)[kMany - 1], step + kMany - 1);
  }
  EXPECT_EQ(gpu.num_staged, 4);
}

TEST(Gpu, ConstantsHaveTwinsAsLongAsTheirOwner) {
  FakeGpu gpu;
  const std::vector<float> values = {1, 2, 3};
  {
    ConstantTwins twins(gpu);
    ASSERT_TRUE(twins.add(std::span<const float>(values)).ok());
    EXPECT_NE(gpu.on_device(values.data()), values.data());
    EXPECT_EQ(gpu.on_device(values.data() + 2)[0], 3);
    EXPECT_DEATH(gpu.on_device(values.data() + 3), "");
    EXPECT_EQ(gpu.num_allocated, 1);
  }
  EXPECT_EQ(gpu.num_allocated, 0);
  EXPECT_DEATH(gpu.on_device(values.data()), "");
}

TEST(Gpu, AFailedOpenSaysWhatIsMissing) {
  const Result<std::unique_ptr<Gpu>> gpu = Gpu::open(1000);
  ASSERT_FALSE(gpu);
  EXPECT_EQ(gpu.error().code(), StatusCode::unsupported);
  EXPECT_NE(gpu.error().message().find("cuda"), std::string::npos);
}

TEST(Floats, AreWhatTheHostReads) {
  FakeGpu gpu;
  const ExecContext cpu{nullptr, nullptr, Isa::reference};
  const ExecContext with_gpu{nullptr, nullptr, Isa::reference, &gpu};
  for (const ExecContext& ctx : {cpu, with_gpu}) {
    Floats floats(ctx);
    const std::vector<float> values = {4, 5, 6};
    floats.assign(values.data(), 3);
    const float* data = floats.data();
    floats.make_room(2);
    EXPECT_EQ(floats.data(), data);
    EXPECT_EQ(floats.on_host(3)[2], 6);
  }
}

TEST(Arena, OfAGpuTakesItsMemory) {
  FakeGpu gpu;
  {
    Arena arena(1 << 10, &gpu);
    const ArenaScope scope(arena);
    arena.allocate<float>(100);
    arena.allocate<float>(1000);
    EXPECT_EQ(gpu.num_allocated, 2);
  }
  EXPECT_EQ(gpu.num_allocated, 0);
}

TEST(Gpu, AStepsScratchGoesOnInTheHostsMemoryAndTells) {
  FakeGpu gpu;
  Arena arena(1024, &gpu);
  Floats floats({nullptr, nullptr, Isa::reference, &gpu});
  gpu.max_bytes = 512;
  {
    const ArenaScope scope(arena);
    arena.allocate<float>(300)[299] = 1;
    EXPECT_FALSE(gpu.take_shortage().ok());
    EXPECT_TRUE(gpu.take_shortage().ok());
    floats.make_room(300);
    floats.data()[299] = 1;
    EXPECT_FALSE(gpu.take_shortage().ok());
  }
  EXPECT_EQ(gpu.num_pinned, 2);
  arena.give_back();
  floats.give_back();
  EXPECT_EQ(gpu.num_pinned, 0);
  gpu.max_bytes = 4096;
  {
    const ArenaScope scope(arena);
    arena.allocate<float>(300);
    EXPECT_TRUE(gpu.take_shortage().ok());
    EXPECT_DEATH(arena.give_back(), "");
  }
}

}  // namespace
}  // namespace cachalot::device
