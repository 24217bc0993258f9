#include "base/usable_cores.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/env.h"
#include "base/thread_pool.h"

namespace cachalot {
namespace {

namespace fs = std::filesystem;

constexpr char kUnified[] =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
constexpr char kFirst[] =
    "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";

// A machine's proc and sys folders, laid out below a folder of its own.
class ControlGroups : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string made = (fs::temp_directory_path() / "cachalot-cores-XXXXXX").string();
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    root_ = made;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const fs::path file = root_ + path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void process(const std::string& mounts, const std::string& groups) {
    write("/proc/self/mountinfo", "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n" + mounts);
    write("/proc/self/cgroup", groups);
  }
  double cores() const { return control_group_cores(root_); }

  std::string root_;
};

TEST_F(ControlGroups, NothingToReadLimitsNothing) {
  EXPECT_EQ(cores(), 0);
  process(kUnified, "0::/a\n");
  EXPECT_EQ(cores(), 0);
  write("/sys/fs/cgroup/a/cpu.max", "nonsense");
  EXPECT_EQ(cores(), 0);
}

TEST_F(ControlGroups, VersionTwoReadsCpuMax) {
  process(kUnified, "0::/a\n");
  write("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(cores(), 0);
  write("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(cores(), 1.5);
}

TEST_F(ControlGroups, TheLeastOfThePathUpCounts) {
  process(kUnified, "0::/a/b/c\n");
  write("/sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n");
  EXPECT_EQ(cores(), 4);
  write("/sys/fs/cgroup/a/cpu.max", "100000 50000\n");
  EXPECT_EQ(cores(), 2);
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(cores(), 2);
  write("/sys/fs/cgroup/cpu.max", "100000 100000\n");  // the root itself, as a container sees it
  EXPECT_EQ(cores(), 1);
  EXPECT_EQ(usable_cores(root_), 1);
  write("/sys/fs/cgroup/a/other/cpu.max", "10000 100000\n");  // a neighbour
  EXPECT_EQ(cores(), 1);
}

TEST_F(ControlGroups, VersionOneReadsTheQuotaOfTheCpuController) {
  process(kFirst, "9:name=systemd:/x\n4:memory:/other\n1:cpu,cpuacct:/a/b\n0::/x\n");
  write("/sys/fs/cgroup/memory/other/cpu.cfs_quota_us", "1000\n");
  write("/sys/fs/cgroup/memory/other/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cores(), 0);
  write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cores(), 3);
}

TEST_F(ControlGroups, AMountThatShowsAPartOfTheTree) {
  process("31 23 0:28 /docker/7 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/7/app\n");
  write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(cores(), 2);
  write("/sys/fs/cgroup/app/cpu.max", "100000 100000\n");
  EXPECT_EQ(cores(), 1);
  // Names of another part: the mount's root stands for the group.
  process("31 23 0:28 /docker/7 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/71\n");
  EXPECT_EQ(cores(), 2);
  process(kUnified, "0::/../../outside\n");
  EXPECT_EQ(cores(), 2);
}

TEST(UsableCores, TheQuotaRoundsToTheNearerCoreAndNeverBelowOne) {
  EXPECT_EQ(cores_within_quota(8, 0), 8);
  EXPECT_EQ(cores_within_quota(8, 2), 2);
  EXPECT_EQ(cores_within_quota(8, 1.5), 2);
  EXPECT_EQ(cores_within_quota(8, 2.1), 2);
  EXPECT_EQ(cores_within_quota(8, 0.2), 1);
  EXPECT_EQ(cores_within_quota(2, 16), 2);
  EXPECT_EQ(cores_within_quota(0, 0), 1);
}

TEST(UsableCores, AThreadPoolTakesThemByDefault) {
  ::unsetenv("CACHALOT_THREADS");
  cpu_set_t all, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++core) {
    if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
  }
  EXPECT_EQ(ThreadPool().num_threads(), usable_cores());
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_cores(), 1);
  EXPECT_EQ(ThreadPool().num_threads(), 1);
  EXPECT_EQ(ThreadPool(3).num_threads(), 3);
  ASSERT_EQ(::sched_setaffinity(0, sizeof all, &all), 0);
}

}  // namespace
}  // namespace cachalot
