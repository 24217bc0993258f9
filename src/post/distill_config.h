// What a run of distillation is: a run on tasks (task_config.h), and of its table [distill] the
// teachers, each with its weight and its domains.
// Source  reference/post-training 8. Defaults: one answer to a prompt, the full vocabulary, states
//         kept in bf16.
#pragma once

#include <string>
#include <vector>

#include "post/distiller.h"
#include "post/task_config.h"

namespace cachalot::post {

struct TeacherEntry {
  std::string path;  // a model's directory
  std::string name;  // its path, where no name is given; distinct
  double weight = 1;
  std::vector<std::string> domains;  // names of tasks that it teaches; empty: all
};

struct DistillConfig {
  TaskRunConfig run;
  KlEstimate estimate = KlEstimate::full;
  StateType states = StateType::bf16;
  std::vector<TeacherEntry> teachers;
};

// Every task has a teacher.
Result<DistillConfig> read_distill_config(std::span<const std::string> files,
                                          std::span<const std::string> assignments);

// Of the tasks: their teachers, by their places in the configuration.
std::vector<std::vector<Trajectory::Share>> teachers_of_tasks(const DistillConfig& config);

}  // namespace cachalot::post
