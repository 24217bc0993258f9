// For tests of the prefix cache: texts, and requests that find, run and store them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "cache/cache_testing.h"
#include "cache/disk_store_testing.h"
#include "cache/prefix_cache.h"

namespace cachalot::cache::testing {

inline constexpr int64_t kBlock = 16;  // of small_layout
inline constexpr int64_t kLayers = 4;  // likewise
inline constexpr int64_t kWindow = 5;  // likewise
inline constexpr int64_t kRebuild = kWindow + (kLayers - 1) * (kWindow - 1);

inline std::vector<int32_t> some_tokens(int64_t n, int32_t seed = 7) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<int32_t>(mix(static_cast<uint64_t>(seed * 1000 + i)) % 50));
  return tokens;
}

inline std::vector<int32_t> first_of(const std::vector<int32_t>& tokens, int64_t n) {
  return {tokens.begin(), tokens.begin() + n};
}

// A pool and its prefix cache, and requests that go through it.
class Fixture {
 public:
  explicit Fixture(StatePolicy policy, int64_t max_blocks = 64, PrefixCacheOptions options = {},
                   device::Gpu* gpu = nullptr, uint64_t fingerprint = 0x1234)
      : pool_(BlockPool::create(small_layout(fingerprint), {max_blocks, 8}, gpu).value()) {
    options.states = policy;
    options.num_layers = kLayers;
    cache_ = PrefixCache::create(*pool_, options).value();
  }
  PrefixCache& cache() { return *cache_; }
  BlockPool& pool() { return *pool_; }

  // The prompt's sequence as find() gives it, its state made where it has to be.
  CheckedSequence begin(const std::vector<int32_t>& prompt) {
    PrefixHit hit = find(prompt);
    const int64_t found = hit.cache.num_tokens();
    CheckedSequence sequence = CheckedSequence::resumed(
        std::move(hit.cache), std::span(prompt).first(static_cast<size_t>(found)));
    if (hit.rebuild_from < found) sequence.rebuild_rings(hit.rebuild_from);
    return sequence;
  }
  // Runs the rest of the prompt in pieces as the cache asks, storing after each.
  void prefill(CheckedSequence& sequence, const std::vector<int32_t>& prompt) {
    const auto end = static_cast<int64_t>(prompt.size());
    while (sequence.num_tokens() < end) {
      const int64_t at = sequence.num_tokens();
      const int64_t stop = cache_->next_stop(at, end);
      ASSERT_GT(stop, at);
      ASSERT_LE(stop, end);
      ASSERT_TRUE(cache_->make_room((stop + kBlock - 1) / kBlock - sequence.cache().num_blocks()));
      ASSERT_TRUE(sequence.append({prompt.begin() + at, prompt.begin() + stop}).ok());
      cache_->store(sequence.tokens(), sequence.cache(), end, false);
      ASSERT_EQ(sequence.fault(), "");
    }
  }
  // A request that answers nothing.
  void visit(const std::vector<int32_t>& prompt) {
    CheckedSequence sequence = begin(prompt);
    prefill(sequence, prompt);
    cache_->store(sequence.tokens(), sequence.cache(), sequence.num_tokens(), true);
  }
  PrefixHit find(const std::vector<int32_t>& prompt) {
    return cache_->find(std::span(prompt).first(prompt.size() - !prompt.empty())).value();
  }
  int64_t found(const std::vector<int32_t>& prompt) { return find(prompt).cache.num_tokens(); }

 private:
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<PrefixCache> cache_;
};

inline constexpr StatePolicy kFull{StateStrategy::full, 1, false};
inline constexpr StatePolicy kZero{StateStrategy::zero, 1, false};
inline StatePolicy every(int64_t period, bool keeps_ends = false) {
  return {StateStrategy::periodic, period, keeps_ends};
}

inline PrefixCacheOptions on_disk(const TestFolder& folder) {
  PrefixCacheOptions options;
  options.directory = folder.path();
  options.max_disk_bytes = int64_t{1} << 30;
  return options;
}

}  // namespace cachalot::cache::testing
