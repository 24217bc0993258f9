#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"
#include "ops/rope/rope_kernels.h"

namespace cachalot::ops {

// Each step is rounded to fp32, as the published code does it: at position 10^6 one ulp of a
// frequency is 0.06 radians.
std::vector<float> rope_frequencies(int64_t rope_dim, double theta, const YarnParams& yarn) {
  CACHALOT_CHECK(rope_dim > 0 && rope_dim % 2 == 0 && theta > 0);
  std::vector<float> frequencies(static_cast<size_t>(rope_dim / 2));
  const auto dim = static_cast<double>(rope_dim);
  // The pair that turns `rotations` times within the original context.
  const auto correction = [&](double rotations) {
    return dim *
           std::log(yarn.original_max_position_embeddings / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(correction(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(yarn.beta_slow)), dim - 1);
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < rope_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope_dim);
    const float base = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float& frequency = frequencies[static_cast<size_t>(i)];
    frequency = base;
    if (yarn.factor == 1) continue;
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float keep = 1.0f - ramp;
    frequency = base / static_cast<float>(yarn.factor) * (1.0f - keep) + base * keep;
  }
  return frequencies;
}

RopeTable rope_table(device::ExecContext& ctx, const std::vector<float>& frequencies,
                     const int64_t* positions, int64_t n) {
  if (ctx.gpu != nullptr) return rope_table_cuda(ctx, frequencies, positions, n);
  const auto width = static_cast<int64_t>(frequencies.size());
  float* cos = ctx.arena->allocate<float>(n * width);
  float* sin = ctx.arena->allocate<float>(n * width);
  // A sine costs about as much as 32 of the operations that the block size counts.
  for_row_blocks(ctx, n, 32 * width, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const auto position = static_cast<float>(positions[t]);
      for (int64_t i = 0; i < width; ++i) {
        const float angle = position * frequencies[static_cast<size_t>(i)];
        cos[t * width + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        sin[t * width + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  });
  return {cos, sin};
}

void rope(device::ExecContext& ctx, const RopeParams& p) {
  CACHALOT_CHECK(p.rope_dim >= 0 && p.rope_dim % 2 == 0 && p.rope_dim <= p.head_dim);
  CACHALOT_CHECK(p.rows <= 1 || p.row_stride >= p.heads * p.head_dim);
  if (ctx.gpu != nullptr) return rope_cuda(ctx, p);
  RopeKernel* kernel = pick_kernel(ctx.isa, rope_ref, rope_avx2, rope_avx512);
  for_row_blocks(ctx, p.rows, p.heads * p.rope_dim,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

}  // namespace cachalot::ops
