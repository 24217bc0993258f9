#include "apps/train_progress.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

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

// A batch whose documents are one token each teaches nothing, and its loss is not 0.
TEST(TrainProgress, AStepWithoutTargetsHasNoLoss) {
  train::StepResult result;
  result.step = 1;
  result.tokens_seen = 512;
  const auto line = [&] {
    testing::internal::CaptureStdout();
    TrainProgress(1024, 1).on_step(result, {});
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_TRUE(line().starts_with("step 1 tokens 512 loss none mtp none lr ")) << line();
  result.num_targets = 3;
  result.lm_loss = 2.5;
  result.mtp_loss = 3.25;
  EXPECT_TRUE(line().starts_with("step 1 tokens 512 loss 2.50000 mtp 3.25000 lr ")) << line();

  ProgressNumbers numbers;
  EXPECT_NE(progress_line(numbers, 1000).find("  loss none  "), std::string::npos);
  numbers.loss = 0.5;
  EXPECT_NE(progress_line(numbers, 1000).find("  loss 0.5000  "), std::string::npos);
}

// A second Ctrl-C during a step ends the program, which claims no checkpoint.
TEST(TrainProgressDeathTest, ASecondCtrlCEndsAtOnce) {
  EXPECT_EXIT(
      {
        TrainProgress progress(1, 1);
        progress.watch_stop();
        ::raise(SIGINT);
        if (!progress.wants_stop()) std::exit(1);
        ::raise(SIGINT);
        std::exit(2);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace cachalot::apps
