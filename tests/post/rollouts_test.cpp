// Rollouts by the trainer's weights: that training computes what the sampler computed, and that no
// interruption shows.
#include "post/rollouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "post/grpo_loss.h"
#include "rollout_testing.h"

namespace cachalot::post {
namespace {

using testing::expect_same;
using testing::Policy;
using testing::small_plan;

RolloutLog open_log(const std::string& path, const RolloutPlan& plan,
                    const formats::ModelConfig& config) {
  Result<RolloutLog> log = RolloutLog::open(path, log_head(plan, config));
  EXPECT_TRUE(log.has_value()) << log.error().message();
  return *std::move(log);
}

void run_whole(engine::Engine& engine, const RolloutPlan& plan, RolloutLog& log,
               RolloutOptions options = {.max_sequences = 6}) {
  Rollouts rollouts(engine, plan, log, std::move(options));
  const Result<bool> done = rollouts.run();
  ASSERT_TRUE(done.has_value()) << done.error().message();
  ASSERT_TRUE(*done);
}

std::vector<int64_t> all_answers(const RolloutPlan& plan) {
  std::vector<int64_t> numbers(static_cast<size_t>(plan.num_answers()));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int64_t>(i);
  return numbers;
}

// The training forward pass with its tape, its own packed weights and the batch in one call.
GrpoValues trained(Policy& policy, const RolloutPlan& plan, const PolicyBatch& batch,
                   bool keeps_mask) {
  const std::vector<double> advantages(batch.samples().size(), 0.5);
  const GrpoRows rows{batch.offsets(), advantages, batch.sampler(), batch.sampler()};
  GrpoLoss loss(rows, {rows.num_sequences(), rows.num_tokens()}, {},
                keeps_mask ? batch.allowed() : AllowedTokens{},
                static_cast<float>(plan.sampling.temperature));
  model::TrainingTerms terms;
  terms.replay = &batch.choices();
  policy.trainer().parameters().clear_grads(policy.ctx());
  policy.trainer().model().add_gradients(policy.ctx(), batch.samples(), loss, &terms);
  return loss.values();
}

class RolloutsTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  formats::TemporaryDirectory directory_{"rollouts"};
};

// G4, B6, I2: weights in native FP4, drafts of the MTP block, groups that share their prompt, top-p
// and a temperature; the trainer's log-probabilities of the sampled tokens are the sampler's, bit
// for bit. The recorded experts are those that the trainer chooses itself.
TEST_F(RolloutsTest, TheRatioIsOneToTheBitBeforeTheFirstUpdate) {
  for (const train::TrainingPrecision precision :
       {train::TrainingPrecision::fp4_qat(), train::TrainingPrecision::bf16()}) {
    constexpr int64_t kFewWords = 12;  // so that the MTP block is sometimes right
    Policy policy(precision, kFewWords);
    auto engine = policy.engine();
    if (precision.qat) {
      EXPECT_EQ(engine->weights().layers[1].ffn.experts[0].w1.format(), ops::WeightFormat::fp4);
    }
    for (const double temperature : {1.0, 0.7}) {
      RolloutPlan plan = small_plan(3, 4, 40, kFewWords);
      plan.sampling.temperature = temperature;
      plan.num_drafts = 3;
      plan.adapts_drafts = false;
      RolloutLog log =
          open_log(path(fmt::format("{}{}", precision.qat, temperature)), plan, policy.config());
      Rollouts rollouts(*engine, plan, log, {.max_sequences = 6});
      ASSERT_TRUE(rollouts.run().value());
      EXPECT_GT(rollouts.counts().accepted, 0);
      const auto owned = PolicyBatch::create(plan, log, all_answers(plan), policy.config()).value();
      const PolicyBatch& batch = *owned;
      EXPECT_NE(batch.allowed().bits, nullptr);
      const GrpoValues values = trained(policy, plan, batch, true);
      int64_t num_different = 0;
      for (const double ratio : values.ratio) num_different += ratio != 1;
      EXPECT_EQ(num_different, 0) << "of " << values.ratio.size();
      EXPECT_GT(values.ratio.size(), 100u);
      // Also without a tape, and by the routing of its own.
      for (const bool keeps_routing : {true, false})
        EXPECT_EQ(policy_logprobs(policy.ctx(), policy.trainer().model().transformer(), batch,
                                  {temperature, keeps_routing}),
                  batch.sampler());
    }
  }
}

// G5: what top-p has cut off counts in the whole softmax: every ratio is at most 1, their mean far
// below it.
TEST_F(RolloutsTest, WithoutTheSamplingMaskTheRatioIsBiased) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  auto engine = policy.engine();
  const RolloutPlan plan = small_plan(2, 4, 40);
  RolloutLog log = open_log(path("log"), plan, policy.config());
  run_whole(*engine, plan, log);
  const auto owned = PolicyBatch::create(plan, log, all_answers(plan), policy.config()).value();
  const PolicyBatch& batch = *owned;
  const auto mean_of = [](const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
  };
  EXPECT_EQ(mean_of(trained(policy, plan, batch, true).ratio), 1);
  const std::vector<double> biased = trained(policy, plan, batch, false).ratio;
  // top_p keeps a share of at least 0.8, and much less than all.
  EXPECT_LT(mean_of(biased), 0.97);
  for (const double ratio : biased) {
    EXPECT_LE(ratio, 1 + 1e-6);
    EXPECT_GE(ratio, 0.8 - 1e-6);
  }
}

TEST_F(RolloutsTest, TheGroupsPromptRunsOnceAndItsBlocksAreShared) {
  Policy policy(train::TrainingPrecision::fp32());
  auto engine = policy.engine();
  const RolloutPlan plan = small_plan(2, 5, 12);
  RolloutLog log = open_log(path("log"), plan, policy.config());
  Rollouts rollouts(*engine, plan, log, {.max_sequences = 6});
  ASSERT_TRUE(rollouts.run().value());
  int64_t prompts = 0;
  for (const RolloutGroup& group : plan.groups)
    prompts += static_cast<int64_t>(group.prompt.size()) - 1;
  EXPECT_EQ(rollouts.counts().prefilled_tokens, prompts);
  EXPECT_EQ(engine->counts().rows, prompts + rollouts.counts().sampled_tokens);
}

TEST_F(RolloutsTest, WhatPromptsBeginWithRunsOnceWhereNothingIsTrained) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  auto engine = policy.engine();
  RolloutPlan plan = small_plan(4, 1, 24);
  constexpr int64_t kAlike = 100;
  for (RolloutGroup& group : plan.groups) {
    std::vector<int32_t> alike(kAlike);
    for (size_t i = 0; i < alike.size(); ++i) alike[i] = static_cast<int32_t>(3 + i * i % 90);
    group.prompt.insert(group.prompt.begin(), alike.begin(), alike.end());
  }
  const auto answers = [&](const std::string& name, int64_t max_sequences, int64_t* prefilled) {
    RolloutLog log = RolloutLog::open(path(name), log_head(plan, policy.config(), false)).value();
    Rollouts rollouts(*engine, plan, log, {.max_sequences = max_sequences, .for_training = false});
    EXPECT_TRUE(rollouts.run().value());
    *prefilled = rollouts.counts().prefilled_tokens;
    std::vector<std::vector<int32_t>> ids;
    for (const RolloutAnswer& answer : log.answers()) ids.push_back(answer.ids);
    return ids;
  };
  int64_t apart = 0, shared = 0;
  EXPECT_EQ(answers("apart", 3, &apart), answers("shared", 6, &shared));  // 3: no room for it
  // The first prompt runs alone, then the others' beginning once, whose last token each of the
  // three runs itself.
  EXPECT_EQ(shared, apart - 2 * kAlike + 3);
}

TEST_F(RolloutsTest, NeitherDraftsNorRoomNorThreadsShowInABit) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  RolloutPlan plan = small_plan(3, 3, 20);
  auto engine = policy.engine();
  RolloutLog expected = open_log(path("expected"), plan, policy.config());
  run_whole(*engine, plan, expected);
  for (const int64_t max_sequences : {2, 4}) {
    auto other = policy.engine(0, 2, max_sequences);
    plan.num_drafts = max_sequences - 1;
    RolloutLog log = open_log(path(std::to_string(max_sequences)), plan, policy.config());
    run_whole(*other, plan, log, {.max_sequences = max_sequences});
    expect_same(log, expected, std::to_string(max_sequences));
  }
}

// W1, W4: a crash after any token, in the middle of any frame. What is in the log is not sampled
// again; the rest has the bits of an undisturbed run.
TEST_F(RolloutsTest, ACrashInAnyFrameShowsInNoBit) {
  Policy policy(train::TrainingPrecision::fp32());
  auto engine = policy.engine();
  const RolloutPlan plan = small_plan(2, 2, 9);
  RolloutLog expected = open_log(path("expected"), plan, policy.config());
  run_whole(*engine, plan, expected);
  int64_t total = 0;
  for (const RolloutAnswer& answer : expected.answers()) total += answer.num_sampled();
  const std::string whole = read_text_file(path("expected")).value();
  int64_t cuts = 0;
  for (size_t cut = 1; cut < whole.size(); cut += 29, ++cuts) {
    const std::string name = path("cut");
    ASSERT_TRUE(write_file_atomically(name, whole.substr(0, cut)).ok());
    RolloutLog log = open_log(name, plan, policy.config());
    const int64_t recovered = log.recovered_tokens();
    Rollouts rollouts(*engine, plan, log, {.max_sequences = 6});
    ASSERT_TRUE(rollouts.run().value());
    EXPECT_EQ(rollouts.counts().sampled_tokens, total - recovered) << "cut at " << cut;
    expect_same(log, expected, fmt::format("cut at {}", cut));
  }
  std::printf("%ld cuts of %zu bytes, %ld tokens\n", static_cast<long>(cuts), whole.size(),
              static_cast<long>(total));
}

// W1, W2: paused between any two steps. With its rows nothing that was run runs again but the last
// token, whose logits are wanted; from the log alone prompt and logged tokens run once.
TEST_F(RolloutsTest, APauseShowsInNoBitAndRowsComeBack) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  RolloutPlan plan = small_plan(2, 2, 12);
  RolloutLog expected = open_log(path("expected"), plan, policy.config());
  {
    auto engine = policy.engine();
    run_whole(*engine, plan, expected);
  }
  for (const bool with_rows : {true, false}) {
    for (int64_t pause_after = 1; pause_after < 14; pause_after += 4) {
      const std::string name = path(fmt::format("paused-{}-{}", with_rows, pause_after));
      const RolloutOptions options{.max_sequences = 6,
                                   .rows_directory = with_rows ? directory_.path() : ""};
      {
        auto engine = policy.engine();
        RolloutLog log = open_log(name, plan, policy.config());
        Rollouts rollouts(*engine, plan, log, options);
        int64_t steps = 0;
        const Result<bool> done = rollouts.run([&] { return ++steps > pause_after; });
        ASSERT_TRUE(done.has_value()) << done.error().message();
        if (*done) break;
        ASSERT_TRUE(rollouts.pause().ok());
      }
      auto engine = policy.engine();
      RolloutLog log = open_log(name, plan, policy.config());
      int64_t begun = 0, logged = 0, fresh_prompts = 0;
      for (int64_t g = 0; g < 2; ++g) {
        bool has_fresh = false;
        for (int64_t i = 2 * g; i < 2 * g + 2; ++i) {
          const RolloutAnswer& answer = log.answers()[i];
          if (answer.end != AnswerEnd::open) continue;
          if (answer.ids.empty()) {
            has_fresh = true;
            continue;
          }
          ++begun;
          logged += static_cast<int64_t>(plan.groups[g].prompt.size() + answer.ids.size()) - 1;
        }
        if (has_fresh) fresh_prompts += static_cast<int64_t>(plan.groups[g].prompt.size()) - 1;
      }
      Rollouts rollouts(*engine, plan, log, options);
      ASSERT_TRUE(rollouts.run().value());
      EXPECT_EQ(rollouts.counts().resumed_with_rows, with_rows ? begun : 0);
      EXPECT_EQ(rollouts.counts().resumed_from_log, with_rows ? 0 : begun);
      EXPECT_EQ(rollouts.counts().prefilled_tokens, fresh_prompts + (with_rows ? 0 : logged));
      expect_same(log, expected, name);
    }
  }
}

// The largest distance of two empirical distributions.
double distance(std::vector<int64_t> a, std::vector<int64_t> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  double most = 0;
  for (const int64_t x : a) {
    const auto share = [x](const std::vector<int64_t>& v) {
      return static_cast<double>(std::upper_bound(v.begin(), v.end(), x) - v.begin()) /
             static_cast<double>(v.size());
    };
    most = std::max(most, std::abs(share(a) - share(b)));
  }
  return most;
}
double mean_of(const std::vector<int64_t>& values) {
  double sum = 0;
  for (const int64_t value : values) sum += static_cast<double>(value);
  return sum / static_cast<double>(values.size());
}

// W3: interrupted at random and resumed, lengths are what they were. Answers that are begun anew
// until one survives are shorter, by as much as the law p(l) (1 - h)^l / Z says.
TEST_F(RolloutsTest, InterruptionsLeaveTheLawOfLengthsAsItIs) {
  constexpr int64_t kKept = 150, kDrawn = 1500;
  constexpr double kHazard = 0.1;
  Policy policy(train::TrainingPrecision::fp32(), 12);
  auto engine = policy.engine(0, 1, 33);
  RolloutPlan plan = small_plan(1, kDrawn, 60, 12);
  plan.sampling.top_p = 1;
  plan.end_tokens = {1};
  const auto lengths = [&](const RolloutLog& log) {
    std::vector<int64_t> out;
    for (const RolloutAnswer& answer : log.answers()) out.push_back(answer.num_sampled());
    return out;
  };
  RolloutLog undisturbed = open_log(path("undisturbed"), plan, policy.config());
  run_whole(*engine, plan, undisturbed, {.max_sequences = 33});
  const std::vector<int64_t> pool = lengths(undisturbed);
  const std::vector<int64_t> expected(pool.begin(), pool.begin() + kKept);

  // The same answers, the process paused again and again.
  RolloutPlan fewer = plan;
  fewer.group_size = kKept;
  RngStream rng(3, RngPurpose::data, 0);
  int64_t num_pauses = 0;
  while (true) {
    RolloutLog log = open_log(path("interrupted"), fewer, policy.config());
    Rollouts rollouts(*engine, fewer, log, {.max_sequences = 33});
    int64_t steps = 0;
    const auto most = static_cast<int64_t>(3 + rng.next_u32() % 8);
    const Result<bool> done = rollouts.run([&] { return ++steps > most; });
    ASSERT_TRUE(done.has_value()) << done.error().message();
    if (*done) {
      EXPECT_EQ(lengths(log), expected);
      break;
    }
    ++num_pauses;
  }
  EXPECT_GT(num_pauses, 5);

  std::vector<int64_t> survivors;
  for (const int64_t length : pool) {
    bool survives = true;
    for (int64_t i = 0; i < length && survives; ++i) survives = rng.next_unit() >= kHazard;
    if (survives) survivors.push_back(length);
  }
  double weighted = 0, weights = 0, squares = 0;
  for (const int64_t length : pool) {
    const double weight = std::pow(1 - kHazard, static_cast<double>(length));
    weighted += static_cast<double>(length) * weight;
    squares += static_cast<double>(length * length) * weight;
    weights += weight;
  }
  const double predicted = weighted / weights;
  const auto n = static_cast<double>(survivors.size());
  const double error = std::sqrt((squares / weights - predicted * predicted) / n);
  // The bound of Kolmogorov and Smirnov that chance exceeds once in a thousand times.
  const double bound = 1.95 * std::sqrt((n + kDrawn) / (n * kDrawn));
  std::printf("mean length %.2f; of survivors %.2f, predicted %.2f; distance %.3f, bound %.3f\n",
              mean_of(pool), mean_of(survivors), predicted, distance(pool, survivors), bound);
  EXPECT_NEAR(mean_of(survivors), predicted, 4 * error);
  EXPECT_LT(mean_of(survivors), mean_of(pool) - 4 * error);
  EXPECT_GT(distance(pool, survivors), bound);
}

// A turn ends, a tool answers, the model goes on in the same sequence.
TEST_F(RolloutsTest, TurnsGoOnAfterAToolsResultAndSurviveACrash) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  auto engine = policy.engine();
  RolloutPlan plan = small_plan(2, 2, 60);
  for (int32_t id = 1; id < 20; ++id) plan.end_tokens.push_back(id);
  const auto on_turn = [](int64_t, const RolloutAnswer& so_far) -> Result<std::vector<int32_t>> {
    const int64_t turns = std::count(so_far.is_sampled.begin(), so_far.is_sampled.end(), false) / 3;
    if (turns == 2) return std::vector<int32_t>();
    return std::vector<int32_t>{90, static_cast<int32_t>(91 + turns), so_far.ids.back()};
  };
  const RolloutOptions options{.max_sequences = 6, .on_turn = on_turn};
  RolloutLog expected = open_log(path("expected"), plan, policy.config());
  run_whole(*engine, plan, expected, options);
  int64_t given = 0;
  for (const RolloutAnswer& answer : expected.answers())
    given += static_cast<int64_t>(answer.ids.size()) - answer.num_sampled();
  EXPECT_GT(given, 6);
  const auto owned =
      PolicyBatch::create(plan, expected, all_answers(plan), policy.config()).value();
  const PolicyBatch& batch = *owned;
  EXPECT_EQ(policy_logprobs(policy.ctx(), policy.trainer().model().transformer(), batch, {}),
            batch.sampler());
  const std::string whole = read_text_file(path("expected")).value();
  for (size_t cut = 1; cut < whole.size(); cut += 701) {
    ASSERT_TRUE(write_file_atomically(path("cut"), whole.substr(0, cut)).ok());
    RolloutLog log = open_log(path("cut"), plan, policy.config());
    run_whole(*engine, plan, log, options);
    expect_same(log, expected, fmt::format("cut at {}", cut));
  }
}

// The weights that sample are handed over in memory, and the log tells which they were.
TEST_F(RolloutsTest, NewWeightsInPlaceAreThoseOfTheTrainer) {
  Policy policy(train::TrainingPrecision::fp4_qat());
  auto engine = policy.engine();
  for (train::Parameter& p : policy.trainer().parameters().parameters())
    for (float& x : p.master) x *= 1.01f;
  ASSERT_TRUE(policy.trainer().model().refresh(policy.ctx()).ok());
  ASSERT_TRUE(engine
                  ->set_weights(served_model(policy.config(), policy.trainer().parameters(),
                                             train::TrainingPrecision::fp4_qat(), 1)
                                    .value(),
                                1)
                  .ok());
  RolloutPlan plan = small_plan(2, 2, 20);
  plan.weights_version = 1;
  RolloutLog log = open_log(path("log"), plan, policy.config());
  run_whole(*engine, plan, log);
  // The masters move on; the engine's weights do not.
  const auto owned = PolicyBatch::create(plan, log, all_answers(plan), policy.config()).value();
  const PolicyBatch& batch = *owned;
  EXPECT_EQ(policy_logprobs(policy.ctx(), policy.trainer().model().transformer(), batch, {}),
            batch.sampler());
}

}  // namespace
}  // namespace cachalot::post
