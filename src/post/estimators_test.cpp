// Properties and borders of the estimators. Their numbers are held to those of other
// implementations in verify/posttrain_eval_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/rng.h"
#include "post/contest_rating.h"
#include "post/majority_vote.h"
#include "post/pass_at_k.h"
#include "post/sequence_match.h"
#include "post/share_interval.h"

namespace cachalot::post {
namespace {

TEST(PassAtK, BadCountsAreErrors) {
  EXPECT_FALSE(pass_at_k(4, 5, 1).has_value());
  EXPECT_FALSE(pass_at_k(4, 2, 0).has_value());
  EXPECT_FALSE(pass_power_k(4, -1, 1).has_value());
  EXPECT_FALSE(pass_power_k(4, 2, 5).has_value());
}

// (c + z^2/2 -+ z sqrt(c (n - c) / n + z^2/4)) / (n + z^2).
TEST(ShareInterval, IsWilsons) {
  EXPECT_NEAR(share_interval(0, 10).low, 0, 1e-12);
  EXPECT_NEAR(share_interval(0, 10).high, 0.27754, 1e-5);
  EXPECT_NEAR(share_interval(50, 100).low, 0.40383, 1e-5);
  EXPECT_NEAR(share_interval(50, 100).high, 0.59617, 1e-5);
  EXPECT_NEAR(share_interval(10, 10).low, 0.72246, 1e-5);
  EXPECT_EQ(share_interval(0, 0).low, 0);
  EXPECT_EQ(share_interval(0, 0).high, 1);
}

TEST(MajorityVote, OfNoneAndOfTooMany) {
  EXPECT_EQ(majority_vote({}).tied, 0);
  const std::vector<std::string> many(kMaxVotes + 1, "A");
  EXPECT_FALSE(majority_at_k(many, "A", 1).has_value());
  EXPECT_FALSE(majority_at_k(std::span(many).first(2), "A", 3).has_value());
}

TEST(MajorityVote, OfAThousandAnswersIsFinite) {
  std::vector<std::string> answers(kMaxVotes, "A");
  for (size_t i = 0; i < answers.size(); i += 2) answers[i] = "B";
  const Result<VoteScore> score = majority_at_k(answers, "A", 9);
  ASSERT_TRUE(score.has_value());
  EXPECT_NEAR(score->shared, 0.5, 1e-12);
}

// A problem that the model solves more often never lowers the rating.
TEST(ContestRating, IsMonotoneInTheNumberOfCorrectAnswers) {
  const std::vector<Human> humans = {{900, 2400}, {500, 1900}, {250, 1500}, {0, 1000}, {0, 800}};
  double before = 0;
  for (int64_t c = 0; c <= 8; ++c) {
    const std::vector<Problem> problems = {{8, c, {500, 450, 400}}, {8, 3, {900, 800, 700}}};
    const auto law = total_law(problems, 3);
    ASSERT_TRUE(law.has_value());
    const auto rating = expected_rating(*law, humans, {});
    ASSERT_TRUE(rating.has_value()) << rating.error().to_string();
    EXPECT_GT(*rating, before) << c;
    before = *rating;
  }
}

// EV1: contests that are drawn answer by answer, by the definition, have the mean of the exact law,
// within a few standard errors of so many.
TEST(ContestRating, IsTheMeanOfDrawnContests) {
  const std::vector<Human> humans = {{1300, 2600}, {900, 2400}, {500, 1900},
                                     {250, 1500},  {0, 1000},   {0, 800}};
  const std::vector<Problem> problems = {
      {8, 1, {500, 450, 400}}, {8, 3, {900, 800, 700}}, {5, 4, {250, 240, 100}}};
  constexpr int64_t kDraws = 3, kContests = 100'000;
  std::map<double, double> ratings;  // of totals
  const auto rating = [&](double total) {
    double& known = ratings[total];
    if (known == 0)
      known = *rating_of_rank(rank_of(total, humans, RankTies::best), humans, ExpectedPlace::sum);
    return known;
  };
  RngStream rng(3, RngPurpose::data, 0);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < kContests; ++i) {
    double total = 0;
    for (const Problem& problem : problems) {
      for (int64_t fails = 0; fails < kDraws; ++fails) {
        const double wrong_left = static_cast<double>(problem.n - problem.c - fails);
        if (rng.next_unit() * static_cast<double>(problem.n - fails) < wrong_left) continue;
        total += problem.score_after_fails[fails];
        break;
      }
    }
    const double value = rating(total);
    sum += value;
    squares += value * value;
  }
  const double mean = sum / kContests;
  const double error = std::sqrt((squares / kContests - mean * mean) / kContests);
  const Result<double> exact = expected_rating(*total_law(problems, kDraws), humans, {});
  ASSERT_TRUE(exact.has_value());
  EXPECT_NEAR(*exact, mean, 5 * error);
  EXPECT_LT(error, 2);
}

TEST(ContestRating, RanksWithoutARootAreErrors) {
  const std::vector<Human> humans = {{100, 1500}, {200, 1700}};
  EXPECT_FALSE(rating_of_rank(1, humans, ExpectedPlace::one_plus).has_value());
  EXPECT_FALSE(rating_of_rank(2, humans, ExpectedPlace::sum).has_value());
  EXPECT_FALSE(rating_of_rank(1, {}, ExpectedPlace::sum).has_value());
  EXPECT_TRUE(rating_of_rank(1, humans, ExpectedPlace::sum).has_value());
}

TEST(ContestRating, BadProblemsAreErrors) {
  EXPECT_FALSE(problem_law(4, 5, 2).has_value());
  EXPECT_FALSE(problem_law(4, 2, 5).has_value());
  const std::vector<Problem> few_scores = {{4, 2, {500}}};
  EXPECT_FALSE(total_law(few_scores, 2).has_value());
}

TEST(SequenceMatch, BytesThatAreNoTextAreCharacters) {
  EXPECT_EQ(match_ratio("\xFF\xFE", "\xFF"), 2.0 / 3.0);
  EXPECT_EQ(match_ratio("\xE2\x82", "\xE2\x82\xAC"), 0.0);  // a cut character is another one
}

}  // namespace
}  // namespace cachalot::post
