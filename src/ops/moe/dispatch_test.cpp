#include "ops/moe/dispatch.h"

#include <algorithm>
#include <utility>

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

TEST(Dispatch, PairsStandByExpertThenRow) {
  constexpr int64_t kExperts = 6, kPerToken = 2;
  for (const int64_t rows : {0, 1, 7, 300}) {
    RngStream rng(3, RngPurpose::data, static_cast<uint64_t>(rows));
    std::vector<int32_t> ids;
    for (int64_t row = 0; row < rows; ++row) {
      // Expert 4 has none.
      const auto one = static_cast<int32_t>(rng.next_u32() % 3);
      ids.push_back(one);
      ids.push_back(one + 1 == 3 ? 5 : one + 1);
    }
    // The definition: a stable sort of the choices by expert.
    std::vector<std::pair<int32_t, int64_t>> order;
    for (size_t i = 0; i < ids.size(); ++i) order.emplace_back(ids[i], static_cast<int64_t>(i));
    std::sort(order.begin(), order.end());
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<int64_t> first_pair(kExperts + 1, -1);
      std::vector<int32_t> token_of_pair(ids.size()), pair_of_choice(ids.size());
      dispatch(ctx, {ids.data(), rows, kPerToken, kExperts, first_pair.data(), token_of_pair.data(),
                     pair_of_choice.data()});
      EXPECT_EQ(first_pair.front(), 0) << name;
      EXPECT_EQ(first_pair.back(), static_cast<int64_t>(ids.size())) << name;
      for (size_t pair = 0; pair < order.size(); ++pair) {
        const auto [expert, choice] = order[pair];
        EXPECT_EQ(token_of_pair[pair], choice / kPerToken) << name;
        EXPECT_EQ(pair_of_choice[choice], static_cast<int32_t>(pair)) << name;
        EXPECT_LE(first_pair[expert], static_cast<int64_t>(pair)) << name;
        EXPECT_GT(first_pair[expert + 1], static_cast<int64_t>(pair)) << name;
      }
    });
  }
}

TEST(Dispatch, HashLayersTakeTheTablesRows) {
  const std::vector<int32_t> table = {0, 1, 2, 3, 4, 5, 6, 7}, tokens = {3, 0, 3, 1};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<int32_t> ids(8);
    hash_expert_ids(ctx, table.data(), tokens.data(), 4, 2, ids.data());
    EXPECT_EQ(ids, (std::vector<int32_t>{6, 7, 0, 1, 6, 7, 2, 3})) << name;
  });
}

}  // namespace
}  // namespace cachalot::ops
