// Properties of the GRPO objective. Its numbers are held to those of another implementation by
// `cachalot verify posttrain`.
#include "post/grpo.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "post/advantages.h"
#include "post/grpo_loss.h"

namespace cachalot::post {
namespace {

TEST(GroupAdvantages, DeviationIsASwitchAndEqualRewardsGiveZero) {
  const std::vector<double> rewards = {0.1, 1, 0.1, 3, 0.1};
  const std::vector<int64_t> groups = {7, 2, 7, 2, 7};
  EXPECT_EQ(group_advantages(rewards, groups, {}), (std::vector<double>{0, -1, 0, 1, 0}));
  EXPECT_EQ(group_advantages(rewards, groups, {Deviation::population, 0}),
            (std::vector<double>{0, -1, 0, 1, 0}));
  const auto sample = group_advantages(rewards, groups, {Deviation::sample, 1e-4});
  EXPECT_NEAR(sample[3], 1 / (std::sqrt(2.0) + 1e-4), 1e-15);
  EXPECT_EQ(sample[0], 0);
}

TEST(GrpoLoss, LotsHoldWholeSequencesOrOneThatIsLonger) {
  const std::vector<int64_t> offsets = {0, 3, 3, 8, 20, 22};
  const std::vector<double> advantages(5), rows(22);
  const GrpoLoss loss({offsets, advantages, rows, rows}, {5, 22}, {}, {});
  EXPECT_EQ(loss.lots_end(0, 7, 22), 3);
  EXPECT_EQ(loss.lots_end(0, 8, 22), 8);
  EXPECT_EQ(loss.lots_end(3, 8, 22), 8);
  EXPECT_EQ(loss.lots_end(8, 8, 22), 20);
  EXPECT_EQ(loss.lots_end(20, 8, 22), 22);
  EXPECT_EQ(loss.lots_end(0, 100, 22), 22);
}

struct Problem {
  std::vector<int64_t> offsets = {0, 3, 4, 8};
  std::vector<double> advantages = {0.7, -0.4, -0.3};
  std::vector<double> sampler, reference, logprobs;

  explicit Problem(double shift) {
    RngStream rng(5, RngPurpose::data, 0);
    for (int i = 0; i < 8; ++i) {
      sampler.push_back(-1 - 0.3 * rng.next_normal());
      reference.push_back(-1 - 0.3 * rng.next_normal());
      logprobs.push_back(sampler.back() + shift * rng.next_normal());
    }
  }
  GrpoValues run(const GrpoOptions& options) const {
    return grpo({offsets, advantages, sampler, reference}, logprobs, {3, 8}, options);
  }
};

// G1: on-policy the ratio is 1, the coefficient is REINFORCE's, and clipping changes nothing.
TEST(Grpo, OnPolicyIsReinforceWithAMeanBaseline) {
  const Problem p(0);
  for (const double epsilon : {0.1, 10.0}) {
    const GrpoValues values = p.run({.epsilon = epsilon, .beta = 0, .delta = 0.0});
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(values.kept[i]);
      const int64_t length = p.offsets[i + 1] - p.offsets[i];
      for (int64_t t = p.offsets[i]; t < p.offsets[i + 1]; ++t) {
        EXPECT_EQ(values.ratio[t], 1);
        EXPECT_DOUBLE_EQ(values.coefficient[t],
                         -p.advantages[i] / (3 * static_cast<double>(length)));
      }
    }
    EXPECT_EQ(values.num_clipped, 0);
  }
}

// The coefficient is the derivative of the loss, for every option.
TEST(Grpo, CoefficientEqualsCentralDifferences) {
  for (const auto kl : {KlEstimator::unbiased, KlEstimator::plain}) {
    for (const auto normalisation :
         {Normalisation::sequence_mean_token_mean, Normalisation::token_mean,
          Normalisation::constant, Normalisation::sequence_mean_token_sum}) {
      const GrpoOptions options{.epsilon = 0.2,
                                .beta = 0.3,
                                .delta = 0.01,
                                .kl = kl,
                                .normalisation = normalisation,
                                .constant = 5};
      Problem p(0.5);
      const GrpoValues values = p.run(options);
      for (size_t t = 0; t < p.logprobs.size(); ++t) {
        constexpr double kStep = 1e-6;
        const double at = p.logprobs[t];
        p.logprobs[t] = at + kStep;
        const double above = p.run(options).loss;
        p.logprobs[t] = at - kStep;
        const double below = p.run(options).loss;
        p.logprobs[t] = at;
        EXPECT_NEAR(values.coefficient[t], (above - below) / (2 * kStep), 1e-8) << t;
      }
    }
  }
}

// G3: the truth table over the sign of the advantage and the divergence; strict on both sides.
TEST(Grpo, MasksSequencesOfNegativeAdvantageFarFromTheSamplerAlone) {
  const std::vector<int64_t> offsets = {0, 1};
  const std::vector<double> sampler = {-1}, reference = {-1};
  for (const double advantage : {-1.0, 0.0, 1.0}) {
    for (const double divergence : {0.25, 0.5, 1.0}) {
      const std::vector<double> advantages = {advantage}, logprobs = {-1 - divergence};
      const GrpoValues values = grpo({offsets, advantages, sampler, reference}, logprobs, {1, 1},
                                     {.beta = 0, .delta = 0.5});
      const bool masked = advantage < 0 && divergence > 0.5;
      EXPECT_EQ(values.kept[0], !masked) << advantage << " " << divergence;
      EXPECT_EQ(values.coefficient[0] == 0, masked || advantage == 0);
    }
  }
}

// G2: over the sampler's law, the mean of D and of its gradient are KL(pi || pi_ref) and its
// gradient, by enumeration of a vocabulary; the plain estimator's are not.
TEST(Grpo, UnbiasedKlHasTheRightMeanAndGradientByEnumeration) {
  constexpr size_t kVocab = 7;
  RngStream rng(9, RngPurpose::data, 0);
  const auto law = [&] {
    std::vector<double> logs;
    double sum = 0;
    for (size_t v = 0; v < kVocab; ++v) sum += std::exp(logs.emplace_back(rng.next_normal()));
    for (double& value : logs) value -= std::log(sum);
    return logs;
  };
  const std::vector<double> policy = law(), sampler = law(), reference = law();
  double exact = 0;
  for (size_t v = 0; v < kVocab; ++v) exact += std::exp(policy[v]) * (policy[v] - reference[v]);
  const auto enumerate = [&](KlEstimator kl, std::vector<double>& gradient) {
    double mean = 0;
    gradient.assign(kVocab, 0);
    for (size_t y = 0; y < kVocab; ++y) {
      const std::vector<int64_t> offsets = {0, 1};
      const std::vector<double> none = {0}, s = {sampler[y]}, r = {reference[y]}, l = {policy[y]};
      const GrpoValues values =
          grpo({offsets, none, s, r}, l, {1, 1}, {.beta = 1, .delta = {}, .kl = kl});
      mean += std::exp(sampler[y]) * values.kl[0];
      for (size_t v = 0; v < kVocab; ++v) {
        gradient[v] +=
            std::exp(sampler[y]) * values.coefficient[0] * ((v == y ? 1 : 0) - std::exp(policy[v]));
      }
    }
    return mean;
  };
  std::vector<double> unbiased, plain;
  EXPECT_NEAR(enumerate(KlEstimator::unbiased, unbiased), exact, 1e-14);
  EXPECT_GT(std::abs(enumerate(KlEstimator::plain, plain) - exact), 0.01);
  double plain_error = 0;
  for (size_t v = 0; v < kVocab; ++v) {
    const double expected = std::exp(policy[v]) * (policy[v] - reference[v] - exact);
    EXPECT_NEAR(unbiased[v], expected, 1e-14);
    plain_error = std::max(plain_error, std::abs(plain[v] - expected));
  }
  EXPECT_GT(plain_error, 0.01);
}

}  // namespace
}  // namespace cachalot::post
