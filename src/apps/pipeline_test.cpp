// Stages of a pipeline, with a shell in the program's place.
#include "apps/pipeline.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "formats/test_checkpoint.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

class PipelineTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::string read(const std::string& name) const {
    const Result<std::string> text = read_text_file(path("run/" + name));
    return text ? *text : "";
  }
  // Stages are (name, script, script to go on by).
  struct Stage {
    std::string name, script, resume = {};
  };
  Result<PipelineConfig> config(const std::vector<Stage>& stages) const {
    std::string text;
    for (const Stage& stage : stages) {
      text += fmt::format("[[stages]]\nname = \"{}\"\ncommand = [\"-c\", '''{}''']\n", stage.name,
                          stage.script);
      if (!stage.resume.empty()) text += fmt::format("resume = [\"-c\", '''{}''']\n", stage.resume);
    }
    EXPECT_TRUE(write_file_atomically(path("pipeline.toml"), text).ok());
    const std::vector<std::string> files = {path("pipeline.toml")};
    const std::vector<std::string> assignments = {"run_dir=" + path("run")};
    return read_pipeline_config(files, assignments);
  }
  Result<bool> run(const std::vector<Stage>& stages) {
    CACHALOT_ASSIGN_OR_RETURN(const PipelineConfig read, config(stages));
    return run_pipeline(read, {"/bin/sh", [](const std::string&) {}, [this] { return stops_; }});
  }
  std::string error(const std::vector<Stage>& stages) {
    const Result<bool> result = run(stages);
    return result ? "" : result.error().message();
  }

  formats::TemporaryDirectory directory_{"pipeline"};
  bool stops_ = false;
};

TEST_F(PipelineTest, RunsItsStagesOnceEach) {
  const std::vector<Stage> stages = {
      {"base", "mkdir -p {run}/base/checkpoints/step-0000000007 && echo one >> {run}/seen"},
      {"student", "echo {model:base} >> {run}/seen; echo '<said>'"}};
  ASSERT_TRUE(*run(stages));
  const std::string seen = "one\n" + path("run/base/checkpoints/step-0000000007") + "\n";
  EXPECT_EQ(read("seen"), seen);
  EXPECT_NE(read("report.html").find("&lt;said&gt;"), std::string::npos);
  ASSERT_TRUE(*run(stages));
  EXPECT_EQ(read("seen"), seen);
}

TEST_F(PipelineTest, GoesOnWhereItHasFailed) {
  const std::string fails =
      "test -e {run}/mended || { echo broken; exit 3; }; echo two >> {run}/seen";
  const std::vector<Stage> stages = {{"first", "echo one >> {run}/seen"}, {"second", fails}};
  const std::string told = error(stages);
  EXPECT_NE(told.find("stage second: expected exit code 0, found 3"), std::string::npos) << told;
  EXPECT_NE(told.find("second.log"), std::string::npos) << told;
  EXPECT_EQ(read("second.log"), "broken\n");
  EXPECT_NE(read("report.html").find("broken"), std::string::npos);
  ASSERT_TRUE(write_file_atomically(path("run/mended"), "").ok());
  ASSERT_TRUE(*run(stages));
  EXPECT_EQ(read("seen"), "one\ntwo\n");
}

TEST_F(PipelineTest, AStageWithACheckpointGoesOnByItsOwnResume) {
  const std::vector<Stage> stages = {
      {"trained",
       "mkdir -p {run}/trained/checkpoints; if test -e {run}/began; then "
       "mkdir {run}/trained/checkpoints/step-0000000001; fi; touch {run}/began {run}/trained/rest; "
       "exit 1",
       "test -e {run}/trained/rest && echo resumed >> {run}/seen"}};
  // Without a checkpoint it begins anew, and nothing of before is left.
  EXPECT_NE(error(stages), "");
  EXPECT_NE(error(stages), "");
  EXPECT_EQ(read("seen"), "");
  ASSERT_TRUE(*run(stages));
  EXPECT_EQ(read("seen"), "resumed\n");
}

TEST_F(PipelineTest, StopsBetweenStages) {
  stops_ = true;
  const std::vector<Stage> stages = {{"a", "echo a >> {run}/seen"}, {"b", "echo b >> {run}/seen"}};
  EXPECT_FALSE(*run(stages));
  EXPECT_EQ(read("seen"), "a\n");
  EXPECT_FALSE(*run(stages));
  EXPECT_EQ(read("seen"), "a\nb\n");
}

TEST_F(PipelineTest, WhatIsWrongIsNamed) {
  const auto expect_in = [&](const std::vector<Stage>& stages, const std::string& text) {
    const std::string found = error(stages);
    EXPECT_NE(found.find(text), std::string::npos) << found;
  };
  expect_in({}, "stages: expected an array of tables, found none");
  expect_in({{"Base", "true"}}, "stages.0.name: expected lower-case letters");
  expect_in({{"a", "true"}, {"a", "true"}},
            "stages.1.name: expected a name of its own, found \"a\"");
  expect_in({{"a", "echo {model:b}"}, {"b", "true"}},
            "stages.0: expected {model:NAME} with the name of a stage before");
  expect_in({{"a", "true"}, {"b", "echo {model:a}"}},
            "expected a checkpoint of stage a, found none");
  // What was done by another command.
  expect_in({{"a", "echo other"}}, "a.done: expected stage a done by");
  const Result<PipelineConfig> read = config({{"c", "true"}});
  const Result<bool> result =
      run_pipeline(*read, {path("no-program"), [](const std::string&) {}, [] { return false; }});
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message().find("no-program"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::apps
