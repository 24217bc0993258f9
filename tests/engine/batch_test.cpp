// A sequence's bits beside any others.
// Source  reference/infrastructure 5.5, B1.
#include <cstring>

#include "base/rng.h"
#include "cache/block_pool.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "engine/trained_model.h"

namespace cachalot::engine {
namespace {

constexpr int64_t kPrompt = 133, kSteps = 6;

class Batch : public ::testing::Test {
 protected:
  const model::Transformer& model() const { return loaded_->transformer(); }
  int64_t width() const { return model().num_streams() * model().config().hidden_size; }
  cache::SequenceCache new_sequence() { return cache::SequenceCache::create(*pool_).value(); }

  std::vector<int32_t> random_ids(int64_t count, uint64_t index) const {
    RngStream rng(17, RngPurpose::data, index);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.next_u32() % 4096);
    return ids;
  }
  // The rows of the input at `slot`.
  std::vector<float> forward(const std::vector<StepInput>& inputs, size_t slot) {
    Runner runner(model(), loaded_->context());
    size_t rows = 0, first = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (i == slot) first = rows;
      rows += inputs[i].tokens.size();
    }
    std::vector<float> streams(rows * static_cast<size_t>(width()));
    EXPECT_TRUE(runner.forward(inputs, streams.data()).ok());
    const auto begin = streams.begin() + static_cast<int64_t>(first) * width();
    return {begin, begin + static_cast<int64_t>(inputs[slot].tokens.size()) * width()};
  }

  std::unique_ptr<LoadedModel> loaded_ =
      LoadedModel::load({.path = testing::nano(), .threads = 2}).value();
  std::unique_ptr<cache::BlockPool> pool_ =
      cache::BlockPool::create(
          model_cache_layout(model().config(), model().precision(), {}).value(),
          {.max_blocks = 80, .max_sequences = 65})
          .value();
};

// Decode steps of one sequence, alone, and as one of 2 to 64 at the first, a middle and the last
// slot; the others decode too, or run pieces of prompts, at lengths of their own; its own prompt
// came whole or in pieces.
TEST_F(Batch, ADecodedRowHasTheBitsItHasAlone) {
  const std::vector<int32_t> ids = random_ids(kPrompt + kSteps, 0);
  const std::span<const int32_t> all(ids);
  std::vector<std::vector<float>> alone;
  {
    cache::SequenceCache sequence = new_sequence();
    forward({{&sequence, all.first(kPrompt)}}, 0);
    for (int64_t step = 0; step < kSteps; ++step)
      alone.push_back(forward({{&sequence, all.subspan(kPrompt + step, 1)}}, 0));
  }
  for (const int64_t size : {2, 3, 5, 16, 33, 64}) {
    for (const int64_t slot : {int64_t{0}, size / 2, size - 1}) {
      std::vector<cache::SequenceCache> sequences;
      for (int64_t i = 0; i < size; ++i) sequences.push_back(new_sequence());
      cache::SequenceCache& own = sequences[slot];
      for (int64_t done = 0, piece = slot == 0 ? kPrompt : 1 + size; done < kPrompt; done += piece)
        forward({{&own, all.subspan(done, std::min(piece, kPrompt - done))}}, 0);
      for (int64_t step = 0; step < kSteps; ++step) {
        std::vector<std::vector<int32_t>> tokens;
        for (int64_t i = 0; i < size; ++i) {
          const int64_t count = i % 3 == 2 ? 1 + (i + step) % 7 : 1;
          tokens.push_back(i == slot ? std::vector<int32_t>{ids[kPrompt + step]}
                                     : random_ids(count, static_cast<uint64_t>(1 + i * 97 + step)));
        }
        std::vector<StepInput> inputs;
        for (int64_t i = 0; i < size; ++i) inputs.push_back({&sequences[i], tokens[i]});
        const std::vector<float> found = forward(inputs, static_cast<size_t>(slot));
        ASSERT_EQ(found.size(), alone[step].size());
        ASSERT_EQ(std::memcmp(found.data(), alone[step].data(), found.size() * sizeof(float)), 0)
            << "slot " << slot << " of " << size << ", step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::engine
