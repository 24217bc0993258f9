#include "ops/optim/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/optim/task_list.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kBlock = 4096;
constexpr int64_t kTask = 8 * kBlock;

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
  return sum_squares(ctx, std::span<const std::span<const float>>(&x, 1));
}

double sum_squares(device::ExecContext& ctx, std::span<const std::span<const float>> arrays) {
  const auto count = static_cast<int64_t>(arrays.size());
  const auto size = [&](int64_t i) {
    return static_cast<int64_t>(arrays[static_cast<size_t>(i)].size());
  };
  const auto num_blocks = [](int64_t n) { return (n + kBlock - 1) / kBlock; };
  device::ArenaScope scope(*ctx.arena);
  auto* first_block = ctx.arena->allocate<int64_t>(count + 1);
  first_block[0] = 0;
  for (int64_t i = 0; i < count; ++i) first_block[i + 1] = first_block[i] + num_blocks(size(i));
  auto* sums = ctx.arena->allocate<double>(first_block[count]);
  for_array_blocks(ctx, count, kTask, size, [&](int64_t i, int64_t begin, int64_t end) {
    const float* x = arrays[static_cast<size_t>(i)].data();
    for (int64_t at = begin; at < end; at += kBlock)
      sums[first_block[i] + at / kBlock] = block_sum(x + at, std::min(kBlock, end - at));
  });
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    double array = 0;
    for (int64_t block = first_block[i]; block < first_block[i + 1]; ++block) array += sums[block];
    total += array;
  }
  return total;
}

double global_norm(device::ExecContext& ctx, std::span<const std::span<const float>> gradients) {
  return std::sqrt(sum_squares(ctx, gradients));
}

float clip_factor(double norm, double max_norm) {
  CACHALOT_CHECK(max_norm >= 0);
  if (max_norm == 0 || !std::isfinite(norm) || norm <= max_norm) return 1;
  return static_cast<float>(max_norm / norm);
}

}  // namespace cachalot::ops
