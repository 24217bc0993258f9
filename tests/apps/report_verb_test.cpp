// train leaves a report, and report compares runs.
#include <gtest/gtest.h>

#include <filesystem>

#include "apps/binary.h"
#include "base/file.h"
#include "base/test_data.h"

namespace cachalot::apps {
namespace {

Outcome train(const std::string& run_dir, const std::string& data) {
  return run_binary({"train", test_data("train/small.toml"), "--stop-at-step", "3",
                     "--run_dir=" + run_dir, "--data.0.path=" + data});
}

std::string written_tokens() {
  std::string path = scratch_path("report_bytes.bin");
  std::string ids;
  for (int i = 0; i < 20000; ++i) ids += {static_cast<char>(i * i % 64), '\0'};
  EXPECT_TRUE(write_file_atomically(path, ids).ok());
  return path;
}

TEST(Report, TrainLeavesOneAndTheVerbComparesRuns) {
  const std::string data = written_tokens();
  const std::string first = scratch_path("report-s1"), second = scratch_path("report-s2");
  for (const std::string& run : {first, second}) {
    const Outcome outcome = train(run, data);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const std::string page = read_text_file(run + "/report.html").value();
    EXPECT_NE(page.find("3 steps"), std::string::npos);
    EXPECT_NE(page.find("loss/lm"), std::string::npos);
  }
  const std::string page_path = scratch_path("report-both.html");
  const Outcome both = run_binary({"report", first, second, "--out", page_path});
  ASSERT_EQ(both.exit_code, 0) << both.err;
  EXPECT_EQ(both.out, page_path + "\n");
  EXPECT_NE(read_text_file(page_path).value().find("report × 2"), std::string::npos);

  const Outcome nowhere = run_binary({"report", first, second});
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_NE(nowhere.err.find("--out"), std::string::npos);
  const Outcome none = run_binary({"report", scratch_path("no-run")});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_NE(none.err.find("no-run: expected a run's directory"), std::string::npos) << none.err;
  EXPECT_NE(none.err.find("found no such path"), std::string::npos) << none.err;
}

TEST(Report, ATrainedRunIsWholeWithoutItsPage) {
  const std::string run = scratch_path("report-unwritable");
  std::filesystem::create_directories(run + "/report.html");  // what no page can replace
  const Outcome outcome = train(run, written_tokens());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("report: " + run + "/report.html: "), std::string::npos)
      << outcome.err;
  EXPECT_TRUE(std::filesystem::exists(run + "/checkpoints/step-0000000003/manifest.json"));
  for (const auto& entry : std::filesystem::directory_iterator(run))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();

  const Outcome page = run_binary({"report", run});
  EXPECT_EQ(page.exit_code, 2);
  EXPECT_NE(page.err.find(run + "/report.html: "), std::string::npos) << page.err;
}

}  // namespace
}  // namespace cachalot::apps
