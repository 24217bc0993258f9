// Stages of a pipeline, with a shell in the program's place.
#include "apps/pipeline.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "apps/pipeline_places.h"
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
    std::string name, script, resume = {}, score = {}, more = {};
  };
  Result<PipelineConfig> config(const std::vector<Stage>& stages) const {
    std::string text = fmt::format("parallel = {}\n", parallel_);
    for (const Stage& stage : stages) {
      text += fmt::format("[[stages]]\nname = \"{}\"\ncommand = [\"-c\", '''{}''']\n", stage.name,
                          stage.script);
      if (!stage.resume.empty()) text += fmt::format("resume = [\"-c\", '''{}''']\n", stage.resume);
      if (!stage.score.empty()) text += fmt::format("score = [\"-c\", '''{}''']\n", stage.score);
      text += stage.more;
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
  int64_t parallel_ = 1;
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

// A stage in rounds: scores 3, 5, 5, 4 of 10; the first 5 is the best, and two rounds have not
// bettered it.
TEST_F(PipelineTest, RoundsEndWhereTheScoreRisesNoMore) {
  const std::string make =
      "d={run}/sft/checkpoints/step-$(printf %010d {steps}); mkdir -p $d; "
      "echo {steps} >> {run}/seen; "
      "echo '{\"step\": {steps}, \"tokens\": {steps}0, \"a\": 1}' >> {run}/sft/metrics.jsonl";
  const std::string score =
      "n=$(basename {model:sft}); test -e {run}/stops && { rm {run}/stops; exit 1; }; "
      "case $n in *05) c=3;; *10) c=5;; *15) c=5;; *) c=4;; esac; echo said; "
      "echo '{\"tasks\": [{\"family\": \"a\", \"difficulty\": 0, \"correct\": '$c', \"count\": "
      "10}]}'";
  const std::vector<Stage> stages = {{"sft", make, make, score, "round_steps = 5\nrounds = 9\n"},
                                     {"next", "echo {model:sft} {tokens:sft} >> {run}/seen"}};
  ASSERT_TRUE(*run(stages));
  const std::string seen =
      "5\n10\n15\n20\n" + path("run/sft/checkpoints/step-0000000010") + " 100\n";
  EXPECT_EQ(read("seen"), seen);
  EXPECT_EQ(read_rounds(path("run/sft.rounds"))->size(), 4u);
  // A stop between a round's training and its score: the training is not done again.
  std::filesystem::remove_all(path("run"));
  ASSERT_TRUE(create_directories(path("run")).ok());
  ASSERT_TRUE(write_file_atomically(path("run/stops"), "").ok());
  EXPECT_NE(error(stages), "");
  EXPECT_EQ(read("seen"), "5\n");
  ASSERT_TRUE(*run(stages));
  EXPECT_EQ(read("seen"), seen);
}

// Three rounds without a right answer are no reason to end.
TEST_F(PipelineTest, RoundsBeforeTheFirstRightAnswerTakeNoPatience) {
  const std::string make =
      "d={run}/sft/checkpoints/step-$(printf %010d {steps}); mkdir -p $d; "
      "echo {steps} >> {run}/seen; "
      "echo '{\"step\": {steps}, \"tokens\": {steps}0, \"a\": 1}' >> {run}/sft/metrics.jsonl";
  const std::string score =
      "case $(basename {model:sft}) in *04) c=2;; *) c=0;; esac; "
      "echo '{\"tasks\": [{\"family\": \"a\", \"difficulty\": 0, \"correct\": '$c', \"count\": "
      "10}]}'";
  ASSERT_TRUE(*run({{"sft", make, make, score, "round_steps = 1\nrounds = 9\n"}}));
  EXPECT_EQ(read("seen"), "1\n2\n3\n4\n5\n6\n");
  EXPECT_EQ(read_rounds(path("run/sft.rounds"))->size(), 6u);
}

TEST_F(PipelineTest, ValuesArePutIn) {
  const std::vector<std::string> files = {path("values.toml")};
  ASSERT_TRUE(
      write_file_atomically(files[0],
                            "run_dir = 'r'\n[values]\nseed = '1'\nrate = 2e-4\n"
                            "[[stages]]\nname = 'a'\ncommand = ['x{seed}y{seed}', '{rate}', "
                            "'{run}']\n")
          .ok());
  const auto command = [&](const std::vector<std::string>& given) {
    const Result<PipelineConfig> read = read_pipeline_config(files, given);
    EXPECT_TRUE(read.has_value()) << read.error().message();
    return read ? read->stages[0].command : std::vector<std::string>();
  };
  EXPECT_EQ(command({"values.seed=23"}), (std::vector<std::string>{"x23y23", "0.0002", "{run}"}));
  EXPECT_EQ(command({"values.rate=3e-4"}), (std::vector<std::string>{"x1y1", "0.0003", "{run}"}));
  const std::vector<std::string> wrong = {"values.seed=[2]"};
  EXPECT_NE(
      read_pipeline_config(files, wrong).error().message().find("values.seed: expected a text"),
      std::string::npos);
}

// Two lanes that each wait for the other's first stage, then a stage that waits for both.
TEST_F(PipelineTest, LanesRunBesideEachOther) {
  const auto lane = [](const std::string& name) { return "lane = '" + name + "'\n"; };
  const std::string wait =
      "for i in $(seq 500); do test -e {run}/$1 && exit 0; sleep 0.02; done; exit 1";
  const auto meet = [&](const std::string& own, const std::string& other) {
    return "touch {run}/met-" + own + "; set -- met-" + other + "; " + wait;
  };
  std::vector<Stage> stages = {{"a", meet("a", "b"), "", "", lane("x")},
                               {"b", meet("b", "a"), "", "", lane("y")},
                               {"c", "test -e {run}/met-a && touch {run}/met-c", "", "", lane("x")},
                               {"d", "test -e {run}/met-c"}};
  parallel_ = 2;
  ASSERT_TRUE(*run(stages));
  // One of them fails: the other one's lane goes to its end, what comes behind does not begin.
  std::filesystem::remove_all(path("run"));
  stages[0].script = "exit 1";
  stages[1].script = "touch {run}/met-b";
  EXPECT_NE(error(stages).find("stage a: expected exit code 0"), std::string::npos);
  EXPECT_TRUE(fs::exists(path("run/met-b")));
  EXPECT_FALSE(fs::exists(path("run/c.done")));
  EXPECT_FALSE(fs::exists(path("run/d.done")));
}

TEST_F(PipelineTest, WhatIsNoScoreIsNamed) {
  const std::string make = "mkdir -p {run}/sft/checkpoints/step-0000000005";
  const std::string found = error({{"sft", make, make, "echo well", "round_steps = 5\n"}});
  EXPECT_NE(found.find("expected a score that ends in evaluate's JSON object"), std::string::npos)
      << found;
  EXPECT_NE(error({{"sft", make, "", "echo well", "round_steps = 5\n"}})
                .find("stages.0.score: expected round_steps and resume beside it"),
            std::string::npos);
}

StageScores scores(const std::string& stage, int64_t correct, int64_t tokens = 0) {
  return {stage, {{"a 0", correct, 1000, tokens, 0}, {"b 3", 500, 1000, tokens, 0}}};
}

TEST(PipelineClaims, AreJudgedByTheirIntervals) {
  const std::vector<StageScores> all = {scores("base", 400, 5000), scores("rl", 700, 9000),
                                        scores("student", 690)};
  using Kind = ClaimVerdict::Kind;
  const auto judged = [&](PipelineClaim claim) { return judge_claim(claim, all); };
  ClaimVerdict verdict = judged({"", "rl", {"base"}, {"a"}, {}, "correct", 20});
  EXPECT_EQ(verdict.kind, Kind::holds);
  // 1.96 sqrt(0.4 * 0.6 / 1000 + 0.7 * 0.3 / 1000) = 4.16 points.
  EXPECT_EQ(verdict.why, "70.0 against 40.0 of base: +30.0 +- 4.2");
  // The mean of both tasks, of which b is the same.
  EXPECT_EQ(judged({"", "rl", {"base"}, {}, {}, "correct", 20}).kind, Kind::fails);
  verdict = judged({"", "student", {"rl", "base"}, {"a 0"}, {}, "correct", -2});
  EXPECT_EQ(verdict.kind, Kind::holds);
  EXPECT_NE(verdict.why.find("of rl: -1.0 +- 4.0, within what chance does"), std::string::npos)
      << verdict.why;
  EXPECT_EQ(judged({"", "rl", {"base"}, {}, {}, "tokens", 3}).kind, Kind::holds);
  EXPECT_EQ(judged({"", "rl", {}, {"a"}, {}, "correct", 40}).kind, Kind::holds);
  // None of six is not certainty.
  EXPECT_EQ(judge_claim({"", "few", {}, {}, {}, "correct", 0}, {{"few", {{"a 0", 0, 6}}}}).why,
            "0.0 +- 22.9, within what chance does");
  // Two tasks of one stage: b is named whole, and what goes on behind it is another.
  StageScores efforts{"efforts", {{"b 3", 10, 100, 0, 200}, {"b 3 high", 10, 100, 0, 900}}};
  EXPECT_EQ(
      judge_claim({"", "efforts", {"efforts"}, {"b 3 high"}, {"b 3"}, "reasoning", 7}, {efforts})
          .why,
      "9.0 against 2.0 of efforts: +7.0");
  EXPECT_EQ(judged({"", "rl", {"none"}, {}, {}, "correct", 0}).kind, Kind::open);
  EXPECT_EQ(judged({"", "rl", {"base"}, {"c"}, {}, "correct", 0}).kind, Kind::open);
  const std::string page =
      scores_section({{"<it> rises", "rl", {"base"}, {"a"}, {}, "correct", 20}}, all);
  EXPECT_NE(page.find("&lt;it&gt; rises</td><td><b>holds</b>"), std::string::npos) << page;
}

TEST(PipelineScores, AreOfTheLastLine) {
  const std::optional<StageScores> found = scores_of(
      "s",
      "row\n{\"tasks\": [{\"family\": \"a\", \"difficulty\": 2, \"correct\": 3, \"count\": 9, "
      "\"tokens\": 40, \"reasoning\": 7}], \"correct\": 3}\n\n");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->tasks.at(0).task, "a 2");
  EXPECT_EQ(found->tasks[0].reasoning, 7);
  EXPECT_EQ(total_correct(*found), 3);
  for (const char* text : {"", "done", "{}", "{\"tasks\": [3]}", "{\"tasks\": 1}"})
    EXPECT_FALSE(scores_of("s", text).has_value()) << text;
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
            "stages.0: expected {model:NAME} or {tokens:NAME} with the name of a stage before");
  expect_in({{"a", "true"}, {"b", "echo {model:a}"}},
            "expected a checkpoint of stage a, found none");
  const std::string x = "lane = 'x'\n", y = "lane = 'y'\n";
  expect_in({{"a", "true", "", "", x}, {"b", "echo {model:a}", "", "", y}},
            "stages.1: expected {model:NAME} or {tokens:NAME} with the name of a stage before, of "
            "its own lane where both are in lanes");
  expect_in({{"a", "true", "", "", x}, {"b", "echo {model:a}", "", "", x}},
            "expected a checkpoint of stage a, found none");
  expect_in({{"a", "true", "", "", x}, {"d", "true"}, {"b", "echo {model:a}", "", "", y}},
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
