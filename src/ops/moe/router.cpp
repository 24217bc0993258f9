#include "ops/moe/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "device/buffer.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

float score(float logit) {
  const double v = logit;
  return static_cast<float>(std::sqrt(v > 20 ? v : std::log1p(std::exp(v))));
}

// Writes the k ids with the largest choice values; a lower id wins among equals. choice is used up.
void choose(float* choice, int64_t num_experts, int64_t k, int32_t* ids) {
  constexpr float kTaken = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < k; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < num_experts; ++e) {
      if (std::isnan(choice[e])) continue;
      if (best < 0 ? choice[e] != kTaken : choice[e] > choice[best]) best = e;
    }
    // Nothing but NaN and -inf is left: the lowest id not yet chosen.
    for (int64_t e = 0; best < 0; ++e) {
      if (std::find(ids, ids + i, static_cast<int32_t>(e)) == ids + i) best = e;
    }
    ids[i] = static_cast<int32_t>(best);
    choice[best] = kTaken;
  }
}

void route_row(const RouterParams& p, int64_t row, float* choice) {
  const int64_t k = p.num_experts_per_tok;
  const float* logits = p.logits + row * p.n_routed_experts;
  int32_t* ids = p.ids + row * k;
  float* weights = p.weights + row * k;
  float* scores = p.scores != nullptr ? p.scores + row * p.n_routed_experts : nullptr;
  for (int64_t e = 0; scores != nullptr && e < p.n_routed_experts; ++e) {
    scores[e] = score(logits[e]);
  }
  if (p.fixed_ids != nullptr) {
    std::copy_n(p.fixed_ids + row * k, k, ids);
    for (int64_t i = 0; i < k; ++i) CACHALOT_CHECK(ids[i] >= 0 && ids[i] < p.n_routed_experts);
  } else {
    for (int64_t e = 0; e < p.n_routed_experts; ++e) {
      const float a = scores != nullptr ? scores[e] : score(logits[e]);
      choice[e] = a + (p.bias != nullptr ? p.bias[e] : 0.0f);
    }
    choose(choice, p.n_routed_experts, k, ids);
  }
  std::sort(ids, ids + k);
  float total = 0;
  for (int64_t i = 0; i < k; ++i) {
    weights[i] = score(logits[ids[i]]);
    total += weights[i];
  }
  for (int64_t i = 0; i < k; ++i) {
    weights[i] = weights[i] / (1e-20f + total) * p.routed_scaling_factor;
  }
}

// d a / d z = softplus'(z) / (2 a), with the score a that the forward rounded to fp32.
double score_slope(float logit, float a) {
  if (a == 0) return 0;
  const double v = logit;
  return (v > 20 ? 1.0 : 1 / (1 + std::exp(-v))) / (2 * static_cast<double>(a));
}

void route_backward_row(const RouterBackwardParams& p, int64_t row) {
  const int64_t k = p.num_experts_per_tok;
  const float* logits = p.logits + row * p.n_routed_experts;
  const float* scores = p.scores + row * p.n_routed_experts;
  const int32_t* ids = p.ids + row * k;
  const float* d_weights = p.d_weights + row * k;
  float* d_logits = p.d_logits + row * p.n_routed_experts;
  double total = 1e-20, dot = 0;
  for (int64_t i = 0; i < k; ++i) {
    total += scores[ids[i]];
    dot += static_cast<double>(d_weights[i]) * scores[ids[i]];
  }
  for (int64_t i = 0; i < k; ++i) {
    const int32_t e = ids[i];
    const double d_score = p.routed_scaling_factor / total * (d_weights[i] - dot / total);
    d_logits[e] += static_cast<float>(d_score * score_slope(logits[e], scores[e]));
  }
  if (p.d_scores == nullptr) return;
  const float* d_scores = p.d_scores + row * p.n_routed_experts;
  for (int64_t e = 0; e < p.n_routed_experts; ++e) {
    d_logits[e] += static_cast<float>(d_scores[e] * score_slope(logits[e], scores[e]));
  }
}

}  // namespace

void route(device::ExecContext& ctx, const RouterParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.n_routed_experts >= 1);
  CACHALOT_CHECK(p.num_experts_per_tok >= 0 && p.num_experts_per_tok <= p.n_routed_experts);
  if (ctx.gpu != nullptr) return route_cuda(ctx, p);
  device::ArenaScope scope(*ctx.arena);
  float* choices = ctx.arena->allocate<float>(ctx.pool->num_threads() * p.n_routed_experts);
  // A score in double is some 20 ns: a task takes microseconds.
  constexpr int64_t kScoresPerTask = 128;
  const int64_t block = std::max<int64_t>(1, kScoresPerTask / p.n_routed_experts);
  ctx.pool->run((p.rows + block - 1) / block, [&](int64_t task, int worker) {
    const int64_t last = std::min(p.rows, (task + 1) * block);
    for (int64_t row = task * block; row < last; ++row)
      route_row(p, row, choices + worker * p.n_routed_experts);
  });
}

void route_backward(device::ExecContext& ctx, const RouterBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.n_routed_experts >= 1 && p.num_experts_per_tok >= 0);
  // An exponential in double is worth some 16 values.
  const int64_t slopes = p.d_scores != nullptr ? p.n_routed_experts : p.num_experts_per_tok;
  for_row_blocks(ctx, p.rows, 16 * slopes, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) route_backward_row(p, row);
  });
}

}  // namespace cachalot::ops
