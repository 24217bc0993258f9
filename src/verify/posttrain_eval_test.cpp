// The estimators against trimmed copies of the numbers of other implementations
// (tests/golden/README.md), and that a wrong number is seen.
#include "verify/posttrain_eval.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/test_data.h"

namespace cachalot::verify {
namespace {

namespace fs = std::filesystem;

const char* const kGolden = "golden/posttrain/eval";

// A copy of the set in which the first `from` of a file reads `to`.
fs::path changed_copy(const std::string& name, const std::string& file, const std::string& from,
                      const std::string& to) {
  const fs::path copy = fs::path(testing::TempDir()) / ("posttrain_eval_" + name);
  fs::remove_all(copy);
  fs::copy(test_data(kGolden), copy);
  std::stringstream text;
  text << std::ifstream(copy / file).rdbuf();
  std::string changed = text.str();
  const size_t at = changed.find(from);
  EXPECT_NE(at, std::string::npos);
  changed.replace(at, from.size(), to);
  fs::permissions(copy / file, fs::perms::owner_write, fs::perm_options::add);
  std::ofstream(copy / file) << changed;
  return copy;
}

TEST(PosttrainEval, GoldenNumbersHold) {
  GoldenReport report;
  const Status status = verify_estimators(test_data(kGolden), report);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(report.all_hold());
  EXPECT_EQ(report.num_checks(), 9);
}

TEST(PosttrainEval, AWrongNumberFailsItsCheckAlone) {
  const fs::path copy =
      changed_copy("wrong", "pass_vote.json", "\"value\":0.3,", "\"value\":0.300001,");
  GoldenReport report;
  ASSERT_TRUE(verify_estimators(copy.string(), report).ok());
  EXPECT_EQ(report.failed(), std::vector<std::string>{"pass@k"});
}

TEST(PosttrainEval, AnotherLayoutIsAnErrorThatNamesThePlace) {
  const fs::path copy =
      changed_copy("layout", "pass_vote.json", "\"value\":0.3,", "\"value\":\"much\",");
  GoldenReport report;
  const Status status = verify_estimators(copy.string(), report);
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(status.message().find("pass_at_k[4].value: expected number, found string"),
            std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace cachalot::verify
