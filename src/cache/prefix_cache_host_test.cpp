// Blocks that leave a GPU's pool for the host's memory, and come back. The GPU is one whose memory
// is the host's (device/gpu_testing.h).
#include <gtest/gtest.h>

#include <chrono>
#include <semaphore>
#include <thread>

#include "cache/prefix_cache_testing.h"
#include "device/gpu_testing.h"

namespace cachalot::cache {
namespace {
using testing::CheckedSequence;
using testing::first_of;
using testing::Fixture;
using testing::kBlock;
using testing::kFull;
using testing::on_disk;
using testing::small_layout;
using testing::some_tokens;
using testing::TestFolder;

PrefixCacheOptions with_host_blocks(int64_t blocks) {
  PrefixCacheOptions options;
  options.max_host_bytes = blocks * small_layout().block_bytes();
  return options;
}

// Eight blocks in the pool, texts of six: the next one drives the last one out.
struct HostTier {
  explicit HostTier(int64_t host_blocks) : fixture(kFull, 8, with_host_blocks(host_blocks), &gpu) {}
  // The text's tokens that are found; what the sequence then holds is right.
  int64_t found(const std::vector<int32_t>& text) {
    CheckedSequence sequence = fixture.begin(text);
    EXPECT_EQ(sequence.fault(), "");
    return sequence.num_tokens();
  }

  device::FakeGpu gpu;
  Fixture fixture;
  std::vector<int32_t> one = some_tokens(6 * kBlock + 1, 1), two = some_tokens(6 * kBlock + 1, 2);
};

TEST(PrefixCacheHost, WhatLeavesThePoolIsFoundAndComesBack) {
  HostTier t(64);
  t.fixture.visit(t.one);
  t.fixture.visit(t.two);
  EXPECT_EQ(t.fixture.cache().num_host_blocks(), 5);
  EXPECT_EQ(t.found(t.one), 6 * kBlock);
  EXPECT_EQ(t.fixture.cache().counters().host_blocks, 5);
  EXPECT_EQ(t.fixture.cache().counters().evicted_blocks, 0);
  EXPECT_EQ(t.found(t.two), 6 * kBlock);
  EXPECT_EQ(t.found(t.one), 6 * kBlock);
}

TEST(PrefixCacheHost, WithoutRoomThereTheyAreGone) {
  HostTier t(0);
  t.fixture.visit(t.one);
  t.fixture.visit(t.two);
  EXPECT_EQ(t.fixture.cache().num_host_blocks(), 0);
  EXPECT_EQ(t.found(t.one), 1 * kBlock);
}

// The ends of texts go first, so that what is left is a beginning.
TEST(PrefixCacheHost, OfTooManyTheLeastUsedGo) {
  HostTier t(3);
  t.fixture.visit(t.one);
  t.fixture.visit(t.two);
  EXPECT_EQ(t.fixture.cache().num_host_blocks(), 3);
  EXPECT_EQ(t.fixture.cache().counters().evicted_blocks, 2);
  EXPECT_EQ(t.found(t.one), 4 * kBlock);
  EXPECT_LE(t.fixture.cache().num_host_blocks(), 3);
}

// Of a text whose first blocks are in the pool and whose next ones are the host's, as much is found
// as there is room for.
TEST(PrefixCacheHost, AHitTakesNoMoreThanThereIsRoomFor) {
  HostTier t(64);
  t.fixture.visit(t.one);
  CheckedSequence held = t.fixture.begin(t.two);
  t.fixture.prefill(held, t.two);
  EXPECT_EQ(t.found(t.one), 1 * kBlock);  // seven are the other sequence's
  EXPECT_EQ(held.fault(), "");
}

TEST(PrefixCacheHost, ATextThatIsComputedAnewIsInThePoolAgain) {
  HostTier t(64);
  t.fixture.visit(t.one);
  t.fixture.visit(t.two);
  {
    CheckedSequence anew(SequenceCache::create(t.fixture.pool()).value());
    t.fixture.prefill(anew, t.one);
    EXPECT_EQ(anew.fault(), "");
  }
  EXPECT_EQ(t.found(t.one), 6 * kBlock);
  EXPECT_EQ(t.fixture.cache().counters().host_blocks, 0);
  t.fixture.cache().clear();
  EXPECT_EQ(t.found(t.one), 0);
  EXPECT_EQ(t.fixture.cache().num_host_blocks(), 0);
}

// Those before it come from the host's memory, the rest from the disk.
TEST(PrefixCacheHost, WhatTheDiskAloneHasComesToTheGpu) {
  const TestFolder folder;
  device::FakeGpu gpu;
  const std::vector<int32_t> text = some_tokens(12 * kBlock + 1, 1);
  PrefixCacheOptions options = on_disk(folder);
  options.max_host_bytes = 64 * small_layout().block_bytes();
  Fixture(kFull, 16, options, &gpu).visit(text);
  Fixture fixture(kFull, 16, options, &gpu);
  fixture.visit(first_of(text, 6 * kBlock));
  fixture.visit(some_tokens(13 * kBlock, 2));
  ASSERT_GE(fixture.cache().num_host_blocks(), 1);
  CheckedSequence sequence = fixture.begin(text);
  EXPECT_EQ(sequence.fault(), "");
  EXPECT_EQ(sequence.num_tokens(), 12 * kBlock);
  EXPECT_GE(fixture.cache().counters().host_blocks, 1);
  EXPECT_GE(fixture.cache().counters().disk_blocks, 6);
}

// The disk's thread stands after some jobs until it may go on: its owner waits for none of them.
TEST(PrefixCacheHost, WhatTheDiskAloneHasComesBetweenOtherThings) {
  const TestFolder folder;
  device::FakeGpu gpu;
  const std::vector<int32_t> texts[] = {some_tokens(6 * kBlock, 1), some_tokens(6 * kBlock, 2)};
  PrefixCacheOptions options = on_disk(folder);
  {
    Fixture before(kFull, 16, options, &gpu);
    for (const std::vector<int32_t>& text : texts) before.visit(text);
  }
  options.staging_bytes = 4 * small_layout().block_bytes();
  std::counting_semaphore<> may_go_on(0);
  options.on_disk_news = [&] { EXPECT_TRUE(may_go_on.try_acquire_for(std::chrono::seconds(5))); };
  Fixture fixture(kFull, 16, options, &gpu);
  PrefixCache& cache = fixture.cache();
  const SearchId ids[] = {cache.begin_find(texts[0]), cache.begin_find(texts[1])};
  int rounds = 0;  // of six jobs; the places of a text are one, each block is one
  for (; !(cache.is_found(ids[0]) && cache.is_found(ids[1])) && rounds < 1000; ++rounds) {
    may_go_on.release(6);
    for (int turn = 0; turn < 3; ++turn) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      cache.advance();
    }
  }
  EXPECT_GE(rounds, 2);
  may_go_on.release(100);
  for (int i = 0; i < 2; ++i) {
    PrefixHit hit = cache.end_find(ids[i]).value();
    ASSERT_EQ(hit.cache.num_tokens(), 6 * kBlock);
    EXPECT_EQ(CheckedSequence::resumed(std::move(hit.cache), texts[i]).fault(), "");
  }
  EXPECT_EQ(cache.counters().disk_blocks, 12);
}

}  // namespace
}  // namespace cachalot::cache
