#include "verify/posttrain_eval.h"

#include <filesystem>

#include "post/contest_rating.h"
#include "post/majority_vote.h"
#include "post/pass_at_k.h"
#include "post/sequence_match.h"
#include "verify/closeness.h"
#include "verify/golden_json.h"

namespace cachalot::verify {
namespace {

// Closed forms in double; roots of the two generators agree to 1e-6 (of some 3,000).
constexpr double kClosedForm = 1e-10;

std::vector<post::Human> humans_of(const GoldenJson& contest) {
  std::vector<post::Human> humans;
  for (const GoldenJson& human : contest["humans"].elements())
    humans.push_back({human["total"].number(), human["rating"].number()});
  return humans;
}

std::vector<post::Problem> problems_of(const GoldenJson& contest) {
  std::vector<post::Problem> problems;
  for (const GoldenJson& p : contest["problems"].elements())
    problems.push_back({p["n"].integer(), p["c"].integer(), p["score_after_fails"].numbers()});
  return problems;
}

struct NamedRule {
  const char* name;
  post::RatingRule rule;
};
constexpr NamedRule kRules[] = {
    {"best_sum", {post::RankTies::best, post::ExpectedPlace::sum}},
    {"best_one_plus_sum", {post::RankTies::best, post::ExpectedPlace::one_plus}},
    {"middle_sum", {post::RankTies::middle, post::ExpectedPlace::sum}},
    {"middle_one_plus_sum", {post::RankTies::middle, post::ExpectedPlace::one_plus}},
};

Status verify_problem_laws(const GoldenJson& file, GoldenReport& report) {
  Closeness laws("law of a problem", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& golden : file["laws"].elements()) {
    CACHALOT_ASSIGN_OR_RETURN(
        const post::ProblemLaw law,
        post::problem_law(golden["n"].integer(), golden["c"].integer(), golden["draws"].integer()));
    laws.add(golden["first_success_at"].numbers(), law.first_success_at);
    laws.add(golden["no_success"].number(), law.no_success);
  }
  Closeness medians("median scores", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& golden : file["medians"].elements()) {
    std::vector<post::Solver> solvers;
    for (const GoldenJson& solver : golden["solvers"].elements())
      solvers.push_back({solver["fails"].integer(), solver["score"].number()});
    const std::vector<GoldenJson> expected = golden["score_after_fails"].elements();
    const auto found = post::median_scores(solvers, static_cast<int64_t>(expected.size()));
    for (size_t i = 0; i < expected.size(); ++i) {
      if (found[i].has_value() == expected[i].is_null()) {
        medians.add(expected[i].is_null() ? 0 : 1, found[i].has_value() ? 1 : 0);
      } else if (found[i].has_value()) {
        medians.add(expected[i].number(), *found[i]);
      }
    }
  }
  CACHALOT_RETURN_IF_ERROR(file.status());
  laws.report(report);
  medians.report(report);
  return {};
}

Status verify_contests(const GoldenJson& file, GoldenReport& report) {
  Closeness totals("law of a contest's total", kClosedForm, Closeness::Measure::relative);
  Closeness ratings("rating of a contest", kClosedForm, Closeness::Measure::relative);
  double mean[std::size(kRules)] = {};
  const std::vector<GoldenJson> contests = file["contests"].elements();
  for (const GoldenJson& contest : contests) {
    const std::vector<post::Human> humans = humans_of(contest);
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<post::TotalShare> law,
                              post::total_law(problems_of(contest), contest["draws"].integer()));
    const GoldenJson expected = contest["expected"];
    double mean_total = 0;
    for (const post::TotalShare& share : law) mean_total += share.total * share.probability;
    totals.add(expected["expected_total"].number(), mean_total);
    totals.add(expected["distinct_totals"].number(), static_cast<double>(law.size()));
    if (expected.has("total_law")) {
      std::vector<double> golden, found;
      for (const GoldenJson& pair : expected["total_law"].elements()) {
        for (const double value : pair.numbers()) golden.push_back(value);
      }
      for (const post::TotalShare& share : law) {
        found.push_back(share.total);
        found.push_back(share.probability);
      }
      totals.add(golden, found);
    }
    for (size_t i = 0; i < std::size(kRules); ++i) {
      CACHALOT_ASSIGN_OR_RETURN(const double rating,
                                post::expected_rating(law, humans, kRules[i].rule));
      ratings.add(expected["expected_rating"][kRules[i].name].number(), rating);
      mean[i] += rating / static_cast<double>(contests.size());
    }
  }
  for (size_t i = 0; i < std::size(kRules); ++i)
    ratings.add(file["final_rating"][kRules[i].name].number(), mean[i]);
  CACHALOT_RETURN_IF_ERROR(file.status());
  totals.report(report);
  ratings.report(report);
  return {};
}

Status verify_matches(const GoldenJson& file, GoldenReport& report) {
  Closeness ratios("match ratio", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& pair : file["pairs"].elements()) {
    const std::string a = pair["a"].text(), b = pair["b"].text();
    ratios.add(pair["ratio"].number(), post::match_ratio(a, b));
    ratios.add(pair["ratio_no_autojunk"].number(), post::match_ratio(a, b, post::Autojunk::off));
  }
  Closeness scores("MRCR score", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& golden : file["graded"].elements()) {
    scores.add(golden["score"].number(),
               post::mrcr_score(golden["response"].text(), golden["answer"].text(),
                                golden["prefix"].text()));
  }
  CACHALOT_RETURN_IF_ERROR(file.status());
  ratios.report(report);
  scores.report(report);
  return {};
}

Status verify_pass_and_vote(const GoldenJson& file, GoldenReport& report) {
  Closeness pass("pass@k", kClosedForm, Closeness::Measure::relative);
  Closeness power("pass^k", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& golden : file["pass_at_k"].elements()) {
    const int64_t n = golden["n"].integer(), c = golden["c"].integer(), k = golden["k"].integer();
    CACHALOT_ASSIGN_OR_RETURN(const double any, post::pass_at_k(n, c, k));
    CACHALOT_ASSIGN_OR_RETURN(const double all, post::pass_power_k(n, c, k));
    pass.add(golden["value"].number(), any);
    power.add(golden["pass_power_k"].number(), all);
  }
  Closeness votes("majority vote", kClosedForm, Closeness::Measure::relative);
  for (const GoldenJson& golden : file["majority"].elements()) {
    const std::vector<std::string> answers = golden["answers"].texts();
    const post::Majority majority = post::majority_vote(answers);
    votes.add(golden["tied"].number(), static_cast<double>(majority.tied));
    const bool same =
        majority.winner < answers.size() && answers[majority.winner] == golden["winner"].text();
    votes.add(1, same ? 1 : 0);
    CACHALOT_ASSIGN_OR_RETURN(
        const post::VoteScore score,
        post::majority_at_k(answers, golden["truth"].text(), golden["k"].integer()));
    votes.add(golden["maj_at_k_first_seen"].number(), score.first_seen);
    votes.add(golden["maj_at_k_fractional"].number(), score.shared);
  }
  CACHALOT_RETURN_IF_ERROR(file.status());
  pass.report(report);
  power.report(report);
  votes.report(report);
  return {};
}

}  // namespace

Status verify_estimators(const std::string& directory, GoldenReport& report) {
  const std::filesystem::path folder(directory);
  CACHALOT_ASSIGN_OR_RETURN(const GoldenJson codeforces,
                            GoldenJson::open((folder / "codeforces.json").string()));
  CACHALOT_RETURN_IF_ERROR(verify_problem_laws(codeforces, report));
  CACHALOT_RETURN_IF_ERROR(verify_contests(codeforces, report));
  CACHALOT_ASSIGN_OR_RETURN(const GoldenJson matches,
                            GoldenJson::open((folder / "sequence_match.json").string()));
  CACHALOT_RETURN_IF_ERROR(verify_matches(matches, report));
  CACHALOT_ASSIGN_OR_RETURN(const GoldenJson votes,
                            GoldenJson::open((folder / "pass_vote.json").string()));
  return verify_pass_and_vote(votes, report);
}

}  // namespace cachalot::verify
