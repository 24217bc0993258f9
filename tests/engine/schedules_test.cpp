// Thousands of random schedules.
// Source  reference/infrastructure 5.5, B1.
#include "engine/schedules.h"

#include <unistd.h>

#include <fstream>

namespace cachalot::engine {
namespace {

TEST(ThousandsOfSchedules, GiveEveryAnswerTheBitsItHasAlone) {
  testing::Schedules schedules;
  const testing::ScheduleCounts counts = schedules.run(1000, 3000);
  counts.print();
  counts.expect_at_least(100);
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Short requests of every kind, 64 under way at a time: 80,000 that each left 16 bytes behind would
// leave more than a megabyte.
TEST(AHundredThousandRequests, LeaveTheMemoryAsItWas) {
  auto engine = testing::SmallEngine{.num_blocks = 40}.make();
  constexpr int64_t kAll = 100'000, kWarm = 20'000;
  int64_t submitted = 0, finished = 0, warm = 0;
  while (finished < kAll) {
    for (; submitted < kAll && submitted - finished < 64; ++submitted) {
      Request one = testing::request(
          testing::random_ids(1 + submitted % 13, static_cast<uint64_t>(submitted % 50)),
          1 + submitted % 3, static_cast<uint64_t>(submitted));
      one.num_drafts = submitted % 3;
      one.wants_choices = submitted % 7 == 0;
      one.priority = static_cast<int32_t>(submitted % 2);
      one.on_event = [&](const Event& event) {
        if (event.kind == Event::Kind::finished) ++finished;
        return true;
      };
      ASSERT_TRUE(engine->submit(std::move(one)).has_value());
    }
    engine->step();
    if (warm == 0 && finished >= kWarm) warm = resident_bytes();
  }
  const int64_t grown = resident_bytes() - warm;
  std::printf("resident after %ld requests %ld bytes, after %ld %ld more\n", kWarm, warm, kAll,
              grown);
  EXPECT_LT(grown, int64_t{1} << 20);
}

}  // namespace
}  // namespace cachalot::engine
