// Sabotage: every planted fault of the forward pass must make some check fail, and none may fail
// without one. tests/faults/faults.tsv names them, in the columns fault, test, verdict; the test
// writes it anew, to faults.tsv in the working directory. A row of verdict "open" waits for its
// test.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/rng.h"
#include "base/test_data.h"
#include "engine/loaded_model.h"
#include "ops/hyper/hyper_connection.h"
#include "planted.h"
#include "verify/golden.h"
#include "verify/golden_run.h"

namespace cachalot::verify {
namespace {

// The cells of a table of tests/faults below its first line.
std::vector<std::vector<std::string>> table_rows(const char* name) {
  std::ifstream file(test_data("faults/") + name);
  std::string line;
  std::getline(file, line);
  std::vector<std::vector<std::string>> rows;
  while (std::getline(file, line)) {
    std::istringstream cells(line);
    rows.emplace_back();
    for (std::string cell; std::getline(cells, cell, '\t');) rows.back().push_back(cell);
  }
  return rows;
}

struct Suite {
  const char* directory;
  const char* precision;
  Invariance invariance;
};
// Cheapest first: a fault stops at the first suite that notices it.
constexpr Suite kSuites[] = {{"tiny", "exact", Invariance::none},
                             {"clamp", "exact", Invariance::none},
                             {"tiny", "exact", Invariance::brief},
                             {"quant", "exact", Invariance::none},
                             {"quant", "official", Invariance::none}};

// Name of the first check that fails, empty if all hold.
std::string first_failure(const Suite& suite) {
  VerifyOptions options;
  options.directory = test_data("golden/") + suite.directory;
  options.precision = suite.precision;
  options.invariance = suite.invariance;
  options.gradients = false;  // faults of the forward pass
  const Result<GoldenReport> report = verify_golden(options);
  if (report && report->all_hold()) return "";
  return fmt::format("{} at {}: {}", suite.directory, suite.precision,
                     report ? report->failed().front() : report.error().message());
}

// One sequence driven as a server would: drafts that are rejected, a second request, a restored
// prefix. The streams afterwards must equal those of an undisturbed run.
class Driver {
 public:
  Driver() {
    auto model = engine::LoadedModel::load({test_data("golden/tiny"), "exact", "cpu", 0});
    CACHALOT_CHECK_MSG(model.has_value(), model.error().message());
    model_ = *std::move(model);
    runner_ = *GoldenRunner::create(model_->transformer(), model_->context(), 400, 3);
    RngStream rng(7, RngPurpose::data, 0);
    for (int i = 0; i < 300; ++i) ids_.push_back(static_cast<int32_t>(rng.next_u32() % 512));
  }

  std::string first_failure() {
    const std::span all(ids_);
    if (!same_tail(after_rejected_drafts(all.first(203)), 203))
      return "continuation after rejected drafts";
    if (!same_tail(after_another_request(all.first(203)), 203))
      return "second request on one sequence";
    if (!same_tail(after_restore(all.first(203)), 203)) return "continuation of a restored prefix";
    return "";
  }

 private:
  cache::SequenceCache after_rejected_drafts(std::span<const int32_t> prefix) {
    cache::SequenceCache sequence = *runner_->new_sequence();
    CACHALOT_CHECK(runner_->run(sequence, prefix, {}, false).has_value());
    const std::vector<int32_t> wrong = {1, 2, 3, 4};
    CACHALOT_CHECK(runner_->run(sequence, wrong, {}, false).has_value());
    CACHALOT_CHECK(sequence.rewind(static_cast<int64_t>(prefix.size())).ok());
    return sequence;
  }
  cache::SequenceCache after_another_request(std::span<const int32_t> prefix) {
    cache::SequenceCache sequence = *runner_->new_sequence();
    CACHALOT_CHECK(runner_->run(sequence, std::vector<int32_t>{5, 6, 7}, {}, false).has_value());
    sequence.clear();
    CACHALOT_CHECK(runner_->run(sequence, prefix, {}, false).has_value());
    return sequence;
  }
  cache::SequenceCache after_restore(std::span<const int32_t> prefix) {
    cache::SequenceCache sequence = *runner_->new_sequence();
    CACHALOT_CHECK(runner_->run(sequence, prefix, {}, false).has_value());
    return *sequence.fork();
  }

  // Continues with the rest of the ids and compares bits with a run that nothing disturbed.
  bool same_tail(cache::SequenceCache sequence, size_t prefix) {
    const std::span tail = std::span(ids_).subspan(prefix);
    cache::SequenceCache clean = *runner_->new_sequence();
    CACHALOT_CHECK(runner_->run(clean, std::span(ids_).first(prefix), {}, false).has_value());
    const PassRecord expected = *runner_->run(clean, tail, {}, false);
    const PassRecord found = *runner_->run(sequence, tail, {}, false);
    return expected.streams == found.streams;
  }

  std::unique_ptr<engine::LoadedModel> model_;
  std::unique_ptr<GoldenRunner> runner_;
  std::vector<int32_t> ids_;
};

// mHC with saturated mixing logits (reference/forward 2.4): the row softmax leaves zeros, to which
// the first epsilon is added, so that the small entries of the result are about epsilon. Misplaced,
// they vanish.
std::string saturated_mixing_failure() {
  constexpr int64_t kStreams = 4;
  std::vector<float> mixes(24, 0.0f), base(24, 0.0f), pre(4), post(4), comb(16);
  for (int64_t j = 0; j < kStreams; ++j) mixes[8 + 4 * j + j] = 60.0f;
  const std::vector<float> scale(3, 1.0f);
  const float inv_rms = 1.0f;
  ops::HyperSplitParams p{};
  p.mixes = mixes.data();
  p.inv_rms = &inv_rms;
  p.base = base.data();
  p.scale = scale.data();
  p.rows = 1;
  p.n = kStreams;
  p.sinkhorn_iters = 20;
  p.hc_eps = 1e-6f;
  p.kind = ops::HyperKind::mhc;
  p.pre = pre.data();
  p.post = post.data();
  p.comb = comb.data();
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  ops::hyper_split(ctx, p);
  for (int64_t j = 0; j < kStreams; ++j) {
    for (int64_t k = 0; k < kStreams; ++k) {
      if (j != k && !(comb[j * kStreams + k] > 0.5e-6f && comb[j * kStreams + k] < 2e-6f))
        return "saturated mixing logits";
    }
  }
  return "";
}

std::string caught_by() {
  for (const Suite& suite : kSuites) {
    if (std::string failure = first_failure(suite); !failure.empty()) return failure;
  }
  if (std::string failure = saturated_mixing_failure(); !failure.empty()) return failure;
  return Driver().first_failure();
}

TEST(PlantedFaults, NothingFailsWithoutOne) { EXPECT_EQ(caught_by(), ""); }

TEST(PlantedFaults, EveryOneIsCaught) {
  std::ofstream table("faults.tsv");
  table << "fault\ttest\tverdict\n";
  for (const std::vector<std::string>& row : table_rows("faults.tsv")) {
    ASSERT_EQ(row.size(), 3u) << row.front();
    ASSERT_TRUE(planted::turn_on(row[0])) << row[0] << ": no such patch";
    std::string check = row[1], verdict = row[2];
    if (verdict != "open") {
      check = caught_by();
      EXPECT_NE(check, "") << row[0] << " was not noticed";
      verdict = check.empty() ? "missed" : "caught";
    }
    table << row[0] << '\t' << check << '\t' << verdict << '\n';
  }
  planted::turn_on("");
}

TEST(PlantedFaults, EachHasARowInATable) {
  std::set<std::string, std::less<>> named;
  for (const char* table : {"faults.tsv", "training_faults.tsv"}) {
    for (const std::vector<std::string>& row : table_rows(table)) named.insert(row.front());
  }
  EXPECT_FALSE(planted::switches().empty());
  for (const planted::Switch& each : planted::switches())
    EXPECT_TRUE(named.contains(each.fault)) << each.fault;
}

}  // namespace
}  // namespace cachalot::verify
