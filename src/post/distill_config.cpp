#include "post/distill_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/closest.h"

namespace cachalot::post {
namespace {

constexpr size_t kMostDomains = 4096;

bool teaches(const TeacherEntry& teacher, const TaskEntry& task) {
  return teacher.domains.empty() ||
         std::ranges::find(teacher.domains, task.name) != teacher.domains.end();
}

void read_teacher(ConfigTable& table, TeacherEntry* out) {
  table.text("path", &out->path);
  out->name = out->path;
  table.text("name", &out->name);
  table.real("weight", &out->weight, 1e-9, 1e9);
  table.texts("domains", &out->domains, kMostDomains);
  if (out->path.empty()) table.key("path").fail("path", "a model's directory", "none");
}

// What single keys do not tell.
void check_teachers(ConfigTable& t, const DistillConfig& c) {
  std::vector<std::string> tasks, teachers;
  for (const TaskEntry& task : c.run.tasks) tasks.push_back(task.name);
  for (size_t k = 0; k < c.teachers.size(); ++k) {
    const TeacherEntry& teacher = c.teachers[k];
    if (std::ranges::find(teachers, teacher.name) != teachers.end()) {
      t.add_error(invalid_argument(
          fmt::format("distill.teachers.{}.name: expected a name of its own, found \"{}\" twice", k,
                      teacher.name)));
    }
    teachers.push_back(teacher.name);
    for (const std::string& domain : teacher.domains) {
      if (std::ranges::find(tasks, domain) != tasks.end()) continue;
      const std::string near = closest(domain, tasks);
      t.add_error(invalid_argument(
          fmt::format("distill.teachers.{}.domains: expected names of tasks{}, found \"{}\"", k,
                      near.empty() ? "" : fmt::format(" (\"{}\"?)", near), domain)));
    }
  }
  for (size_t i = 0; i < c.run.tasks.size() && !c.teachers.empty(); ++i) {
    const TaskEntry& task = c.run.tasks[i];
    const auto teaches_it = [&](const TeacherEntry& teacher) { return teaches(teacher, task); };
    if (std::ranges::any_of(c.teachers, teaches_it)) continue;
    t.add_error(invalid_argument(fmt::format(
        "distill.tasks.{}: expected a teacher with the domain \"{}\", found none", i, task.name)));
  }
}

void read_keys(ConfigTable& t, DistillConfig& c) {
  std::string estimator = "full", states = "bf16";
  t.choice("estimator", &estimator, {"full", "sampled"});
  t.choice("states", &states, {"bf16", "f32"});
  c.estimate = estimator == "full" ? KlEstimate::full : KlEstimate::sampled;
  c.states = states == "bf16" ? StateType::bf16 : StateType::f32;
  t.tables("teachers",
           [&](ConfigTable& table) { read_teacher(table, &c.teachers.emplace_back()); });
  check_teachers(t, c);
}

}  // namespace

Result<DistillConfig> read_distill_config(std::span<const std::string> files,
                                          std::span<const std::string> assignments) {
  DistillConfig config;
  config.run.group_size = 1;
  CACHALOT_RETURN_IF_ERROR(read_task_run_config(
      files, assignments, "distill", [&](ConfigTable& table) { read_keys(table, config); },
      &config.run));
  return config;
}

std::vector<std::vector<Trajectory::Share>> teachers_of_tasks(const DistillConfig& config) {
  std::vector<std::vector<Trajectory::Share>> out;
  for (const TaskEntry& task : config.run.tasks) {
    std::vector<Trajectory::Share>& shares = out.emplace_back();
    for (size_t k = 0; k < config.teachers.size(); ++k) {
      if (teaches(config.teachers[k], task))
        shares.push_back({static_cast<int32_t>(k), config.teachers[k].weight});
    }
  }
  return out;
}

}  // namespace cachalot::post
