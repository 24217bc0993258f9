// Layouts of mini-batches: of metadata alone, the same wherever they are made.
#include "post/batch_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace cachalot::post {
namespace {

std::vector<AnswerShape> shapes(int64_t count) {
  std::vector<AnswerShape> out;
  for (int64_t i = 0; i < count; ++i) out.push_back({1 + i * 7 % 13, i % 5 < 2});
  return out;
}

// ML1: lengths and rewards in, numbers out; no log, no file.
TEST(BatchLayoutTest, EveryAnswerStandsInOneCallOfOneMiniBatch) {
  const std::vector<AnswerShape> answers = shapes(50);
  for (const bool shuffles : {false, true}) {
    LayoutOptions options{.mini_batches = 4, .micro_batch_tokens = 20};
    if (shuffles) options.shuffle = RngStream(3, RngPurpose::data, 9);
    const auto layout = batch_layout(answers, options);
    ASSERT_EQ(layout.size(), 4u);
    std::vector<int64_t> order;
    for (const auto& mini_batch : layout) {
      int64_t count = 0;
      for (const CallAnswers& call : mini_batch) {
        ASSERT_FALSE(call.empty());
        int64_t rows = 0;
        for (const int64_t number : call) {
          rows += answers[number].num_rows;
          EXPECT_EQ(answers[number].is_flat, answers[call.front()].is_flat);
        }
        EXPECT_TRUE(rows <= 20 || call.size() == 1);
        count += static_cast<int64_t>(call.size());
        order.insert(order.end(), call.begin(), call.end());
      }
      EXPECT_TRUE(count == 12 || count == 13);
    }
    std::vector<int64_t> all(50);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(order == all, !shuffles);
    EXPECT_EQ(batch_layout(answers, options), layout);
    std::ranges::sort(order);
    EXPECT_EQ(order, all);
  }
}

TEST(BatchLayoutTest, AShuffleFollowsItsKey) {
  const std::vector<AnswerShape> answers = shapes(40);
  std::set<std::vector<std::vector<CallAnswers>>> layouts;
  for (uint64_t step = 0; step < 4; ++step) {
    LayoutOptions options{.mini_batches = 2};
    options.shuffle = RngStream(3, RngPurpose::data, step);
    layouts.insert(batch_layout(answers, options));
  }
  EXPECT_EQ(layouts.size(), 4u);
}

}  // namespace
}  // namespace cachalot::post
