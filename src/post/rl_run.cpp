#include "post/rl_run.h"

#include <fmt/format.h>

#include <filesystem>

#include "formats/weight_source.h"
#include "post/rl_step.h"
#include "post/rollout_engine.h"
#include "train/checkpoint.h"

namespace cachalot::post {
namespace {

class RlLearner : public TaskLearner {
 public:
  explicit RlLearner(const RlConfig& config) : config_(config) {}

  Status open(TaskRun& run) override {
    reference_dir_ = run.directory() + "/reference";
    return {};
  }

  // The reference of this step: the policy as it is now, or one that a checkpoint has.
  Status begin_step(TaskRun& run, int64_t step) override {
    if (config_.grpo.beta == 0) return {};
    const int64_t wanted = reference_step(step);
    if (reference_ != nullptr && reference_of_ == wanted) return {};
    const train::ParameterStore& policy = run.trainer().parameters();
    if (wanted == step) {
      CACHALOT_ASSIGN_OR_RETURN(reference_, run.served_now());
      CACHALOT_RETURN_IF_ERROR(train::save_checkpoint(reference_dir_, {run.model(),
                                                                       policy,
                                                                       {},
                                                                       json::object{},
                                                                       run.config().resolved,
                                                                       run.tokenizer_json(),
                                                                       step,
                                                                       run.config().hash}));
      CACHALOT_RETURN_IF_ERROR(
          run.event("reference", fmt::format("is the policy of step {}", step)));
    } else {
      const std::string directory = train::checkpoint_directory(reference_dir_, wanted);
      CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                                formats::WeightSource::open(directory));
      CACHALOT_ASSIGN_OR_RETURN(const train::ParameterStore parameters,
                                train::ParameterStore::from_checkpoint(source));
      CACHALOT_RETURN_IF_ERROR(policy.check_same(parameters, directory));
      CACHALOT_ASSIGN_OR_RETURN(reference_, served_model(run.model(), parameters, run.precision(),
                                                         run.context().pool->num_threads()));
    }
    reference_of_ = wanted;
    return {};
  }

  Status update(TaskRun& run, const StepAnswers& answers, train::MetricValues* values) override {
    RlStepOptions options;
    options.grpo = config_.grpo;
    options.advantage = config_.advantage;
    options.mini_batches = run.config().mini_batches;
    options.micro_batch_tokens = run.config().train.micro_batch_tokens;
    options.keep_routing = config_.keep_routing;
    options.keep_sampling_mask = config_.keep_sampling_mask;
    options.shuffle = config_.shuffle;
    options.learning_rate = run.learning_rate();
    CACHALOT_ASSIGN_OR_RETURN(
        const RlStepReport report,
        rl_step(run.trainer(), reference_ == nullptr ? nullptr : &reference_->transformer(),
                answers.plan, answers.log, options));
    const train::MetricValues own = {
        {"policy/objective", report.objective},
        {"policy/kl", report.kl},
        {"policy/entropy", report.entropy},
        {"policy/ratio", report.ratio},
        {"policy/first_ratio", report.first_ratio},
        {"policy/first_off_ratio", static_cast<double>(report.first_off_ratio)},
        {"policy/clipped", report.clipped},
        {"policy/masked", report.masked},
        {"policy/flat", report.flat},
        {"policy/divergence", report.divergence},
        {"policy/grad_norm", report.grad_norm},
    };
    values->insert(values->end(), own.begin(), own.end());
    return {};
  }

  Status forget_before(int64_t step) override {
    std::error_code error;
    const int64_t oldest = reference_step(step);
    for (const int64_t kept : train::list_checkpoints(reference_dir_)) {
      if (kept < oldest)
        std::filesystem::remove_all(train::checkpoint_directory(reference_dir_, kept), error);
    }
    return {};
  }

 private:
  int64_t reference_step(int64_t step) const {
    const int64_t every = config_.reference_every_steps;
    return every == 0 ? 0 : step - step % every;
  }

  const RlConfig& config_;
  std::string reference_dir_;
  std::unique_ptr<engine::LoadedModel> reference_;
  int64_t reference_of_ = -1;
};

}  // namespace

Result<TaskRunSummary> run_rl(device::ExecContext& ctx, const RlConfig& config,
                              const TaskRunRequest& request, TaskRunObserver& observer) {
  RlLearner learner(config);
  return TaskRun(ctx, config.run, request, observer, learner).run();
}

}  // namespace cachalot::post
