#include "optim/shard_plan.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace cachalot::optim {

double ShardPlan::padding_share() const {
  return num_elements == 0
             ? 0
             : static_cast<double>(padded_elements()) / static_cast<double>(num_elements);
}

ShardPlan plan_by_size(std::span<const int64_t> matrix_elements, int64_t num_ranks,
                       int64_t max_group_size) {
  CACHALOT_CHECK(num_ranks >= 1 && max_group_size >= 1);
  ShardPlan plan;
  for (int64_t size = 1; size <= std::min(num_ranks, max_group_size); ++size) {
    if (num_ranks % size == 0) plan.group_size = size;
  }
  plan.buckets.resize(static_cast<size_t>(plan.group_size));
  std::vector<int64_t> order(matrix_elements.size());
  std::iota(order.begin(), order.end(), 0);
  const auto elements = [&](int64_t i) { return matrix_elements[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return elements(a) > elements(b); });
  std::vector<int64_t> load(plan.buckets.size(), 0);
  for (const int64_t i : order) {
    CACHALOT_CHECK(elements(i) >= 0);
    const auto least = std::min_element(load.begin(), load.end());
    plan.buckets[static_cast<size_t>(least - load.begin())].push_back(i);
    *least += elements(i);
    plan.num_elements += elements(i);
  }
  plan.bucket_elements = *std::max_element(load.begin(), load.end());
  for (std::vector<int64_t>& bucket : plan.buckets) std::sort(bucket.begin(), bucket.end());
  return plan;
}

ShardPlan plan_in_order(int64_t num_matrices, int64_t matrix_elements, int64_t num_ranks) {
  CACHALOT_CHECK(num_matrices >= 0 && matrix_elements >= 0 && num_ranks >= 1);
  ShardPlan plan;
  plan.group_size = num_ranks;
  plan.buckets.resize(static_cast<size_t>(num_ranks));
  const int64_t per_rank = (num_matrices + num_ranks - 1) / num_ranks;
  for (int64_t i = 0; i < num_matrices; ++i)
    plan.buckets[static_cast<size_t>(i / per_rank)].push_back(i);
  plan.bucket_elements = per_rank * matrix_elements;
  plan.num_elements = num_matrices * matrix_elements;
  return plan;
}

}  // namespace cachalot::optim
