// A run that learns from its own answers to tasks, from its configuration to its last checkpoint.
// What it learns from them is a TaskLearner's: rl_run.h, distill_run.h.
// A step  its tasks and seeds follow from its number; prompts_per_step groups of group_size answers
//         are sampled by the weights of the last step that is a multiple of weights_every_steps and
//         judged; then the learner makes mini_batches optimizer steps of them. An answer that
//         reached its window is wrong: reward 0. Then its length's penalty is taken off.
// Files   RUN/checkpoints, RUN/metrics.jsonl and RUN/run.toml as a training run's; RUN/rollouts: a
//         log a step (rollout_log.h), rewards included, and one of the judges' where tasks have
//         rubrics, kept as far back as the oldest checkpoint;
//         RUN/samples.jsonl: of each step its first task, answers and rewards, to read.
// Resume  from the newest checkpoint that is whole. Steps after it take their answers and rewards
//         from the logs: nothing that is in them is sampled or judged twice, and the run's values
//         and weights are those of an undisturbed one, bit for bit, but for times.
// Errors  of every part, with its own message; what has been written stays valid.
// Threads one owner.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/exec_context.h"
#include "post/answer_sampler.h"
#include "post/episode.h"
#include "post/judges.h"
#include "post/task_config.h"
#include "train/metrics.h"
#include "train/run_lock.h"
#include "train/trainer.h"

namespace cachalot::post {

struct TaskRunRequest {
  bool resume = false;
  int64_t stop_at_step = -1;  // ends the run with a checkpoint after this step; -1: at its end
  AnswerSampler* sampler = nullptr;  // borrowed; null: an engine of this process
};

struct TaskRunSummary {
  int64_t step = 0;
  bool is_done = false;
  std::string checkpoint;  // directory of the last
};

// What a person is shown. Calls come from the run's thread.
class TaskRunObserver {
 public:
  virtual ~TaskRunObserver() = default;
  virtual void on_step(int64_t step, const train::MetricValues& values) = 0;
  virtual void on_event(int64_t step, std::string_view event, std::string_view detail) = 0;
  // Asked between steps, and between two steps of the engine.
  virtual bool wants_stop() { return false; }
};

// A step's answers, all of which have ended and have their rewards.
struct StepAnswers {
  const RolloutPlan& plan;
  const RolloutLog& log;
  std::span<const size_t> entries;  // of each group: which of the configuration's tasks it is of
};

class TaskRun;

// Of one run. Everything it does follows from the run's state and its arguments alone.
class TaskLearner {
 public:
  virtual ~TaskLearner() = default;
  // Once: model, tokenizer and trainer are there.
  virtual Status open(TaskRun& run) = 0;
  // Before the answers of a step are sampled.
  virtual Status begin_step(TaskRun& run, int64_t step) = 0;
  // Updates TaskRun::trainer() mini_batches times, and adds what there is to log.
  virtual Status update(TaskRun& run, const StepAnswers& answers, train::MetricValues* values) = 0;
  // The oldest checkpoint is this step's: what only earlier ones need can go.
  virtual Status forget_before(int64_t step) = 0;
};

class TaskRun {
 public:
  // Borrows all.
  TaskRun(device::ExecContext& ctx, const TaskRunConfig& config, const TaskRunRequest& request,
          TaskRunObserver& observer, TaskLearner& learner)
      : ctx_(ctx), config_(config), request_(request), observer_(observer), learner_(learner) {}

  Result<TaskRunSummary> run();

  // For the learner.
  device::ExecContext& context() { return ctx_; }
  const TaskRunConfig& config() const { return config_; }
  const std::string& directory() const { return config_.train.run_dir; }
  const formats::ModelConfig& model() const { return model_; }
  const train::TrainingPrecision& precision() const { return precision_; }
  const std::string& tokenizer_json() const { return tokenizer_json_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  train::Trainer& trainer() { return *trainer_; }
  // Of the next optimizer step.
  double learning_rate() const;
  // The weights as they are now.
  Result<std::unique_ptr<engine::LoadedModel>> served_now();
  Status event(std::string_view name, const std::string& detail);

 private:
  struct Rewards;
  std::string log_path(int64_t step) const;
  std::string judge_log_path(int64_t step) const;
  // Whole steps; the trainer counts its own.
  int64_t step() const { return trainer_->position().step / config_.mini_batches; }
  Status open();
  Status open_tokenizer();
  Status open_trainer();
  Status start_or_resume();
  // False: stopped on the way; what has been sampled is in the log.
  Result<bool> run_step();
  // Of the step, by its number alone. episodes_ and the like become its groups'.
  Result<RolloutPlan> plan_of(int64_t step);
  int64_t judge_prompt_tokens() const;
  // The weights as they are now, with room for the answers of all steps that they sample.
  Status see_to_sampler(int64_t step);
  // The answers that the log does not have yet. False: stopped.
  Result<bool> sample(const RolloutPlan& plan, RolloutLog& log);
  // What the policy says of its answers to tasks with rubrics, in a log of its own. False: stopped.
  Result<bool> ask_judges(const RolloutPlan& plan, const RolloutLog& log, Judges::Scores* scores);
  // Rewards that the log does not have yet; and what they come to.
  Result<Rewards> judge(const RolloutPlan& plan, RolloutLog& log, const Judges::Scores& scores);
  // To read; a step that is taken again is written again.
  Status write_samples(int64_t step, const RolloutLog& log, const RolloutPlan& plan);
  Status save();
  // Checkpoints, and what none of them needs any more.
  Status prune();

  device::ExecContext& ctx_;
  const TaskRunConfig& config_;
  const TaskRunRequest& request_;
  TaskRunObserver& observer_;
  TaskLearner& learner_;
  formats::ModelConfig model_;
  std::optional<train::RunLock> lock_;
  std::string tokenizer_json_;
  std::optional<text::Tokenizer> tokenizer_;
  EpisodeFormat format_{};
  std::vector<int32_t> end_tokens_;
  std::vector<TaskSource> sources_;
  train::TrainingPrecision precision_;
  std::unique_ptr<train::Trainer> trainer_;
  train::SpikeDetector detector_{{}};  // of the checkpoint's layout; there is nothing to detect
  std::optional<EngineSampler> own_sampler_;
  AnswerSampler* sampler_ = nullptr;
  // Of the groups of the plan made last.
  std::vector<Episode> episodes_;
  std::vector<LengthPenalty> penalties_;
  std::vector<size_t> entries_;
  std::optional<train::MetricsLog> metrics_;
  int64_t last_saved_ = -1;
};

}  // namespace cachalot::post
