// The GRPO objective: from log-probabilities of the response tokens to the loss, and to the
// derivative by which it reaches the model (train/logits_loss.h, grpo_loss.h).
// Source  reference/post-training 2.2, 15. Per response token, in double:
//         r = exp(logprob - sampler), rho = exp(reference - logprob)
//         D = r (rho - log rho - 1); plain: without r
//         M = 0 iff A < 0 and mean over the sequence of (sampler - logprob) > delta, else 1
//         objective = min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) M - beta D
//         loss = - sum_i w_i sum_t objective
//         coefficient = d loss / d logprob = -w (A r M [the first of the two is the lesser or
//         equal] - beta r log(pi / pi_ref)); plain: - beta (1 - rho)
//         A masked sequence stays in every denominator, and its D stays.
// Threads  any.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace cachalot::post {

enum class KlEstimator { unbiased, plain };
// w of a token of sequence i, with N sequences and T response tokens in the mini-batch.
enum class Normalisation {
  sequence_mean_token_mean,  // 1 / (N |o_i|): the form of 2.2
  token_mean,                // 1 / T
  constant,                  // 1 / (N constant)
  sequence_mean_token_sum,   // 1 / N
};

struct GrpoOptions {
  double epsilon = 10;
  double beta = 0.001;
  std::optional<double> delta;  // none: no sequence is masked
  KlEstimator kl = KlEstimator::unbiased;
  Normalisation normalisation = Normalisation::sequence_mean_token_mean;
  double constant = 1;
};

// Of a whole mini-batch, however it is cut into calls.
struct MiniBatch {
  int64_t num_sequences;
  int64_t num_tokens;
};

// Borrowed. Tokens of all sequences, one after another.
struct GrpoRows {
  std::span<const int64_t> offsets;    // [sequences + 1]
  std::span<const double> advantages;  // [sequences]
  std::span<const double> sampler;     // [tokens], as the rollout stored it: after truncation
  std::span<const double> reference;   // [tokens], over the same allowed tokens
  int64_t num_sequences() const { return static_cast<int64_t>(advantages.size()); }
  int64_t num_tokens() const { return static_cast<int64_t>(sampler.size()); }
};

struct GrpoValues {
  double loss = 0;         // policy_loss + beta * kl_mean
  double policy_loss = 0;  // weighted as the loss
  double kl_mean = 0;
  int64_t num_clipped = 0;         // tokens whose policy gradient the clip takes
  std::vector<double> divergence;  // [sequences], mean of sampler - logprob
  std::vector<bool> kept;          // [sequences], M
  std::vector<double> ratio, kl, objective, coefficient;  // [tokens]
};

GrpoValues grpo(const GrpoRows& rows, std::span<const double> logprobs, const MiniBatch& batch,
                const GrpoOptions& options);
// One sequence, and with all of them in their order grpo() to the bit. logprobs: of all rows, read
// at the sequence's.
void add_grpo_sequence(const GrpoRows& rows, int64_t sequence, std::span<const double> logprobs,
                       const MiniBatch& batch, const GrpoOptions& options, GrpoValues* values);

}  // namespace cachalot::post
