#include "post/rl_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "formats/weight_source.h"
#include "post/episode.h"
#include "post/rl_step.h"
#include "post/rollout_engine.h"
#include "post/rollouts.h"
#include "text/chat_literals.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/run_lock.h"
#include "train/trainer_state.h"

namespace cachalot::post {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr int64_t kShownAnswers = 4;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What a step's rewards and lengths come to.
struct Rewards {
  double mean = 0, deviation = 0, correct = 0, truncated = 0, without_answer = 0;
  double length = 0, reasoning = 0;
  int64_t longest = 0;
};

class RlRun {
 public:
  RlRun(device::ExecContext& ctx, const RlConfig& config, const RlRequest& request,
        RlObserver& observer)
      : ctx_(ctx), config_(config), request_(request), observer_(observer) {}

  Result<RlSummary> run() {
    CACHALOT_RETURN_IF_ERROR(open());
    bool is_stopped = false;
    while (step() < config_.steps && !is_stopped) {
      CACHALOT_ASSIGN_OR_RETURN(const bool is_whole, run_step());
      if (!is_whole) break;
      is_stopped = step() == request_.stop_at_step || observer_.wants_stop();
      if (step() % config_.train.checkpoint.every_steps == 0) CACHALOT_RETURN_IF_ERROR(save());
    }
    // Elsewhere than where the sampler gets its weights there is no place to go on from.
    if (last_saved_ != step() && step() % config_.weights_every_steps == 0)
      CACHALOT_RETURN_IF_ERROR(save());
    RlSummary summary;
    summary.step = step();
    summary.is_done = step() == config_.steps;
    if (last_saved_ >= 0) summary.checkpoint = train::checkpoint_directory(run_dir(), last_saved_);
    return summary;
  }

 private:
  const std::string& run_dir() const { return config_.train.run_dir; }
  std::string reference_dir() const { return run_dir() + "/reference"; }
  std::string log_path(int64_t step) const {
    return fmt::format("{}/rollouts/step-{:010}.log", run_dir(), step);
  }
  // Whole steps of reinforcement learning; the trainer counts its own.
  int64_t step() const { return trainer_->position().step / config_.mini_batches; }
  bool uses_reference() const { return config_.grpo.beta > 0; }
  int64_t reference_step(int64_t step) const {
    const int64_t every = config_.reference_every_steps;
    return every == 0 ? 0 : step - step % every;
  }

  Status open() {
    const train::TrainConfig& config = config_.train;
    CACHALOT_ASSIGN_OR_RETURN(model_, train::model_config(config));
    CACHALOT_RETURN_IF_ERROR(create_directories(run_dir() + "/rollouts"));
    CACHALOT_ASSIGN_OR_RETURN(lock_, train::RunLock::acquire(run_dir()));
    CACHALOT_RETURN_IF_ERROR(open_tokenizer());
    for (const TaskEntry& entry : config_.tasks) {
      CACHALOT_ASSIGN_OR_RETURN(TaskSource source, TaskSource::open(entry, config.seed));
      sources_.push_back(std::move(source));
    }
    CACHALOT_ASSIGN_OR_RETURN(precision_,
                              train::parse_training_precision(config.precision, config.qat));
    CACHALOT_RETURN_IF_ERROR(open_trainer());
    return start_or_resume();
  }

  Status open_tokenizer() {
    const train::TrainConfig& config = config_.train;
    const std::string path =
        !config.tokenizer.empty() ? config.tokenizer : config.model.init_from + "/tokenizer.json";
    if (config.tokenizer.empty() && config.model.init_from.empty())
      return invalid_argument("tokenizer: expected a tokenizer.json, found none");
    CACHALOT_ASSIGN_OR_RETURN(tokenizer_json_, read_text_file(path, kMaxTokenizerBytes));
    CACHALOT_ASSIGN_OR_RETURN(text::Tokenizer tokenizer,
                              text::Tokenizer::from_json(tokenizer_json_, path));
    if (tokenizer.vocab_size() > model_.vocab_size) {
      return invalid_argument(
          fmt::format("{}: expected ids below {}, the model's vocab_size, found {} of them", path,
                      model_.vocab_size, tokenizer.vocab_size()));
    }
    tokenizer_.emplace(std::move(tokenizer));
    format_.tokenizer = &*tokenizer_;
    format_.prompt = config_.prompt_format == "raw" ? PromptFormat::raw : PromptFormat::chat;
    CACHALOT_ASSIGN_OR_RETURN(format_.family,
                              text::prompt_family(*tokenizer_, config_.chat_family));
    format_.bos_token = model_.bos_token_id;
    format_.max_turns = config_.max_turns;
    if (const auto eos = tokenizer_->token_id(text::kEos)) {
      end_tokens_.push_back(*eos);
    } else {
      for (const int64_t id : model_.eos_token_id) end_tokens_.push_back(static_cast<int32_t>(id));
    }
    for (const std::string& end : config_.end_texts) {
      const std::optional<int32_t> id = tokenizer_->token_id(end);
      if (!id) {
        return invalid_argument(
            fmt::format("rl.end_texts: expected texts of one token each, found {}",
                        json::value(end).as_string().c_str()));
      }
      end_tokens_.push_back(*id);
    }
    return {};
  }

  Status open_trainer() {
    const train::TrainConfig& config = config_.train;
    train::ParameterStore parameters = train::initial_parameters(model_, config.init);
    if (!config.model.init_from.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                                formats::WeightSource::open(config.model.init_from));
      CACHALOT_ASSIGN_OR_RETURN(train::ParameterStore given,
                                train::ParameterStore::from_checkpoint(source));
      CACHALOT_RETURN_IF_ERROR(parameters.check_shapes(given, config.model.init_from));
      parameters = std::move(given);
    }
    train::TrainerConfig trainer;
    trainer.precision = precision_;
    trainer.optimizer = config.optimizer;
    trainer.optimizer.grouping = train::grouping_of(config, model_);
    trainer.balance_alpha = static_cast<float>(config.losses.balance_alpha);
    trainer.bias_update_rate = static_cast<float>(config.losses.bias_update_rate);
    trainer.indexer_loss = static_cast<float>(config.losses.indexer);
    CACHALOT_ASSIGN_OR_RETURN(trainer.recompute, train::recompute_plan(config));
    CACHALOT_ASSIGN_OR_RETURN(trainer_, train::Trainer::create(ctx_, model_, std::move(parameters),
                                                               std::nullopt, trainer));
    return {};
  }

  Status start_or_resume() {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<train::Checkpoint> newest,
                              train::open_newest_checkpoint(run_dir()));
    if (newest && !request_.resume) {
      return invalid_argument(
          fmt::format("{}: expected a directory without a run (or --resume), found a checkpoint of "
                      "step {}",
                      run_dir(), newest->step()));
    }
    if (newest) {
      int64_t num_rollbacks = 0;
      CACHALOT_RETURN_IF_ERROR(
          train::restore_trainer(*newest, *trainer_, detector_, &num_rollbacks));
      if (newest->step() != step() || step() % config_.weights_every_steps != 0) {
        return invalid_argument(fmt::format(
            "{}: expected a checkpoint of the rl.mini_batches and rl.weights_every_steps that the "
            "configuration has, {} and {}, found one of others",
            newest->directory(), config_.mini_batches, config_.weights_every_steps));
      }
      last_saved_ = step();
      CACHALOT_RETURN_IF_ERROR(train::set_aside_checkpoints_after(run_dir(), step()));
    }
    CACHALOT_RETURN_IF_ERROR(write_file_atomically(run_dir() + "/run.toml", config_.resolved));
    CACHALOT_ASSIGN_OR_RETURN(train::MetricsLog log,
                              train::MetricsLog::open(run_dir() + "/metrics.jsonl", step()));
    metrics_.emplace(std::move(log));
    if (newest) {
      CACHALOT_RETURN_IF_ERROR(event("resume", newest->directory()));
      if (newest->config_hash() != config_.hash)
        CACHALOT_RETURN_IF_ERROR(event("changed configuration", "see run.toml"));
    }
    for (const TaskSource& source : sources_) {
      const BadRows& bad = source.bad_rows();
      if (bad.count == 0) continue;
      CACHALOT_RETURN_IF_ERROR(event(
          "bad rows", fmt::format("{}: {} left out of {}; {}", source.entry().name, bad.count,
                                  bad.count + source.num_tasks(), fmt::join(bad.first, "; "))));
    }
    return newest ? Status() : save();
  }

  // False: stopped on the way; what has been sampled is in the log.
  Result<bool> run_step() {
    const int64_t step = this->step();
    const Clock::time_point start = Clock::now();
    CACHALOT_RETURN_IF_ERROR(see_to_reference(step));
    if (step % config_.weights_every_steps == 0) CACHALOT_RETURN_IF_ERROR(see_to_engine(step));
    CACHALOT_ASSIGN_OR_RETURN(const RolloutPlan plan, plan_of(step));
    CACHALOT_ASSIGN_OR_RETURN(RolloutLog log,
                              RolloutLog::open(log_path(step), log_head(plan, model_)));
    RolloutOptions options;
    options.max_sequences = config_.max_sequences;
    options.on_turn = [this, &plan](int64_t number, const RolloutAnswer& so_far) {
      return episodes_[number / plan.group_size].next_turn(so_far);
    };
    Rollouts rollouts(*engine_, plan, log, std::move(options));
    CACHALOT_ASSIGN_OR_RETURN(const bool is_whole,
                              rollouts.run([this] { return observer_.wants_stop(); }));
    if (!is_whole) {
      CACHALOT_RETURN_IF_ERROR(event("stopped", "in the middle of a step's answers"));
      return false;
    }
    const double rollout_s = seconds_since(start);
    CACHALOT_ASSIGN_OR_RETURN(const Rewards rewards, judge(plan, log));
    if (config_.sync_log) CACHALOT_RETURN_IF_ERROR(log.sync());
    CACHALOT_RETURN_IF_ERROR(write_samples(step, log, plan));
    const double judged_s = seconds_since(start);

    RlStepOptions update;
    update.grpo = config_.grpo;
    update.advantage = config_.advantage;
    update.mini_batches = config_.mini_batches;
    update.micro_batch_tokens = config_.train.micro_batch_tokens;
    update.keep_routing = config_.keep_routing;
    update.keep_sampling_mask = config_.keep_sampling_mask;
    update.learning_rate =
        optim::learning_rate(config_.train.schedule.learning_rate, trainer_->position().step,
                             trainer_->position().tokens_seen);
    CACHALOT_ASSIGN_OR_RETURN(
        const RlStepReport report,
        rl_step(*trainer_, reference_ == nullptr ? nullptr : &reference_->transformer(), plan, log,
                update));
    const RolloutCounts& counts = rollouts.counts();
    const train::MetricValues values = {
        {"reward/mean", rewards.mean},
        {"reward/deviation", rewards.deviation},
        {"reward/correct", rewards.correct},
        {"reward/truncated", rewards.truncated},
        {"length/mean", rewards.length},
        {"length/longest", static_cast<double>(rewards.longest)},
        {"length/reasoning", rewards.reasoning},
        {"policy/objective", report.objective},
        {"policy/kl", report.kl},
        {"policy/entropy", report.entropy},
        {"policy/ratio", report.ratio},
        {"policy/first_ratio", report.first_ratio},
        {"policy/first_off_ratio", static_cast<double>(report.first_off_ratio)},
        {"policy/clipped", report.clipped},
        {"policy/masked", report.masked},
        {"policy/divergence", report.divergence},
        {"policy/staleness", static_cast<double>(step - plan.weights_version)},
        {"policy/learning_rate", update.learning_rate},
        {"policy/grad_norm", report.grad_norm},
        {"throughput/sampled_tokens", static_cast<double>(counts.sampled_tokens)},
        {"throughput/recovered_tokens", static_cast<double>(log.recovered_tokens())},
        {"throughput/accepted_drafts", static_cast<double>(counts.accepted)},
        {"throughput/drafts", static_cast<double>(counts.drafted)},
        {"time/rollouts", rollout_s},
        {"time/rewards", judged_s - rollout_s},
        {"time/updates", seconds_since(start) - judged_s},
    };
    for (const auto& [name, value] : values) {
      if (std::isfinite(value)) continue;
      return invalid_argument(
          fmt::format("{}: step {}: {}: expected a finite value, found {}; the "
                      "last checkpoint is of step {}",
                      run_dir(), step + 1, name, value, last_saved_));
    }
    CACHALOT_RETURN_IF_ERROR(metrics_->write(step + 1, trainer_->position().tokens_seen, values));
    observer_.on_step(step + 1, values);
    return true;
  }

  // Of the step, by its number alone. episodes_ become its groups'.
  Result<RolloutPlan> plan_of(int64_t step) {
    RolloutPlan plan;
    plan.step = step;
    plan.weights_version = step - step % config_.weights_every_steps;
    plan.seed = config_.train.seed;
    plan.group_size = config_.group_size;
    plan.sampling.temperature = config_.temperature;
    plan.sampling.top_p = config_.top_p;
    plan.sampling.min_p = config_.min_p;
    plan.sampling.top_k = static_cast<int32_t>(config_.top_k);
    plan.end_tokens = end_tokens_;
    plan.num_drafts = model_.num_nextn_predict_layers > 0 ? config_.num_drafts : 0;
    episodes_.clear();
    penalties_.clear();
    for (const TaskPlace& place :
         task_places(sources_, step * config_.prompts_per_step, config_.prompts_per_step)) {
      const TaskSource& source = sources_[place.source];
      const TaskEntry& entry = source.entry();
      CACHALOT_ASSIGN_OR_RETURN(Episode episode,
                                Episode::create(format_, source.task(place.draw), entry.effort));
      const auto length = static_cast<int64_t>(episode.prompt().size());
      if (length + entry.max_new_tokens > model_.max_position_embeddings) {
        return invalid_argument(fmt::format(
            "task {}: expected prompt and answer within the model's {} tokens, found {} and {}",
            episode.task().id, model_.max_position_embeddings, length, entry.max_new_tokens));
      }
      plan.groups.push_back({episode.prompt(), entry.max_new_tokens});
      episodes_.push_back(std::move(episode));
      penalties_.push_back({entry.length_penalty, config_.penalty_tokens, config_.penalty_most});
    }
    return plan;
  }

  // The weights as they are now, in an engine that has room for the answers of all steps that they
  // sample.
  Status see_to_engine(int64_t step) {
    int64_t longest = 0;
    for (int64_t s = step; s < step + config_.weights_every_steps; ++s) {
      CACHALOT_ASSIGN_OR_RETURN(const RolloutPlan plan, plan_of(s));
      for (const RolloutGroup& group : plan.groups) {
        longest =
            std::max(longest, static_cast<int64_t>(group.prompt.size()) + group.max_new_tokens);
      }
    }
    if (engine_ != nullptr && engine_->max_context_tokens() >= longest) {
      CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::LoadedModel> model, served_now());
      return engine_->set_weights(std::move(model), step);
    }
    RolloutEngineOptions options;
    options.max_sequences = config_.max_sequences;
    options.max_context_tokens = longest;
    options.max_drafts = config_.num_drafts;
    options.threads = ctx_.pool->num_threads();
    CACHALOT_ASSIGN_OR_RETURN(
        engine_, make_rollout_engine(model_, trainer_->parameters(), precision_, options, step));
    return {};
  }

  Result<std::unique_ptr<engine::LoadedModel>> served_now() {
    return served_model(model_, trainer_->parameters(), precision_, ctx_.pool->num_threads());
  }

  // The reference of this step: the policy as it is now, or one that a checkpoint has.
  Status see_to_reference(int64_t step) {
    if (!uses_reference()) return {};
    const int64_t wanted = reference_step(step);
    if (reference_ != nullptr && reference_of_ == wanted) return {};
    if (wanted == step) {
      CACHALOT_ASSIGN_OR_RETURN(reference_, served_now());
      CACHALOT_RETURN_IF_ERROR(train::save_checkpoint(reference_dir(), {model_,
                                                                        trainer_->parameters(),
                                                                        {},
                                                                        json::object{},
                                                                        config_.resolved,
                                                                        tokenizer_json_,
                                                                        step,
                                                                        config_.hash}));
      CACHALOT_RETURN_IF_ERROR(event("reference", fmt::format("is the policy of step {}", step)));
    } else {
      const std::string directory = train::checkpoint_directory(reference_dir(), wanted);
      CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                                formats::WeightSource::open(directory));
      CACHALOT_ASSIGN_OR_RETURN(const train::ParameterStore parameters,
                                train::ParameterStore::from_checkpoint(source));
      CACHALOT_RETURN_IF_ERROR(trainer_->parameters().check_same(parameters, directory));
      CACHALOT_ASSIGN_OR_RETURN(
          reference_, served_model(model_, parameters, precision_, ctx_.pool->num_threads()));
    }
    reference_of_ = wanted;
    return {};
  }

  // Rewards that the log does not have yet; and what they come to.
  Result<Rewards> judge(const RolloutPlan& plan, RolloutLog& log) {
    Rewards out;
    double squares = 0;
    const auto n = static_cast<double>(plan.num_answers());
    for (int64_t number = 0; number < plan.num_answers(); ++number) {
      const RolloutAnswer& answer = log.answers()[number];
      const Episode& episode = episodes_[number / plan.group_size];
      const int64_t reasoning = episode.num_reasoning_tokens(answer);
      if (!answer.reward) {
        Reward reward{0, false, "truncated"};
        if (answer.end == AnswerEnd::stop) {
          CACHALOT_ASSIGN_OR_RETURN(const data::Reply reply, episode.reply(answer));
          CACHALOT_ASSIGN_OR_RETURN(reward, episode.task().check(reply));
        }
        reward.value -= penalties_[number / plan.group_size].of(reasoning);
        CACHALOT_RETURN_IF_ERROR(log.add_reward(number, reward));
      }
      const int64_t length = answer.num_sampled();
      out.mean += answer.reward->value / n;
      squares += answer.reward->value * answer.reward->value / n;
      out.correct += answer.reward->correct ? 1 / n : 0;
      out.truncated += answer.end == AnswerEnd::length ? 1 / n : 0;
      out.length += static_cast<double>(length) / n;
      out.reasoning += static_cast<double>(reasoning) / n;
      out.longest = std::max(out.longest, length);
    }
    out.deviation = std::sqrt(std::max(0.0, squares - out.mean * out.mean));
    return out;
  }

  // To read; a step that is taken again is written again.
  Status write_samples(int64_t step, const RolloutLog& log, const RolloutPlan& plan) {
    json::array answers;
    for (int64_t i = 0; i < std::min(plan.group_size, kShownAnswers); ++i) {
      const RolloutAnswer& answer = log.answers()[i];
      CACHALOT_ASSIGN_OR_RETURN(const std::string text, episodes_[0].text(answer));
      answers.push_back(json::object{{"text", text},
                                     {"end", answer_end_name(answer.end)},
                                     {"reward", answer.reward->value},
                                     {"why", answer.reward->why}});
    }
    const json::object row = {{"step", step + 1},
                              {"task", episodes_[0].task().id},
                              {"prompt", episodes_[0].task().prompt},
                              {"answers", std::move(answers)}};
    std::ofstream out(run_dir() + "/samples.jsonl", std::ios::app);
    out << boost::json::serialize(row) << "\n";
    out.flush();
    return out ? Status() : io_error(run_dir() + "/samples.jsonl: write failed");
  }

  Status save() {
    CACHALOT_RETURN_IF_ERROR(metrics_->sync());
    train::TrainerState state(*trainer_, detector_, 0);
    std::vector<optim::StateArray> arrays = trainer_->optimizer().state();
    for (optim::StateArray& array : state.arrays()) arrays.push_back(std::move(array));
    CACHALOT_RETURN_IF_ERROR(train::save_checkpoint(
        run_dir(), {model_, trainer_->parameters(), std::move(arrays), state.fields(),
                    config_.resolved, tokenizer_json_, step(), config_.hash}));
    last_saved_ = step();
    CACHALOT_RETURN_IF_ERROR(event("checkpoint", train::checkpoint_directory(run_dir(), step())));
    return prune();
  }

  // Checkpoints, and the logs and references that none of them needs any more.
  Status prune() {
    const train::TrainConfig::Checkpoint& c = config_.train.checkpoint;
    CACHALOT_RETURN_IF_ERROR(train::prune_checkpoints(run_dir(), c.keep_last, c.keep_every_steps));
    const std::vector<int64_t> kept = train::list_checkpoints(run_dir());
    const int64_t oldest = kept.empty() ? 0 : kept.front();
    std::error_code error;
    for (int64_t step = oldest - 1; step >= 0 && std::filesystem::remove(log_path(step), error);)
      --step;
    const int64_t oldest_reference = reference_step(oldest);
    for (const int64_t step : train::list_checkpoints(reference_dir())) {
      if (step < oldest_reference)
        std::filesystem::remove_all(train::checkpoint_directory(reference_dir(), step), error);
    }
    return {};
  }

  Status event(std::string_view name, const std::string& detail) {
    observer_.on_event(step(), name, detail);
    return metrics_->write_event(step(), name, detail);
  }

  device::ExecContext& ctx_;
  const RlConfig& config_;
  const RlRequest& request_;
  RlObserver& observer_;
  formats::ModelConfig model_;
  std::optional<train::RunLock> lock_;
  std::string tokenizer_json_;
  std::optional<text::Tokenizer> tokenizer_;
  EpisodeFormat format_;
  std::vector<int32_t> end_tokens_;
  std::vector<TaskSource> sources_;
  train::TrainingPrecision precision_;
  std::unique_ptr<train::Trainer> trainer_;
  train::SpikeDetector detector_{{}};  // of the checkpoint's layout; there is nothing to detect
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<engine::LoadedModel> reference_;
  int64_t reference_of_ = -1;
  std::vector<Episode> episodes_;  // of the step's groups
  std::vector<LengthPenalty> penalties_;
  std::optional<train::MetricsLog> metrics_;
  int64_t last_saved_ = -1;
};

}  // namespace

Result<RlSummary> run_rl(device::ExecContext& ctx, const RlConfig& config, const RlRequest& request,
                         RlObserver& observer) {
  return RlRun(ctx, config, request, observer).run();
}

}  // namespace cachalot::post
