#include "cache/disk_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <future>
#include <memory>

#include "cache/disk_store_testing.h"
#include "cache/disk_thread.h"

namespace cachalot::cache {
namespace {
using testing::is_served;
using testing::numbered_header;
using testing::numbered_payload;
using testing::TestFolder;
using testing::write_numbered;

constexpr int64_t kPlenty = int64_t{1} << 30;

std::unique_ptr<DiskStore> open_store(const TestFolder& folder, int64_t max_bytes = kPlenty,
                                      int64_t segment_bytes = 1 << 16) {
  return DiskStore::open({folder.path(), max_bytes, segment_bytes}).value();
}

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write_all(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(DiskStore, WhatOneProcessWritesAnotherStoreServes) {
  TestFolder folder;
  {
    const auto store = open_store(folder);
    for (uint64_t n = 1; n <= 100; ++n) {
      EXPECT_FALSE(is_served(*store, n));
      ASSERT_TRUE(write_numbered(*store, n));
      EXPECT_TRUE(is_served(*store, n));
    }
    ASSERT_TRUE(write_numbered(*store, 7, RecordKind::state));
    const auto other = open_store(folder);
    for (uint64_t n = 1; n <= 100; ++n) EXPECT_TRUE(is_served(*other, n)) << n;
    ASSERT_TRUE(write_numbered(*other, 101));
    EXPECT_TRUE(is_served(*store, 101));
    ASSERT_TRUE(write_numbered(*store, 102));
    EXPECT_TRUE(is_served(*other, 102));
  }
  const auto store = open_store(folder);
  EXPECT_FALSE(store->is_recovering());
  for (uint64_t n = 1; n <= 102; ++n) EXPECT_TRUE(is_served(*store, n)) << n;
  EXPECT_TRUE(is_served(*store, 7, RecordKind::state));
  EXPECT_FALSE(is_served(*store, 8, RecordKind::state));
  const int64_t before = folder.segment_bytes();
  ASSERT_TRUE(write_numbered(*store, 50));  // is there
  EXPECT_EQ(folder.segment_bytes(), before);
}

// The same key with anything else than what it was written with.
TEST(DiskStore, ARecordIsServedForExactlyWhatItHolds) {
  const std::vector<std::function<void(RecordHeader&)>> changes = {
      [](RecordHeader& h) { ++h.identity.fingerprint; },
      [](RecordHeader& h) { ++h.identity.layout_hash; },
      [](RecordHeader& h) { ++h.identity.weights_version; },
      [](RecordHeader& h) { ++h.identity.position_base; },
      [](RecordHeader& h) { ++h.parent.low; },
      [](RecordHeader& h) { ++h.key.high; },
      [](RecordHeader& h) { ++h.first_position; },
      [](RecordHeader& h) { ++h.tokens[15]; },
      [](RecordHeader& h) { h.tokens.pop_back(); },
      [](RecordHeader& h) { h.kind = RecordKind::state; },
      [](RecordHeader& h) { --h.payload_bytes; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    TestFolder folder;
    const auto store = open_store(folder);
    ASSERT_TRUE(write_numbered(*store, 1));
    const std::optional<RecordPlace> place = store->find(numbered_header(1).key, RecordKind::block);
    RecordHeader other = numbered_header(1);
    changes[i](other);
    std::vector<std::byte> payload(static_cast<size_t>(other.payload_bytes));
    EXPECT_FALSE(store->read(other, *place, payload)) << i;
  }
}

TEST(DiskStore, AnIndexThatIsLostOrNoneIsMadeAnew) {
  for (const std::string index : {"", "no index at all", "SQLite format 3"}) {
    TestFolder folder;
    {
      const auto store = open_store(folder);
      for (uint64_t n = 1; n <= 200; ++n) ASSERT_TRUE(write_numbered(*store, n));
    }
    folder.lose_index();
    if (!index.empty()) write_all(folder.path() + "/index-1.sqlite", index);
    const auto store = open_store(folder);
    EXPECT_TRUE(store->is_recovering());  // open() has read none of them
    for (uint64_t n = 1; n <= 200; ++n) EXPECT_TRUE(is_served(*store, n)) << n;
    EXPECT_FALSE(is_served(*store, 201));
    EXPECT_FALSE(store->is_recovering());
    EXPECT_FALSE(open_store(folder)->is_recovering());
  }
}

TEST(DiskStore, AnIndexThatGoesBadUnderItIsMadeAnew) {
  TestFolder folder;
  const auto store = open_store(folder);
  for (uint64_t n = 1; n <= 2000; ++n) ASSERT_TRUE(write_numbered(*store, n));
  // Another process checkpoints and leaves; then the pages are overwritten.
  const std::string path = folder.path() + "/index-1.sqlite";
  open_store(folder);
  std::string bytes = read_all(path);
  for (size_t i = 4096; i < bytes.size(); ++i) bytes[i] = static_cast<char>(testing::mix(i));
  write_all(path, bytes);
  write_all(path + "-wal", "");
  int64_t served = 0;
  for (uint64_t n = 1; n <= 2000; ++n) served += is_served(*store, n);
  EXPECT_GT(served, 1900);  // the rest lies in the segment that was being written then
  ASSERT_TRUE(write_numbered(*store, 3000));
  EXPECT_TRUE(is_served(*store, 3000));
}

// Every length that a kill in the midst of a write can leave.
TEST(DiskStore, ATornSegmentLosesItsLastRecordAlone) {
  TestFolder source;
  {
    const auto store = open_store(source);
    for (uint64_t n = 1; n <= 3; ++n) ASSERT_TRUE(write_numbered(*store, n));
  }
  const std::string name = std::filesystem::path(source.segments()[0]).filename();
  const std::string bytes = read_all(source.segments()[0]);
  const int64_t last = record_bytes(numbered_header(3));
  for (const bool has_index : {false, true}) {
    for (int64_t cut = 1; cut <= last; cut += has_index ? 311 : 61) {
      TestFolder folder;
      std::filesystem::create_directories(folder.path());
      if (has_index) std::filesystem::copy(source.path(), folder.path());
      write_all(folder.path() + "/" + name, bytes.substr(0, bytes.size() - cut));
      {
        const auto store = open_store(folder);
        EXPECT_TRUE(is_served(*store, 1));
        EXPECT_TRUE(is_served(*store, 2));
        EXPECT_FALSE(is_served(*store, 3)) << cut;
        EXPECT_FALSE(is_served(*store, 3)) << cut;
        ASSERT_TRUE(write_numbered(*store, 3));
        EXPECT_TRUE(is_served(*store, 3));
      }
      EXPECT_TRUE(is_served(*open_store(folder), 3));
    }
  }
}

TEST(DiskStore, AFlippedBitCostsItsRecordAndNothingElse) {
  TestFolder source;
  {
    const auto store = open_store(source);
    for (uint64_t n = 1; n <= 4; ++n) ASSERT_TRUE(write_numbered(*store, n));
  }
  const std::string name = std::filesystem::path(source.segments()[0]).filename();
  const std::string bytes = read_all(source.segments()[0]);
  const int64_t first = kSegmentHeadBytes + record_bytes(numbered_header(1));
  const int64_t end = first + record_bytes(numbered_header(2));
  const int64_t padding =
      numbered_header(2).payload_bytes % 64 == 0 ? 0 : 64 - numbered_header(2).payload_bytes % 64;
  for (const bool has_index : {false, true}) {
    for (int64_t at = first; at < end - padding; at += at < first + 192 ? 3 : 211) {
      TestFolder folder;
      std::filesystem::create_directories(folder.path());
      if (has_index) std::filesystem::copy(source.path(), folder.path());
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << (at % 8)));
      write_all(folder.path() + "/" + name, flipped);
      const auto store = open_store(folder);
      EXPECT_FALSE(is_served(*store, 2)) << at - first;
      for (const uint64_t n : {1, 3, 4}) EXPECT_TRUE(is_served(*store, n)) << at - first;
      ASSERT_TRUE(write_numbered(*store, 2));
      EXPECT_TRUE(is_served(*store, 2)) << at - first;
      EXPECT_EQ(store->check()->damages.size(), 1u) << at - first;
    }
  }
}

TEST(DiskStore, StaysWithinItsBytesAndKeepsWhatWasUsed) {
  TestFolder folder;
  constexpr int64_t kMax = 1 << 20, kSegment = 1 << 16;
  const auto store = open_store(folder, kMax, kSegment);
  for (uint64_t n = 1; n <= 1500; ++n) {
    ASSERT_TRUE(write_numbered(*store, n));
    ASSERT_LE(folder.segment_bytes(), kMax);
    if (n % 20 == 0) {  // a second store has no memory of what it marked
      EXPECT_TRUE(is_served(*open_store(folder, kMax, kSegment), 1)) << n;
    }
  }
  int64_t served = 0;
  for (uint64_t n = 1; n <= 1500; ++n) served += is_served(*store, n);
  EXPECT_GT(served, 250);
  EXPECT_LT(served, 500);
  EXPECT_TRUE(is_served(*store, 1500));
  ASSERT_TRUE(store->prune(kMax / 4).has_value());
  EXPECT_LE(folder.segment_bytes(), kMax / 4);
  EXPECT_EQ(DiskStore::open({folder.path(), 1000, 0})
                .value()
                ->write(numbered_header(9999), numbered_payload(9999))
                .error()
                .code(),
            StatusCode::resource_exhausted);
}

// Runs fn in a child whose files may not grow beyond `limit`.
template <typename Fn>
void with_file_limit(rlim_t limit, Fn&& fn) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit value{limit, limit};
    ::setrlimit(RLIMIT_FSIZE, &value);
    fn();
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(DiskThread, WritesAllThatIsPushedInOrder) {
  TestFolder folder;
  {
    DiskThread writer(open_store(folder), 5000);  // room for two or three
    for (uint64_t n = 1; n <= 50; ++n) writer.push(numbered_header(n), numbered_payload(n));
    bool is_there = false;
    writer.wait_for(writer.run([&](DiskStore& store) {
      is_there = store.find(numbered_header(50).key, RecordKind::block).has_value();
    }));
    EXPECT_TRUE(is_there);
    const std::vector<DiskThread::Written> written = writer.take_written();
    ASSERT_EQ(written.size(), 50u);
    for (uint64_t n = 1; n <= 50; ++n) {
      EXPECT_TRUE(written[n - 1].key == numbered_header(n).key);
      EXPECT_GE(written[n - 1].segment, 0);
    }
    for (uint64_t n = 51; n <= 80; ++n) writer.push(numbered_header(n), numbered_payload(n));
  }
  const auto store = open_store(folder);
  for (uint64_t n = 1; n <= 80; ++n) EXPECT_TRUE(is_served(*store, n)) << n;
}

TEST(DiskThread, CountsAndTakesMoreWhileAJobIsOn) {
  TestFolder folder;
  DiskThread writer(open_store(folder), 1 << 20);
  writer.push(numbered_header(1), numbered_payload(1));
  writer.wait_for_all();
  std::promise<void> end;
  const int64_t job = writer.run([&](DiskStore&) { end.get_future().wait(); });
  EXPECT_EQ(writer.num_written_bytes(), record_bytes(numbered_header(1)));
  EXPECT_EQ(writer.num_damaged(), 0);
  writer.push(numbered_header(2), numbered_payload(2));
  EXPECT_FALSE(writer.is_done(job));
  end.set_value();
  writer.wait_for(job);
  EXPECT_TRUE(writer.is_done(job));
}

TEST(DiskThread, TellsOfEveryJob) {
  TestFolder folder;
  std::atomic<int> told = 0;
  {
    DiskThread thread(open_store(folder), 1 << 20, [&] { ++told; });
    for (int i = 0; i < 3; ++i) thread.run([](DiskStore&) {});
  }
  EXPECT_EQ(told, 3);
}

// A bound that holds no segment: what waits behind a record that fails is given up with it.
TEST(DiskThread, TellsWhatCouldNotBeWritten) {
  TestFolder folder;
  DiskThread writer(open_store(folder, 100), 1 << 20);
  for (uint64_t n = 1; n <= 20; ++n) writer.push(numbered_header(n), numbered_payload(n));
  writer.wait_for_all();
  const std::vector<DiskThread::Written> written = writer.take_written();
  ASSERT_EQ(written.size(), 20u);
  EXPECT_EQ(written[0].status.code(), StatusCode::resource_exhausted);
  for (const DiskThread::Written& one : written) EXPECT_EQ(one.segment, -1);
}

TEST(DiskStore, AFullDiskIsAnErrorAndLeavesTheRest) {
  TestFolder folder;
  // Of the records those that the child has been told are written.
  auto* is_written = static_cast<bool*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(is_written, MAP_FAILED);
  // A segment fills first, or the index does.
  for (const rlim_t limit : {100000, 40000}) {
    with_file_limit(limit, [&] {
      const auto store = DiskStore::open({folder.path(), kPlenty, 1 << 20});
      if (!store) return;  // refused with an error
      int64_t failed = 0;
      for (uint64_t n = 1; n <= 100; ++n) {
        const bool is_new = write_numbered(**store, n);
        failed += !is_new;
        is_written[n] |= is_new;
      }
      EXPECT_GT(failed, 20);
      for (uint64_t n = 1; n <= 100; ++n) (void)is_served(**store, n);
    });
  }
  const auto store = open_store(folder);
  int64_t served = 0;
  for (uint64_t n = 1; n <= 100; ++n) {
    served += is_written[n];
    EXPECT_EQ(is_served(*store, n), is_written[n]) << n;
  }
  EXPECT_GT(served, 10);
  EXPECT_TRUE(store->check()->damages.empty());
  for (uint64_t n = 1; n <= 100; ++n) ASSERT_TRUE(write_numbered(*store, n));
  ::munmap(is_written, 4096);
}

// Two processes write, read and evict in one folder.
TEST(DiskStore, TwoProcessesShareAFolder) {
  TestFolder folder;
  constexpr int64_t kMax = 1 << 20, kSegment = 1 << 15;
  std::vector<pid_t> children;
  for (uint64_t process = 0; process < 2; ++process) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto store = open_store(folder, kMax, kSegment);
      int64_t served = 0;
      for (uint64_t step = 0; step < 1500; ++step) {
        const uint64_t n = 1 + testing::mix(process * 100000 + step) % 600;
        if (is_served(*store, n)) {
          ++served;
        } else {
          (void)store->write(numbered_header(n), numbered_payload(n));
        }
      }
      EXPECT_GT(served, 200);
      EXPECT_EQ(store->num_damaged(), 0);
      ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_LE(folder.segment_bytes(), kMax);
  const auto store = open_store(folder);
  EXPECT_TRUE(store->check()->damages.empty());
}

TEST(DiskStore, WhatIsNoFolderIsRefused) {
  TestFolder folder;
  std::filesystem::create_directories(folder.path());
  write_all(folder.path() + "/file", "");
  EXPECT_FALSE(DiskStore::open({folder.path() + "/file/x", 1000, 0}).has_value());
  EXPECT_EQ(DiskStore::open({folder.path(), -1, 0}).error().code(), StatusCode::invalid_argument);
}

}  // namespace
}  // namespace cachalot::cache
