// Processes that are killed while their prefix caches write to disk behind them, at any moment.
// Source  reference/infrastructure 8.2, O4.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "cache/prefix_cache_testing.h"

namespace cachalot::cache {
namespace {
using testing::CheckedSequence;
using testing::Fixture;
using testing::kBlock;
using testing::kFull;
using testing::on_disk;
using testing::some_tokens;
using testing::TestFolder;

constexpr int64_t kTextTokens = 100;
constexpr int64_t kWholeBlocks = (kTextTokens - 1) / kBlock * kBlock;
constexpr int32_t kTextsOfAWriter = 2000;
constexpr int32_t kTextsOfAFlush = 8;
constexpr rlim_t kFullAfter = 50000;

PrefixCacheOptions in_small_segments(const TestFolder& folder) {
  PrefixCacheOptions options = on_disk(folder);
  options.disk_segment_bytes = 1 << 17;
  return options;
}

// Stores texts first, first + 1, ... until it is killed. Their numbers go to `done` once the disk
// has them; those of a writer whose disk is full never.
[[noreturn]] void write_until_killed(const TestFolder& folder, int32_t first, bool is_full,
                                     int done) {
  if (is_full) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{kFullAfter, kFullAfter};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  Fixture fixture(kFull, 64, in_small_segments(folder));
  for (int32_t n = first; n < first + kTextsOfAWriter; ++n) {
    fixture.visit(some_tokens(kTextTokens, n));
    if (::testing::Test::HasFailure()) ::_exit(3);
    if ((n - first) % kTextsOfAFlush != kTextsOfAFlush - 1) continue;
    fixture.cache().flush();
    for (int32_t i = n - kTextsOfAFlush + 1; i <= n && !is_full; ++i) {
      if (::write(done, &i, sizeof(i)) != sizeof(i)) ::_exit(2);
    }
  }
  while (true) ::pause();
}

struct Writer {
  pid_t child;
  int done;
};

Writer start(const TestFolder& folder, int32_t first, bool is_full) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    write_until_killed(folder, first, is_full, ends[1]);
  }
  ::close(ends[1]);
  return {child, ends[0]};
}

// Tokens that a new cache has of the text. Its rows are the text's, whatever was lost.
int64_t found_rightly(Fixture& fixture, int32_t text) {
  CheckedSequence sequence = fixture.begin(some_tokens(kTextTokens, text));
  EXPECT_EQ(sequence.fault(), "") << text;
  return sequence.num_tokens();
}

void damage(const TestFolder& folder, std::mt19937_64& random) {
  if (!std::filesystem::exists(folder.path())) return;  // killed that early
  const std::vector<std::string> segments = folder.segments();
  if (segments.empty()) return;
  const std::string& path = segments[random() % segments.size()];
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  if (size == 0) return;
  const auto place = static_cast<int64_t>(random() % static_cast<uint64_t>(size));
  if (random() % 2 == 0) return std::filesystem::resize_file(path, static_cast<uint64_t>(place));
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(place);
  const auto byte = static_cast<char>(file.get() ^ (1 << random() % 8));
  file.seekp(place);
  file.put(byte);
}

// Two processes at a time that write into one folder, of which now and then one has a full disk;
// both are killed. Without damage all that was complete is found again.
void kill_caches(int num_kills, bool has_damage, uint64_t seed) {
  TestFolder folder;
  std::mt19937_64 random(seed);
  std::vector<int32_t> complete;
  int64_t num_found = 0, num_damaged = 0;
  for (int kill = 0; kill < num_kills; ++kill) {
    if (kill % 10 == 9) folder.lose_index();
    const int32_t first = 2 * kTextsOfAWriter * kill;
    const Writer writers[] = {start(folder, first, false),
                              start(folder, first + kTextsOfAWriter, kill % 3 == 2)};
    // Three times of four not before the first texts are complete.
    pollfd first_done{writers[0].done, POLLIN, 0};
    if (kill % 4 != 0) ::poll(&first_done, 1, 20000);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    std::vector<int32_t> texts = {first, first + kTextsOfAWriter};
    const size_t others = texts.size();
    for (const Writer& writer : writers) {
      ASSERT_EQ(::kill(writer.child, SIGKILL), 0);
      int status = 0;
      ASSERT_EQ(::waitpid(writer.child, &status, 0), writer.child);
      ASSERT_TRUE(WIFSIGNALED(status)) << "exit code " << WEXITSTATUS(status);
      for (int32_t n; ::read(writer.done, &n, sizeof(n)) == sizeof(n);) texts.push_back(n);
      ::close(writer.done);
    }
    if (has_damage) damage(folder, random);
    Fixture fixture(kFull, 64, in_small_segments(folder));
    for (size_t i = 0; i < texts.size(); ++i) {
      // A segment that is not indexed is read where nothing is found, one a time.
      const bool is_complete = !has_damage && i >= others;
      int64_t found = found_rightly(fixture, texts[i]);
      for (int again = 0; again < 1000 && is_complete && found == 0; ++again)
        found = found_rightly(fixture, texts[i]);
      if (is_complete) {
        ASSERT_EQ(found, kWholeBlocks) << "kill " << kill;
      }
      num_found += found > 0 ? 1 : 0;
    }
    num_damaged += fixture.cache().counters().damaged_records;
    complete.insert(complete.end(), texts.begin() + static_cast<int64_t>(others), texts.end());
  }
  std::printf("%zu texts of %d kills, %ld found, %ld damaged records\n", complete.size(), num_kills,
              static_cast<long>(num_found), static_cast<long>(num_damaged));
  EXPECT_GT(static_cast<int>(complete.size()), 4 * num_kills);
  EXPECT_GT(num_found, 4 * num_kills);
  if (has_damage) return;
  EXPECT_EQ(num_damaged, 0);
  std::shuffle(complete.begin(), complete.end(), random);
  complete.resize(std::min<size_t>(complete.size(), 2000));
  Fixture fixture(kFull, 64, in_small_segments(folder));
  for (const int32_t text : complete) ASSERT_EQ(found_rightly(fixture, text), kWholeBlocks) << text;
}

TEST(PrefixCacheKill, AFewKillsLoseNothingThatWasComplete) { kill_caches(8, false, 1); }
TEST(PrefixCacheKill, TwoHundredKillsLoseNothingThatWasComplete) { kill_caches(200, false, 2); }
TEST(PrefixCacheKill, AFewKillsAndDamagedSegmentsServeNothingWrong) { kill_caches(8, true, 3); }
TEST(PrefixCacheKill, TwoHundredKillsAndDamagedSegmentsServeNothingWrong) {
  kill_caches(200, true, 4);
}

}  // namespace
}  // namespace cachalot::cache
