#include "apps/train_progress.h"

#include <gtest/gtest.h>

namespace cachalot::apps {
namespace {

TEST(TrainProgress, ALineHoldsWholeFields) {
  const ProgressNumbers numbers{.step = 1234,
                                .share_done = 0.5,
                                .loss = 2.3456,
                                .learning_rate = 0.004,
                                .tokens_per_s = 3600,
                                .share_of_peak = 0.54,
                                .seconds_left = 100};
  const std::string whole = progress_line(numbers, 1000);
  for (int width = 0; width < 120; ++width) {
    const std::string line = progress_line(numbers, width);
    EXPECT_LT(static_cast<int>(line.size()), std::max(width, 1));
    if (line.empty() || line[0] == '[') continue;
    // What is shown is the beginning of the whole, cut between fields.
    const size_t at = whole.find(line);
    ASSERT_NE(at, std::string::npos) << line;
    const std::string rest = whole.substr(at + line.size());
    EXPECT_TRUE(rest.empty() || rest.starts_with("  ")) << width << ": " << line;
  }
}

}  // namespace
}  // namespace cachalot::apps
