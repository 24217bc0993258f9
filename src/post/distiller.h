// Optimizer steps of on-policy distillation: teachers run one after another over their trajectories
// and leave their final states on disk, then the student is trained with one head at a time.
// Source  reference/post-training 8, 9.2. loss = mean over the trajectories (kl_loss.h).
//         sampled: the estimator of the sampled token alone, for which the teachers leave its
//         log-probabilities; no head is loaded.
// Order   trajectories are run by teachers, then by id: however they come, the step is the same.
// Files   DIRECTORY/teacher-K.safetensors (teacher_states.h), until forget().
// Memory  one teacher's model, later one head and the next. Heads are loaded once in an update
//         whose trajectories have one teacher each; a mixture's once for each lot of logits.
// Errors  of teachers, files and heads; the student is then as before.
// Threads one owner.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "post/kl_loss.h"
#include "post/rollout_log.h"
#include "post/rollout_plan.h"
#include "post/teacher_states.h"
#include "train/trainer.h"

namespace cachalot::post {

// A student's answer to a prompt.
struct Trajectory {
  struct Share {
    int32_t teacher = 0;
    double weight = 1;
  };
  int64_t id = 0;  // distinct in a step
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;  // as tokens: the next token where the student sampled it, else -1
  std::vector<Share> teachers;

  int64_t num_labels() const;  // at least 1
};

// Of an answer that has ended, without its teachers: prompt and answer but for its last token,
// which no row predicts from. Its number is its id.
Trajectory trajectory_of(const RolloutPlan& plan, const RolloutLog& log, int64_t answer);

enum class KlEstimate { full, sampled };

struct DistillerOptions {
  std::string directory;
  StateType states = StateType::bf16;
  int64_t micro_batch_tokens = 4096;
  KlEstimate estimate = KlEstimate::full;
};

struct DistillReport {
  double loss = 0;  // before the step
  // Of each trajectory as it came: mean over its tokens of sum_k w_k KL, or of its estimate.
  std::vector<double> divergences;
  int64_t num_tokens = 0;  // that were sampled
  train::StepResult step;
};

class Distiller {
 public:
  // A teacher's model as it is served. It is gone before the next one is asked for.
  using Load = std::function<Result<std::unique_ptr<engine::LoadedModel>>(int32_t teacher)>;

  // Borrows the heads, which are the same teachers'.
  Distiller(Load load, TeacherHeads& heads, DistillerOptions options)
      : load_(std::move(load)), heads_(heads), options_(std::move(options)) {}

  // Each teacher's forward pass over its trajectories, in place of what was there.
  Status run_teachers(std::span<const Trajectory> trajectories);
  // One optimizer step on some of those trajectories (CHECK).
  Result<DistillReport> update(train::Trainer& student, std::span<const Trajectory> trajectories,
                               double learning_rate);
  // What the teachers have left goes.
  void forget();

 private:
  struct Run;
  Status run_teacher(int32_t teacher, const Run& run);
  Status add_shares(const Trajectory& trajectory, DistilledSample& sample) const;
  void add_rows(const Trajectory& trajectory, double scale,
                std::vector<SampledKlLoss::Row>& rows) const;
  std::string path(int32_t teacher) const;

  Load load_;
  TeacherHeads& heads_;
  DistillerOptions options_;
  std::map<int32_t, TeacherStates> states_;
  std::map<std::pair<int32_t, int64_t>, std::vector<double>> logprobs_;  // of a teacher and an id
};

}  // namespace cachalot::post
