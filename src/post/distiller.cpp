#include "post/distiller.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <set>

#include "base/check.h"
#include "post/label_logprobs.h"
#include "train/final_states.h"
#include "train/forward_loss.h"

namespace cachalot::post {
namespace {

namespace fs = std::filesystem;

std::set<int32_t> teachers_of(std::span<const Trajectory> trajectories) {
  std::set<int32_t> teachers;
  for (const Trajectory& trajectory : trajectories)
    for (const Trajectory::Share& share : trajectory.teachers) teachers.insert(share.teacher);
  return teachers;
}

// Whole samples from `first` on, as many as so many tokens hold, and one at least: the end.
size_t end_of_call(std::span<const train::Sample> samples, size_t first, int64_t num_tokens) {
  size_t end = first;
  for (int64_t tokens = 0; end < samples.size(); ++end) {
    tokens += std::ssize(samples[end].tokens);
    if (end > first && tokens > num_tokens) break;
  }
  return end;
}

}  // namespace

int64_t Trajectory::num_labels() const {
  return std::ranges::count_if(labels, [](int32_t label) { return label >= 0; });
}

Trajectory trajectory_of(const RolloutPlan& plan, const RolloutLog& log, int64_t answer) {
  const RolloutAnswer& said = log.answers()[static_cast<size_t>(answer)];
  const std::vector<int32_t>& prompt = plan.group_of(answer).prompt;
  Trajectory out;
  out.id = answer;
  out.tokens = prompt;
  out.tokens.insert(out.tokens.end(), said.ids.begin(), said.ids.end() - 1);
  out.labels.resize(out.tokens.size(), -1);
  for (size_t i = 0; i < said.ids.size(); ++i)
    if (said.is_sampled[i]) out.labels[prompt.size() - 1 + i] = said.ids[i];
  return out;
}

// The trajectories in the order in which they run.
struct Distiller::Run {
  std::vector<int64_t> order;  // places where they were given
  std::vector<const Trajectory*> trajectories;
  std::vector<train::Sample> samples;

  explicit Run(std::span<const Trajectory> given) {
    std::vector<DistilledSample> teachers;
    std::vector<int64_t> ids;
    for (const Trajectory& trajectory : given) {
      CACHALOT_CHECK(trajectory.labels.size() == trajectory.tokens.size() &&
                     trajectory.num_labels() > 0 && !trajectory.teachers.empty());
      DistilledSample& sample = teachers.emplace_back();
      for (const Trajectory::Share& share : trajectory.teachers)
        sample.teachers.push_back({share.teacher, share.weight, {}});
      ids.push_back(trajectory.id);
    }
    order = dispatch_order(teachers, ids);
    for (const int64_t i : order) {
      trajectories.push_back(&given[static_cast<size_t>(i)]);
      samples.push_back({trajectories.back()->tokens, trajectories.back()->labels});
    }
  }
};

std::string Distiller::path(int32_t teacher) const {
  return (fs::path(options_.directory) / fmt::format("teacher-{}.safetensors", teacher)).string();
}

Status Distiller::run_teacher(int32_t teacher, const Run& run) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::LoadedModel> model, load_(teacher));
  std::vector<train::Sample> samples;
  std::vector<SampleRows> rows;
  for (size_t i = 0; i < run.samples.size(); ++i) {
    const Trajectory& trajectory = *run.trajectories[i];
    if (std::ranges::find(trajectory.teachers, teacher, &Trajectory::Share::teacher) ==
        trajectory.teachers.end())
      continue;
    samples.push_back(run.samples[i]);
    rows.push_back({trajectory.id, trajectory.num_labels()});
  }
  // Of the rows of a call, sample by sample.
  const auto for_each_call = [&](const auto& body) -> Status {
    for (size_t first = 0; first < samples.size();) {
      const size_t end = end_of_call(samples, first, options_.micro_batch_tokens);
      CACHALOT_RETURN_IF_ERROR(body(std::span(samples).subspan(first, end - first),
                                    std::span(rows).subspan(first, end - first)));
      first = end;
    }
    return {};
  };
  if (options_.estimate == KlEstimate::sampled) {
    return for_each_call([&](std::span<const train::Sample> call, std::span<const SampleRows> of) {
      LabelLogprobs loss;
      train::forward_loss(model->context(), model->transformer(), call, loss);
      auto next = loss.values().begin();
      for (const SampleRows& sample : of) {
        logprobs_[{teacher, sample.id}].assign(next, next + sample.rows);
        next += sample.rows;
      }
      return Status();
    });
  }
  CACHALOT_ASSIGN_OR_RETURN(
      TeacherStatesWriter writer,
      TeacherStatesWriter::create(path(teacher), rows, heads_.hidden_size(), options_.states));
  CACHALOT_RETURN_IF_ERROR(for_each_call(
      [&](std::span<const train::Sample> call, std::span<const SampleRows> of) -> Status {
        const std::vector<float> states =
            train::final_states(model->context(), model->transformer(), call);
        std::span<const float> rest = states;
        for (const SampleRows& sample : of) {
          const auto count = static_cast<size_t>(sample.rows * heads_.hidden_size());
          CACHALOT_RETURN_IF_ERROR(writer.add(rest.first(count)));
          rest = rest.subspan(count);
        }
        return {};
      }));
  CACHALOT_RETURN_IF_ERROR(writer.finish());
  CACHALOT_ASSIGN_OR_RETURN(TeacherStates states, TeacherStates::open(path(teacher)));
  states_.emplace(teacher, std::move(states));
  return {};
}

Status Distiller::run_teachers(std::span<const Trajectory> trajectories) {
  forget();
  CACHALOT_RETURN_IF_ERROR(create_directories(options_.directory));
  const Run run(trajectories);
  for (const int32_t teacher : teachers_of(trajectories))
    CACHALOT_RETURN_IF_ERROR(run_teacher(teacher, run));
  return {};
}

void Distiller::forget() {
  std::error_code ignored;
  for (const auto& [teacher, states] : states_) fs::remove(path(teacher), ignored);
  states_.clear();
  logprobs_.clear();
}

Status Distiller::add_shares(const Trajectory& trajectory, DistilledSample& sample) const {
  for (const Trajectory::Share& share : trajectory.teachers) {
    CACHALOT_ASSIGN_OR_RETURN(const tensor::TensorView states,
                              states_.at(share.teacher).of(trajectory.id));
    sample.teachers.push_back({share.teacher, share.weight, states});
  }
  return {};
}

void Distiller::add_rows(const Trajectory& trajectory, double scale,
                         std::vector<SampledKlLoss::Row>& rows) const {
  std::vector<Trajectory::Share> shares = trajectory.teachers;
  std::ranges::sort(shares, {}, &Trajectory::Share::teacher);
  const auto num_rows = static_cast<size_t>(trajectory.num_labels());
  for (size_t t = 0; t < num_rows; ++t) {
    SampledKlLoss::Row& row = rows.emplace_back();
    row.weight = 0;
    row.scale = scale / static_cast<double>(num_rows);
    for (const Trajectory::Share& share : shares) {
      row.weight += share.weight;
      row.teacher_logprob += share.weight * logprobs_.at({share.teacher, trajectory.id})[t];
    }
  }
}

Result<DistillReport> Distiller::update(train::Trainer& student,
                                        std::span<const Trajectory> trajectories,
                                        double learning_rate) {
  const bool is_full = options_.estimate == KlEstimate::full;
  const Run run(trajectories);
  const double scale = 1 / static_cast<double>(run.samples.size());
  std::vector<DistilledSample> samples;
  std::vector<SampledKlLoss::Row> rows;
  std::vector<size_t> offsets = {0};  // of the samples' rows
  for (const Trajectory* trajectory : run.trajectories) {
    const int64_t num_rows = trajectory->num_labels();
    samples.push_back({num_rows, {}, scale});
    offsets.push_back(offsets.back() + static_cast<size_t>(num_rows));
    if (is_full) CACHALOT_RETURN_IF_ERROR(add_shares(*trajectory, samples.back()));
    if (!is_full) add_rows(*trajectory, scale, rows);
  }
  if (is_full) heads_.expect(teachers_in_order(samples));
  std::vector<std::unique_ptr<DivergenceLoss>> losses;
  train::Update update{learning_rate, {}};
  for (size_t first = 0; first < samples.size();) {
    const size_t end = end_of_call(run.samples, first, options_.micro_batch_tokens);
    if (is_full) {
      losses.push_back(std::make_unique<KlLoss>(
          std::span(std::as_const(samples)).subspan(first, end - first), heads_));
    } else {
      losses.push_back(std::make_unique<SampledKlLoss>(
          std::span(std::as_const(rows)).subspan(offsets[first], offsets[end] - offsets[first])));
    }
    update.micro_batches.push_back(
        {std::span(run.samples).subspan(first, end - first), losses.back().get()});
    first = end;
  }
  DistillReport report;
  report.num_tokens = static_cast<int64_t>(offsets.back());
  CACHALOT_ASSIGN_OR_RETURN(report.step, student.update(update));
  std::vector<double> row_losses;
  for (const auto& loss : losses) {
    report.loss += loss->loss();
    row_losses.insert(row_losses.end(), loss->row_losses().begin(), loss->row_losses().end());
  }
  report.divergences.resize(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto first = row_losses.begin() + static_cast<ptrdiff_t>(offsets[i]);
    report.divergences[static_cast<size_t>(run.order[i])] =
        std::accumulate(first, first + samples[i].rows, 0.0) / static_cast<double>(samples[i].rows);
  }
  return report;
}

}  // namespace cachalot::post
