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

}  // namespace
}  // namespace cachalot::ops
