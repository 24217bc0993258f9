#include "post/grpo.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace cachalot::post {
namespace {

double token_weight(const GrpoOptions& options, const MiniBatch& batch, int64_t length) {
  const auto n = static_cast<double>(batch.num_sequences);
  switch (options.normalisation) {
    case Normalisation::sequence_mean_token_mean: return 1 / (n * static_cast<double>(length));
    case Normalisation::token_mean: return 1 / static_cast<double>(batch.num_tokens);
    case Normalisation::constant: return 1 / (n * options.constant);
    case Normalisation::sequence_mean_token_sum: return 1 / n;
  }
  return 0;
}

}  // namespace

void add_grpo_sequence(const GrpoRows& rows, int64_t sequence, std::span<const double> logprobs,
                       const MiniBatch& batch, const GrpoOptions& options, GrpoValues* out) {
  CACHALOT_CHECK(rows.offsets.size() == rows.advantages.size() + 1);
  CACHALOT_CHECK(rows.offsets.back() == rows.num_tokens());
  CACHALOT_CHECK(rows.reference.size() == rows.sampler.size());
  CACHALOT_CHECK(logprobs.size() == rows.sampler.size());
  GrpoValues& values = *out;
  const int64_t begin = rows.offsets[sequence], end = rows.offsets[sequence + 1];
  const double advantage = rows.advantages[sequence];
  double divergence = 0;
  for (int64_t t = begin; t < end; ++t) divergence += rows.sampler[t] - logprobs[t];
  if (end > begin) divergence /= static_cast<double>(end - begin);
  const bool kept = !(advantage < 0 && options.delta && divergence > *options.delta);
  values.divergence.push_back(divergence);
  values.kept.push_back(kept);
  const double weight = token_weight(options, batch, end - begin);
  for (int64_t t = begin; t < end; ++t) {
    const double ratio = std::exp(logprobs[t] - rows.sampler[t]);
    const double clipped = std::clamp(ratio, 1 - options.epsilon, 1 + options.epsilon);
    const bool active = ratio * advantage <= clipped * advantage;
    const double policy = kept ? std::min(ratio * advantage, clipped * advantage) : 0;
    const double log_rho = rows.reference[t] - logprobs[t];
    const double rho_minus_one = std::expm1(log_rho);
    const double plain = rho_minus_one - log_rho;
    const bool unbiased = options.kl == KlEstimator::unbiased;
    const double kl = unbiased ? ratio * plain : plain;
    const double kl_slope = unbiased ? -ratio * log_rho : -rho_minus_one;
    const double policy_slope = kept && active ? advantage * ratio : 0;
    values.num_clipped += active ? 0 : 1;
    values.ratio.push_back(ratio);
    values.kl.push_back(kl);
    values.objective.push_back(policy - options.beta * kl);
    values.coefficient.push_back(-weight * (policy_slope - options.beta * kl_slope));
    values.policy_loss -= weight * policy;
    values.kl_mean += weight * kl;
  }
  values.loss = values.policy_loss + options.beta * values.kl_mean;
}

GrpoValues grpo(const GrpoRows& rows, std::span<const double> logprobs, const MiniBatch& batch,
                const GrpoOptions& options) {
  GrpoValues values;
  for (int64_t i = 0; i < rows.num_sequences(); ++i)
    add_grpo_sequence(rows, i, logprobs, batch, options, &values);
  return values;
}

}  // namespace cachalot::post
