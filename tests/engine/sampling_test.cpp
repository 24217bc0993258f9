// Sampling through the engine, on a trained model: what the parameters do to a completion.
#include <set>

#include "engine/trained_model.h"

namespace cachalot::engine {
namespace {

using testing::make_engine;
using testing::manual_page;

class Sampling : public ::testing::Test {
 protected:
  Completion completion(std::span<const int32_t> prompt, const SamplingParams& sampling,
                        int64_t max_new_tokens) {
    const SequenceId id = engine_->open().value();
    const Completion result = generate(id, prompt, sampling, max_new_tokens);
    engine_->close(id);
    return result;
  }
  Completion generate(SequenceId id, std::span<const int32_t> prompt,
                      const SamplingParams& sampling, int64_t max_new_tokens) {
    Request request;
    request.prompt.assign(prompt.begin(), prompt.end());
    request.sampling = sampling;
    request.max_new_tokens = max_new_tokens;
    return engine_->generate(id, request).value();
  }
  static SamplingParams greedy() {
    SamplingParams params;
    params.temperature = 0;
    return params;
  }
  std::unique_ptr<Engine> engine_ = make_engine();
};

// Greedy, with a token of the prompt so far ahead that it comes whatever the model says.
SamplingParams greedy_for(int32_t favourite) {
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias[favourite] = 1000;
  return params;
}

// A factor of a million takes every token that has a negative logit below, and every other one to
// almost nothing: none that the prompt or the text holds comes again.
TEST_F(Sampling, ARepetitionPenaltyCountsThePromptAndWhatWasWritten) {
  const std::vector<int32_t> prompt = manual_page(120);
  std::set<int32_t> seen(prompt.begin(), prompt.end());
  SamplingParams params = greedy_for(prompt[60]);
  ASSERT_EQ(completion(prompt, params, 3).ids, std::vector<int32_t>(3, prompt[60]));
  params.repetition_penalty = 1e6;
  const SequenceId id = engine_->open().value();
  for (const std::vector<int32_t>& more : {prompt, testing::encode(" and the")}) {
    seen.insert(more.begin(), more.end());
    for (const int32_t token : generate(id, more, params, 12).ids)
      EXPECT_TRUE(seen.insert(token).second) << token;
  }
}

// Frequency and presence count what was written alone.
TEST_F(Sampling, FrequencyAndPresenceCountWhatWasWrittenAlone) {
  const std::vector<int32_t> prompt = manual_page(120);
  for (const bool is_presence : {false, true}) {
    SamplingParams params = greedy_for(prompt[60]);
    (is_presence ? params.presence_penalty : params.frequency_penalty) = 1e6;
    const std::vector<int32_t> ids = completion(prompt, params, 12).ids;
    EXPECT_EQ(ids[0], prompt[60]);
    EXPECT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), ids.size());
  }
}

TEST_F(Sampling, MinPOfOneIsTheBestTokenAtAnyTemperature) {
  const std::vector<int32_t> prompt = manual_page(120);
  SamplingParams params;
  params.temperature = 5;
  params.seed = 3;
  const std::vector<int32_t> best = completion(prompt, greedy(), 12).ids;
  EXPECT_NE(completion(prompt, params, 12).ids, best);
  params.min_p = 1;
  const Completion kept = completion(prompt, params, 12);
  EXPECT_EQ(kept.ids, best);
  EXPECT_EQ(kept.logprobs, std::vector<double>(12, 0.0));
}

}  // namespace
}  // namespace cachalot::engine
