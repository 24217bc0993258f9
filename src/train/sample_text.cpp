#include "train/sample_text.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"

namespace cachalot::train {
namespace {

int32_t draw(const std::vector<float>& logits, double temperature, double uniform) {
  const float top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> sums;
  double sum = 0;
  for (const float logit : logits)
    sums.push_back(sum += std::exp((static_cast<double>(logit) - top) / temperature));
  const auto at = std::upper_bound(sums.begin(), sums.end(), uniform * sum);
  return static_cast<int32_t>(std::min(at, sums.end() - 1) - sums.begin());
}

}  // namespace

std::vector<int32_t> sample_continuation(device::ExecContext& ctx, TrainingModel& model,
                                         std::span<const int32_t> prompt,
                                         const SampleOptions& options) {
  CACHALOT_CHECK(!prompt.empty());
  RngStream rng(options.seed, RngPurpose::sampling, options.index);
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  for (int64_t i = 0; i < options.num_tokens; ++i) {
    const int32_t token = draw(model.last_logits(ctx, tokens, options.dense_attention),
                               options.temperature, rng.next_unit());
    if (token == options.end_token) break;
    tokens.push_back(token);
  }
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(prompt.size()));
  return tokens;
}

}  // namespace cachalot::train
