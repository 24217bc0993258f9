// Load balancing of the routed experts: the sequence-wise loss and the rule of the routing bias.
// Source  reference/training 6.5, 6.6.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

// The tokens [first, last) of one sequence (of one sample, where samples are masked from each
// other), all of them.
struct TokenRange {
  int64_t first;
  int64_t last;
};

// For a sequence of T tokens: f_i = E / (k T) * number of its choices that are i (the experts
// really routed to; no gradient), q_it = s_it / (1e-20 + sum_j s_jt), P_i = mean over t of q_it;
// loss = alpha * sum_i f_i P_i.
// Shapes  scores [rows, E], ids [rows, k]: the router's. Sequences do not overlap; a row in none
//         (padding) counts for nothing; an empty sequence has loss 0.
// Numerics  double, tokens ascending, then experts ascending; one rounding of the result. The bits
//         do not depend on threads or on the other sequences.
struct BalanceLossParams {
  const float* scores;
  const int32_t* ids;
  int64_t n_routed_experts;
  int64_t num_experts_per_tok;
  std::span<const TokenRange> sequences;
  float alpha;
};
// loss [sequences]; returns their sum, in double, in order.
double balance_loss(device::ExecContext& ctx, const BalanceLossParams& p, float* loss);
// d_scores [rows, E] += d_loss [sequences] through P; route_backward takes it on to the logits.
void balance_loss_backward(device::ExecContext& ctx, const BalanceLossParams& p,
                           const float* d_loss, float* d_scores);

// counts[i] += number of ids equal to i: the loads of the bias rule, over as many batches as an
// optimizer step has.
void add_loads(std::span<const int32_t> ids, std::span<int64_t> counts);

// bias_i += u * sign(mean load - load_i), once an optimizer step, with the counts of the whole
// global batch. The comparison is of integers, exact.
void bias_update(std::span<const int64_t> counts, float u, std::span<float> bias);

}  // namespace cachalot::ops
