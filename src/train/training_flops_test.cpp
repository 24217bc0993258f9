#include "train/training_flops.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/test_data.h"

namespace cachalot::train {
namespace {

// Of Flash, from the numbers of reference/forward 1.4 and 8.2: 64 heads of 512, 2 window, 21 CSA
// and 20 HCA layers, 512 picks, a window of 128. A multiply-add is two operations.
double attention_at(double context) {
  const double per_key = 2.0 * 64 * (512 + 512);
  const double window = std::min(128.0, context);
  return per_key * (2 * window + 21 * (std::min(512.0, context / 4) + window) +
                    20 * (context / 128 + window));
}

TEST(TrainingFlops, OfFlashAreThoseOfItsMatricesAndOfHalfASequence) {
  const auto config = formats::load_config(test_data("formats/config/v4-flash.json")).value();
  // The MTP block has 256 experts of three 4,096 x 2,048 matrices; a token runs 6 of them.
  const double active = 13270101591.0 + 6610048891.0 - 250 * 3 * 4096.0 * 2048;
  for (const int64_t length : {128, 256, 1024, 4096, 65536}) {
    const double expected = 6 * active + 3 * attention_at(static_cast<double>(length) / 2);
    EXPECT_NEAR(training_flops_per_token(config, length), expected, 1e-12 * expected) << length;
  }
}

}  // namespace
}  // namespace cachalot::train
