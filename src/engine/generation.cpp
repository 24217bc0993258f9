#include "engine/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace cachalot::engine {
namespace {

constexpr int64_t kReservedTokens = 4096;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

SamplingParams with_seed_of(SamplingParams params, int64_t answer) {
  params.seed += static_cast<uint64_t>(answer);
  return params;
}

}  // namespace

Generation::Generation(int64_t id, std::shared_ptr<Submitted> submitted, int64_t answer,
                       SequenceId sequence_id, Sequence& sequence,
                       const formats::ModelConfig& config, const DraftHistory& draft_history)
    : id_(id),
      submitted_(std::move(submitted)),
      answer_(answer),
      sequence_id_(sequence_id),
      sequence_(sequence),
      config_(config),
      sampling_(with_seed_of(request().sampling, answer), config.vocab_size),
      policy_(config.num_nextn_predict_layers > 0 ? request().num_drafts : 0,
              request().adapts_drafts, draft_history),
      prompt_start_(sequence.num_tokens()) {
  if (request().make_mask) mask_ = request().make_mask();
  const std::vector<int32_t>& prompt = request().prompt;
  // Longer answers grow by doubling.
  const auto output = static_cast<size_t>(std::min(request().max_new_tokens + 1, kReservedTokens));
  result_->ids.reserve(output);
  result_->logprobs.reserve(output);
  sequence_.tokens.reserve(sequence_.tokens.size() + prompt.size() + output);
  sequence_.tokens.insert(sequence_.tokens.end(), prompt.begin(), prompt.end());
  prompt_end_ = sequence_.num_tokens();
  sequence_.is_busy = true;
  for (const int32_t token : sequence_.tokens) sampling_.add_prompt(token);
  if (request().wants_prompt_logprobs) {
    result_->prompt_logprobs.assign(prompt.size(), kNaN);
    result_->prompt_top.assign(prompt.size() * static_cast<size_t>(num_top()), {-1, 0});
  }
  drafts_.reserve(static_cast<size_t>(policy_.most()));
}

Candidate Generation::candidate() const {
  Candidate c;
  c.id = id_;
  c.phase = phase_;
  c.priority = request().priority;
  c.deadline_s = submitted_->submitted_s + request().deadline_seconds;
  c.num_tokens = sequence_.num_tokens();
  c.num_drafts = static_cast<int64_t>(drafts_.size());
  c.is_sampled = request().max_new_tokens > 0;
  c.runs_last_token = wants_prompt_logits();
  if (!sequence_.cache) return c;
  const cache::SequenceCache& cache = *sequence_.cache;
  c.num_cached = cache.num_tokens();
  c.has_state = true;
  c.num_blocks = cache.num_blocks();
  c.copies_one = cache.copies_before_write();
  return c;
}

bool Generation::is_before_decoding() const {
  return !is_finished() && phase_ != Phase::decoding && result_->ids.empty();
}

bool Generation::is_at_prompt_end() const {
  return phase_ == Phase::decoding && result_->ids.empty();
}

void Generation::admit(double now_s) {
  const int64_t cached = sequence_.num_cached();
  if (first_run_ < 0) {
    first_run_ = cached;
    admitted_s_ = prefilled_s_ = now_s;
    result_->prompt_tokens = sequence_.num_tokens() - cached;
    result_->choices_from = cached;
  }
  phase_ = cached < pieces_end() ? Phase::prefilling : Phase::decoding;
  if (phase_ == Phase::decoding && request().max_new_tokens == 0) finish(Finish::length, now_s);
}

void Generation::take_over(const Generation& other) {
  result_->prompt_logprobs = other.result_->prompt_logprobs;
  result_->prompt_top = other.result_->prompt_top;
  sequence_.mtp_end = other.sequence_.mtp_end;
  result_->choices = other.result_->choices;
  result_->choices_from = other.result_->choices_from;
}

void Generation::pause() {
  sequence_.cache.reset();
  sequence_.mtp_end = 0;
  prompt_end_ = sequence_.num_tokens();
  phase_ = Phase::paused;
  ++result_->preemptions;
}

void Generation::finish(Finish finish, double now_s) {
  phase_ = Phase::finished;
  result_->finish = finish;
  if (first_run_ < 0) return;
  result_->prefill_seconds = prefilled_s_ - admitted_s_;
  result_->decode_seconds = now_s - prefilled_s_;
}

void Generation::fail(Status status) {
  phase_ = Phase::finished;
  result_ = std::move(status);
}

void Generation::send(Event event) {
  if (!request().on_event) return;
  event.request = submitted_->id;
  event.answer = answer_;
  if (!request().on_event(event)) submitted_->is_cancelled = true;
}

void Generation::send_result(int64_t weights_version) {
  if (result_) result_->weights_version = weights_version;
  send({.kind = Event::Kind::finished, .result = &result_});
}

std::span<const int32_t> Generation::plan(int64_t count) {
  first_planned_ = sequence_.num_cached();
  num_planned_ = count;
  if (phase_ != Phase::decoding)
    return std::span(sequence_.tokens)
        .subspan(static_cast<size_t>(first_planned_), static_cast<size_t>(count));
  drafts_.resize(static_cast<size_t>(count - 1));
  step_tokens_.assign(1, sequence_.tokens.back());
  step_tokens_.insert(step_tokens_.end(), drafts_.begin(), drafts_.end());
  return step_tokens_;
}

void Generation::take_prompt(double now_s) {
  const int64_t cached = sequence_.num_cached();
  if (result_->ids.empty()) {
    send({.kind = Event::Kind::prefill,
          .done_tokens = cached - first_run_,
          .total_tokens = sequence_.num_tokens() - first_run_});
    prefilled_s_ = now_s;
  }
  if (cached < pieces_end()) return;
  phase_ = Phase::decoding;
  if (request().max_new_tokens == 0) finish(Finish::length, now_s);
}

bool Generation::wants_prompt_logprob(int64_t position) const {
  const int64_t i = position + 1 - prompt_start_;
  return i >= 0 && i < static_cast<int64_t>(result_->prompt_logprobs.size()) &&
         std::isnan(result_->prompt_logprobs[i]);
}

void Generation::take_prompt_logprob(int64_t position, const ops::SampledToken& sampled,
                                     const float* logits, const ops::TokenLogprob* top) {
  if (sampled.fault == ops::SamplingFault::not_finite) return fail(sampled_status(sampled, logits));
  // Its logit may be -inf.
  const bool is_possible = sampled.fault == ops::SamplingFault::none;
  const int64_t i = position + 1 - prompt_start_;
  result_->prompt_logprobs[i] =
      is_possible ? sampled.model_logprob : -std::numeric_limits<double>::infinity();
  if (is_possible && num_top() > 0)
    std::copy(top, top + num_top(), result_->prompt_top.begin() + i * num_top());
}

bool Generation::take_prompt_logits(int64_t position, std::span<const float> logits) {
  if (position < next_logits_) return true;  // it was run before a pause
  next_logits_ = position + 1;
  return request().on_prompt_logits(position, logits);
}

void Generation::take_choices(std::vector<std::vector<int32_t>> model::Choices::*kind,
                              int64_t layer, const int32_t* values, int64_t width) {
  std::vector<std::vector<int32_t>>& layers = result_->choices.*kind;
  if (layers.size() <= static_cast<size_t>(layer)) layers.resize(static_cast<size_t>(layer) + 1);
  std::vector<int32_t>& rows = layers[layer];
  // Rows before choices_from, run again after a pause, were not asked for.
  const int64_t first = first_planned_ - result_->choices_from;
  const int64_t skipped = std::max<int64_t>(0, -first);
  if (skipped >= num_planned_) return;
  rows.resize(static_cast<size_t>((first + num_planned_) * width));
  std::copy(values + skipped * width, values + num_planned_ * width,
            rows.begin() + (first + skipped) * width);
}

// Of drafts that fell nothing stays.
void Generation::trim_choices() {
  const int64_t rows = sequence_.num_cached() - result_->choices_from;
  const auto trim = [&](std::vector<std::vector<int32_t>>& layers, int64_t width) {
    for (std::vector<int32_t>& values : layers) {
      if (!values.empty()) values.resize(static_cast<size_t>(rows * width));
    }
  };
  trim(result_->choices.experts, config_.num_experts_per_tok);
  trim(result_->choices.selected, config_.index_topk);
}

Status Generation::ask_masks() {
  const auto words = static_cast<size_t>(ops::id_set_words(config_.vocab_size));
  masks_.assign(words * (drafts_.size() + 1), 0);
  int64_t taken = 0;
  for (size_t row = 0;; ++row) {
    const std::span allowed(masks_.data() + row * words, words);
    CACHALOT_RETURN_IF_ERROR(mask_->allow(allowed));
    // A draft that is not allowed falls, and with it the rows after it.
    if (row == drafts_.size() || !ops::id_set_has(allowed.data(), drafts_[row])) break;
    mask_->take(drafts_[row]);
    ++taken;
  }
  if (taken > 0) mask_->rewind(taken);
  return {};
}

bool Generation::can_go_on() const {
  const Request& r = request();
  if (phase_ != Phase::decoding || num_planned_ != 1 || policy_.most() > 0) return false;
  if (r.wants_choices || r.wants_allowed_sets || r.wants_label_logprobs || r.num_top_logprobs >= 0)
    return false;
  const cache::SequenceCache& cache = *sequence_.cache;
  return static_cast<int64_t>(result_->ids.size()) + 1 < r.max_new_tokens &&
         cache.min_rewind_tokens() <= cache.num_tokens();
}

void Generation::add_sampling_rows(std::vector<ops::SamplingRow>& rows) {
  if (mask_ != nullptr) mask_status_ = ask_masks();
  for (int64_t i = 0; i < num_planned_; ++i) {
    ops::SamplingRow& row = rows.emplace_back(sampling_.row(sequence_.num_tokens() + i));
    row.drafted = std::span(drafts_).first(static_cast<size_t>(i));
    row.wants_model_logprob = is_greedy_with_logprobs() || request().num_top_logprobs >= 0;
    row.num_top = num_top();
    if (mask_ != nullptr) row.mask = masks_.data() + i * ops::id_set_words(config_.vocab_size);
  }
}

Status Generation::faulty_row(const ops::SampledToken& token, const float* logits) const {
  if (mask_ == nullptr || token.fault != ops::SamplingFault::nothing_to_choose)
    return sampled_status(token, logits);
  return invalid_argument(fmt::format(
      "token mask: expected at least one token that may come at position {}, found none",
      sequence_.num_tokens()));
}

bool Generation::emit(const ops::SampledToken& token, const uint64_t* allowed,
                      const ops::TokenLogprob* top, double now_s) {
  sequence_.tokens.push_back(token.id);
  sampling_.add_output(token.id);
  const std::vector<int32_t>& stops = request().stop_tokens;
  if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    finish(Finish::stop, now_s);
    return false;
  }
  if (mask_ != nullptr) mask_->take(token.id);
  const double logprob = is_greedy_with_logprobs() ? token.model_logprob : token.logprob;
  result_->ids.push_back(token.id);
  result_->logprobs.push_back(logprob);
  if (allowed != nullptr) {
    std::vector<int32_t>& set = result_->allowed_sets.emplace_back();
    set.reserve(static_cast<size_t>(token.num_allowed));
    for (int32_t id = 0; id < config_.vocab_size; ++id) {
      if (ops::id_set_has(allowed, id)) set.push_back(id);
    }
  }
  send({.kind = Event::Kind::token,
        .token = token.id,
        .logprob = logprob,
        .model_logprob = token.model_logprob,
        .top = std::span(top, static_cast<size_t>(num_top())),
        .so_far = &*result_});
  if (static_cast<int64_t>(result_->ids.size()) >= request().max_new_tokens) {
    finish(Finish::length, now_s);
  } else if (submitted_->is_cancelled) {
    finish(Finish::cancelled, now_s);
  }
  return !is_finished();
}

void Generation::take(const ops::SampledToken* sampled, const float* logits,
                      const uint64_t* allowed, TopTokens top, double now_s) {
  // Each row's logits are those of a step of its own (batch invariance).
  const auto drafted = static_cast<int64_t>(drafts_.size());
  int64_t accepted = 0;
  Status status = std::move(mask_status_);
  mask_status_ = {};
  while (status.ok()) {
    const ops::SampledToken& token = sampled[accepted];
    if (token.fault != ops::SamplingFault::none) {
      status = faulty_row(token, logits + accepted * config_.vocab_size);
      break;
    }
    const uint64_t* set = request().wants_allowed_sets
                              ? allowed + accepted * ops::id_set_words(config_.vocab_size)
                              : nullptr;
    if (!emit(token, set, top.row(accepted), now_s) || accepted == drafted ||
        token.id != drafts_[accepted])
      break;
    ++accepted;
  }
  result_->drafted += drafted;
  result_->accepted += accepted;
  policy_.record(drafted, accepted);
  if (accepted < drafted) {
    const Status rewound = sequence_.cache->rewind(first_planned_ + 1 + accepted);
    if (status.ok()) status = rewound;
  }
  drafts_.clear();
  trim_choices();
  if (!status.ok()) fail(std::move(status));
}

bool Generation::fills_mtp() const {
  if (policy_.most() == 0 || is_finished()) return false;
  // The MTP block's window reaches back sliding_window positions; a prompt's earlier rows are of no
  // use to it.
  return sequence_.num_cached() > last_position() - config_.sliding_window;
}

int64_t Generation::wanted_drafts(const CostModel& cost, int64_t num_sequences) {
  // No further than the answer may go: one token always comes from the main model itself.
  const int64_t room = request().max_new_tokens - static_cast<int64_t>(result_->ids.size()) - 1;
  return room <= 0 ? 0 : std::min(room, policy_.wanted(cost, num_sequences));
}

}  // namespace cachalot::engine
