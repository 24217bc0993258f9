// What is asked of the engine and what it answers: requests, their events and completions.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/sampling_params.h"
#include "engine/token_mask.h"
#include "model/training_terms.h"

namespace cachalot::engine {

using RequestId = int64_t;
using SequenceId = int64_t;

// length: max_new_tokens are there. deadline: it passed; the completion holds what was there.
enum class Finish { stop, length, cancelled, deadline };
std::string_view finish_name(Finish finish);

struct Completion {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;  // newly run, cached ones apart
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  int64_t preemptions = 0;      // how often its rows were given up and run again
  int64_t weights_version = 0;  // at the end
  // wants_prompt_logprobs: the model's own, one per prompt token; NaN where the token before was
  // not run for this request, as there is none before a sequence's first.
  std::vector<double> prompt_logprobs;
  // With it: the num_top_logprobs likeliest beside each, [prompt tokens, num_top_logprobs], id -1
  // where there is none.
  std::vector<ops::TokenLogprob> prompt_top;
  // wants_choices: of the rows at choices_from, choices_from + 1, ... to the last token that was
  // run, by layer.
  int64_t choices_from = 0;
  model::Choices choices;
  // wants_allowed_sets: for each of ids, the tokens it was drawn from, ascending.
  std::vector<std::vector<int32_t>> allowed_sets;
};

struct Event {
  enum class Kind { prefill, token, finished };
  Kind kind;
  RequestId request = 0;
  int64_t answer = 0;       // 0 to num_answers - 1
  int64_t done_tokens = 0;  // prefill: of the prompt so far
  int64_t total_tokens = 0;
  int32_t token = -1;    // token
  double logprob = 0.0;  // in the distribution it was drawn from, or wants_model_logprobs
  // token, where num_top_logprobs asks for them: the model's own, before all sampling.
  double model_logprob = 0.0;
  std::span<const ops::TokenLogprob> top = {};  // while the event is handled
  // token, while the event is handled: the answer up to this token. Of its choices, rows up to the
  // one whose logits gave the token count.
  const Completion* so_far = nullptr;
  const Result<Completion>* result = nullptr;  // finished: the answer's last event
};

inline constexpr SequenceId kNewSequence = -1;

struct Request {
  std::vector<int32_t> prompt;  // appended to the sequence
  // kNewSequence: one of the request's own, closed at its end.
  SequenceId sequence = kNewSequence;
  // The prefix cache keeps prompts of different salts apart. Not empty: only with kNewSequence.
  std::string cache_salt;
  SamplingParams sampling;  // answer i draws with seed + i
  int64_t max_new_tokens = 256;
  // end the completion; kept in the sequence, not in the completion's ids
  std::vector<int32_t> stop_tokens;
  // Each continues the same prompt. Answer 0 goes on in `sequence`, the others in forks.
  int64_t num_answers = 1;
  int32_t priority = 0;  // the larger one goes first and may take another's room
  double deadline_seconds = std::numeric_limits<double>::infinity();  // after submit()
  // At temperature 0 a drawn token's probability is 1; asked for, its logprob is the model's own
  // (before all sampling), at the cost of a pass over the vocabulary.
  bool wants_model_logprobs = false;
  // Log-probabilities are those that a trainer computes of the same logits over the same set, to
  // the bit (ops/loss/label_logprob.h). Temperature above 0, neither penalties nor biases.
  bool wants_label_logprobs = false;
  bool wants_prompt_logprobs = false;
  // Not negative: every token's event has what the model itself gives it, and its likeliest tokens,
  // so many; prompt_logprobs has them too.
  int64_t num_top_logprobs = -1;
  // Gets the logits of each of the prompt's rows [vocab_size], by position. The last one runs too
  // and nothing is written: max_new_tokens is 0, num_answers 1. Returning false cancels.
  std::function<bool(int64_t position, std::span<const float> logits)> on_prompt_logits;
  bool wants_choices = false;
  bool wants_allowed_sets = false;
  int64_t num_drafts = 0;  // the most that the MTP block drafts a step; 0 without one
  // Fewer where they do not pay, by the sequence's acceptance and the load; else always num_drafts.
  bool adapts_drafts = true;
  std::function<std::unique_ptr<TokenMask>()> make_mask;  // empty: every token may come
  // Called on the engine's thread, in order; returning false cancels the request.
  std::function<bool(const Event&)> on_event;
};

}  // namespace cachalot::engine
