#include "optim/shard_plan.h"

#include "ops/elementwise/kernel_test.h"
#include "optim/muon.h"

namespace cachalot::optim {
namespace {

using Buckets = std::vector<std::vector<int64_t>>;

TEST(ShardPlan, LargestFirstIntoTheLeastLoaded) {
  const std::vector<int64_t> sizes = {3, 9, 4, 4, 7};
  const ShardPlan plan = plan_by_size(sizes, 2, 8);
  // 9 | 7; 9 | 7 4; 9 4 | 7 4; 9 4 | 7 4 3.
  EXPECT_EQ(plan.buckets, (Buckets{{1, 3}, {0, 2, 4}}));
  EXPECT_EQ(plan.bucket_elements, 14);
  EXPECT_EQ(plan.padded_elements(), 1);
  EXPECT_DOUBLE_EQ(plan.padding_share(), 1.0 / 27);
}

TEST(ShardPlan, SurplusRanksRepeatWholeGroups) {
  const std::vector<int64_t> sizes = {5, 5, 5};
  const ShardPlan plan = plan_by_size(sizes, 12, 5);  // the largest divisor of 12 up to 5
  EXPECT_EQ(plan.group_size, 4);
  EXPECT_EQ(plan.bucket_of_rank(1), plan.bucket_of_rank(9));
  EXPECT_EQ(plan.buckets, (Buckets{{0}, {1}, {2}, {}}));
  EXPECT_EQ(plan_by_size(sizes, 7, 6).group_size, 1);
  EXPECT_EQ(plan_by_size({}, 3, 3).padding_share(), 0);
}

TEST(ShardPlan, RunsInOrderPadByLessThanAMatrixARank) {
  EXPECT_EQ(plan_in_order(7, 10, 3).buckets, (Buckets{{0, 1, 2}, {3, 4, 5}, {6}}));
  for (int64_t ranks : {1, 2, 7, 64, 100}) {
    for (int64_t count : {0, 1, 63, 64, 65, 1000}) {
      const ShardPlan plan = plan_in_order(count, 10, ranks);
      int64_t next = 0;
      for (const auto& bucket : plan.buckets) {
        EXPECT_LE(static_cast<int64_t>(bucket.size()) * 10, plan.bucket_elements);
        for (int64_t i : bucket) EXPECT_EQ(i, next++);
      }
      EXPECT_EQ(next, count);
      EXPECT_LT(plan.padded_elements(), std::max<int64_t>(1, ranks * 10));
    }
  }
}

TEST(ShardPlan, EveryMatrixIsInOneBucket) {
  RngStream rng(1, RngPurpose::data, 1);
  for (int64_t ranks = 1; ranks <= 16; ++ranks) {
    std::vector<int64_t> sizes;
    for (int i = 0; i < 50; ++i) sizes.push_back(rng.next_u32() % 1000);
    const ShardPlan plan = plan_by_size(sizes, ranks, 6);
    std::vector<int> seen(sizes.size(), 0);
    for (const auto& bucket : plan.buckets) {
      int64_t load = 0;
      for (int64_t i : bucket)
        ++seen[static_cast<size_t>(i)], load += sizes[static_cast<size_t>(i)];
      EXPECT_LE(load, plan.bucket_elements);
    }
    EXPECT_EQ(seen, std::vector<int>(sizes.size(), 1));
  }
}

// Each bucket updated by itself, as its rank would, against all of them at once.
TEST(ShardPlan, UpdatesByBucketHaveTheBitsOfOneUpdate) {
  const int64_t shapes[][2] = {{8, 20}, {20, 8}, {16, 16}, {8, 20}, {3, 40}, {24, 24}, {8, 20}};
  ops::TestContext ctx(device::machine_isa(), 2);
  std::vector<std::vector<float>> start, grads;
  std::vector<int64_t> sizes;
  for (const auto& [rows, columns] : shapes) {
    sizes.push_back(rows * columns);
    start.push_back(ops::random_values(sizes.back(), 2 * sizes.size()));
    grads.push_back(ops::random_values(sizes.back(), 2 * sizes.size() + 1));
  }
  const auto update = [&](const Buckets& buckets) {
    std::vector<std::vector<float>> w = start, m;
    for (int64_t n : sizes) m.emplace_back(static_cast<size_t>(n), 0.0f);
    for (const auto& bucket : buckets) {
      std::vector<MuonMatrix> matrices;
      for (int64_t idx : bucket) {
        const auto i = static_cast<size_t>(idx);
        matrices.push_back({shapes[i][0], shapes[i][1], w[i].data(), grads[i].data(), m[i].data()});
      }
      muon_step(ctx, {}, {.learning_rate = 0.1}, matrices);
    }
    return w;
  };
  const auto expected = update({{0, 1, 2, 3, 4, 5, 6}});
  EXPECT_NE(expected, start);
  for (int64_t ranks = 2; ranks <= 8; ++ranks) {
    for (int64_t max_group : {2, 8})
      EXPECT_EQ(update(plan_by_size(sizes, ranks, max_group).buckets), expected) << ranks;
  }
}

}  // namespace
}  // namespace cachalot::optim
