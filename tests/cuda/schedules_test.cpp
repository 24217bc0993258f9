// The engine's random schedules with a model and a cache on the GPU: each answer has the bits that
// it has alone, on the CPU.
#include "engine/schedules.h"

#include <filesystem>

namespace cachalot::engine {
namespace {

TEST(SchedulesOnTheGpu, GiveEveryAnswerTheBitsItHasAloneOnTheCpu) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  testing::Schedules schedules("cuda");
  const testing::ScheduleCounts counts = schedules.run(5000, 150);
  counts.print();
  counts.expect_at_least(3);
}

// A saved sequence is the same on both, and goes on alike.
TEST(SchedulesOnTheGpu, ASequenceIsSavedThereAndRestoredHere) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const cache::testing::TestFolder folder;
  std::filesystem::create_directories(folder.path());
  std::vector<Completion> continued;
  for (const char* device : {"cpu", "cuda"}) {
    auto engine = testing::SmallEngine{.device = device}.make();
    const SequenceId first = engine->open().value();
    ASSERT_TRUE(engine->generate(first, testing::request(testing::random_ids(70, 1), 9, 1)));
    const std::string path = folder.path() + "/" + device;
    ASSERT_TRUE(engine->save(first, path).ok());
    for (const char* saved : {"cpu", "cuda"}) {
      if (std::string(saved) == "cuda" && std::string(device) == "cpu") continue;
      const SequenceId second = engine->restore(folder.path() + "/" + saved).value();
      continued.push_back(
          engine->generate(second, testing::request(testing::random_ids(3, 2), 20, 2)).value());
    }
    continued.push_back(
        engine->generate(first, testing::request(testing::random_ids(3, 2), 20, 2)).value());
  }
  for (const Completion& one : continued) testing::expect_same(one, continued[0]);
}

// Two texts take turns where there is room for one: each comes back from the host's memory.
TEST(SchedulesOnTheGpu, APrefixThatHasLeftTheGpuHasTheBitsOfARunAlone) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  testing::SmallEngine small;
  small.num_blocks = 10;
  small.device = "cuda";
  small.prefix_cache.emplace();
  small.prefix_cache->states.strategy = cache::StateStrategy::full;
  small.prefix_cache->max_host_bytes = int64_t{1} << 26;
  auto engine = small.make();
  for (uint64_t turn = 0; turn < 6; ++turn) {
    const Request one = testing::request(testing::random_ids(45, turn % 2), 12, turn);
    testing::expect_same(testing::run_all(*engine, {one})[0].value(), testing::alone({}, one));
  }
  EXPECT_EQ(engine->prefix_counters().hits, 4);
  EXPECT_GE(engine->prefix_counters().host_blocks, 4);
}

}  // namespace
}  // namespace cachalot::engine
