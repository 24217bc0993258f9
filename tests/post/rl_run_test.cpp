// Whole runs of reinforcement learning on a tiny model: the reward rises, and stops, kills and cuts
// show in no bit.
#include "post/rl_run.h"

#include <cstring>
#include <filesystem>

#include "rl_run_testing.h"

namespace cachalot::post {
namespace {

using testing::mean;
using testing::Recorder;
using testing::RlRunTest;

// G6: answers are right that end, as they do at a digit; by chance one in ten does.
TEST_F(RlRunTest, TheRewardRises) {
  const Recorder recorder =
      run_whole("rises", {"rl.steps=30", "rl.mini_batches=1", "rl.prompts_per_step=6",
                          "rl.group_size=12", "rl.max_sequences=24"});
  const std::vector<double> rewards = recorder.values("reward/mean");
  ASSERT_EQ(rewards.size(), 30u);
  std::printf("reward %.3f at first, %.3f at last\n", mean(rewards, 0, 3), mean(rewards, 27, 3));
  EXPECT_LT(mean(rewards, 0, 3), 0.4);
  EXPECT_GT(mean(rewards, 27, 3), 0.8);
}

// G4 through whole steps: every step's first mini-batch has the ratio 1, in FP4 with drafts and
// top-p; later ones and stale weights have not.
TEST_F(RlRunTest, TheFirstRatioIsOneAndStalenessShows) {
  const std::vector<std::string> fp4 = {"precision=fp8", "qat=true"};
  const Recorder fresh = run_whole("fresh", fp4);
  EXPECT_EQ(fresh.values("policy/first_off_ratio"), (std::vector<double>{0, 0, 0, 0}));
  EXPECT_EQ(fresh.values("policy/staleness"), (std::vector<double>{0, 0, 0, 0}));
  EXPECT_NE(fresh.values("policy/ratio")[1], 1);
  const Recorder stale =
      run_whole("stale", {"rl.weights_every_steps=2", "checkpoint.every_steps=2"});
  EXPECT_EQ(stale.values("policy/staleness"), (std::vector<double>{0, 1, 0, 1}));
  EXPECT_EQ(stale.values("policy/first_off_ratio")[2], 0);
  EXPECT_GT(stale.values("policy/first_off_ratio")[1], 0);
}

// G7.
TEST_F(RlRunTest, NeitherMicroBatchesNorRoomShowInABit) {
  run_whole("one");
  run_whole("other", {"schedule.micro_batch_tokens=1", "rl.max_sequences=2", "rl.num_drafts=0"});
  EXPECT_EQ(weights("one"), weights("other"));
  EXPECT_EQ(metrics("one"), metrics("other"));
  run_whole("lots", {"recompute.logit_rows=3"});  // answers are longer, and their head runs twice
  EXPECT_EQ(weights("one"), weights("lots"));
}

// Answers of advantage 0 run forward alone where beta is 0. A beta whose terms vanish beside any
// other keeps them in, to the same bits.
TEST_F(RlRunTest, AnswersWithoutAGradientAreLeftOutWithoutATrace) {
  const std::vector<std::string> more = {"rl.group_size=3", "rl.prompts_per_step=8"};
  for (const char* precision : {"bf16", "fp8"}) {
    const auto with = [&](const std::string& beta) {
      std::vector<std::string> all = {fmt::format("precision={}", precision), "rl.beta=" + beta};
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const std::string out = fmt::format("out-{}", precision), in = fmt::format("in-{}", precision);
    const std::vector<double> flat = run_whole(out, with("0")).values("policy/flat");
    EXPECT_GT(mean(flat, 0, 4), 0.1);
    EXPECT_LT(mean(flat, 0, 4), 0.9);
    EXPECT_EQ(run_whole(in, with("1e-300")).values("policy/flat"), (std::vector<double>(4)));
    EXPECT_EQ(weights(out), weights(in)) << precision;
  }
}

// W1 through updates: stopped between any two steps of the engine or of the run, then resumed; and
// logs cut as a kill leaves them.
TEST_F(RlRunTest, ARunThatIsStoppedOrKilledIsResumedAsIfUndisturbed) {
  const std::vector<std::string> more = {"rl.reference_every_steps=2", "rl.weights_every_steps=2",
                                         "checkpoint.every_steps=2", "rl.beta=0.1"};
  run_whole("whole", more);
  for (const int64_t stop_after : {9, 23, 37}) {
    const std::string name = fmt::format("stopped-{}", stop_after);
    TaskRunRequest request;
    for (int64_t starts = 0; starts < 60; ++starts) {
      Recorder recorder(stop_after);
      const Result<TaskRunSummary> summary = run(name, more, recorder, request);
      ASSERT_TRUE(summary.has_value()) << summary.error().message();
      request.resume = true;
      if (summary->is_done) break;
      // As after a kill: the last log ends in the middle of a frame.
      std::string last;
      for (const auto& entry : std::filesystem::directory_iterator(path(name) + "/rollouts"))
        last = std::max(last, entry.path().string());
      std::filesystem::resize_file(last,
                                   std::filesystem::file_size(last) -
                                       std::min<uintmax_t>(3, std::filesystem::file_size(last)));
    }
    EXPECT_EQ(weights(name), weights("whole")) << stop_after;
    EXPECT_EQ(metrics(name), metrics("whole")) << stop_after;
  }
}

// Answers that reach their window are wrong, whatever the checker would say, and counted.
TEST_F(RlRunTest, TruncatedAnswersAreWrong) {
  const Recorder recorder = run_whole("truncated", {"rl.steps=1"});
  const double truncated = recorder.values("reward/truncated")[0];
  EXPECT_GT(truncated, 0.5);
  EXPECT_EQ(recorder.values("reward/correct")[0], 1 - truncated);
  EXPECT_EQ(recorder.values("reward/mean")[0], 1 - truncated);
}

// EV4: a mode's answers go as far as its own window, and no further.
TEST_F(RlRunTest, EveryModeHasItsWindow) {
  const std::vector<std::pair<std::string, double>> windows = {
      {"none", 4}, {"high", 12}, {"max", 36}};
  std::string tasks;
  for (const auto& [effort, window] : windows) {
    tasks += fmt::format("{{path='{0}',name='{1}',effort='{1}',max_new_tokens={2}}},",
                         path("tasks.jsonl"), effort, window);
  }
  const Recorder recorder = run_whole(
      "windows", {"rl.tasks=[" + tasks + "]", "rl.prompt_format=chat", "rl.end_texts=[]",
                  "rl.steps=2", "rl.prompts_per_step=6", "schedule.micro_batch_tokens=1024"});
  double shorter = 0;
  for (size_t i = 0; i < windows.size(); ++i) {
    const auto& [effort, window] = windows[i];
    for (const double length : recorder.values(fmt::format("task/{}.{}/length", i, effort))) {
      EXPECT_GT(length, shorter) << effort;  // few end by chance
      EXPECT_LE(length, window) << effort;
    }
    shorter = window;
  }
  EXPECT_GT(recorder.values("reward/truncated")[0], 0.5);
}

class JudgedRunTest : public RlRunTest {
 protected:
  void SetUp() override {
    RlRunTest::SetUp();
    std::string rubrics, annotated;
    for (int i = 0; i < 4; ++i) {
      rubrics += fmt::format(
          R"({{"prompt": "{}", "check": {{"kind": "rubric", "items": ["Short.", "True."], )"
          R"("audit": {{"kind": "rules", "rules": [{{"max_lines": 9}}]}}}}}})"
          "\n",
          i);
      annotated +=
          fmt::format(R"({{"judge": {{"task": "{}", "answer": "a", "items": ["Short."]}}, )"
                      R"("check": {{"kind": "verdict", "scores": [1]}}}})"
                      "\n",
                      i);
    }
    ASSERT_TRUE(write_file_atomically(path("rubrics.jsonl"), rubrics).ok());
    ASSERT_TRUE(write_file_atomically(path("annotated.jsonl"), annotated).ok());
  }
  std::vector<std::string> judged(const std::vector<std::string>& files,
                                  const std::vector<std::string>& more = {}) const {
    std::string tasks;
    for (const std::string& file : files)
      tasks += fmt::format("{{path='{}', name='{}'}},", path(file), file.substr(0, 6));
    std::vector<std::string> all = {"rl.tasks=[" + tasks + "]",
                                    "rl.prompt_format=chat",
                                    "rl.end_texts=['q','x','z','Q','X','Z','~','^','|','@']",
                                    "rl.max_new_tokens=48",
                                    "rl.judge_max_new_tokens=48",
                                    "rl.judgements=2",
                                    "rl.steps=2",
                                    "rl.beta=0",
                                    "checkpoint.keep_last=3",
                                    "model.max_position_embeddings=1024"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  int64_t version_of(const std::string& log) const {
    const std::string bytes = read_text_file(log).value();
    int64_t version = 0;
    std::memcpy(&version, bytes.data() + 8 + 1 + 4 + 8, 8);  // docs/formats/rollout_log.md
    return version;
  }
};

// J1: the weights that answer judge, and what both roles sample moves them in one step.
TEST_F(JudgedRunTest, ThePolicyJudgesWithTheWeightsThatAnswered) {
  const Recorder both = run_whole("both", judged({"rubrics.jsonl", "annotated.jsonl"}));
  for (const int step : {0, 1}) {
    const std::string log = path(fmt::format("both/rollouts/step-{:010}", step));
    EXPECT_EQ(version_of(log + ".log"), step);
    EXPECT_EQ(version_of(log + ".judges.log"), step);
  }
  EXPECT_EQ(both.values("task/0.rubric/correct").size(), 2u);
  EXPECT_EQ(both.values("task/1.annota/correct").size(), 2u);
  EXPECT_EQ(both.values("judge/audit").size(), 2u);
  run_whole("judges", judged({"annotated.jsonl"}));
  EXPECT_NE(weights("judges"), weights("both"));
  const auto first = [&](const std::string& name) {
    return sha256_hex(
        read_text_file(train::checkpoint_directory(path(name), 0) + "/model.safetensors").value());
  };
  const auto last = [&](const std::string& name) {
    return sha256_hex(
        read_text_file(train::checkpoint_directory(path(name), 2) + "/model.safetensors").value());
  };
  run_whole("answers", judged({"rubrics.jsonl"}));
  EXPECT_EQ(first("answers"), first("judges"));
  EXPECT_NE(last("judges"), first("judges"));
  EXPECT_NE(last("answers"), first("answers"));
}

// J3: a verdict that is none is worth nothing to judge and judged, and is counted.
TEST_F(JudgedRunTest, WhatIsNoVerdictEarnsNothingAndIsCounted) {
  const Recorder free = run_whole(
      "free", judged({"rubrics.jsonl", "annotated.jsonl"}, {"rl.constrain_verdicts=false"}));
  EXPECT_EQ(free.values("judge/unparseable"), (std::vector<double>{1, 1}));
  EXPECT_EQ(free.values("reward/mean"), (std::vector<double>{0, 0}));
  EXPECT_EQ(free.values("judge/score"), (std::vector<double>{0, 0}));
  const Recorder bound = run_whole("bound", judged({"rubrics.jsonl", "annotated.jsonl"}));
  EXPECT_LT(bound.values("judge/unparseable")[0], 0.5);
  EXPECT_GT(bound.values("reward/mean")[0], 0.05);
  EXPECT_GT(bound.values("judge/score")[0], 0);
  EXPECT_EQ(bound.values("policy/first_off_ratio"), (std::vector<double>{0, 0}));
}

TEST_F(JudgedRunTest, AStopAmongJudgementsShowsInNoBit) {
  const std::vector<std::string> more = judged({"rubrics.jsonl", "annotated.jsonl"});
  run_whole("whole", more);
  TaskRunRequest request;
  int64_t starts = 0;
  for (bool is_done = false; !is_done && starts < 60; ++starts) {
    Recorder recorder(60);
    const Result<TaskRunSummary> summary = run("stopped", more, recorder, request);
    ASSERT_TRUE(summary.has_value()) << summary.error().message();
    request.resume = true;
    is_done = summary->is_done;
  }
  EXPECT_GT(starts, 3);
  EXPECT_EQ(weights("stopped"), weights("whole"));
  EXPECT_EQ(metrics("stopped"), metrics("whole"));
}

TEST_F(RlRunTest, WhatIsWrongIsNamed) {
  const auto error = [&](const std::vector<std::string>& more) {
    Recorder recorder;
    const Result<TaskRunSummary> summary = run("wrong", more, recorder);
    EXPECT_FALSE(summary.has_value());
    return summary ? "" : summary.error().message();
  };
  EXPECT_NE(error({"rl.group_sise=3"}).find("\"group_size\"?"), std::string::npos);
  EXPECT_NE(error({"rl.tasks=[{family='sonnets'}]"}).find("arithmetic"), std::string::npos);
  EXPECT_NE(error({"rl.tasks=[{path='" + path("none.jsonl") + "'}]"}).find("none.jsonl"),
            std::string::npos);
  EXPECT_NE(error({"rl.end_texts=['two tokens']"}).find("one token each"), std::string::npos);
  EXPECT_NE(error({"rl.weights_every_steps=3"}).find("checkpoint.every_steps"), std::string::npos);
  ASSERT_TRUE(
      write_file_atomically(
          path("program.jsonl"),
          R"({"prompt": "a", "check": {"kind": "program", "command": ["no-such-program"]}})")
          .ok());
  // Found when it is needed.
  EXPECT_NE(error({"rl.max_new_tokens=64", "rl.tasks=[{path='" + path("program.jsonl") + "'}]"})
                .find("no-such-program"),
            std::string::npos);
}

TEST_F(RlRunTest, ACheckpointOfOtherStepsIsRefused) {
  run_whole("whole", {"rl.steps=1"});
  Recorder recorder;
  TaskRunRequest request;
  request.resume = true;
  const Result<TaskRunSummary> summary = run("whole", {"rl.mini_batches=1"}, recorder, request);
  ASSERT_FALSE(summary.has_value());
  EXPECT_NE(summary.error().message().find("rl.mini_batches"), std::string::npos);
}

TEST_F(RlRunTest, BadRowsAreCountedAndNamed) {
  const std::string rows = read_text_file(path("tasks.jsonl")).value() + "{\"prompt\": 3}\nnone\n";
  ASSERT_TRUE(write_file_atomically(path("tasks.jsonl"), rows).ok());
  const Recorder recorder = run_whole("bad", {"rl.steps=1"});
  const std::string& told = recorder.events.at("bad rows");
  EXPECT_NE(told.find("2 left out of 8"), std::string::npos) << told;
  EXPECT_NE(told.find("tasks.jsonl:7: prompt: expected"), std::string::npos) << told;
}

}  // namespace
}  // namespace cachalot::post
