#include "post/distill_run.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <numeric>

#include "base/python_json.h"
#include "formats/weight_source.h"
#include "post/rollout_engine.h"

namespace cachalot::post {
namespace {

using Clock = std::chrono::steady_clock;
constexpr char kHead[] = "head.weight";

size_t entry_of(const StepAnswers& answers, size_t number) {
  return answers.entries[number / static_cast<size_t>(answers.plan.group_size)];
}

double mean_entropy(const RolloutLog& log) {
  double sum = 0;
  int64_t count = 0;
  for (const RolloutAnswer& answer : log.answers()) {
    for (size_t i = 0; i < answer.ids.size(); ++i) {
      if (!answer.is_sampled[i]) continue;
      sum -= answer.logprobs[i];
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

class DistillLearner : public TaskLearner {
 public:
  explicit DistillLearner(const DistillConfig& config)
      : config_(config), teachers_of_tasks_(teachers_of_tasks(config)) {}

  Status open(TaskRun& run) override {
    for (const TeacherEntry& teacher : config_.teachers)
      CACHALOT_RETURN_IF_ERROR(open_teacher(run, teacher));
    const auto read_head = [this](int32_t teacher) -> Result<std::vector<float>> {
      CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source, open_source(teacher));
      CACHALOT_ASSIGN_OR_RETURN(const tensor::QuantTensor head, source.matrix(kHead));
      return tensor::dequantize(head);
    };
    const train::Parameter* head = run.trainer().parameters().find(kHead);
    const bool is_f32 =
        train::prepared_format(run.precision(), head->info) == train::PreparedFormat::f32;
    heads_ = std::make_unique<TeacherHeads>(read_head, run.model().vocab_size,
                                            models_.front().hidden_size, run.context().isa,
                                            is_f32 ? ops::MatmulMath::f32 : ops::MatmulMath::bf16);
    const auto load = [this,
                       &run](int32_t teacher) -> Result<std::unique_ptr<engine::LoadedModel>> {
      CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source, open_source(teacher));
      CACHALOT_ASSIGN_OR_RETURN(const train::ParameterStore parameters,
                                train::ParameterStore::from_checkpoint(source));
      return served_model(source.config(), parameters, run.precision(),
                          run.context().pool->num_threads());
    };
    distiller_.emplace(load, *heads_,
                       DistillerOptions{run.directory() + "/teachers", config_.states,
                                        run.config().train.micro_batch_tokens, config_.estimate});
    return {};
  }

  Status begin_step(TaskRun&, int64_t) override { return {}; }

  Status update(TaskRun& run, const StepAnswers& answers, train::MetricValues* values) override {
    std::vector<Trajectory> trajectories;
    for (int64_t number = 0; number < answers.plan.num_answers(); ++number) {
      trajectories.push_back(trajectory_of(answers.plan, answers.log, number));
      trajectories.back().teachers =
          teachers_of_tasks_[entry_of(answers, static_cast<size_t>(number))];
      CACHALOT_RETURN_IF_ERROR(check_length(trajectories.back()));
    }
    const Clock::time_point start = Clock::now();
    CACHALOT_RETURN_IF_ERROR(distiller_->run_teachers(trajectories));
    const double teachers_s = std::chrono::duration<double>(Clock::now() - start).count();
    const TeacherHeads::Counts before = heads_->counts();
    const double learning_rate = run.learning_rate();
    const auto mini_batches = static_cast<size_t>(run.config().mini_batches);
    double grad_norm = 0;
    std::vector<double> divergences;
    for (size_t m = 0; m < mini_batches; ++m) {
      const size_t begin = trajectories.size() * m / mini_batches;
      const size_t end = trajectories.size() * (m + 1) / mini_batches;
      CACHALOT_ASSIGN_OR_RETURN(
          const DistillReport report,
          distiller_->update(run.trainer(), std::span(trajectories).subspan(begin, end - begin),
                             learning_rate));
      grad_norm += report.step.optimizer.grad_norm / static_cast<double>(mini_batches);
      divergences.insert(divergences.end(), report.divergences.begin(), report.divergences.end());
    }
    const TeacherHeads::Counts& after = heads_->counts();
    // Room for the answers of the next step.
    heads_->drop();
    distiller_->forget();
    const train::MetricValues own = {
        {"distill/divergence", std::accumulate(divergences.begin(), divergences.end(), 0.0) /
                                   static_cast<double>(divergences.size())},
        {"policy/entropy", mean_entropy(answers.log)},
        {"policy/grad_norm", grad_norm},
        {"throughput/head_loads", static_cast<double>(after.loads - before.loads)},
        {"throughput/head_stalls", static_cast<double>(after.stalls - before.stalls)},
        {"time/head_stalls", after.stall_seconds - before.stall_seconds},
        {"time/teachers", teachers_s},
    };
    values->insert(values->end(), own.begin(), own.end());
    add_tasks(answers, divergences, values);
    return {};
  }

  Status forget_before(int64_t) override { return {}; }

 private:
  Result<formats::WeightSource> open_source(int32_t teacher) const {
    return formats::WeightSource::open(config_.teachers[static_cast<size_t>(teacher)].path);
  }

  Status open_teacher(const TaskRun& run, const TeacherEntry& teacher) {
    CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                              formats::WeightSource::open(teacher.path));
    CACHALOT_RETURN_IF_ERROR(source.validate());
    const formats::ModelConfig& config = models_.emplace_back(source.config());
    const auto expect = [&](const char* name, int64_t expected, const std::string& whose,
                            int64_t found) -> Status {
      if (found == expected) return {};
      return invalid_argument(fmt::format("teacher {}: {}: expected {}, {}, found {}", teacher.name,
                                          name, expected, whose, found));
    };
    CACHALOT_RETURN_IF_ERROR(
        expect("vocab_size", run.model().vocab_size, "the student's", config.vocab_size));
    CACHALOT_RETURN_IF_ERROR(expect("hidden_size", models_.front().hidden_size,
                                    "as of " + config_.teachers.front().name, config.hidden_size));
    return check_tokenizer(run.tokenizer(), teacher);
  }

  // The student's, where the teacher's directory has one.
  Status check_tokenizer(const text::Tokenizer& expected, const TeacherEntry& teacher) const {
    const std::string path = teacher.path + "/tokenizer.json";
    if (!std::filesystem::exists(path)) return {};
    CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer, text::Tokenizer::load(path));
    const auto token = [](const text::Tokenizer& of, int32_t id) {
      const Result<std::string_view> bytes = of.token_bytes(id);
      return bytes ? json_quoted(*bytes) : std::string("none");
    };
    const int32_t count = std::max(expected.vocab_size(), tokenizer.vocab_size());
    for (int32_t id = 0; id < count; ++id) {
      if (token(expected, id) == token(tokenizer, id)) continue;
      return invalid_argument(
          fmt::format("teacher {}: {}: token {}: expected {}, the student's, found {}",
                      teacher.name, path, id, token(expected, id), token(tokenizer, id)));
    }
    return {};
  }

  Status check_length(const Trajectory& trajectory) const {
    for (const Trajectory::Share& share : trajectory.teachers) {
      const auto k = static_cast<size_t>(share.teacher);
      const int64_t most = models_[k].max_position_embeddings;
      if (std::ssize(trajectory.tokens) <= most) continue;
      return invalid_argument(
          fmt::format("teacher {}: expected an answer within its {} tokens, found one of {}",
                      config_.teachers[k].name, most, trajectory.tokens.size()));
    }
    return {};
  }

  // Of each of several tasks that has answers in this step.
  void add_tasks(const StepAnswers& answers, const std::vector<double>& divergences,
                 train::MetricValues* values) const {
    const std::vector<TaskEntry>& tasks = config_.run.tasks;
    for (size_t entry = 0; tasks.size() > 1 && entry < tasks.size(); ++entry) {
      double sum = 0, count = 0;
      for (size_t i = 0; i < divergences.size(); ++i) {
        if (entry_of(answers, i) != entry) continue;
        sum += divergences[i];
        ++count;
      }
      if (count > 0) values->emplace_back(task_metric(tasks, entry) + "/divergence", sum / count);
    }
  }

  const DistillConfig& config_;
  const std::vector<std::vector<Trajectory::Share>> teachers_of_tasks_;
  std::vector<formats::ModelConfig> models_;  // of the teachers
  std::unique_ptr<TeacherHeads> heads_;
  std::optional<Distiller> distiller_;
};

}  // namespace

std::unique_ptr<TaskLearner> distill_learner(const DistillConfig& config) {
  return std::make_unique<DistillLearner>(config);
}

Result<TaskRunSummary> run_distillation(device::ExecContext& ctx, const DistillConfig& config,
                                        const TaskRunRequest& request, TaskRunObserver& observer) {
  const std::unique_ptr<TaskLearner> learner = distill_learner(config);
  return TaskRun(ctx, config.run, request, observer, *learner).run();
}

}  // namespace cachalot::post
