// What else a request may ask for, and what may happen to it on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "engine/small_model.h"
#include "ops/sampling/exp_nonpositive.h"

namespace cachalot::engine {
namespace {

using testing::alone;
using testing::expect_same;
using testing::random_ids;
using testing::request;
using testing::run_all;
using testing::SmallEngine;

TEST(Answers, AreForksThatDrawWithSeedsOfTheirOwn) {
  Request one = request(random_ids(37, 1), 12, 70);
  one.num_answers = 5;
  one.num_drafts = 2;
  auto engine = SmallEngine{}.make();
  const auto results = run_all(*engine, {one});
  ASSERT_EQ(results.size(), 5u);
  for (uint64_t answer = 0; answer < 5; ++answer) {
    SCOPED_TRACE(answer);
    expect_same(*results[answer], alone({}, request(random_ids(37, 1), 12, 70 + answer)));
    EXPECT_EQ(results[answer]->prompt_tokens, answer == 0 ? 37 : 1);
  }
  EXPECT_EQ(engine->counts().forks, 4);
  // Where there is no room for a fork, it waits and runs the prompt itself.
  auto narrow = SmallEngine{.max_sequences = 2, .num_blocks = 16}.make();
  const auto later = run_all(*narrow, {one});
  for (size_t answer = 0; answer < 5; ++answer) expect_same(*later[answer], *results[answer]);
  EXPECT_LT(narrow->counts().forks, 4);
}

TEST(Answers, ACancelledOneEndsWithWhatItHas) {
  const Completion whole = alone({}, request(random_ids(20, 1), 30, 7));
  for (const int64_t after : {0, 1, 5, 12}) {
    auto engine = SmallEngine{}.make();
    int64_t tokens = 0;
    std::optional<Completion> cut, other;
    Request one = request(random_ids(20, 1), 30, 7), two = request(random_ids(9, 2), 15, 8);
    RequestId id = -1;
    one.on_event = [&](const Event& event) {
      if (event.kind == Event::Kind::token && ++tokens == after) engine->cancel(id);
      if (event.kind == Event::Kind::finished) cut = event.result->value();
      return true;
    };
    two.on_event = [&](const Event& event) {
      if (event.kind == Event::Kind::finished) other = event.result->value();
      return true;
    };
    id = engine->submit(one).value();
    ASSERT_TRUE(engine->submit(two).has_value());
    if (after == 0) engine->cancel(id);
    engine->cancel(12345);  // nobody
    while (engine->step()) {
    }
    ASSERT_TRUE(cut && other);
    EXPECT_EQ(cut->finish, Finish::cancelled);
    EXPECT_EQ(static_cast<int64_t>(cut->ids.size()), after);
    EXPECT_TRUE(std::equal(cut->ids.begin(), cut->ids.end(), whole.ids.begin()));
    expect_same(*other, alone({}, request(random_ids(9, 2), 15, 8)));
    EXPECT_EQ(engine->phase(id), std::nullopt);
  }
}

// Five blocks hold two sequences of 20 tokens and no third; a later one of higher priority takes
// their room.
TEST(Answers, APausedOneLosesNothing) {
  auto engine = SmallEngine{.num_blocks = 6}.make();
  std::vector<Request> all;
  std::vector<Result<Completion>> results(3, Result<Completion>(Completion{}));
  for (uint64_t i = 0; i < 3; ++i) {
    Request one = request(random_ids(9, i), 14, i);
    one.priority = static_cast<int32_t>(i);
    one.num_drafts = 2;
    all.push_back(one);
    one.on_event = [&results, i](const Event& event) {
      if (event.kind == Event::Kind::finished) results[i] = *event.result;
      return true;
    };
    ASSERT_TRUE(engine->submit(one).has_value());
    for (int step = 0; step < 4; ++step) engine->step();
  }
  while (engine->step()) {
  }
  EXPECT_GE(engine->counts().preemptions, 1);
  EXPECT_GE(results[0]->preemptions, 1);
  EXPECT_EQ(results[2]->preemptions, 0);
  for (size_t i = 0; i < 3; ++i) expect_same(*results[i], alone({}, all[i]));
}

// More tokens than any machine makes in a hundredth of a second.
TEST(Answers, EndAtTheirDeadline) {
  auto engine = SmallEngine{.num_blocks = 512}.make();
  Request late = request(random_ids(5, 1), 4000, 1), now = request(random_ids(5, 2), 4, 2);
  late.deadline_seconds = 0.01;
  now.deadline_seconds = 0;
  const auto results = run_all(*engine, {late, now});
  EXPECT_EQ(results[0]->finish, Finish::deadline);
  EXPECT_LT(results[0]->ids.size(), 4000u);
  EXPECT_EQ(results[1]->finish, Finish::deadline);
  EXPECT_EQ(results[1]->ids.size(), 0u);
}

// Rows of one pass over all tokens, by the definition.
class WholePass : public model::ForwardProbe {
 public:
  explicit WholePass(std::span<const int32_t> tokens) {
    const SmallEngine small;
    auto loaded = small.model();
    const model::Transformer& model = loaded->transformer();
    vocab_size_ = model.config().vocab_size;
    auto layout = model_cache_layout(model.config(), model.precision(), {}).value();
    auto pool =
        cache::BlockPool::create(std::move(layout), {.max_blocks = 8, .max_sequences = 1}).value();
    auto sequence = cache::SequenceCache::create(*pool).value();
    Runner runner(model, loaded->context());
    std::vector<float> streams(
        tokens.size() * static_cast<size_t>(model.num_streams() * model.config().hidden_size));
    const StepInput input{&sequence, tokens};
    EXPECT_TRUE(runner.forward({&input, 1}, streams.data(), this).ok());
    std::vector<int64_t> rows(tokens.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
    logits_.resize(tokens.size() * static_cast<size_t>(vocab_size_));
    model.logits(loaded->context(), streams.data(), rows, logits_.data());
  }
  // log softmax, as ops::sample has it.
  double logprob(int64_t row, int32_t id) const {
    const float* logits = logits_.data() + row * vocab_size_;
    const double largest = *std::max_element(logits, logits + vocab_size_);
    double total = 0;
    for (int64_t i = 0; i < vocab_size_; ++i) total += ops::exp_nonpositive(logits[i] - largest);
    return logits[id] - largest - std::log(total);
  }
  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t rows) override {
    experts[layer].assign(ids, ids + rows * 2);
  }
  void on_selection(int64_t layer, const int32_t* ids, int64_t rows) override {
    selected[layer].assign(ids, ids + rows * 3);
  }
  std::map<int64_t, std::vector<int32_t>> experts, selected;

 private:
  int64_t vocab_size_;
  std::vector<float> logits_;
};

TEST(Answers, TellPromptLogprobsChoicesAndAllowedSets) {
  for (const int64_t drafts : {0, 3}) {
    Request one = request(random_ids(35, 4), 12, 9);
    one.wants_prompt_logprobs = one.wants_choices = one.wants_allowed_sets = true;
    one.sampling.top_k = 5;
    one.num_drafts = drafts;
    one.adapts_drafts = false;
    auto engine = SmallEngine{}.make();
    const auto results = run_all(*engine, {request(random_ids(11, 1), 9, 3), one});
    ASSERT_TRUE(results[1].has_value()) << results[1].error().message();
    const Completion& found = *results[1];
    expect_same(found, alone({}, one));
    EXPECT_EQ(found.drafted > 0, drafts > 0);

    std::vector<int32_t> tokens = one.prompt;
    tokens.insert(tokens.end(), found.ids.begin(), found.ids.end() - 1);
    const WholePass whole(tokens);
    ASSERT_EQ(found.prompt_logprobs.size(), 35u);
    EXPECT_TRUE(std::isnan(found.prompt_logprobs[0]));
    for (int64_t i = 1; i < 35; ++i)
      EXPECT_EQ(found.prompt_logprobs[i], whole.logprob(i - 1, tokens[i]));
    EXPECT_EQ(found.choices_from, 0);
    for (const auto& [layer, ids] : whole.experts) EXPECT_EQ(found.choices.experts[layer], ids);
    ASSERT_FALSE(whole.selected.empty());
    for (const auto& [layer, ids] : whole.selected) EXPECT_EQ(found.choices.selected[layer], ids);
    ASSERT_EQ(found.allowed_sets.size(), found.ids.size());
    for (size_t i = 0; i < found.ids.size(); ++i) {
      EXPECT_EQ(found.allowed_sets[i].size(), 5u);
      EXPECT_TRUE(std::binary_search(found.allowed_sets[i].begin(), found.allowed_sets[i].end(),
                                     found.ids[i]));
    }
  }
  // Unasked, nothing is kept.
  const Completion plain = alone({}, request(random_ids(35, 4), 12, 9));
  EXPECT_TRUE(plain.choices.experts.empty() && plain.allowed_sets.empty() &&
              plain.prompt_logprobs.empty());
}

// Allows tokens of the other parity than the last one taken; counts what it is asked.
class Alternating : public TokenMask {
 public:
  struct Counts {
    int64_t asked = 0, rewound = 0;
  };
  Alternating(int32_t last, Counts& counts) : taken_{last}, counts_(counts) {}
  Status allow(std::span<uint64_t> allowed) override {
    ++counts_.asked;
    allowed[0] = taken_.back() % 2 == 0 ? 0xAAA : 0x555;
    return {};
  }
  void take(int32_t id) override {
    EXPECT_NE(id % 2, taken_.back() % 2) << "of what was allowed";
    taken_.push_back(id);
  }
  void rewind(int64_t count) override {
    counts_.rewound += count;
    taken_.resize(taken_.size() - static_cast<size_t>(count));
  }

 private:
  std::vector<int32_t> taken_;
  Counts& counts_;
};

TEST(Answers, AMaskIsAskedForEveryRowAndRewound) {
  const std::vector<int32_t> prompt = random_ids(21, 6);
  Alternating::Counts without, with;
  std::vector<Completion> completions;
  for (const int64_t drafts : {0, 3}) {
    Alternating::Counts& counts = drafts == 0 ? without : with;
    Request one = request(prompt, 60, 5);
    one.sampling.temperature = 0;
    one.wants_model_logprobs = true;
    one.num_drafts = drafts;
    one.adapts_drafts = false;
    one.make_mask = [&] { return std::make_unique<Alternating>(prompt.back(), counts); };
    auto engine = SmallEngine{}.make();
    completions.push_back(run_all(*engine, {one})[0].value());
    int32_t last = prompt.back();
    for (const int32_t id : completions.back().ids) {
      EXPECT_NE(id % 2, last % 2);
      last = id;
    }
  }
  expect_same(completions[1], completions[0]);
  EXPECT_EQ(without.asked, 60);
  EXPECT_EQ(without.rewound, 0);
  EXPECT_GT(completions[1].accepted, 0);
  EXPECT_GT(with.rewound, 0);
  // A row for every step, and one for each draft that is allowed.
  EXPECT_GT(with.asked, 60 - completions[1].accepted);
}

class Nothing : public TokenMask {
 public:
  Status allow(std::span<uint64_t>) override { return {}; }
  void take(int32_t) override {}
  void rewind(int64_t) override {}
};
class Broken : public Nothing {
 public:
  Status allow(std::span<uint64_t>) override { return invalid_argument("grammar: broken"); }
};

TEST(Answers, AMaskThatAllowsNothingOrFailsEndsItsAnswerAlone) {
  Request none = request({1, 2}, 4, 0), broken = request({1, 2}, 4, 0);
  none.make_mask = [] { return std::make_unique<Nothing>(); };
  broken.make_mask = [] { return std::make_unique<Broken>(); };
  auto engine = SmallEngine{}.make();
  const auto results = run_all(*engine, {none, broken, request({1, 2}, 4, 0)});
  ASSERT_FALSE(results[0].has_value());
  EXPECT_NE(results[0].error().message().find("position 2"), std::string::npos);
  ASSERT_FALSE(results[1].has_value());
  EXPECT_EQ(results[1].error().message(), "grammar: broken");
  expect_same(*results[2], alone({}, request({1, 2}, 4, 0)));
}

// All words of the vocabulary, so that their probabilities add up to one.
TEST(Answers, TellTheLikeliestTokensOfAnswersAndPrompts) {
  constexpr int64_t kWords = 12;
  struct Told {
    int32_t token;
    double logprob;
    std::vector<std::pair<int32_t, double>> top;

    bool operator==(const Told&) const = default;
  };
  const auto pairs = [](std::span<const ops::TokenLogprob> top) {
    std::vector<std::pair<int32_t, double>> out;
    for (const ops::TokenLogprob& one : top) out.emplace_back(one.id, one.logprob);
    return out;
  };
  std::vector<std::vector<Told>> told(2);
  std::vector<int32_t> text = random_ids(21, 6);
  for (size_t i = 0; i < 2; ++i) {
    Request one = request(text, 40, 5);
    one.num_top_logprobs = kWords;
    one.num_drafts = i == 0 ? 0 : 3;
    one.adapts_drafts = false;
    one.on_event = [&, i](const Event& event) {
      if (event.kind == Event::Kind::token)
        told[i].push_back({event.token, event.model_logprob, pairs(event.top)});
      return true;
    };
    auto engine = SmallEngine{}.make();
    ASSERT_TRUE(engine->submit(one).has_value());
    // Beside one that asks for nothing, and one that asks for less.
    Request other = request(random_ids(9, 2), 30, 1);
    ASSERT_TRUE(engine->submit(other).has_value());
    other.num_top_logprobs = 1;
    ASSERT_TRUE(engine->submit(other).has_value());
    while (engine->step()) {
    }
  }
  ASSERT_EQ(told[0].size(), 40u);
  EXPECT_EQ(told[1], told[0]);
  for (const Told& one : told[0]) {
    double sum = 0, own = 1;
    for (size_t i = 0; i < one.top.size(); ++i) {
      sum += std::exp(one.top[i].second);
      if (i > 0) {
        EXPECT_LE(one.top[i].second, one.top[i - 1].second);
      }
      if (one.top[i].first == one.token) own = one.top[i].second;
    }
    EXPECT_NEAR(sum, 1, 1e-12);
    EXPECT_EQ(own, one.logprob);
  }
  // The whole as a prompt: the same, token by token.
  const size_t begin = text.size();
  for (const Told& one : told[0]) text.push_back(one.token);
  Request scored = request(text, 0, 0);
  scored.wants_prompt_logprobs = true;
  scored.num_top_logprobs = kWords;
  auto engine = SmallEngine{}.make();
  const Completion completion = run_all(*engine, {scored})[0].value();
  ASSERT_EQ(completion.prompt_top.size(), text.size() * kWords);
  EXPECT_EQ(completion.prompt_top[0].id, -1);
  for (size_t i = 0; i < told[0].size(); ++i) {
    EXPECT_EQ(completion.prompt_logprobs[begin + i], told[0][i].logprob);
    EXPECT_EQ(pairs(std::span(completion.prompt_top).subspan((begin + i) * kWords, kWords)),
              told[0][i].top);
  }
}

// Tokens up to the change come from one model, those after it from the other, as if it had been
// asked to go on from there.
TEST(Answers, GoOnWithNewWeights) {
  const SmallEngine old_weights, new_weights{.weights = 2};
  auto engine = old_weights.make();
  const SequenceId kept = engine->open().value();
  ASSERT_TRUE(engine->generate(kept, request({3, 4, 5}, 3, 1)).has_value());
  const std::vector<int32_t> kept_tokens(engine->tokens(kept).begin(), engine->tokens(kept).end());
  Request one = request(random_ids(19, 3), 20, 8);
  std::optional<Completion> found;
  int64_t tokens = 0;
  one.on_event = [&](const Event& event) {
    tokens += event.kind == Event::Kind::token ? 1 : 0;
    if (event.kind == Event::Kind::finished) found = event.result->value();
    return true;
  };
  ASSERT_TRUE(engine->submit(one).has_value());
  while (tokens < 7) engine->step();
  ASSERT_TRUE(engine->set_weights(new_weights.model(), 5).ok());
  EXPECT_EQ(engine->weights_version(), 5);
  while (engine->step()) {
  }
  ASSERT_TRUE(found);
  EXPECT_EQ(found->weights_version, 5);
  const Completion before = alone(old_weights, request(random_ids(19, 3), 20, 8));
  std::vector<int32_t> so_far = one.prompt;
  so_far.insert(so_far.end(), before.ids.begin(), before.ids.begin() + 7);
  const Completion after = alone(new_weights, request(so_far, 13, 8));
  std::vector<int32_t> expected(before.ids.begin(), before.ids.begin() + 7);
  expected.insert(expected.end(), after.ids.begin(), after.ids.end());
  EXPECT_EQ(found->ids, expected);
  EXPECT_NE(expected, before.ids);
  // A sequence that was open is one of the new model's.
  const Completion more = engine->generate(kept, request({1}, 5, 2)).value();
  std::vector<int32_t> prompt = kept_tokens;
  prompt.push_back(1);
  EXPECT_EQ(more.ids, alone(new_weights, request(prompt, 5, 2)).ids);
}

TEST(DraftPolicy, DraftsWhereItPays) {
  CostModel cost;
  for (int64_t rows = 1; rows <= 512; rows *= 2) {
    for (int i = 0; i < 3; ++i) {
      cost.decode.record(rows, 1.0 + 0.05 * static_cast<double>(rows));  // rows cost little
      cost.draft_pass.record(rows, 0.1);
    }
  }
  DraftPolicy sure(4, true, {}), wrong(4, true, {}), fixed(3, false, {});
  for (int i = 0; i < 100; ++i) {
    sure.record(4, 4);
    wrong.record(4, 0);
    fixed.record(3, 0);
  }
  EXPECT_EQ(sure.wanted(cost, 1), 4);
  EXPECT_EQ(fixed.wanted(cost, 1), 3);
  // Many sequences: the step's time is that of its rows, and a draft row is worth less.
  DraftPolicy middling(4, true, {});
  for (int i = 0; i < 40; ++i) middling.record(2, i % 2 == 0 ? 2 : 0);
  EXPECT_GT(middling.wanted(cost, 1), middling.wanted(cost, 256));
  // Where none pays there are none, but now and then a try.
  int64_t tries = 0;
  for (int i = 0; i < 400; ++i) tries += wrong.wanted(cost, 1);
  EXPECT_GT(tries, 0);
  EXPECT_LE(tries, 8);
  for (int i = 0; i < 100; ++i) wrong.record(1, 1);
  EXPECT_GT(wrong.wanted(cost, 1), 0);
}

// A step that something held up, or the first, cold one, is not what a step takes.
TEST(DraftPolicy, MeasuresBothWaysFirst) {
  CostModel cost;
  DraftPolicy policy(4, true, {});
  cost.decode.record(1, 50.0);
  EXPECT_EQ(policy.wanted(cost, 1), 0);
  for (int i = 0; i < 2; ++i) cost.decode.record(1, 1.0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(policy.wanted(cost, 1), 1);
    cost.decode.record(2, 1.9);
    cost.draft_pass.record(1, 0.3);
  }
  EXPECT_EQ(policy.wanted(cost, 1), 0);  // 1.7 tokens in 2.2
  // What others have met is where the next one starts.
  DraftHistory none;
  for (int64_t place = 0; place < 4; ++place) none.learn(place, 0, 1);
  CostModel cheap;
  for (int i = 0; i < 3; ++i) {
    cheap.decode.record(1, 1.0);
    cheap.decode.record(2, 1.1);
    cheap.draft_pass.record(1, 0.1);
  }
  EXPECT_GT(DraftPolicy(4, true, {}).wanted(cheap, 1), 0);
  EXPECT_EQ(DraftPolicy(4, true, none).wanted(cheap, 1), 0);
  // Later drafts stand less often than the first.
  DraftPolicy shallow(4, true, {});
  for (int i = 0; i < 100; ++i) shallow.record(4, 1);
  EXPECT_EQ(shallow.wanted(cheap, 1), 1);
}

}  // namespace
}  // namespace cachalot::engine
