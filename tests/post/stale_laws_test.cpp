// G6's ablations: what each of GRPO's guards is worth where the sampler's weights are forced to be
// old. Each is compared on the same answers and weights, so that no luck of a run decides.
#include <cmath>

#include "post/grpo_loss.h"
#include "rl_run_testing.h"
#include "rollout_testing.h"

namespace cachalot::post {
namespace {

using testing::Policy;
using testing::small_plan;

double mean_square(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum / static_cast<double>(values.size());
}

class StaleLawsTest : public ::testing::Test {
 protected:
  // Weights `share` off from those that sampled.
  static void move(Policy& policy, double share) {
    uint64_t number = 0;
    for (train::Parameter& parameter : policy.trainer().parameters().parameters()) {
      RngStream rng(23, RngPurpose::weights, number++);
      for (float& x : parameter.master) x *= static_cast<float>(1 + share * rng.next_normal());
    }
  }
  static std::vector<int64_t> all_answers(const RolloutPlan& plan) {
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < plan.num_answers(); ++i) numbers.push_back(i);
    return numbers;
  }
  formats::TemporaryDirectory directory_{"stale-laws"};
};

// Keep Routing: with the experts that sampling chose, the policy's log-probabilities move as far as
// its weights have; with its own, some tokens change experts and jump.
TEST_F(StaleLawsTest, KeptRoutingKeepsRatiosNearOneWhereWeightsAreStale) {
  for (const double share : {0.003, 0.01, 0.03}) {
    Policy policy(train::TrainingPrecision::bf16());
    const RolloutPlan plan = small_plan(4, 6, 60);
    RolloutLog log = RolloutLog::open(fmt::format("{}/log-{}", directory_.path(), share),
                                      log_head(plan, policy.config()))
                         .value();
    auto engine = policy.engine();
    ASSERT_TRUE(Rollouts(*engine, plan, log, {.max_sequences = 6}).run().value());
    const auto batch = PolicyBatch::create(plan, log, all_answers(plan), policy.config()).value();
    move(policy, share);
    const auto off = [&](bool keeps_routing) {
      const auto model = served_model(policy.config(), policy.trainer().parameters(),
                                      train::TrainingPrecision::bf16(), 1)
                             .value();
      std::vector<double> found =
          policy_logprobs(policy.ctx(), model->transformer(), *batch, {1, keeps_routing});
      for (size_t t = 0; t < found.size(); ++t) found[t] -= batch->sampler()[t];
      return mean_square(found);
    };
    const double kept = off(true), own = off(false);
    std::printf("weights off by %.3f: mean square of log r %.3e with kept routing, %.3e without\n",
                share, kept, own);
    EXPECT_GT(kept, 0);
    EXPECT_GT(own, 1.1 * kept) << share;
  }
}

// The two others, where weights have moved far from those that sampled; these are the reference
// too.
class FarLawsTest : public StaleLawsTest {
 protected:
  void SetUp() override {
    plan_ = small_plan(4, 6, 40);
    RolloutLog log =
        RolloutLog::open(directory_.path() + "/log", log_head(plan_, policy_.config())).value();
    auto engine = policy_.engine();
    ASSERT_TRUE(Rollouts(*engine, plan_, log, {.max_sequences = 6}).run().value());
    batch_ = PolicyBatch::create(plan_, log, all_answers(plan_), policy_.config()).value();
    move(policy_, 0.5);
    const auto model = served_model(policy_.config(), policy_.trainer().parameters(),
                                    train::TrainingPrecision::fp32(), 1)
                           .value();
    logprobs_ = policy_logprobs(policy_.ctx(), model->transformer(), *batch_, {});
    for (int64_t i = 0; i < plan_.num_answers(); ++i) advantages_.push_back(i % 2 == 0 ? 1 : -1);
  }
  GrpoValues values(const GrpoOptions& options, std::span<const double> advantages) const {
    const GrpoRows rows{batch_->offsets(), advantages, batch_->sampler(), batch_->sampler()};
    return grpo(rows, logprobs_, {rows.num_sequences(), rows.num_tokens()}, options);
  }

  Policy policy_{train::TrainingPrecision::fp32()};
  RolloutPlan plan_;
  std::unique_ptr<PolicyBatch> batch_;
  std::vector<double> logprobs_, advantages_;
};

// Unbiased KL: of tokens that the policy has made unlikely, r |log r| is at most 1 / e, however
// unlikely; without r in front the pull is 1 / r - 1 and knows no bound.
TEST_F(FarLawsTest, TheUnbiasedKlsPullIsBoundedAndThePlainOnesIsNot) {
  const std::vector<double> none(static_cast<size_t>(plan_.num_answers()));
  const auto strongest = [&](KlEstimator kl) {
    GrpoOptions options;
    options.beta = 1;
    options.kl = kl;
    options.normalisation = Normalisation::constant;
    const GrpoValues found = values(options, none);
    double most = 0;
    for (size_t t = 0; t < found.ratio.size(); ++t) {
      if (found.ratio[t] < 1) most = std::max(most, std::abs(found.coefficient[t]));
    }
    return most * static_cast<double>(plan_.num_answers());
  };
  const double unbiased = strongest(KlEstimator::unbiased), plain = strongest(KlEstimator::plain);
  std::printf("strongest pull on a token: %.3f unbiased, %.3g plain\n", unbiased, plain);
  EXPECT_LE(unbiased, std::exp(-1.0) + 1e-12);
  EXPECT_GT(plain, 100);
}

// The off-policy mask: the answers that it drops are those whose gradient is the largest, and all
// others keep theirs.
TEST_F(FarLawsTest, TheMaskTakesOutWhatIsFarAndPunished) {
  GrpoOptions options;
  options.beta = 0;
  const GrpoValues bare = values(options, advantages_);
  std::vector<double> punished;
  for (size_t i = 1; i < bare.divergence.size(); i += 2) punished.push_back(bare.divergence[i]);
  std::ranges::sort(punished);
  options.delta = punished[punished.size() / 2];
  const GrpoValues masked = values(options, advantages_);
  int64_t num_dropped = 0;
  double furthest_kept = -1e9;
  for (size_t i = 0; i < masked.kept.size(); ++i) {
    num_dropped += !masked.kept[i];
    if (masked.kept[i] && i % 2 == 1) furthest_kept = std::max(furthest_kept, bare.divergence[i]);
    EXPECT_TRUE(masked.kept[i] || i % 2 == 1);
    for (int64_t t = batch_->offsets()[i]; t < batch_->offsets()[i + 1]; ++t)
      EXPECT_EQ(masked.coefficient[t], masked.kept[i] ? bare.coefficient[t] : 0);
  }
  EXPECT_GT(num_dropped, 3);
  EXPECT_LE(furthest_kept, *options.delta);
}

}  // namespace
}  // namespace cachalot::post
