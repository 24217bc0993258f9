#include "base/closest.h"

#include <gtest/gtest.h>

#include <vector>

namespace cachalot {
namespace {

TEST(Closest, IsASlipOrNothing) {
  const std::vector<std::string> known = {"peak", "warmup_steps"};
  EXPECT_EQ(closest("peek", known), "peak");
  EXPECT_EQ(closest("warmup_step", known), "warmup_steps");
  EXPECT_EQ(closest("tokenizer", known), "");
}

}  // namespace
}  // namespace cachalot
