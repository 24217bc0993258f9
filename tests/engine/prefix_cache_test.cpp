// A sequence that goes on from a prefix cache has the bits that it has without one.
// Source  reference/infrastructure 8.2, O1.
#include "cache/prefix_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/rng.h"
#include "cache/boundary_state.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "engine/trained_model.h"

namespace cachalot::engine {
namespace {

using cache::StatePolicy;
using cache::StateStrategy;

constexpr int64_t kBlock = 128, kText = 4300, kPiece = 512;
// Across the next entries of every ratio, one at a time in the end.
constexpr int64_t kPieceAfter = 133, kStepsAfter = 6;

class PrefixRestore : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    loaded_ =
        LoadedModel::load({.path = testing::nano(), .precision = GetParam(), .threads = 2}).value();
    pool_ = cache::BlockPool::create(
                model_cache_layout(model().config(), model().precision(), {.block_tokens = kBlock})
                    .value(),
                {.max_blocks = 200, .max_sequences = 4})
                .value();
    RngStream rng(3, RngPurpose::data, 0);
    for (int64_t i = 0; i < kText; ++i)
      text_.push_back(static_cast<int32_t>(rng.next_u32() % 4096));
  }
  const model::Transformer& model() const { return loaded_->transformer(); }
  int64_t width() const { return model().num_streams() * model().config().hidden_size; }

  // Runs text_ up to `end`, and gives the rows.
  std::vector<float> run(cache::SequenceCache& sequence, int64_t end) {
    Runner runner(model(), loaded_->context());
    const int64_t at = sequence.num_tokens();
    std::vector<float> streams(static_cast<size_t>((end - at) * width()));
    const StepInput input{&sequence, std::span(text_).subspan(static_cast<size_t>(at),
                                                              static_cast<size_t>(end - at))};
    EXPECT_TRUE(runner.forward({&input, 1}, streams.data()).ok());
    return streams;
  }
  // The rows of every position, from a run that knows no cache.
  const std::vector<float>& uncached() {
    if (uncached_.empty()) {
      cache::SequenceCache sequence = cache::SequenceCache::create(*pool_).value();
      while (sequence.num_tokens() < kText) {
        const std::vector<float> rows =
            run(sequence, std::min(kText, sequence.num_tokens() + kPiece));
        uncached_.insert(uncached_.end(), rows.begin(), rows.end());
      }
    }
    return uncached_;
  }
  void run_and_compare(cache::SequenceCache& sequence, int64_t end) {
    const int64_t at = sequence.num_tokens();
    const std::vector<float> rows = run(sequence, end);
    ASSERT_EQ(
        std::memcmp(rows.data(), uncached().data() + at * width(), rows.size() * sizeof(float)), 0)
        << "positions " << at << " to " << end;
  }
  std::unique_ptr<cache::PrefixCache> make_cache(const StatePolicy& policy) {
    cache::PrefixCacheOptions options;
    options.states = policy;
    options.num_layers = model().config().num_hidden_layers;
    return cache::PrefixCache::create(*pool_, options).value();
  }
  // A visit of the first `length` tokens: what runs of them, and some that come after them.
  void visit(cache::PrefixCache& cache, int64_t length, int64_t after) {
    const std::span<const int32_t> prompt = std::span(text_).first(static_cast<size_t>(length));
    cache::PrefixHit hit = cache.find(prompt.first(static_cast<size_t>(length - 1))).value();
    const int64_t found = hit.cache.num_tokens();
    if (hit.rebuild_from < found) {
      Runner(model(), loaded_->context())
          .rebuild_state(hit.cache,
                         prompt.subspan(static_cast<size_t>(hit.rebuild_from),
                                        static_cast<size_t>(found - hit.rebuild_from)),
                         kPiece);
    }
    while (hit.cache.num_tokens() < length) {
      const int64_t at = hit.cache.num_tokens();
      run_and_compare(hit.cache, std::min(cache.next_stop(at, length), at + kPiece));
      cache.store(text_, hit.cache, length, false);
    }
    if (after == 0) return;
    run_and_compare(hit.cache, length + kPieceAfter);
    for (int64_t i = 1; i <= kStepsAfter; ++i) run_and_compare(hit.cache, length + kPieceAfter + i);
  }

  std::unique_ptr<LoadedModel> loaded_;
  std::unique_ptr<cache::BlockPool> pool_;
  std::vector<int32_t> text_;
  std::vector<float> uncached_;
};

TEST_P(PrefixRestore, GoesOnWithTheBitsOfTheUncachedRun) {
  for (const StatePolicy& policy : {StatePolicy{StateStrategy::full, 1, false},
                                    StatePolicy{StateStrategy::periodic, 256, false},
                                    StatePolicy{StateStrategy::periodic, 1024, true},
                                    StatePolicy{StateStrategy::zero, 1, false}}) {
    const std::unique_ptr<cache::PrefixCache> cache = make_cache(policy);
    visit(*cache, GetParam() == "official" ? 4160 : 1100, 0);
    const int64_t hits = cache->counters().hits;
    for (const int64_t length : {0, 1, 127, 128, 129, 255, 256, 257, 1025, 4095, 4097}) {
      SCOPED_TRACE("length " + std::to_string(length) + ", strategy " +
                   std::to_string(static_cast<int>(policy.strategy)));
      if (length > 1025 && GetParam() != "official") continue;
      // Asked for one token more, so that a hit may reach `length`.
      visit(*cache, length + 1, 1);
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_GE(cache->counters().hits - hits, 3);
  }
}

// Blocks of other sizes hold the same entries: reference/infrastructure 8.1, V2.
TEST(BlockSizes, GiveTheSameBits) {
  const std::unique_ptr<LoadedModel> loaded =
      LoadedModel::load({.path = testing::nano(), .threads = 2}).value();
  const model::Transformer& model = loaded->transformer();
  constexpr int64_t kTokens = 700;
  std::vector<int32_t> ids;
  RngStream rng(4, RngPurpose::data, 0);
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<int32_t>(rng.next_u32() % 4096));
  std::vector<float> first;
  for (const int64_t block_tokens : {128, 256, 512}) {
    const auto pool = cache::BlockPool::create(model_cache_layout(model.config(), model.precision(),
                                                                  {.block_tokens = block_tokens})
                                                   .value(),
                                               {.max_blocks = 8, .max_sequences = 1})
                          .value();
    cache::SequenceCache sequence = cache::SequenceCache::create(*pool).value();
    const int64_t width = model.num_streams() * model.config().hidden_size;
    std::vector<float> streams(static_cast<size_t>(kTokens * width));
    // A prompt in pieces, then tokens one by one.
    for (int64_t at = 0, end; at < kTokens; at = end) {
      end = at < 600 ? std::min<int64_t>(600, at + 170) : at + 1;
      const StepInput input{&sequence, std::span(ids).subspan(static_cast<size_t>(at),
                                                              static_cast<size_t>(end - at))};
      ASSERT_TRUE(
          Runner(model, loaded->context()).forward({&input, 1}, streams.data() + at * width).ok());
    }
    EXPECT_EQ(sequence.num_blocks(), (kTokens + block_tokens - 1) / block_tokens);
    if (first.empty()) first = streams;
    EXPECT_EQ(std::memcmp(first.data(), streams.data(), streams.size() * sizeof(float)), 0)
        << block_tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, PrefixRestore, ::testing::Values("official", "exact"));

}  // namespace
}  // namespace cachalot::engine
