#include "cache/sequence_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "cache/block_pool.h"
#include "cache/cache_testing.h"

namespace cachalot::cache {
namespace {
using testing::CheckedSequence;
using testing::kSmallSlack;
using testing::MemorySink;
using testing::MemorySource;
using testing::small_layout;

std::vector<int32_t> some_tokens(int64_t n, int32_t first = 100) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(first + static_cast<int32_t>(i));
  return tokens;
}

std::unique_ptr<BlockPool> small_pool(int64_t max_blocks, int64_t max_sequences) {
  return BlockPool::create(small_layout(), {max_blocks, max_sequences}).value();
}

// Random operations on a family of sequences, against what each must hold; the pool's accounts are
// compared with the sequences' block tables after every one.
class RandomOperations {
 public:
  explicit RandomOperations(uint64_t seed) : random_(seed), pool_(small_pool(24, 6)) {}

  void step() {
    const int64_t op = below(100);
    if (sequences_.empty() || op < 6) {
      start();
    } else if (op < 48) {
      append(sequence());
    } else if (op < 58) {
      rewind(sequence());
    } else if (op < 74) {
      fork();
    } else if (op < 78) {
      save_and_restore(sequence());
    } else if (op < 80) {
      clear(sequence());
    } else {
      sequences_.erase(sequences_.begin() + below(static_cast<int64_t>(sequences_.size())));
    }
    check();
  }

  int64_t num_refused() const { return num_refused_; }
  int64_t num_copies_on_write() const { return num_copies_on_write_; }

 private:
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  CheckedSequence& sequence() { return sequences_[below(static_cast<int64_t>(sequences_.size()))]; }

  bool states_left() {
    const bool left = pool_->states().num_free() > 0;
    if (!left) ++num_refused_;
    return left;
  }

  void start() {
    const bool room = states_left();
    Result<SequenceCache> cache = SequenceCache::create(*pool_);
    ASSERT_EQ(cache.has_value(), room);
    if (room) sequences_.emplace_back(*std::move(cache));
  }

  void append(CheckedSequence& chosen) { append(chosen, 1 + below(below(8) == 0 ? 40 : 6)); }

  void append(CheckedSequence& chosen, int64_t n) {
    const int64_t first = chosen.num_tokens() / 16, last = (chosen.num_tokens() + n + 15) / 16;
    int64_t copies = 0;
    for (int64_t i = first; i < std::min(last, chosen.cache().num_blocks()); ++i) {
      copies += pool_->blocks().num_references(chosen.cache().block_ids()[i]) > 1;
    }
    const int64_t needed = copies + std::max<int64_t>(0, last - chosen.cache().num_blocks());
    const bool room = needed <= pool_->blocks().num_free();
    const Status status = chosen.append(some_tokens(n, static_cast<int32_t>(below(1000))));
    ASSERT_EQ(status.ok(), room) << status.to_string();
    if (room) {
      num_copies_on_write_ += copies;
    } else {
      ++num_refused_;
      ASSERT_EQ(status.code(), StatusCode::resource_exhausted);
      if (below(4) == 0) clear(chosen);
    }
  }

  void rewind(CheckedSequence& chosen) {
    const int64_t target = chosen.num_tokens() - below(kSmallSlack + 3);
    const bool allowed = target == 0 || (target > 0 && target >= chosen.ring_end() - kSmallSlack);
    const Status status = chosen.cache().rewind(target);
    ASSERT_EQ(status.ok(), allowed) << status.to_string();
    if (allowed) chosen.forget_from(target);
  }

  void clear(CheckedSequence& chosen) {
    chosen.cache().clear();
    chosen.forget_from(0);
  }

  void fork() {
    CheckedSequence& chosen = sequence();
    const bool room =
        states_left() && (chosen.num_tokens() % 16 == 0 || pool_->blocks().num_free() > 0);
    Result<SequenceCache> cache = chosen.cache().fork();
    ASSERT_EQ(cache.has_value(), room);
    if (!room) return;
    sequences_.push_back(chosen.twin(*std::move(cache)));
    if (below(2) == 0) {
      rewind(sequences_.back());
      append(sequences_.back());
    }
  }

  void save_and_restore(CheckedSequence& chosen) {
    MemorySink sink;
    ASSERT_TRUE(chosen.cache().save_to(sink, chosen.tokens()).ok());
    const bool room =
        states_left() && (chosen.num_tokens() + 15) / 16 <= pool_->blocks().num_free();
    MemorySource source(sink.bytes);
    Result<RestoredSequence> restored =
        SequenceCache::restore_from(*pool_, source, "memory", chosen.tokens());
    ASSERT_EQ(restored.has_value(), room) << restored.error().to_string();
    if (!room) return;
    ASSERT_EQ(restored->token_ids, chosen.tokens());
    sequences_.push_back(chosen.twin(std::move(restored->cache)));
  }

  void check() {
    std::map<int32_t, int32_t> references;
    for (CheckedSequence& each : sequences_) {
      ASSERT_EQ(each.fault(), "");
      ASSERT_EQ(each.cache().min_rewind_tokens(),
                std::max<int64_t>(0, each.ring_end() - kSmallSlack));
      for (const int32_t id : each.cache().block_ids()) ++references[id];
    }
    ASSERT_EQ(pool_->blocks().num_used(), static_cast<int64_t>(references.size()));
    ASSERT_EQ(pool_->states().num_used(), static_cast<int64_t>(sequences_.size()));
    for (const auto& [id, count] : references) ASSERT_EQ(pool_->blocks().num_references(id), count);
  }

  std::mt19937_64 random_;
  std::unique_ptr<BlockPool> pool_;
  std::vector<CheckedSequence> sequences_;
  int64_t num_refused_ = 0;
  int64_t num_copies_on_write_ = 0;
};

TEST(SequenceCache, RandomOperationsKeepEveryRow) {
  int64_t refused = 0, copies = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    RandomOperations family(seed);
    for (int i = 0; i < 5000; ++i) {
      family.step();
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "seed " << seed << " step " << i;
    }
    refused += family.num_refused();
    copies += family.num_copies_on_write();
  }
  // The test is only worth something if it met full pools and copies on write.
  EXPECT_GT(refused, 1000);
  EXPECT_GT(copies, 100);
}

TEST(SequenceCache, NothingLeaksOver100000Cycles) {
  auto pool = small_pool(32, 4);
  std::mt19937 random(1);
  int64_t peak_bytes = 0;
  for (int cycle = 0; cycle < 100'000; ++cycle) {
    SequenceCache a = SequenceCache::create(*pool).value();
    const int64_t n = 1 + random() % 100;
    ASSERT_TRUE(a.reserve(n).ok());
    a.advance(n);
    SequenceCache b = a.fork().value();
    ASSERT_TRUE(b.rewind(n - std::min<int64_t>(n, random() % (kSmallSlack + 1))).ok());
    ASSERT_TRUE(b.reserve(b.num_tokens() + 20).ok());
    b.advance(20);
    if (cycle % 3 == 0) a = std::move(b);
    if (cycle == 1000) peak_bytes = pool->reserved_bytes();
  }
  EXPECT_EQ(pool->blocks().num_used(), 0);
  EXPECT_EQ(pool->states().num_used(), 0);
  EXPECT_EQ(pool->reserved_bytes(), peak_bytes);
}

TEST(SequenceCache, StateIsOfFixedSizeAndAdmissionFailsCleanly) {
  auto pool = small_pool(1000, 2);
  const auto ring_places = [](SequenceCache& cache) {
    std::vector<std::byte*> places;
    for (int64_t layer = 0; layer < cache.layout().num_layers(); ++layer) {
      const tensor::LayerRows views = cache.views(layer);
      places.insert(places.end(), {views.window.base, views.tail.base, views.index_tail.base});
    }
    return places;
  };
  SequenceCache a = SequenceCache::create(*pool).value();
  const std::vector<std::byte*> before = ring_places(a);
  ASSERT_TRUE(a.reserve(10'000).ok());
  a.advance(10'000);
  EXPECT_EQ(ring_places(a), before);
  EXPECT_EQ(pool->states().num_used(), 1);
  {
    SequenceCache b = SequenceCache::create(*pool).value();
    EXPECT_EQ(pool->states().num_used(), 2);
    const Result<SequenceCache> refused = SequenceCache::create(*pool);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().to_string(),
              "resource_exhausted: sequence states: needed 1, free 0 of 2");
    EXPECT_FALSE(a.fork().has_value());
    const Status full = b.reserve(6016);  // 376 blocks, 375 are free
    EXPECT_EQ(full.to_string(), "resource_exhausted: KV blocks: needed 376, free 375 of 1000");
    EXPECT_EQ(b.num_blocks(), 0);
    EXPECT_EQ(b.reserve(int64_t{1} << 62).code(), StatusCode::resource_exhausted);
    EXPECT_TRUE(b.reserve(6000).ok());
  }
  EXPECT_TRUE(SequenceCache::create(*pool).has_value());
  EXPECT_EQ(pool->blocks().num_used(), 625);
}

TEST(SequenceCache, ForksShareWholeBlocksAndNeverCopyThem) {
  auto pool = small_pool(100, 8);
  CheckedSequence parent(SequenceCache::create(*pool).value());
  ASSERT_TRUE(parent.append(some_tokens(40)).ok());  // two whole blocks and a half
  std::vector<CheckedSequence> children;
  for (int i = 0; i < 5; ++i) children.push_back(parent.twin(parent.cache().fork().value()));
  EXPECT_EQ(pool->blocks().num_used(), 3 + 5);
  for (size_t i = 0; i < children.size(); ++i) {
    ASSERT_TRUE(children[i].append(some_tokens(30, 1000 * static_cast<int32_t>(i + 1))).ok());
    EXPECT_EQ(children[i].fault(), "");
  }
  EXPECT_EQ(parent.fault(), "");
  for (CheckedSequence& child : children) {
    for (int64_t layer = 1; layer < 4; ++layer) {
      const tensor::RowBlocks mine = parent.cache().views(layer).entries;
      const tensor::RowBlocks its = child.cache().views(layer).entries;
      EXPECT_EQ(mine.blocks[0], its.blocks[0]);
      EXPECT_EQ(mine.blocks[1], its.blocks[1]);
      EXPECT_NE(mine.blocks[2], its.blocks[2]);
    }
    EXPECT_EQ(pool->blocks().num_references(child.cache().block_ids()[1]), 6);
  }
}

TEST(SequenceCache, RewindIntoASharedBlockCopiesItBeforeTheWrite) {
  auto pool = small_pool(100, 8);
  CheckedSequence parent(SequenceCache::create(*pool).value());
  ASSERT_TRUE(parent.append(some_tokens(32)).ok());
  CheckedSequence child = parent.twin(parent.cache().fork().value());
  EXPECT_EQ(pool->blocks().num_used(), 2);
  ASSERT_TRUE(child.cache().rewind(30).ok());
  child.forget_from(30);
  EXPECT_EQ(pool->blocks().num_used(), 2);
  ASSERT_TRUE(child.append(some_tokens(2, 7)).ok());
  EXPECT_EQ(pool->blocks().num_used(), 3);
  EXPECT_EQ(parent.cache().block_ids()[0], child.cache().block_ids()[0]);
  EXPECT_NE(parent.cache().block_ids()[1], child.cache().block_ids()[1]);
  EXPECT_EQ(parent.fault(), "");
  EXPECT_EQ(child.fault(), "");
}

TEST(SequenceCache, RewindsAsFarAsTheSlackAndNoFurther) {
  auto pool = small_pool(100, 2);
  CheckedSequence sequence(SequenceCache::create(*pool).value());
  ASSERT_TRUE(sequence.append(some_tokens(50)).ok());
  EXPECT_EQ(sequence.cache().rewind(46).to_string(),
            "invalid_argument: rewind: expected 0 or 47 to 50 tokens (slack 3), found 46");
  EXPECT_EQ(sequence.cache().rewind(51).code(), StatusCode::invalid_argument);
  EXPECT_EQ(sequence.cache().rewind(-1).code(), StatusCode::invalid_argument);
  EXPECT_EQ(sequence.fault(), "");
  ASSERT_TRUE(sequence.cache().rewind(48).ok());
  sequence.forget_from(48);
  // The slots of positions below 47 - 5 are gone already: a second rewind counts from 50, not
  // from 48.
  EXPECT_FALSE(sequence.cache().rewind(46).ok());
  ASSERT_TRUE(sequence.cache().rewind(47).ok());
  sequence.forget_from(47);
  EXPECT_EQ(sequence.fault(), "");
  ASSERT_TRUE(sequence.append(some_tokens(10, 5)).ok());
  EXPECT_EQ(sequence.fault(), "");
  ASSERT_TRUE(sequence.cache().rewind(0).ok());
  EXPECT_EQ(sequence.cache().num_tokens(), 0);
  EXPECT_EQ(pool->blocks().num_used(), 0);
  sequence.forget_from(0);
  ASSERT_TRUE(sequence.append(some_tokens(3)).ok());
  EXPECT_EQ(sequence.fault(), "");
}

// A model of window layers only has no blocks at all.
TEST(SequenceCache, WorksWithoutCompressedRows) {
  CacheLayout layout =
      CacheLayout::create({{.window = {.data_bytes = 12}, .window_capacity = 7}}, 16, 2, 0).value();
  auto pool = BlockPool::create(layout, {.max_blocks = 0, .max_sequences = 2}).value();
  CheckedSequence sequence(SequenceCache::create(*pool).value());
  ASSERT_TRUE(sequence.append(some_tokens(50)).ok());
  CheckedSequence child = sequence.twin(sequence.cache().fork().value());
  ASSERT_TRUE(child.append(some_tokens(5, 3)).ok());
  EXPECT_EQ(sequence.fault(), "");
  EXPECT_EQ(child.fault(), "");
  EXPECT_EQ(sequence.cache().views(0).entries.blocks, nullptr);
  EXPECT_EQ(sequence.cache().views(0).tail.base, nullptr);
}

TEST(SequenceCacheDeathTest, AdvancingOverUnreservedOrSharedBlocksIsABug) {
  auto pool = small_pool(100, 4);
  SequenceCache cache = SequenceCache::create(*pool).value();
  ASSERT_TRUE(cache.reserve(16).ok());
  EXPECT_DEATH(cache.advance(17), "advance to 17 tokens");
  cache.advance(16);
  SequenceCache other = cache.fork().value();
  ASSERT_TRUE(cache.rewind(14).ok());
  EXPECT_DEATH(cache.advance(1), "num_references");
}

TEST(BlockPool, LimitsFromBytes) {
  const CacheLayout layout = small_layout();
  const PoolLimits limits =
      limits_for_bytes(layout, 2 * layout.state_bytes() + 10 * layout.block_bytes() + 5, 2).value();
  EXPECT_EQ(limits.max_blocks, 10);
  EXPECT_EQ(limits.max_sequences, 2);
  EXPECT_EQ(limits_for_bytes(layout, 2 * layout.state_bytes(), 2).error().code(),
            StatusCode::resource_exhausted);
  EXPECT_EQ(limits_for_bytes(layout, -5, 2).error().code(), StatusCode::resource_exhausted);
  EXPECT_EQ(limits_for_bytes(layout, 1000, -2).error().code(), StatusCode::invalid_argument);
  EXPECT_EQ(BlockPool::create(layout, {-1, 1}).error().code(), StatusCode::invalid_argument);
  EXPECT_EQ(BlockPool::create(layout, {1, int64_t{1} << 40}).error().code(),
            StatusCode::invalid_argument);
}

TEST(SlabPool, GrowsInSlabsAndReusesWhatIsFreed) {
  SlabPool pool("things", 64, 10, 4);
  EXPECT_EQ(pool.reserved_bytes(), 0);
  std::vector<int32_t> ids;
  ASSERT_TRUE(pool.allocate(3, ids).ok());
  EXPECT_EQ(pool.reserved_bytes(), 4 * 64);
  std::byte* first = pool.data(ids[0]);
  ASSERT_TRUE(pool.allocate(7, ids).ok());
  EXPECT_EQ(pool.reserved_bytes(), 10 * 64);
  EXPECT_EQ(pool.data(ids[0]), first);
  std::set<std::byte*> places;
  for (const int32_t id : ids) places.insert(pool.data(id));
  EXPECT_EQ(places.size(), 10u);
  EXPECT_EQ(pool.allocate(1, ids).to_string(),
            "resource_exhausted: things: needed 1, free 0 of 10");
  EXPECT_EQ(ids.size(), 10u);
  pool.add_reference(ids[4]);
  pool.release(ids[4]);
  EXPECT_EQ(pool.num_free(), 0);
  pool.release(ids[4]);
  EXPECT_EQ(pool.num_free(), 1);
  std::vector<int32_t> again;
  ASSERT_TRUE(pool.allocate(1, again).ok());
  EXPECT_EQ(again[0], ids[4]);
  EXPECT_EQ(pool.reserved_bytes(), 10 * 64);
}

TEST(SequenceCache, RepeatedBlocksAreCopiesOfTheWholeOnes) {
  const std::unique_ptr<BlockPool> pool = small_pool(12, 2);
  CheckedSequence first(SequenceCache::create(*pool).value());
  ASSERT_TRUE(first.append(some_tokens(37)).ok());  // two blocks of 16, and a part
  SequenceCache second = first.cache().fork().value();
  ASSERT_TRUE(second.repeat_blocks(100).ok());
  EXPECT_EQ(second.num_tokens(), 100);
  ASSERT_EQ(second.num_blocks(), 7);
  std::set<int32_t> ids(second.block_ids().begin(), second.block_ids().end());
  EXPECT_EQ(ids.size(), 7u);
  SlabPool& blocks = pool->blocks();
  for (int64_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::memcmp(blocks.data(second.block_ids()[i]),
                          blocks.data(first.cache().block_ids()[i % 2]),
                          static_cast<size_t>(blocks.item_bytes())),
              0);
  }
  EXPECT_EQ(first.fault(), "");
  const Status more = second.repeat_blocks(16 * 12);
  EXPECT_EQ(more.code(), StatusCode::resource_exhausted);
  EXPECT_EQ(second.num_tokens(), 100);
}

}  // namespace
}  // namespace cachalot::cache
