#include "device/machine_limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace cachalot::device {
namespace {

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Fresh pages that are only read are one page of zeros: reading them measures a cache.
TEST(MachineLimits, ReadsMemoryThatIsThere) {
  ThreadPool pool(1);
  const int64_t before = peak_bytes();
  EXPECT_GT(measure_read_bandwidth(pool), 0);
  EXPECT_GE(peak_bytes() - before, kUncachedBytes * 9 / 10);
}

TEST(MachineLimits, ReadsAsFewBytesAsAskedFor) {
  ThreadPool pool(2);
  for (const int64_t bytes : {int64_t{1}, int64_t{5000}, int64_t{3} << 20})
    EXPECT_GT(measure_read_bandwidth(pool, bytes), 0) << bytes;
}

}  // namespace
}  // namespace cachalot::device
