// Drafts of the MTP block, on a trained model: which ones the engine proposes, and that none of
// them shows in what it writes.
// Source  reference/forward 5.2, 5.3.
#include <algorithm>

#include "cache/block_pool.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "engine/trained_model.h"

namespace cachalot::engine {
namespace {

using testing::make_engine;
using testing::manual_page;

// Drafts by the definition: one pass over all tokens but the last, one pass of the MTP block over
// every pair (streams of p, token p + 1), then its own streams with what it drafted.
class Definition {
 public:
  Definition() : loaded_(LoadedModel::load({.path = testing::nano(), .threads = 2}).value()) {
    auto layout = model_cache_layout(model().config(), model().precision(), {}).value();
    pool_ =
        cache::BlockPool::create(std::move(layout), {.max_blocks = 8, .max_sequences = 1}).value();
  }

  std::vector<int32_t> drafts_after(std::span<const int32_t> tokens, int64_t count) {
    Runner runner(model(), loaded_->context());
    auto sequence = cache::SequenceCache::create(*pool_).value();
    const int64_t width = model().num_streams() * model().config().hidden_size;
    const auto rows = static_cast<int64_t>(tokens.size()) - 1;
    std::vector<float> streams(static_cast<size_t>(rows * width)), own(streams.size());
    const StepInput all{&sequence, tokens.first(static_cast<size_t>(rows))};
    EXPECT_TRUE(runner.forward({&all, 1}, streams.data()).ok());
    const StepInput pairs{&sequence, tokens.subspan(1)};
    int64_t position = 0;
    EXPECT_TRUE(
        runner.mtp_forward(0, {&pairs, 1}, {&position, 1}, streams.data(), own.data()).ok());
    own.erase(own.begin(), own.end() - width);
    std::vector<float> logits(static_cast<size_t>(model().config().vocab_size));
    std::vector<int32_t> drafts;
    for (position = rows;; ++position) {
      const int64_t row = 0;
      model().mtp_logits(loaded_->context(), 0, own.data(), {&row, 1}, logits.data());
      drafts.push_back(
          static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      if (static_cast<int64_t>(drafts.size()) == count) return drafts;
      const std::vector<float> given = own;
      const StepInput next{&sequence, std::span(drafts).last(1)};
      EXPECT_TRUE(runner.mtp_forward(0, {&next, 1}, {&position, 1}, given.data(), own.data()).ok());
    }
  }

 private:
  const model::Transformer& model() const { return loaded_->transformer(); }
  std::unique_ptr<LoadedModel> loaded_;
  std::unique_ptr<cache::BlockPool> pool_;
};

// How many of the proposed drafts a completion accepts, and how many are proposed, follows from its
// tokens and the definition of a draft. A pair with the wrong token, or a window that the prompt
// has not filled, drafts something else.
TEST(Drafts, AreThoseOfTheDefinition) {
  Definition definition;
  auto engine = make_engine();
  for (const int64_t num_drafts : {1, 3}) {
    const std::vector<int32_t> prompt = manual_page(150);
    const SequenceId id = engine->open().value();
    Request request;
    request.prompt = prompt;
    request.sampling.temperature = 0;
    request.max_new_tokens = 32;
    request.num_drafts = num_drafts;
    request.adapts_drafts = false;
    const Completion completion = engine->generate(id, request).value();
    const std::span<const int32_t> tokens = engine->tokens(id);
    const auto total = static_cast<int64_t>(tokens.size());
    ASSERT_EQ(total, 150 + 32);
    int64_t drafted = 0, accepted = 0;
    // The first token has no draft; then each step decides its drafts and one token more.
    for (int64_t known = 151; known < total;) {
      const int64_t wanted = std::min(num_drafts, total - known - 1);
      int64_t stand = 0;
      if (wanted > 0) {
        const std::vector<int32_t> drafts =
            definition.drafts_after(tokens.first(static_cast<size_t>(known)), wanted);
        while (stand < wanted && drafts[stand] == tokens[known + stand]) ++stand;
      }
      drafted += wanted;
      accepted += stand;
      known += stand + 1;
    }
    EXPECT_EQ(completion.drafted, drafted);
    EXPECT_EQ(completion.accepted, accepted);
    // A model of 4,096 tokens that guessed would be right once in thousands.
    EXPECT_GT(4 * accepted, drafted) << "of a trained model";
    EXPECT_LT(accepted, drafted) << "some are rejected";
    engine->close(id);
  }
}

struct Text {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  bool operator==(const Text&) const = default;
};

// Two completions one after the other, so that what the first one's rejected drafts left behind
// would show in the second.
Text written(Engine& engine, const SamplingParams& sampling, int64_t num_drafts, int64_t* drafted,
             int64_t* accepted) {
  Text text;
  const SequenceId id = engine.open().value();
  const std::vector<int32_t> first = manual_page(131), second = testing::encode("\nEXAMPLES\n");
  for (const std::vector<int32_t>& prompt : {first, second}) {
    Request request;
    request.prompt = prompt;
    request.sampling = sampling;
    request.max_new_tokens = 45;
    request.num_drafts = num_drafts;
    request.adapts_drafts = false;
    const Completion completion = engine.generate(id, request).value();
    text.ids.insert(text.ids.end(), completion.ids.begin(), completion.ids.end());
    text.logprobs.insert(text.logprobs.end(), completion.logprobs.begin(),
                         completion.logprobs.end());
    *drafted += completion.drafted;
    *accepted += completion.accepted;
  }
  engine.close(id);
  return text;
}

TEST(Drafts, LeaveNoTraceInTheText) {
  auto engine = make_engine();
  SamplingParams greedy, sampled, penalised;
  greedy.temperature = 0;
  // Light enough that drafts still stand, and that each count weighs.
  penalised.temperature = 0;
  penalised.repetition_penalty = 1.02;
  penalised.frequency_penalty = 0.2;
  penalised.presence_penalty = 0.1;
  sampled.temperature = 0.8;
  sampled.top_p = 0.9;
  sampled.seed = 11;
  for (const SamplingParams& sampling : {greedy, sampled, penalised}) {
    int64_t drafted = 0, accepted = 0;
    const Text alone = written(*engine, sampling, 0, &drafted, &accepted);
    ASSERT_EQ(alone.ids.size(), 90u);
    ASSERT_EQ(drafted, 0);
    for (int64_t num_drafts = 1; num_drafts <= 4; ++num_drafts) {
      EXPECT_EQ(written(*engine, sampling, num_drafts, &drafted, &accepted), alone) << num_drafts;
    }
    EXPECT_GT(accepted, 0);
    EXPECT_LT(accepted, drafted);
  }
}

}  // namespace
}  // namespace cachalot::engine
