#include "ops/matmul/matmul_plan.h"

#include <gtest/gtest.h>

namespace cachalot::ops {
namespace {

MatmulPlan plan(int64_t m, int64_t n, int num_threads, int64_t panels_beside = 0) {
  return plan_matmul({m, n, 4096, WeightFormat::fp4, MatmulMath::bf16, device::Isa::avx2,
                      num_threads, panels_beside});
}

TEST(MatmulPlan, KeepsARowOrTwoWhole) {
  EXPECT_EQ(plan(1, 4096, 2).m_block, 1);
  EXPECT_EQ(plan(6, 64, 16).m_block,
            6);  // one register tile: cutting it would decode the panel twice
}

TEST(MatmulPlan, CutsLongRowsSoThatTheyStayInTheCache) {
  EXPECT_LE(plan(100000, 4096, 2).m_block, 192);
  EXPECT_EQ(plan(192, 4096, 2).m_block, 192);
}

TEST(MatmulPlan, CutsRowsWherePanelsAreFewerThanThreadsNeed) {
  const MatmulPlan few = plan(60, 64, 4);  // one panel, too few rows for each thread
  EXPECT_FALSE(few.by_rows);
  EXPECT_EQ(few.m_block, 6);
}

// The experts of a layer: many products of a few panels and rows each.
TEST(MatmulPlan, KeepsRowsWholeWhereOtherProductsOccupyTheThreads) {
  EXPECT_EQ(plan(12, 64, 2).m_block, 6);
  EXPECT_EQ(plan(12, 64, 2, 15).m_block, 12);
}

// Where the rows outweigh the weight, each thread has its own.
TEST(MatmulPlan, GivesThreadsTheirOwnRowsWhereWeightsAreFew) {
  const auto small = [](int64_t m, int num_threads) {
    return plan_matmul(
        {m, 256, 256, WeightFormat::fp8, MatmulMath::bf16, device::Isa::avx512bf16, num_threads});
  };
  EXPECT_TRUE(small(64, 2).by_rows);
  EXPECT_EQ(small(64, 2).m_block, 32);
  EXPECT_EQ(small(512, 2).m_block, 128);  // an even number of blocks, each of at most 192
  EXPECT_FALSE(small(64, 1).by_rows);
  EXPECT_FALSE(small(31, 2).by_rows);
  EXPECT_FALSE(plan(64, 4096, 2).by_rows);
}

TEST(MatmulPlan, DecodesWholeScaleGroups) {
  for (int64_t m : {1, 7, 300}) EXPECT_EQ(plan(m, 777, 3).k_block % 128, 0);
}

TEST(MatmulPlan, PrintsItsProblem) {
  EXPECT_EQ(to_string(MatmulProblem{3, 64, 128, WeightFormat::fp8, MatmulMath::bf16,
                                    device::Isa::avx512, 2, 5}),
            "matmul m=3 n=64 k=128 weights=fp8 math=bf16 isa=avx512 threads=2 beside=5");
  EXPECT_EQ(to_string(MatmulPlan{6, 256}), "m_block=6 k_block=256");
  EXPECT_EQ(to_string(MatmulPlan{6, 256, true}), "m_block=6 k_block=256 by rows");
}

}  // namespace
}  // namespace cachalot::ops
