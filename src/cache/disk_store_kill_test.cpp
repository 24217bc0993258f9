// Processes that are killed while they write, at any moment.
// Source  reference/infrastructure 8.2, O4.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include "cache/disk_store_testing.h"

namespace cachalot::cache {
namespace {
using testing::is_served;
using testing::numbered_header;
using testing::numbered_payload;
using testing::TestFolder;

constexpr int64_t kSegment = 1 << 18;

// Writes records first, first + 1, ... until it is killed, and their numbers, once they are
// written, to `done`.
[[noreturn]] void write_until_killed(const std::string& path, uint64_t first, int done) {
  const auto store = DiskStore::open({path, int64_t{1} << 30, kSegment});
  if (!store) {
    std::fprintf(stderr, "%s\n", store.error().to_string().c_str());
    ::_exit(1);
  }
  for (uint64_t n = first;; ++n) {
    if (!(*store)->write(numbered_header(n), numbered_payload(n))) continue;
    if (::write(done, &n, sizeof(n)) != sizeof(n)) ::_exit(2);
    if (!is_served(**store, first + testing::mix(n) % (n - first + 1))) ::_exit(3);
  }
}

struct Writer {
  pid_t child;
  int done;
};

Writer start(const std::string& path, uint64_t first) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    write_until_killed(path, first, ends[1]);
  }
  ::close(ends[1]);
  return {child, ends[0]};
}

// Two writers at a time, one of which is killed; what they had written is served ever after.
void kill_writers(int num_kills, uint64_t seed) {
  TestFolder folder;
  std::mt19937_64 random(seed);
  std::set<uint64_t> written;
  uint64_t next = 1;
  for (int kill = 0; kill < num_kills; ++kill) {
    if (kill % 10 == 9) folder.lose_index();
    const Writer writers[] = {start(folder.path(), next), start(folder.path(), next + 100000)};
    next += 200000;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    std::set<uint64_t> of_this;
    for (const Writer& writer : writers) {
      ASSERT_EQ(::kill(writer.child, SIGKILL), 0);
      int status = 0;
      ASSERT_EQ(::waitpid(writer.child, &status, 0), writer.child);
      ASSERT_TRUE(WIFSIGNALED(status)) << "exit code " << WEXITSTATUS(status);
      for (uint64_t n; ::read(writer.done, &n, sizeof(n)) == sizeof(n);) of_this.insert(n);
      ::close(writer.done);
    }
    const auto store = DiskStore::open({folder.path(), int64_t{1} << 30, kSegment});
    ASSERT_TRUE(store.has_value()) << store.error().to_string();
    while ((*store)->is_recovering()) ASSERT_TRUE((*store)->recover(100).ok());
    for (const uint64_t n : of_this) ASSERT_TRUE(is_served(**store, n)) << "kill " << kill;
    EXPECT_EQ((*store)->num_damaged(), 0);
    written.merge(of_this);
  }
  const auto store = DiskStore::open({folder.path(), int64_t{1} << 30, kSegment});
  ASSERT_TRUE(store.has_value()) << store.error().to_string();
  while ((*store)->is_recovering()) ASSERT_TRUE((*store)->recover(100).ok());
  for (const uint64_t n : written) ASSERT_TRUE(is_served(**store, n));
  std::printf("%zu records of %d kills\n", written.size(), num_kills);
  // How many a slow machine writes until a kill is its own matter; without any, nothing is shown.
  EXPECT_GT(static_cast<int>(written.size()), num_kills);
}

TEST(DiskStoreKill, AFewKillsLoseNothingThatWasWritten) { kill_writers(8, 1); }
TEST(DiskStoreKill, TwoHundredKillsLoseNothingThatWasWritten) { kill_writers(200, 2); }

}  // namespace
}  // namespace cachalot::cache
