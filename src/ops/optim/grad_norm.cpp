#include "ops/optim/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kBlock = 4096;

double block_sum(const float* x, int64_t n) {
  double sums[8] = {};
  const int64_t whole = n / 8 * 8;
  for (int64_t i = 0; i < whole; i += 8) {
    for (int64_t j = 0; j < 8; ++j) {
      const double value = x[i + j];
      sums[j] += value * value;
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    const double value = x[i];
    sums[i - whole] += value * value;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace

double sum_squares(device::ExecContext& ctx, std::span<const float> x) {
  const auto n = static_cast<int64_t>(x.size());
  const int64_t num_blocks = (n + kBlock - 1) / kBlock;
  device::ArenaScope scope(*ctx.arena);
  double* sums = ctx.arena->allocate<double>(num_blocks);
  ctx.pool->run(num_blocks, [&](int64_t block, int) {
    sums[block] = block_sum(x.data() + block * kBlock, std::min(kBlock, n - block * kBlock));
  });
  double total = 0;
  for (int64_t i = 0; i < num_blocks; ++i) total += sums[i];
  return total;
}

double global_norm(device::ExecContext& ctx, std::span<const std::span<const float>> gradients) {
  double total = 0;
  for (std::span<const float> gradient : gradients) total += sum_squares(ctx, gradient);
  return std::sqrt(total);
}

float clip_factor(double norm, double max_norm) {
  CACHALOT_CHECK(max_norm >= 0);
  if (max_norm == 0 || !std::isfinite(norm) || norm <= max_norm) return 1;
  return static_cast<float>(max_norm / norm);
}

}  // namespace cachalot::ops
