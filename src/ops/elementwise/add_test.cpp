#include "ops/elementwise/add.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kSizes[] = {0, 1, 17, 40000};

TEST(Add, RoundsEachSumOnceOrTwice) {
  for (int64_t n : kSizes) {
    const std::vector<float> x = random_values(n, 1), y = random_values(n, 2, 10.0);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      for (bool round_x : {false, true}) {
        std::vector<float> expected(x.size()), found = x;
        for (size_t i = 0; i < x.size(); ++i) {
          expected[i] = x[i] + y[i];
          if (round_x) expected[i] = numeric::round_to_bf16(expected[i]);
        }
        add(ctx, found.data(), y.data(), n, round_x);
        expect_same_values(expected, found, name);
      }
    });
  }
}

// The product of two floats is exact in double, so one rounding of it and one of the sum are what fp32 does.
TEST(Axpy, RoundsProductAndSum) {
  const float a = 0.3f;
  bool differs_from_fused = false;
  for (int64_t n : kSizes) {
    const std::vector<float> x = random_values(n, 3), y = random_values(n, 4, 10.0);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> expected(x.size()), found = y;
      for (size_t i = 0; i < x.size(); ++i) {
        const auto product = static_cast<float>(double{a} * x[i]);
        expected[i] = static_cast<float>(double{product} + y[i]);
        differs_from_fused |= expected[i] != std::fma(a, x[i], y[i]);
      }
      axpy(ctx, a, x.data(), found.data(), n);
      expect_same_values(expected, found, name);
    });
  }
  EXPECT_TRUE(differs_from_fused) << "the cases do not tell two roundings from one";
}

}  // namespace
}  // namespace cachalot::ops
