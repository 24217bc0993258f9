#include "data/streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "data/keyed_permutation.h"

namespace cachalot::data {
namespace {

TEST(DataStream, EveryPartOfTheKeyCounts) {
  std::set<uint32_t> first;
  for (const uint64_t seed : {0, 1}) {
    for (const DataUse use : {DataUse::fim, DataUse::glued_tokens}) {
      for (const uint32_t a : {0, 1}) {
        for (const uint64_t b : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
          for (const uint64_t index : {0, 1}) {
            first.insert(data_stream(seed, use, a, b, index).next_u32());
          }
        }
      }
    }
  }
  EXPECT_EQ(first.size(), 48u);
}

TEST(DataStream, DrawsBelowAreUniform) {
  RngStream rng = data_stream(5, DataUse::tasks, 0, 0, 0);
  std::map<uint64_t, int> counts;
  for (int i = 0; i < 30000; ++i) ++counts[draw_below(rng, 3)];
  ASSERT_EQ(counts.size(), 3u);
  // Five standard deviations of a binomial(30000, 1/3): 5 * 81.6.
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, 10000, 408);
  EXPECT_EQ(draw_below(rng, 1), 0u);
}

TEST(KeyedPermutation, VisitsEachPlaceOnce) {
  for (const int64_t n : {1, 2, 3, 4, 5, 17, 64, 1000, 4099}) {
    const KeyedPermutation permutation(n, data_stream(1, DataUse::document_order, 0, 0, 0));
    std::vector<bool> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = permutation.at(i);
      ASSERT_TRUE(at >= 0 && at < n);
      ASSERT_FALSE(seen[static_cast<size_t>(at)]);
      seen[static_cast<size_t>(at)] = true;
    }
  }
}

// All 24 orders of four documents are about equally frequent over epochs.
TEST(KeyedPermutation, OrdersAreUniform) {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kEpochs = 12000;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const KeyedPermutation permutation(4, data_stream(9, DataUse::document_order, 0, epoch, 0));
    ++counts[{permutation.at(0), permutation.at(1), permutation.at(2), permutation.at(3)}];
  }
  ASSERT_EQ(counts.size(), 24u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) {
    chi_squared += (count - kEpochs / 24.0) * (count - kEpochs / 24.0) / (kEpochs / 24.0);
  }
  // 23 degrees of freedom: mean 23, standard deviation sqrt(46) = 6.8; five of them above.
  EXPECT_LT(chi_squared, 57);
}

TEST(KeyedPermutation, LargeOnesNeedNoMemory) {
  const int64_t n = int64_t{1} << 40;
  const KeyedPermutation permutation(n, data_stream(1, DataUse::document_order, 0, 0, 0));
  std::set<int64_t> places;
  for (int64_t i = 0; i < 1000; ++i) places.insert(permutation.at(i));
  EXPECT_EQ(places.size(), 1000u);
  EXPECT_GT(*places.rbegin() - *places.begin(), n / 2);
}

}  // namespace
}  // namespace cachalot::data
