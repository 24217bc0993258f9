// One optimizer step of on-policy distillation: teachers run one after another over their samples
// and leave their final states on disk, then the student is trained with one head at a time.
// Source  reference/post-training 8, 9.2. loss = mean over the trajectories (kl_loss.h).
// Order   trajectories are run by teachers, then by id: however they come, the step is the same.
// Files   DIRECTORY/teacher-K.safetensors (teacher_states.h), gone after the step.
// Memory  one teacher's model, later one head and the next; the trajectories' states.
// Errors  of teachers, files and heads; the student is then as before.
// Threads one owner.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "post/kl_loss.h"
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
  int64_t prompt_length = 0;  // at least 1, and fewer than the tokens
  std::vector<Share> teachers;
};

struct DistillerOptions {
  std::string directory;
  StateType states = StateType::bf16;
  int64_t micro_batch_tokens = 4096;
};

struct DistillReport {
  double loss = 0;         // before the step
  int64_t num_tokens = 0;  // of answers
  int64_t teachers_run = 0;
  train::StepResult step;
};

class Distiller {
 public:
  // A teacher's model as it is served. It is gone before the next one is asked for.
  using Load = std::function<Result<std::unique_ptr<engine::LoadedModel>>(int32_t teacher)>;

  // Borrows the heads, which are the same teachers'.
  Distiller(Load load, TeacherHeads& heads, DistillerOptions options)
      : load_(std::move(load)), heads_(heads), options_(std::move(options)) {}

  Result<DistillReport> update(train::Trainer& student, std::span<const Trajectory> trajectories,
                               double learning_rate);

 private:
  struct Run;
  Status run_teacher(int32_t teacher, const Run& run) const;
  std::string path(int32_t teacher) const;

  Load load_;
  TeacherHeads& heads_;
  DistillerOptions options_;
};

}  // namespace cachalot::post
