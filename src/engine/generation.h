// One answer as it runs: a request's prompt, then steps of one token and its drafts. It says which
// tokens to run next and takes what came of them; who runs them, when and beside whom is not its
// matter. Internal to engine/.
// Source  reference/forward 5.2, 5.3.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "engine/draft_policy.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "model/transformer.h"

namespace cachalot::engine {

// What the answers of a request share.
struct Submitted {
  RequestId id = 0;
  Request request;
  double submitted_s = 0;
  int64_t num_unfinished = 0;  // answers
  bool is_cancelled = false;
};

// What ops::sample wrote into `top`: rows of `stride` tokens.
struct TopTokens {
  const ops::TokenLogprob* rows = nullptr;
  int64_t stride = 0;

  const ops::TokenLogprob* row(int64_t i) const {
    return stride == 0 ? nullptr : rows + i * stride;
  }
};

class Generation {
 public:
  // Borrows the sequence, whose tokens get the prompt appended. sequence_id is kept for the engine.
  Generation(int64_t id, std::shared_ptr<Submitted> submitted, int64_t answer,
             SequenceId sequence_id, Sequence& sequence, const formats::ModelConfig& config,
             const DraftHistory& draft_history);

  int64_t id() const { return id_; }
  int64_t answer() const { return answer_; }
  SequenceId sequence_id() const { return sequence_id_; }
  Sequence& sequence() { return sequence_; }
  const Sequence& sequence() const { return sequence_; }
  Submitted& submitted() { return *submitted_; }
  const Submitted& submitted() const { return *submitted_; }
  const Request& request() const { return submitted_->request; }
  Phase phase() const { return phase_; }
  bool is_finished() const { return phase_ == Phase::finished; }
  Candidate candidate() const;
  // A later answer that has not started: it may fork the first one once that one's prompt has run.
  bool can_fork() const { return answer_ > 0 && phase_ == Phase::waiting; }
  bool is_before_decoding() const;
  bool is_at_prompt_end() const;  // decoding, and nothing written yet
  // What runs as a prompt: all that was known when it began, or began anew after a pause.
  int64_t num_prompt_tokens() const { return prompt_end_; }
  // Nothing of the prompt's rows is asked for but the tokens after them.
  bool may_skip_rows() const {
    return !wants_choices() && !request().wants_prompt_logprobs && !wants_prompt_logits();
  }
  // Where the pieces of the prompt end: the token after them is the first decoded row.
  int64_t pieces_end() const { return sequence_.num_tokens() - (wants_prompt_logits() ? 0 : 1); }
  const Result<Completion>& result() const { return result_; }

  // Its sequence has a cache; what that holds need not be run.
  void admit(double now_s);
  // Once admitted: its cache is a fork of that of `other`, the first answer to the same prompt.
  void take_over(const Generation& other);
  // The rows are given up; admitted again, it runs them again. Drafts stay good.
  void pause();
  void finish(Finish finish, double now_s);
  void fail(Status status);
  void send_result(int64_t weights_version);

  // The tokens of the next `count` rows, first position num_cached(): of the prompt, or the last
  // token and drafts. Valid until the next call.
  std::span<const int32_t> plan(int64_t count);
  // The planned rows have been run. Decoding: first it adds the rows of ops::sample, one for each,
  // as if the drafts before it stood; then it takes what was sampled from its logits
  // [count, vocab_size] and, where they are asked for, the allowed sets
  // [count, id_set_words(vocab_size)] and the likeliest tokens.
  void take_prompt(double now_s);
  // Whether, while a step of its last token runs, the step after it may begin before anybody has
  // read what is drawn: it is of one row again, unless the answer ends.
  bool can_go_on() const;
  void add_sampling_rows(std::vector<ops::SamplingRow>& rows);
  void take(const ops::SampledToken* sampled, const float* logits, const uint64_t* allowed,
            TopTokens top, double now_s);
  int64_t first_planned() const { return first_planned_; }
  // Of the planned rows, those that stand.
  int64_t num_standing() const { return sequence_.num_cached() - first_planned_; }

  // Whether the logits of the row at `position` give a log-probability that is asked for.
  bool wants_prompt_logprob(int64_t position) const;
  int32_t token_after(int64_t position) const { return sequence_.tokens[position + 1]; }
  void take_prompt_logprob(int64_t position, const ops::SampledToken& sampled, const float* logits,
                           const ops::TokenLogprob* top);
  bool wants_prompt_logits() const { return request().on_prompt_logits != nullptr; }
  // False where nobody wants more.
  bool take_prompt_logits(int64_t position, std::span<const float> logits);
  // What every layer chose for the planned rows.
  bool wants_choices() const { return request().wants_choices; }
  void take_choices(std::vector<std::vector<int32_t>> model::Choices::*kind, int64_t layer,
                    const int32_t* values, int64_t width);

  // Whether the MTP block is to see the standing rows, and how many drafts are to follow.
  bool fills_mtp() const;
  int64_t wanted_drafts(const CostModel& cost, int64_t num_sequences);
  const DraftHistory& draft_history() const { return policy_.history(); }
  void take_draft(int32_t id) { drafts_.push_back(id); }
  std::span<const int32_t> drafts() const { return drafts_; }

 private:
  // False when the answer is over. allowed: null, or the set that it was drawn from.
  bool emit(const ops::SampledToken& token, const uint64_t* allowed, const ops::TokenLogprob* top,
            double now_s);
  void trim_choices();
  Status ask_masks();
  int64_t num_top() const { return std::max<int64_t>(request().num_top_logprobs, 0); }
  Status faulty_row(const ops::SampledToken& token, const float* logits) const;
  bool is_greedy_with_logprobs() const {
    return request().wants_model_logprobs && request().sampling.temperature == 0;
  }
  void send(Event event);
  // Of all tokens, the last is the first decoded row.
  int64_t last_position() const { return sequence_.num_tokens() - 1; }

  int64_t id_;
  std::shared_ptr<Submitted> submitted_;
  int64_t answer_;
  SequenceId sequence_id_;
  Sequence& sequence_;
  const formats::ModelConfig& config_;
  RequestSampling sampling_;
  std::unique_ptr<TokenMask> mask_;
  Status mask_status_;
  DraftPolicy policy_;
  Phase phase_ = Phase::waiting;
  std::vector<int32_t> drafts_;  // proposals for the positions after the last token
  std::vector<int32_t> step_tokens_;
  std::vector<uint64_t> masks_;  // [rows, id_set_words(vocab_size)]
  int64_t prompt_start_;
  int64_t prompt_end_;
  int64_t first_run_ = -1;   // what was cached when it was first admitted
  int64_t next_logits_ = 0;  // the position of the row that on_prompt_logits waits for
  int64_t first_planned_ = 0;
  int64_t num_planned_ = 0;
  double admitted_s_ = 0;
  double prefilled_s_ = 0;
  Result<Completion> result_{Completion{}};
};

}  // namespace cachalot::engine
