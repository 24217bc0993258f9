// One request as it runs: prefill in chunks, then steps of one token and its drafts. Internal to
// engine/.
// Source  reference/forward 5.2, 5.3.
#pragma once

#include <vector>

#include "engine/engine.h"

namespace cachalot::engine {

class Engine::Generation {
 public:
  Generation(Engine& engine, Sequence& sequence, const GenerateRequest& request,
             const std::function<bool(const Event&)>& on_event);
  Result<Completion> run();

 private:
  Status prefill();
  Status decode_step();
  // Runs tokens [cached, cached + count) of the sequence through the main model into streams_.
  Status forward(int64_t count);
  // Gives the MTP block the pairs (streams of p, token p + 1) up to the last token known, and
  // drafts from there.
  Status draft();
  Status fill_mtp(int64_t first_position, std::span<const int32_t> next_tokens,
                  const float* streams);
  // The tokens after the rows of a step, from logits_ into sampled_.
  void sample(int64_t drafted);
  bool emit(const ops::SampledToken& token);  // false when the completion is over
  bool cancelled() const { return engine_.cancelled_.load(std::memory_order_relaxed); }
  const float* row(int64_t i) const { return streams_.data() + i * width_; }

  Engine& engine_;
  Sequence& sequence_;
  const GenerateRequest& request_;
  const std::function<bool(const Event&)>& on_event_;
  const model::Transformer& model_;
  int64_t width_;  // floats of a row of streams
  int64_t num_drafts_;
  RequestSampling sampling_;
  std::vector<float> streams_;  // of the last forward, [rows, width]
  std::vector<float> mtp_streams_;
  std::vector<float> logits_;
  std::vector<int32_t> drafts_;                  // proposals for the positions after the last token
  std::vector<ops::SamplingRow> sampling_rows_;  // of the step
  std::vector<ops::SampledToken> sampled_;
  Completion completion_;
  bool is_over_ = false;
};

}  // namespace cachalot::engine
