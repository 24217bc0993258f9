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

// Blocks that requests begin with are there once: so, and only so, there is room for three of them
// at a time, none of which changes what the others read.
TEST(SchedulesOnTheGpu, RequestsThatBeginAlikeHoldTheSameBlocks) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  testing::SmallEngine small;
  small.num_blocks = 13;  // of eight positions: five in common, two more of each; or else 21
  small.device = "cuda";
  small.prefix_cache.emplace();
  small.prefix_cache->states.strategy = cache::StateStrategy::full;
  auto engine = small.make();
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt = testing::random_ids(40, 1);
    for (const int32_t id : testing::random_ids(4, 2 + i)) prompt.push_back(id);
    requests.push_back(testing::request(std::move(prompt), 8, i));
  }
  const auto expect_as_alone = [&](const Event& event, size_t i) {
    testing::expect_same(event.result->value(), testing::alone({}, requests[i]));
  };
  std::vector<int> num_tokens(requests.size());
  int num_finished = 0;
  const auto submit = [&](size_t i) {
    Request one = requests[i];
    one.on_event = [&, i](const Event& event) {
      if (event.kind == Event::Kind::token) ++num_tokens[i];
      if (event.kind != Event::Kind::finished) return true;
      ++num_finished;
      expect_as_alone(event, i);
      // The first of the three to end finds the others under way.
      if (num_finished == 2) {
        for (size_t j = 1; j < requests.size(); ++j) EXPECT_GT(num_tokens[j], 0) << j;
      }
      return true;
    };
    ASSERT_TRUE(engine->submit(std::move(one)).has_value());
  };
  submit(0);
  while (engine->step()) {
  }
  for (size_t i = 1; i < requests.size(); ++i) submit(i);
  while (engine->step()) {
  }
  EXPECT_EQ(num_finished, 4);
  EXPECT_EQ(engine->prefix_counters().hits, 3);
  EXPECT_EQ(engine->counts().preemptions, 0);
}

}  // namespace
}  // namespace cachalot::engine
