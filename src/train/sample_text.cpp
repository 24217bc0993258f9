#include "train/sample_text.h"

#include "base/check.h"
#include "ops/sampling/sampling.h"

namespace cachalot::train {

std::vector<int32_t> sample_continuation(device::ExecContext& ctx, TrainingModel& model,
                                         std::span<const int32_t> prompt,
                                         const SampleOptions& options) {
  CACHALOT_CHECK(!prompt.empty());
  ops::SamplingRow row;
  row.temperature = options.temperature;
  row.seed = options.seed;
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  for (int64_t i = 0; i < options.num_tokens; ++i) {
    const std::vector<float> logits = model.last_logits(ctx, tokens, options.dense_attention);
    row.position = (options.index << 32) + i;  // samples have positions of their own
    const auto vocab_size = static_cast<int64_t>(logits.size());
    ops::SampledToken token;
    ops::sample(ctx, {logits.data(), vocab_size, 1, vocab_size, &row, &token});
    if (token.id == options.end_token || token.fault != ops::SamplingFault::none) break;
    tokens.push_back(token.id);
  }
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(prompt.size()));
  return tokens;
}

}  // namespace cachalot::train
