// Weights of supervised targets. The loss and its gradients are held to those of another
// implementation by `cachalot verify posttrain`.
#include "post/token_loss.h"

#include <gtest/gtest.h>

namespace cachalot::post {
namespace {

TEST(TargetWeights, MeansOverTokensAndOverConversations) {
  const std::vector<int64_t> targets = {1, 0, 3};
  EXPECT_EQ(target_weights(targets, SftMean::tokens), std::vector<double>(4, 0.25));
  EXPECT_EQ(target_weights(targets, SftMean::conversations),
            (std::vector<double>{0.5, 1.0 / 6, 1.0 / 6, 1.0 / 6}));
  EXPECT_TRUE(target_weights({}, SftMean::tokens).empty());
}

}  // namespace
}  // namespace cachalot::post
