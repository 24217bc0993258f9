#include "post/task_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "formats/weight_source.h"
#include "post/rollout_engine.h"
#include "text/chat_literals.h"
#include "train/checkpoint.h"
#include "train/trainer_state.h"

namespace cachalot::post {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr int64_t kShownAnswers = 4;
constexpr double kPassingScore = 0.5;  // a judged answer counts as correct from here on

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

// What a step's rewards and lengths come to.
struct TaskRun::Rewards {
  double mean = 0, deviation = 0, correct = 0, truncated = 0;
  double length = 0, reasoning = 0;
  int64_t longest = 0;
  // Of tasks with rubrics: what their judges say of them, and, where it looks over them, the
  // checker. Verdicts: asked for, of people's annotations too, and how many were none.
  double score = 0, audit = 0;
  int64_t num_scored = 0, num_audited = 0, num_verdicts = 0, num_unparseable = 0;
  // By entry of the configuration.
  struct OfEntry {
    int64_t count = 0, correct = 0, length = 0, reasoning = 0;
  };
  std::vector<OfEntry> entries;
  void add_details(std::span<const TaskEntry> tasks, train::MetricValues* values) const;
};

void TaskRun::Rewards::add_details(std::span<const TaskEntry> tasks,
                                   train::MetricValues* values) const {
  const auto add = [&](std::string name, double sum, int64_t count) {
    if (count > 0) values->emplace_back(std::move(name), sum / static_cast<double>(count));
  };
  add("judge/score", score, num_scored);
  add("judge/audit", audit, num_audited);
  add("judge/unparseable", static_cast<double>(num_unparseable), num_verdicts);
  for (size_t i = 0; tasks.size() > 1 && i < tasks.size(); ++i) {
    const OfEntry& entry = entries[i];
    const std::string name = task_metric(tasks, i);
    add(name + "/correct", static_cast<double>(entry.correct), entry.count);
    add(name + "/length", static_cast<double>(entry.length), entry.count);
    add(name + "/reasoning", static_cast<double>(entry.reasoning), entry.count);
  }
}

Result<TaskRunSummary> TaskRun::run() {
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
  TaskRunSummary summary;
  summary.step = step();
  summary.is_done = step() == config_.steps;
  if (last_saved_ >= 0) summary.checkpoint = train::checkpoint_directory(directory(), last_saved_);
  return summary;
}

Status TaskRun::open() {
  const train::TrainConfig& config = config_.train;
  CACHALOT_ASSIGN_OR_RETURN(model_, train::model_config(config));
  CACHALOT_RETURN_IF_ERROR(create_directories(directory() + "/rollouts"));
  CACHALOT_ASSIGN_OR_RETURN(lock_, train::RunLock::acquire(directory()));
  CACHALOT_RETURN_IF_ERROR(open_tokenizer());
  for (const TaskEntry& entry : config_.tasks) {
    CACHALOT_ASSIGN_OR_RETURN(TaskSource source, TaskSource::open(entry, config.seed));
    sources_.push_back(std::move(source));
  }
  CACHALOT_ASSIGN_OR_RETURN(precision_,
                            train::parse_training_precision(config.precision, config.qat));
  CACHALOT_RETURN_IF_ERROR(open_trainer());
  sampler_ = request_.sampler;
  if (sampler_ == nullptr) {
    sampler_ = &own_sampler_.emplace(
        EngineSamplerOptions{config_.max_sequences, config_.num_drafts, ctx_.pool->num_threads()});
  }
  CACHALOT_RETURN_IF_ERROR(learner_.open(*this));
  return start_or_resume();
}

Status TaskRun::open_tokenizer() {
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
  CACHALOT_ASSIGN_OR_RETURN(format_.family, text::prompt_family(*tokenizer_, config_.chat_family));
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
          fmt::format("{}.end_texts: expected texts of one token each, found {}", config_.table,
                      json::value(end).as_string().c_str()));
    }
    end_tokens_.push_back(*id);
  }
  return {};
}

Status TaskRun::open_trainer() {
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
  CACHALOT_ASSIGN_OR_RETURN(
      trainer_, train::Trainer::create(ctx_, model_, std::move(parameters), std::nullopt, trainer));
  return {};
}

Status TaskRun::start_or_resume() {
  CACHALOT_ASSIGN_OR_RETURN(const std::optional<train::Checkpoint> newest,
                            train::open_newest_checkpoint(directory()));
  if (newest && !request_.resume) {
    return invalid_argument(
        fmt::format("{}: expected a directory without a run (or --resume), found a checkpoint of "
                    "step {}",
                    directory(), newest->step()));
  }
  if (newest) {
    int64_t num_rollbacks = 0;
    CACHALOT_RETURN_IF_ERROR(train::restore_trainer(*newest, *trainer_, detector_, &num_rollbacks));
    if (newest->step() != step() || step() % config_.weights_every_steps != 0) {
      return invalid_argument(fmt::format(
          "{}: expected a checkpoint of the {}.mini_batches and {}.weights_every_steps that the "
          "configuration has, {} and {}, found one of others",
          newest->directory(), config_.table, config_.table, config_.mini_batches,
          config_.weights_every_steps));
    }
    last_saved_ = step();
    CACHALOT_RETURN_IF_ERROR(train::set_aside_checkpoints_after(directory(), step()));
  }
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(directory() + "/run.toml", config_.resolved));
  CACHALOT_ASSIGN_OR_RETURN(train::MetricsLog log,
                            train::MetricsLog::open(directory() + "/metrics.jsonl", step()));
  metrics_.emplace(std::move(log));
  if (newest) {
    CACHALOT_RETURN_IF_ERROR(event("resume", newest->directory()));
    if (newest->config_hash() != config_.hash)
      CACHALOT_RETURN_IF_ERROR(event("changed configuration", "see run.toml"));
  }
  for (const TaskSource& source : sources_) {
    const BadRows& bad = source.bad_rows();
    if (bad.count == 0) continue;
    CACHALOT_RETURN_IF_ERROR(
        event("bad rows", fmt::format("{}: {} left out of {}; {}", source.entry().name, bad.count,
                                      bad.count + source.num_tasks(), fmt::join(bad.first, "; "))));
  }
  return newest ? Status() : save();
}

Result<bool> TaskRun::run_step() {
  const int64_t step = this->step();
  const Clock::time_point start = Clock::now();
  CACHALOT_RETURN_IF_ERROR(learner_.begin_step(*this, step));
  if (step % config_.weights_every_steps == 0) CACHALOT_RETURN_IF_ERROR(see_to_sampler(step));
  CACHALOT_ASSIGN_OR_RETURN(const RolloutPlan plan, plan_of(step));
  CACHALOT_ASSIGN_OR_RETURN(RolloutLog log,
                            RolloutLog::open(log_path(step), log_head(plan, model_)));
  CACHALOT_ASSIGN_OR_RETURN(const bool is_whole, sample(plan, log));
  const RolloutCounts counts = sampler_->counts();
  if (!is_whole) {
    CACHALOT_RETURN_IF_ERROR(event("stopped", "in the middle of a step's answers"));
    return false;
  }
  Judges::Scores scores;
  const double rollout_s = seconds_since(start);
  CACHALOT_ASSIGN_OR_RETURN(const bool is_judged, ask_judges(plan, log, &scores));
  if (!is_judged) {
    CACHALOT_RETURN_IF_ERROR(event("stopped", "in the middle of a step's judgements"));
    return false;
  }
  CACHALOT_ASSIGN_OR_RETURN(const Rewards rewards, judge(plan, log, scores));
  if (config_.sync_log) CACHALOT_RETURN_IF_ERROR(log.sync());
  CACHALOT_RETURN_IF_ERROR(write_samples(step, log, plan));
  const double judged_s = seconds_since(start);

  train::MetricValues values = {
      {"reward/mean", rewards.mean},
      {"reward/deviation", rewards.deviation},
      {"reward/correct", rewards.correct},
      {"reward/truncated", rewards.truncated},
      {"length/mean", rewards.length},
      {"length/longest", static_cast<double>(rewards.longest)},
      {"length/reasoning", rewards.reasoning},
      {"policy/staleness", static_cast<double>(step - plan.weights_version)},
      {"policy/learning_rate", learning_rate()},
  };
  rewards.add_details(config_.tasks, &values);
  CACHALOT_RETURN_IF_ERROR(learner_.update(*this, {plan, log, entries_}, &values));
  const train::MetricValues costs = {
      {"throughput/sampled_tokens", static_cast<double>(counts.sampled_tokens)},
      {"throughput/recovered_tokens", static_cast<double>(log.recovered_tokens())},
      {"throughput/accepted_drafts", static_cast<double>(counts.accepted)},
      {"throughput/drafts", static_cast<double>(counts.drafted)},
      {"throughput/taken_over", static_cast<double>(counts.taken_over)},
      {"throughput/log_bytes", static_cast<double>(log.appended_bytes())},
      {"time/log", log.append_seconds()},
      {"time/rollouts", rollout_s},
      {"time/rewards", judged_s - rollout_s},
      {"time/updates", seconds_since(start) - judged_s},
  };
  values.insert(values.end(), costs.begin(), costs.end());
  for (const auto& [name, value] : values) {
    if (std::isfinite(value)) continue;
    return invalid_argument(
        fmt::format("{}: step {}: {}: expected a finite value, found {}; the last checkpoint is of "
                    "step {}",
                    directory(), step + 1, name, value, last_saved_));
  }
  CACHALOT_RETURN_IF_ERROR(metrics_->write(step + 1, trainer_->position().tokens_seen, values));
  observer_.on_step(step + 1, values);
  return true;
}

Result<bool> TaskRun::sample(const RolloutPlan& plan, RolloutLog& log) {
  OnTurn on_turn;
  if (std::ranges::any_of(episodes_, [](const Episode& e) { return bool(e.task().environment); })) {
    on_turn = [this, &plan](int64_t number, const RolloutAnswer& so_far) {
      return episodes_[number / plan.group_size].next_turn(so_far);
    };
  }
  return sampler_->sample(plan, log, on_turn, [this] { return observer_.wants_stop(); });
}

Result<RolloutPlan> TaskRun::plan_of(int64_t step) {
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
  entries_.clear();
  for (const TaskPlace& place :
       task_places(sources_, step * config_.prompts_per_step, config_.prompts_per_step)) {
    const TaskSource& source = sources_[place.source];
    entries_.push_back(place.source);
    const TaskEntry& entry = source.entry();
    CACHALOT_ASSIGN_OR_RETURN(Episode episode,
                              Episode::create(format_, source.task(place.draw), entry.effort));
    const auto length = static_cast<int64_t>(episode.prompt().size());
    if (length + entry.max_new_tokens > model_.max_position_embeddings) {
      return invalid_argument(fmt::format(
          "task {}: expected prompt and answer within the model's {} tokens, found {} and {}",
          episode.task().id, model_.max_position_embeddings, length, entry.max_new_tokens));
    }
    plan.groups.push_back({episode.prompt(), entry.max_new_tokens,
                           config_.constrain_verdicts ? episode.task().schema : ""});
    episodes_.push_back(std::move(episode));
    penalties_.push_back({entry.length_penalty, config_.penalty_tokens, config_.penalty_most});
  }
  return plan;
}

int64_t TaskRun::judge_prompt_tokens() const {
  return std::min(config_.judge_prompt_tokens,
                  model_.max_position_embeddings - config_.judge_max_new_tokens);
}

Status TaskRun::see_to_sampler(int64_t step) {
  int64_t longest = 0;
  for (int64_t s = step; s < step + config_.weights_every_steps; ++s) {
    CACHALOT_ASSIGN_OR_RETURN(const RolloutPlan plan, plan_of(s));
    for (const RolloutGroup& group : plan.groups) {
      longest = std::max(longest, static_cast<int64_t>(group.prompt.size()) + group.max_new_tokens);
    }
  }
  if (std::ranges::any_of(sources_, &TaskSource::has_rubrics))
    longest = std::max(longest, judge_prompt_tokens() + config_.judge_max_new_tokens);
  return sampler_->set_weights({.config = model_,
                                .parameters = trainer_->parameters(),
                                .precision = precision_,
                                .tokenizer_json = tokenizer_json_,
                                .version = step,
                                .max_context_tokens = longest});
}

Result<std::unique_ptr<engine::LoadedModel>> TaskRun::served_now() {
  return served_model(model_, trainer_->parameters(), precision_, ctx_.pool->num_threads());
}

Result<bool> TaskRun::ask_judges(const RolloutPlan& plan, const RolloutLog& log,
                                 Judges::Scores* scores) {
  scores->of_answers.resize(log.answers().size());
  const JudgeOptions options = {config_.judgements, config_.judge_effort,
                                config_.judge_max_new_tokens, judge_prompt_tokens(),
                                config_.constrain_verdicts};
  CACHALOT_ASSIGN_OR_RETURN(const Judges judges,
                            Judges::create(format_, episodes_, plan, log, options));
  if (judges.judged().empty()) return true;
  CACHALOT_ASSIGN_OR_RETURN(
      RolloutLog judgements,
      RolloutLog::open(judge_log_path(plan.step), log_head(judges.plan(), model_)));
  CACHALOT_ASSIGN_OR_RETURN(
      const bool is_whole,
      sampler_->sample(judges.plan(), judgements, {}, [this] { return observer_.wants_stop(); }));
  if (!is_whole) return false;
  CACHALOT_ASSIGN_OR_RETURN(*scores, judges.scores(judgements));
  return true;
}

Result<TaskRun::Rewards> TaskRun::judge(const RolloutPlan& plan, RolloutLog& log,
                                        const Judges::Scores& scores) {
  Rewards out;
  out.entries.resize(config_.tasks.size());
  out.num_verdicts = scores.num_judgements;
  out.num_unparseable = scores.num_unparseable;
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
        if (episode.task().rubric) {
          const std::optional<double> score = scores.of_answers[number];
          reward = {score.value_or(0), score.value_or(0) >= kPassingScore,
                    score ? "" : std::string(kNoVerdict)};
        } else {
          CACHALOT_ASSIGN_OR_RETURN(reward, episode.task().check(reply));
        }
      }
      reward.value -= penalties_[number / plan.group_size].of(reasoning);
      CACHALOT_RETURN_IF_ERROR(log.add_reward(number, reward));
    }
    const int64_t length = answer.num_sampled();
    Rewards::OfEntry& entry = out.entries[entries_[number / plan.group_size]];
    ++entry.count;
    entry.correct += answer.reward->correct ? 1 : 0;
    entry.length += length;
    entry.reasoning += reasoning;
    if (!episode.task().schema.empty()) {
      ++out.num_verdicts;
      out.num_unparseable += answer.reward->why == kNoVerdict || answer.end == AnswerEnd::length;
    }
    if (episode.task().rubric) {
      ++out.num_scored;
      out.score += scores.of_answers[number].value_or(0);
      if (episode.task().check) {
        ++out.num_audited;
        if (answer.end == AnswerEnd::stop) {
          CACHALOT_ASSIGN_OR_RETURN(const data::Reply reply, episode.reply(answer));
          CACHALOT_ASSIGN_OR_RETURN(const Reward audit, episode.task().check(reply));
          out.audit += audit.value;
        }
      }
    }
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

Status TaskRun::write_samples(int64_t step, const RolloutLog& log, const RolloutPlan& plan) {
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
  std::ofstream out(directory() + "/samples.jsonl", std::ios::app);
  out << boost::json::serialize(row) << "\n";
  out.flush();
  return out ? Status() : io_error(directory() + "/samples.jsonl: write failed");
}

Status TaskRun::save() {
  CACHALOT_RETURN_IF_ERROR(metrics_->sync());
  train::TrainerState state(*trainer_, detector_, 0);
  std::vector<optim::StateArray> arrays = trainer_->optimizer().state();
  for (optim::StateArray& array : state.arrays()) arrays.push_back(std::move(array));
  CACHALOT_RETURN_IF_ERROR(train::save_checkpoint(
      directory(), {model_, trainer_->parameters(), std::move(arrays), state.fields(),
                    config_.resolved, tokenizer_json_, step(), config_.hash}));
  last_saved_ = step();
  CACHALOT_RETURN_IF_ERROR(event("checkpoint", train::checkpoint_directory(directory(), step())));
  return prune();
}

Status TaskRun::prune() {
  const train::TrainConfig::Checkpoint& c = config_.train.checkpoint;
  CACHALOT_RETURN_IF_ERROR(train::prune_checkpoints(directory(), c.keep_last, c.keep_every_steps));
  const std::vector<int64_t> kept = train::list_checkpoints(directory());
  const int64_t oldest = kept.empty() ? 0 : kept.front();
  std::error_code error;
  for (int64_t step = oldest - 1; step >= 0 && std::filesystem::remove(log_path(step), error);) {
    std::filesystem::remove(judge_log_path(step), error);
    --step;
  }
  return learner_.forget_before(oldest);
}

Status TaskRun::event(std::string_view name, const std::string& detail) {
  observer_.on_event(step(), name, detail);
  return metrics_->write_event(step(), name, detail);
}

double TaskRun::learning_rate() const {
  const train::StreamPosition& at = trainer_->position();
  return optim::learning_rate(config_.train.schedule.learning_rate, at.step, at.tokens_seen);
}

std::string TaskRun::judge_log_path(int64_t step) const {
  return fmt::format("{}/rollouts/step-{:010}.judges.log", directory(), step);
}

std::string TaskRun::log_path(int64_t step) const {
  return fmt::format("{}/rollouts/step-{:010}.log", directory(), step);
}

}  // namespace cachalot::post
