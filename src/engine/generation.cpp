#include "engine/generation.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace cachalot::engine {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Engine::Generation::Generation(Engine& engine, Sequence& sequence, const GenerateRequest& request,
                               const std::function<bool(const Event&)>& on_event)
    : engine_(engine),
      sequence_(sequence),
      request_(request),
      on_event_(on_event),
      model_(engine.model_->transformer()),
      width_(model_.num_streams() * model_.config().hidden_size),
      num_drafts_(model_.weights().mtp.empty() ? 0 : request.num_drafts),
      sampling_(request.sampling, model_.config().vocab_size) {}

Result<Completion> Engine::Generation::run() {
  // Tokens that an earlier completion sampled last have not been run yet; they belong to this
  // prefill.
  sequence_.tokens.insert(sequence_.tokens.end(), request_.prompt.begin(), request_.prompt.end());
  for (const int32_t id : sequence_.tokens) sampling_.add_prompt(id);
  if (request_.max_new_tokens == 0) is_over_ = true;

  auto start = std::chrono::steady_clock::now();
  CACHALOT_RETURN_IF_ERROR(prefill());
  completion_.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();
  while (!is_over_) CACHALOT_RETURN_IF_ERROR(decode_step());
  completion_.decode_seconds = seconds_since(start);
  return std::move(completion_);
}

Status Engine::Generation::forward(int64_t count) {
  const int64_t cached = sequence_.cache.num_tokens();
  streams_.resize(static_cast<size_t>(count * width_));
  const StepInput input{
      &sequence_.cache,
      std::span(sequence_.tokens).subspan(static_cast<size_t>(cached), static_cast<size_t>(count))};
  return engine_.runner_.forward({&input, 1}, streams_.data());
}

// All tokens but the last; the first decode step runs that one.
Status Engine::Generation::prefill() {
  const auto total = static_cast<int64_t>(sequence_.tokens.size());
  const int64_t first = sequence_.cache.num_tokens();
  completion_.prompt_tokens = total - first;
  const int64_t window = model_.config().sliding_window;
  while (sequence_.cache.num_tokens() < total - 1) {
    if (cancelled()) {
      completion_.finish = Finish::cancelled;
      is_over_ = true;
      return {};
    }
    const int64_t at = sequence_.cache.num_tokens();
    const int64_t count = std::min(engine_.prefill_chunk_tokens_, total - 1 - at);
    CACHALOT_RETURN_IF_ERROR(forward(count));
    // The MTP block's window reaches back sliding_window positions; earlier rows are of no use to
    // it.
    if (num_drafts_ > 0 && at + count > total - 1 - window) {
      CACHALOT_RETURN_IF_ERROR(
          fill_mtp(at,
                   std::span(sequence_.tokens)
                       .subspan(static_cast<size_t>(at + 1), static_cast<size_t>(count)),
                   row(0)));
    }
    const Event event{Event::Kind::prefill, at + count - first, total - first};
    if (on_event_ && !on_event_(event)) engine_.cancel();
  }
  return {};
}

Status Engine::Generation::fill_mtp(int64_t first_position, std::span<const int32_t> next_tokens,
                                    const float* streams) {
  mtp_streams_.resize(next_tokens.size() * static_cast<size_t>(width_));
  const StepInput input{&sequence_.cache, next_tokens};
  return engine_.runner_.mtp_forward(0, {&input, 1}, {&first_position, 1}, streams,
                                     mtp_streams_.data());
}

// streams_ holds the rows of the last positions that stand; the last token of the sequence is the
// one after them.
Status Engine::Generation::draft() {
  drafts_.clear();
  const int64_t cached = sequence_.cache.num_tokens();
  // No further than the completion may go: one token always comes from the main model itself.
  const int64_t wanted = std::min(
      num_drafts_, request_.max_new_tokens - static_cast<int64_t>(completion_.ids.size()) - 1);
  if (wanted <= 0) return {};
  const int64_t count = static_cast<int64_t>(streams_.size()) / width_;
  const int64_t first = cached - count;
  CACHALOT_RETURN_IF_ERROR(
      fill_mtp(first,
               std::span(sequence_.tokens)
                   .subspan(static_cast<size_t>(first + 1), static_cast<size_t>(count)),
               row(0)));
  logits_.resize(static_cast<size_t>(model_.config().vocab_size));
  std::vector<float> streams(mtp_streams_.end() - width_, mtp_streams_.end());
  while (true) {
    const int64_t only_row = 0;
    model_.mtp_logits(engine_.runner_.context(), 0, streams.data(), {&only_row, 1}, logits_.data());
    const ops::SamplingRow greedy{.temperature = 0};
    ops::SampledToken best;
    const int64_t vocab_size = model_.config().vocab_size;
    ops::sample(engine_.runner_.context(),
                {logits_.data(), vocab_size, 1, vocab_size, &greedy, &best});
    CACHALOT_RETURN_IF_ERROR(sampled_status(best, logits_.data()));
    drafts_.push_back(best.id);
    const auto drafted = static_cast<int64_t>(drafts_.size());
    if (drafted >= wanted) break;
    CACHALOT_RETURN_IF_ERROR(
        fill_mtp(cached - 1 + drafted, std::span(drafts_).last(1), streams.data()));
    streams = mtp_streams_;
  }
  return {};
}

bool Engine::Generation::emit(const ops::SampledToken& token) {
  sequence_.tokens.push_back(token.id);
  sampling_.add_output(token.id);
  if (std::find(request_.stop_tokens.begin(), request_.stop_tokens.end(), token.id) !=
      request_.stop_tokens.end()) {
    completion_.finish = Finish::stop;
    return false;
  }
  completion_.ids.push_back(token.id);
  const bool wants_models = request_.wants_model_logprobs && request_.sampling.temperature == 0;
  const double logprob = wants_models ? token.model_logprob : token.logprob;
  completion_.logprobs.push_back(logprob);
  const Event event{Event::Kind::token, 0, 0, token.id, logprob};
  if (on_event_ && !on_event_(event)) engine_.cancel();
  if (static_cast<int64_t>(completion_.ids.size()) >= request_.max_new_tokens) {
    completion_.finish = Finish::length;
    return false;
  }
  if (cancelled()) {
    completion_.finish = Finish::cancelled;
    return false;
  }
  return true;
}

// The token after each row of the step, as if the drafts before it stood.
void Engine::Generation::sample(int64_t drafted) {
  const int64_t vocab_size = model_.config().vocab_size;
  sampling_rows_.resize(static_cast<size_t>(1 + drafted));
  sampled_.resize(sampling_rows_.size());
  for (int64_t i = 0; i <= drafted; ++i) {
    sampling_rows_[i] = sampling_.row(static_cast<int64_t>(sequence_.tokens.size()) + i);
    sampling_rows_[i].drafted = std::span(drafts_).first(static_cast<size_t>(i));
    sampling_rows_[i].wants_model_logprob =
        request_.wants_model_logprobs && request_.sampling.temperature == 0;
  }
  ops::sample(engine_.runner_.context(), {logits_.data(), vocab_size, 1 + drafted, vocab_size,
                                          sampling_rows_.data(), sampled_.data()});
}

Status Engine::Generation::decode_step() {
  // The last token and its drafts run together; each row's logits are those of a step of its own
  // (batch invariance).
  const auto drafted = static_cast<int64_t>(drafts_.size());
  const int64_t base = sequence_.cache.num_tokens();
  sequence_.tokens.insert(sequence_.tokens.end(), drafts_.begin(), drafts_.end());
  const Status ran = forward(1 + drafted);
  sequence_.tokens.resize(sequence_.tokens.size() - drafts_.size());
  CACHALOT_RETURN_IF_ERROR(ran);
  std::vector<int64_t> rows(static_cast<size_t>(1 + drafted));
  std::iota(rows.begin(), rows.end(), 0);
  const int64_t vocab_size = model_.config().vocab_size;
  logits_.resize(static_cast<size_t>((1 + drafted) * vocab_size));
  model_.logits(engine_.runner_.context(), streams_.data(), rows, logits_.data());

  sample(drafted);
  int64_t accepted = 0;
  for (;; ++accepted) {
    const ops::SampledToken& token = sampled_[accepted];
    CACHALOT_RETURN_IF_ERROR(sampled_status(token, logits_.data() + accepted * vocab_size));
    is_over_ = !emit(token);
    if (is_over_ || accepted == drafted || token.id != drafts_[accepted]) break;
  }
  completion_.drafted += drafted;
  completion_.accepted += accepted;
  if (accepted < drafted) CACHALOT_RETURN_IF_ERROR(sequence_.cache.rewind(base + 1 + accepted));
  streams_.resize(static_cast<size_t>((1 + accepted) * width_));
  drafts_.clear();
  return is_over_ || num_drafts_ == 0 ? Status() : draft();
}

}  // namespace cachalot::engine
