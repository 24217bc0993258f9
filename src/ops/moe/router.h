// Expert choice and weights; forward and backward.
// Source  reference/forward 4.1; reference/training 7.1.
// Shapes  logits, scores [rows, E]; bias [E] or null; ids, weights [rows, k]. ids ascend within a
//         row.
// Numerics  a = sqrt(softplus(z)), softplus(v) = v if v > 20 else log1p(exp(v)), in double, rounded
//         to fp32; top k of (a + bias) in fp32, ties to the lower id; weight_i = a_i / (1e-20 +
//         sum_j a_j) * routed_scaling_factor, fp32, the sum in id order.
// Special NaN and -inf are chosen last, lowest id first: k distinct ids for any input. A fixed id
//         outside [0, E) is a caller bug.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct RouterParams {
  const float* logits;
  int64_t rows;
  int64_t n_routed_experts;
  int64_t num_experts_per_tok;
  const float* bias;  // scored layers; null otherwise
  // [rows, k] in any order: the choice of a hash layer (the table's rows for the tokens), or one
  // made before (route replay, anticipatory routing). Bias is then not read; the weights are
  // those of the present logits. Null: choose.
  const int32_t* fixed_ids;
  float routed_scaling_factor;
  int32_t* ids;
  float* weights;
  // a of every expert, for the backward and the balance loss; null: not kept
  float* scores = nullptr;
};
void route(device::ExecContext& ctx, const RouterParams& p);

// d_logits += through factor, renormalisation over the chosen and sqrt(softplus):
//   d_a_i = factor / (1e-20 + S) * (d_weight_i - sum_j d_weight_j a_j / (1e-20 + S)) for the
//   chosen, S = sum_j a_j, plus d_scores where given;  d_z = d_a softplus'(z) / (2 a), softplus' =
//   sigmoid(z), 1 above 20; 0 where a is 0.
// The choice has no gradient, and so neither has the bias.
// Shapes  as above; scores and ids are the forward's; d_weights [rows, k]; d_scores [rows, E] or
//         null.
// Numerics  per row, in double; one rounding to fp32 before each addition to d_logits.
struct RouterBackwardParams {
  const float* logits;
  const float* scores;
  const int32_t* ids;
  int64_t rows;
  int64_t n_routed_experts;
  int64_t num_experts_per_tok;
  float routed_scaling_factor;
  const float* d_weights;
  const float* d_scores;
  float* d_logits;
};
void route_backward(device::ExecContext& ctx, const RouterBackwardParams& p);

}  // namespace cachalot::ops
