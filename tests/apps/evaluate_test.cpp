// cachalot evaluate, on the bundled model: what its card says, and that neither threads nor drafts
// change a score.
#include <gtest/gtest.h>

#include "apps/binary.h"
#include "base/file.h"
#include "base/test_data.h"
#include "formats/test_checkpoint.h"

namespace cachalot::apps {
namespace {

json::object evaluated(int count, const std::vector<std::string>& extra,
                       const std::string& max_tokens = "160") {
  std::vector<std::string> words = {
      "evaluate", test_data("../models/nano"), "--greedy", "--max-tokens", max_tokens, "--json",
      "--count",  std::to_string(count)};
  words.insert(words.end(), extra.begin(), extra.end());
  return run_json(words);
}

TEST(Evaluate, NanoSortsAsItsCardSays) {
  const json::object report = evaluated(40, {"--families", "sorting"});
  EXPECT_EQ(report.at("count").to_number<int64_t>(), 40);
  EXPECT_EQ(report.at("correct").to_number<int64_t>(), 40);
}

TEST(Evaluate, ScoresDependOnNeitherThreadsNorDraftsNorNeighbours) {
  const std::vector<std::string> families = {"--families", "arithmetic,tools,constraints"};
  std::vector<std::string> other = families;
  other.insert(other.end(), {"--threads", "1", "--drafts", "2", "--parallel", "1"});
  const json::object one = evaluated(8, families);
  EXPECT_EQ(one.at("tasks"), evaluated(8, other).at("tasks"));
  const auto correct = one.at("correct").to_number<int64_t>();
  EXPECT_GT(correct, 0);
  EXPECT_LT(correct, 24);
}

// Rows with checkers, and answers cut off, which are wrong.
TEST(Evaluate, FilesOfTasksAreTakenAndWhatIsTruncatedIsWrong) {
  const formats::TemporaryDirectory directory("evaluate");
  const std::string path = directory.path() + "/tasks.jsonl";
  ASSERT_TRUE(
      write_file_atomically(
          path,
          R"({"prompt": "Sort 3, 1.", "check": {"kind": "rules", "rules": [{"max_lines": 99}]}})"
          "\n")
          .ok());
  json::object row = evaluated(5, {"--tasks", path}).at("tasks").as_array().at(0).as_object();
  EXPECT_EQ(row.at("count").to_number<int64_t>(), 1);
  EXPECT_EQ(row.at("correct").to_number<int64_t>() + row.at("truncated").to_number<int64_t>(), 1);
  row = evaluated(5, {"--tasks", path}, "1").at("tasks").as_array().at(0).as_object();
  EXPECT_EQ(row.at("correct").to_number<int64_t>(), 0);
  EXPECT_EQ(row.at("truncated").to_number<int64_t>(), 1);
  EXPECT_EQ(row.at("tokens").to_number<int64_t>(), 1);
}

TEST(Evaluate, AnUnknownFamilyIsNamed) {
  const Outcome output =
      run_binary({"evaluate", test_data("../models/nano"), "--families", "sorting,sortin"});
  EXPECT_NE(output.exit_code, 0);
  EXPECT_NE(output.err.find("found \"sortin\""), std::string::npos);
}

}  // namespace
}  // namespace cachalot::apps
