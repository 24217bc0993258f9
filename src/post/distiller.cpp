#include "post/distiller.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/check.h"
#include "train/final_states.h"

namespace cachalot::post {
namespace {

namespace fs = std::filesystem;

}  // namespace

// The trajectories in the order in which they run.
struct Distiller::Run {
  std::vector<const Trajectory*> trajectories;
  std::vector<std::vector<int32_t>> labels;
  std::vector<train::Sample> samples;

  explicit Run(std::span<const Trajectory> given) {
    std::vector<DistilledSample> teachers;
    std::vector<int64_t> ids;
    for (const Trajectory& trajectory : given) {
      CACHALOT_CHECK(trajectory.prompt_length >= 1 &&
                     trajectory.prompt_length < std::ssize(trajectory.tokens));
      DistilledSample& sample = teachers.emplace_back();
      for (const Trajectory::Share& share : trajectory.teachers)
        sample.teachers.push_back({share.teacher, share.weight, nullptr});
      ids.push_back(trajectory.id);
    }
    for (const int64_t i : dispatch_order(teachers, ids)) {
      const Trajectory& trajectory = given[static_cast<size_t>(i)];
      trajectories.push_back(&trajectory);
      std::vector<int32_t>& own = labels.emplace_back(trajectory.tokens.size(), -1);
      for (size_t t = static_cast<size_t>(trajectory.prompt_length); t < own.size(); ++t)
        own[t - 1] = trajectory.tokens[t];
    }
    for (size_t i = 0; i < trajectories.size(); ++i)
      samples.push_back({trajectories[i]->tokens, labels[i]});
  }
  int64_t rows(size_t i) const {
    return std::ssize(trajectories[i]->tokens) - trajectories[i]->prompt_length;
  }
  bool has_teacher(size_t i, int32_t teacher) const {
    return std::ranges::any_of(
        trajectories[i]->teachers,
        [teacher](const Trajectory::Share& share) { return share.teacher == teacher; });
  }
};

std::string Distiller::path(int32_t teacher) const {
  return (fs::path(options_.directory) / fmt::format("teacher-{}.safetensors", teacher)).string();
}

Status Distiller::run_teacher(int32_t teacher, const Run& run) const {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::LoadedModel> model, load_(teacher));
  std::vector<SampleRows> rows;
  for (size_t i = 0; i < run.samples.size(); ++i)
    if (run.has_teacher(i, teacher)) rows.push_back({run.trajectories[i]->id, run.rows(i)});
  CACHALOT_ASSIGN_OR_RETURN(
      TeacherStatesWriter writer,
      TeacherStatesWriter::create(path(teacher), rows, heads_.hidden_size(), options_.states));
  for (size_t i = 0; i < run.samples.size(); ++i) {
    if (!run.has_teacher(i, teacher)) continue;
    CACHALOT_RETURN_IF_ERROR(writer.add(train::final_states(model->context(), model->transformer(),
                                                            std::span(run.samples).subspan(i, 1))));
  }
  return writer.finish();
}

Result<DistillReport> Distiller::update(train::Trainer& student,
                                        std::span<const Trajectory> trajectories,
                                        double learning_rate) {
  const Run run(trajectories);
  std::set<int32_t> teachers;
  for (const Trajectory& trajectory : trajectories)
    for (const Trajectory::Share& share : trajectory.teachers) teachers.insert(share.teacher);
  DistillReport report;
  CACHALOT_RETURN_IF_ERROR(create_directories(options_.directory));
  std::map<int32_t, TeacherStates> states;
  for (const int32_t teacher : teachers) {
    CACHALOT_RETURN_IF_ERROR(run_teacher(teacher, run));
    CACHALOT_ASSIGN_OR_RETURN(TeacherStates read, TeacherStates::open(path(teacher)));
    states.emplace(teacher, std::move(read));
    ++report.teachers_run;
  }
  std::vector<std::vector<float>> held;
  std::vector<DistilledSample> samples;
  for (size_t i = 0; i < run.samples.size(); ++i) {
    DistilledSample& sample = samples.emplace_back();
    sample.rows = run.rows(i);
    sample.scale = 1 / static_cast<double>(run.samples.size());
    report.num_tokens += sample.rows;
    for (const Trajectory::Share& share : run.trajectories[i]->teachers) {
      CACHALOT_ASSIGN_OR_RETURN(std::vector<float> own,
                                states.at(share.teacher).read(run.trajectories[i]->id));
      held.push_back(std::move(own));
      sample.teachers.push_back({share.teacher, share.weight, held.back().data()});
    }
  }
  heads_.expect(teachers_in_order(samples));
  // Whole samples, as many as micro_batch_tokens hold.
  std::vector<std::unique_ptr<KlLoss>> losses;
  train::Update update{learning_rate, {}};
  for (size_t first = 0; first < samples.size();) {
    size_t end = first;
    for (int64_t tokens = 0; end < samples.size(); ++end) {
      tokens += std::ssize(run.samples[end].tokens);
      if (end > first && tokens > options_.micro_batch_tokens) break;
    }
    losses.push_back(std::make_unique<KlLoss>(
        std::span(std::as_const(samples)).subspan(first, end - first), heads_));
    update.micro_batches.push_back(
        {std::span(run.samples).subspan(first, end - first), losses.back().get()});
    first = end;
  }
  CACHALOT_ASSIGN_OR_RETURN(report.step, student.update(update));
  for (const auto& loss : losses) report.loss += loss->loss();
  std::error_code ignored;
  for (const int32_t teacher : teachers) fs::remove(path(teacher), ignored);
  return report;
}

}  // namespace cachalot::post
