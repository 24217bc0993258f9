// What tests of whole runs on tasks share: a tiny tokenizer and tasks, an observer that remembers,
// and what two equal runs must have in common.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/sha256.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "formats/test_checkpoint.h"
#include "post/task_run.h"
#include "text/bpe_trainer.h"
#include "train/checkpoint.h"
#include "train/metrics.h"

namespace cachalot::post::testing {

class Recorder : public TaskRunObserver {
 public:
  explicit Recorder(int64_t stop_after = -1) : stop_after_(stop_after) {}
  void on_step(int64_t, const train::MetricValues& values) override { steps.push_back(values); }
  void on_event(int64_t, std::string_view event, std::string_view detail) override {
    events[std::string(event)] = detail;
  }
  bool wants_stop() override { return stop_after_ >= 0 && num_asked_++ >= stop_after_; }
  std::vector<double> values(std::string_view name) const {
    std::vector<double> out;
    for (const train::MetricValues& step : steps) {
      for (const auto& [key, value] : step) {
        if (key == name) out.push_back(value);
      }
    }
    return out;
  }
  std::vector<train::MetricValues> steps;
  std::map<std::string, std::string> events;

 private:
  int64_t stop_after_;
  int64_t num_asked_ = 0;
};

class TaskRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const text::BpeTrainer bytes;
    ASSERT_TRUE(write_file_atomically(path("tokenizer.json"),
                                      text::tokenizer_json(bytes.train(322, 2).value()))
                    .ok());
    std::string tasks;
    for (int i = 0; i < 6; ++i) {
      tasks += fmt::format(
          R"({{"prompt": "{} = ", "check": {{"kind": "rules", "rules": [{{"max_lines": 9}}]}}}})"
          "\n",
          i);
    }
    ASSERT_TRUE(write_file_atomically(path("tasks.jsonl"), tasks).ok());
  }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  // The verb's run: of `name`, its configuration changed by `more`.
  virtual Result<TaskRunSummary> run(const std::string& name, const std::vector<std::string>& more,
                                     TaskRunObserver& observer,
                                     const TaskRunRequest& request = {}) = 0;
  Recorder run_whole(const std::string& name, const std::vector<std::string>& more = {}) {
    Recorder recorder;
    const Result<TaskRunSummary> summary = run(name, more, recorder);
    EXPECT_TRUE(summary.has_value()) << summary.error().message();
    EXPECT_TRUE(summary && summary->is_done);
    return recorder;
  }

  // A run of seconds; `table`: of the keys of tasks and sampling.
  std::vector<std::string> assignments(const std::string& table, const std::string& name,
                                       const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"run_dir=" + path(name),
                                    "tokenizer=" + path("tokenizer.json"),
                                    "model.vocab_size=322",
                                    "data=[]",
                                    "init.std=0.05",
                                    "schedule.learning_rate.peak=0.003",
                                    "schedule.micro_batch_tokens=64"};
    const std::vector<std::string> own = {"steps=4",
                                          "prompts_per_step=4",
                                          "group_size=4",
                                          "mini_batches=2",
                                          "max_new_tokens=3",
                                          "prompt_format=raw",
                                          "max_sequences=5",
                                          "top_p=0.95",
                                          "end_texts=['0','1','2','3','4','5','6','7','8','9']",
                                          "num_drafts=2",
                                          "tasks=[{path='" + path("tasks.jsonl") + "'}]"};
    for (const std::string& one : own) all.push_back(table + "." + one);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Masters and moments of the last checkpoint, hashed.
  std::string weights(const std::string& name) const {
    const std::vector<int64_t> steps = train::list_checkpoints(path(name));
    const std::string last = train::checkpoint_directory(path(name), steps.back());
    return sha256_hex(read_text_file(last + "/model.safetensors").value() +
                      read_text_file(last + "/optimizer.safetensors").value());
  }
  // Of metrics.jsonl, without times and the like.
  std::vector<std::string> metrics(const std::string& name) const {
    std::vector<std::string> out;
    const std::vector<train::MetricsLine> lines =
        train::read_metrics(path(name) + "/metrics.jsonl").value();
    for (const train::MetricsLine& line : lines) {
      std::string text = fmt::format("{} {}", line.step, line.tokens);
      for (const auto& [key, value] : line.values) {
        if (!key.starts_with("time/") && !key.starts_with("throughput/"))
          text += fmt::format(" {}={}", key, value);
      }
      if (!line.values.empty()) out.push_back(text);
    }
    return out;
  }

  formats::TemporaryDirectory directory_{"task-run"};
};

}  // namespace cachalot::post::testing
