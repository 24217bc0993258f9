#include "post/rollouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"

namespace cachalot::post {
namespace {

constexpr int64_t kLeastStem = 64;  // tokens: fewer run with each prompt

}  // namespace

std::vector<int64_t> routed_layers(const formats::ModelConfig& config) {
  const std::vector<formats::LayerConfig> layers = formats::layer_configs(config);
  std::vector<int64_t> routed;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (layers[layer].ffn == formats::FfnKind::routed) routed.push_back(layer);
  }
  return routed;
}

RolloutLogHead log_head(const RolloutPlan& plan, const formats::ModelConfig& config,
                        bool for_training) {
  const size_t num_layers = for_training ? routed_layers(config).size() : 0;
  return {.step = plan.step,
          .weights_version = plan.weights_version,
          .plan_hash = plan_hash(plan),
          .num_groups = static_cast<int64_t>(plan.groups.size()),
          .group_size = plan.group_size,
          .vocab_size = config.vocab_size,
          .choices_per_row = static_cast<int64_t>(num_layers) * config.num_experts_per_tok,
          .num_experts = config.n_routed_experts};
}

Rollouts::Rollouts(engine::Engine& engine, const RolloutPlan& plan, RolloutLog& log,
                   RolloutOptions options)
    : engine_(engine),
      plan_(plan),
      log_(log),
      options_(std::move(options)),
      layers_(options_.for_training ? routed_layers(engine.config()) : std::vector<int64_t>()) {
  CACHALOT_CHECK(engine.weights_version() == plan.weights_version);
  CACHALOT_CHECK(options_.max_sequences >= 2);
}

Rollouts::~Rollouts() {
  cancel_all();
  for (const auto& [number, running] : running_) engine_.close(running.sequence);
  if (stem_) engine_.close(*stem_);
}

std::vector<int32_t> Rollouts::tokens_of(int64_t number) const {
  std::vector<int32_t> tokens = plan_.group_of(number).prompt;
  const std::vector<int32_t>& ids = answer(number).ids;
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  return tokens;
}

std::string Rollouts::rows_path(int64_t number) const {
  return fmt::format("{}/step-{:010}-answer-{}.kv", options_.rows_directory, plan_.step, number);
}

Result<bool> Rollouts::run(const std::function<bool()>& wants_pause) {
  wants_pause_ = wants_pause;
  for (int64_t num_begun = 0;; ++num_begun) {
    CACHALOT_ASSIGN_OR_RETURN(const bool has_room, make_room(2));
    if (!has_room) return false;
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<int64_t> group, next_group(num_begun));
    if (!group) break;
    CACHALOT_ASSIGN_OR_RETURN(const bool goes_on, run_group(*group));
    if (!goes_on) return false;
  }
  return make_room(options_.max_sequences);
}

Result<std::optional<int64_t>> Rollouts::next_group(int64_t num_begun) const {
  if (options_.next_group) return options_.next_group();
  if (num_begun == static_cast<int64_t>(plan_.groups.size())) return std::optional<int64_t>();
  return std::optional(num_begun);
}

Result<bool> Rollouts::make_room(int64_t num_sequences) {
  if (stem_) ++num_sequences;
  while (!running_.empty() &&
         static_cast<int64_t>(running_.size()) + num_sequences > options_.max_sequences) {
    if (wants_pause_ && wants_pause_()) return false;
    CACHALOT_RETURN_IF_ERROR(step());
  }
  return true;
}

Result<bool> Rollouts::run_group(int64_t group) {
  std::vector<int64_t> fresh;
  for (int64_t i = 0; i < plan_.group_size; ++i) {
    const int64_t number = group * plan_.group_size + i;
    if (is_done(number)) continue;
    if (answer(number).ids.empty()) {
      fresh.push_back(number);
      continue;
    }
    // A kill may have come between the last token and what it means.
    bool samples_on = true;
    CACHALOT_RETURN_IF_ERROR(settle(number, &samples_on));
    if (is_done(number)) continue;
    CACHALOT_ASSIGN_OR_RETURN(const bool has_room, make_room(1));
    if (!has_room) return false;
    CACHALOT_RETURN_IF_ERROR(start_from_log(number));
  }
  if (fresh.empty()) return true;
  CACHALOT_ASSIGN_OR_RETURN(bool has_room, make_room(2));
  if (!has_room) return false;
  CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId prompt, open_prompt(group));
  Status status = run_prompt(group, prompt);
  for (size_t i = 0; status.ok() && has_room && i < fresh.size(); ++i) {
    const Result<bool> room = make_room(2);  // the prompt's own counts
    if (!room) status = room.error();
    has_room = room && *room;
    if (!has_room) break;
    const Result<engine::SequenceId> fork = engine_.fork(prompt);
    status = fork ? start(fresh[i], *fork) : fork.error();
  }
  engine_.close(prompt);
  if (!status.ok()) return status;
  return has_room;
}

Result<engine::SequenceId> Rollouts::open_prompt(int64_t group) {
  const std::span<const int32_t> prompt = plan_.groups[group].prompt;
  const std::span<const int32_t> last = std::exchange(last_prompt_, prompt);
  // Training wants the experts of every row, and the stem takes a sequence's room.
  if (options_.for_training || options_.max_sequences < 4) return engine_.open();
  const auto begins = [&](std::span<const int32_t> stem) {
    return stem.size() < prompt.size() && std::ranges::equal(stem, prompt.first(stem.size()));
  };
  if (!stem_ || !begins(engine_.tokens(*stem_))) {
    if (stem_) engine_.close(*stem_);
    stem_.reset();
    const auto end = std::ranges::mismatch(last, prompt).in2;
    const auto length = std::min(end - prompt.begin(), std::ssize(prompt) - 1);
    if (length < kLeastStem) return engine_.open();
    CACHALOT_ASSIGN_OR_RETURN(stem_, engine_.open());
    engine::Request request;
    request.prompt.assign(prompt.begin(), prompt.begin() + length);
    request.max_new_tokens = 0;
    CACHALOT_ASSIGN_OR_RETURN(const engine::Completion run,
                              engine_.generate(*stem_, std::move(request)));
    CACHALOT_RETURN_IF_ERROR(see_to_ended());
    counts_.prefilled_tokens += run.prompt_tokens;
  }
  return engine_.fork(*stem_);
}

Status Rollouts::run_prompt(int64_t group, engine::SequenceId sequence) {
  engine::Request request;
  const std::vector<int32_t>& prompt = plan_.groups[group].prompt;
  request.prompt.assign(prompt.begin() + std::ssize(engine_.tokens(sequence)), prompt.end());
  request.max_new_tokens = 0;
  request.wants_choices = options_.for_training;
  CACHALOT_ASSIGN_OR_RETURN(const engine::Completion run,
                            engine_.generate(sequence, std::move(request)));
  CACHALOT_RETURN_IF_ERROR(see_to_ended());
  counts_.prefilled_tokens += run.prompt_tokens - 1;  // the last one runs with each answer
  if (log_.has_prompt(group)) return {};
  const int64_t per_token = engine_.config().num_experts_per_tok;
  std::vector<uint16_t> experts;
  const auto rows = static_cast<int64_t>(plan_.groups[group].prompt.size()) - 1;
  for (int64_t row = 0; row < rows; ++row) {
    for (const int64_t layer : layers_) {
      const int32_t* chosen = &run.choices.experts[layer][row * per_token];
      experts.insert(experts.end(), chosen, chosen + per_token);
    }
  }
  return log_.add_prompt(group, std::move(experts));
}

Status Rollouts::start_from_log(int64_t number) {
  if (!options_.rows_directory.empty() && std::filesystem::exists(rows_path(number))) {
    const std::vector<int32_t> tokens = tokens_of(number);
    const Result<engine::SequenceId> restored = engine_.restore(rows_path(number));
    if (restored) {
      const std::span<const int32_t> found = engine_.tokens(*restored);
      if (found.size() <= tokens.size() && std::equal(found.begin(), found.end(), tokens.begin())) {
        ++counts_.resumed_with_rows;
        std::filesystem::remove(rows_path(number));
        return start(number, *restored);
      }
      engine_.close(*restored);
    }
    log_warning(fmt::format("{}: expected the rows of this answer, found {}; they run again",
                            rows_path(number),
                            restored ? "those of others" : restored.error().message()));
  }
  ++counts_.resumed_from_log;
  CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId sequence, engine_.open());
  return start(number, sequence);
}

Status Rollouts::start(int64_t number, engine::SequenceId sequence) {
  const std::vector<int32_t> tokens = tokens_of(number);
  engine::Request request;
  request.prompt.assign(tokens.begin() + static_cast<ptrdiff_t>(engine_.tokens(sequence).size()),
                        tokens.end());
  request.sequence = sequence;
  request.sampling = plan_.sampling;
  request.sampling.seed = answer_seed(plan_, number);
  request.max_new_tokens =
      plan_.group_of(number).max_new_tokens - static_cast<int64_t>(answer(number).ids.size());
  request.wants_label_logprobs = request.wants_allowed_sets = request.wants_choices =
      options_.for_training;
  request.num_drafts = plan_.num_drafts;
  request.adapts_drafts = plan_.adapts_drafts;
  if (options_.make_mask) {
    Result<MakeMask> make = options_.make_mask(number, answer(number));
    if (!make) {
      engine_.close(sequence);
      return make.error();
    }
    request.make_mask = *std::move(make);
  }
  request.on_event = [this, number](const engine::Event& event) { return take(number, event); };
  const Result<engine::RequestId> submitted = engine_.submit(std::move(request));
  if (!submitted) {
    engine_.close(sequence);
    return submitted.error();
  }
  running_[number] = {sequence, *submitted};
  return {};
}

bool Rollouts::take(int64_t number, const engine::Event& event) {
  if (event.kind == engine::Event::Kind::finished) {
    running_.at(number).is_over = true;
    const Result<engine::Completion>& result = *event.result;
    if (result) {
      counts_.prefilled_tokens += result->prompt_tokens - 1;
      counts_.drafted += result->drafted;
      counts_.accepted += result->accepted;
    } else if (error_.ok()) {
      error_ = result.error();
    }
    return true;
  }
  if (event.kind != engine::Event::Kind::token) return true;
  bool samples_on = true;
  const Status status = take_token(number, event, &samples_on);
  if (!status.ok() && error_.ok()) error_ = status;
  return status.ok() && samples_on;
}

Status Rollouts::take_token(int64_t number, const engine::Event& event, bool* samples_on) {
  const engine::Completion& so_far = *event.so_far;
  RolloutToken token{.id = event.token};
  if (options_.for_training) {
    token.logprob = event.logprob;
    const std::vector<int32_t>& allowed = so_far.allowed_sets.back();
    if (static_cast<int64_t>(allowed.size()) < engine_.config().vocab_size) token.allowed = allowed;
  }
  const int64_t per_token = engine_.config().num_experts_per_tok;
  const RolloutAnswer& answer = this->answer(number);
  // The row that gave this token stands at the one before.
  const int64_t first =
      static_cast<int64_t>(plan_.group_of(number).prompt.size()) - 1 - so_far.choices_from;
  for (int64_t row = answer.num_rows; row <= static_cast<int64_t>(answer.ids.size()); ++row) {
    for (const int64_t layer : layers_) {
      const int32_t* chosen = &so_far.choices.experts[layer][(first + row) * per_token];
      token.experts.insert(token.experts.end(), chosen, chosen + per_token);
    }
  }
  CACHALOT_RETURN_IF_ERROR(log_.add_token(number, std::move(token)));
  ++counts_.sampled_tokens;
  return settle(number, samples_on);
}

Status Rollouts::settle(int64_t number, bool* samples_on) {
  const RolloutAnswer& answer = this->answer(number);
  const auto length = static_cast<int64_t>(answer.ids.size());
  const int64_t longest = plan_.group_of(number).max_new_tokens;
  const bool ends_turn =
      answer.is_sampled.back() &&
      std::ranges::find(plan_.end_tokens, answer.ids.back()) != plan_.end_tokens.end();
  if (!ends_turn) {
    if (length < longest) return {};
    *samples_on = false;
    return log_.finish(number, AnswerEnd::length);
  }
  *samples_on = false;
  std::vector<int32_t> given;
  if (options_.on_turn) {
    CACHALOT_ASSIGN_OR_RETURN(given, options_.on_turn(number, answer));
  }
  if (given.empty()) return log_.finish(number, AnswerEnd::stop);
  if (length + static_cast<int64_t>(given.size()) >= longest)
    return log_.finish(number, AnswerEnd::length);
  return log_.add_given(number, given);
}

Status Rollouts::step() {
  engine_.step();
  return see_to_ended();
}

Status Rollouts::see_to_ended() {
  if (!error_.ok()) return error_;
  std::vector<int64_t> ended;
  for (const auto& [number, running] : running_) {
    if (running.is_over) ended.push_back(number);
  }
  for (const int64_t number : ended) {
    const engine::SequenceId sequence = running_.at(number).sequence;
    running_.erase(number);
    if (is_done(number)) {
      engine_.close(sequence);
    } else {
      CACHALOT_RETURN_IF_ERROR(start(number, sequence));  // its next turn
    }
  }
  return {};
}

void Rollouts::cancel_all() {
  const auto is_running = [](const auto& entry) { return !entry.second.is_over; };
  for (const auto& [number, running] : running_) {
    if (!running.is_over) engine_.cancel(running.request);
  }
  while (std::ranges::any_of(running_, is_running)) engine_.step();
}

Status Rollouts::pause() {
  cancel_all();
  Status status = error_;
  for (const auto& [number, running] : running_) {
    if (status.ok() && !options_.rows_directory.empty() && !is_done(number))
      status = engine_.save(running.sequence, rows_path(number));
    engine_.close(running.sequence);
  }
  running_.clear();
  return status;
}

}  // namespace cachalot::post
