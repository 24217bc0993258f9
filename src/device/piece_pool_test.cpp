#include "device/piece_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace cachalot::device {
namespace {

struct Source {
  std::set<std::byte*> pieces;
  int64_t last_bytes = 0;
  int64_t most_bytes = int64_t{1} << 40;

  PiecePool pool() {
    return {[this](int64_t num_bytes) -> Result<std::byte*> {
              if (num_bytes > most_bytes) return resource_exhausted("memory");
              last_bytes = num_bytes;
              auto* piece =
                  static_cast<std::byte*>(std::aligned_alloc(256, static_cast<size_t>(num_bytes)));
              pieces.insert(piece);
              return piece;
            },
            [this](std::byte* piece) {
              EXPECT_EQ(pieces.erase(piece), 1u);
              std::free(piece);
            }};
  }
};

TEST(PiecePool, SmallArraysShareAPiece) {
  Source source;
  PiecePool pool = source.pool();
  std::vector<std::byte*> arrays;
  for (int i = 0; i < 1000; ++i) {
    arrays.push_back(pool.allocate(i).value());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arrays[i]) % 256, 0u);
    std::fill_n(arrays[i], i, static_cast<std::byte>(i));
  }
  EXPECT_EQ(source.pieces.size(), 1u);
  std::byte* large = pool.allocate(int64_t{16} << 20).value();
  EXPECT_EQ(source.pieces.size(), 2u);
  EXPECT_EQ(source.last_bytes, int64_t{16} << 20);
  pool.release(large);
  EXPECT_EQ(source.pieces.size(), 1u);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(std::count(arrays[i], arrays[i] + i, static_cast<std::byte>(i)), i);
    pool.release(arrays[i]);
  }
  EXPECT_TRUE(source.pieces.empty());
}

TEST(PiecePool, AFullPieceStaysUntilItsLastArrayHasGone) {
  Source source;
  PiecePool pool = source.pool();
  constexpr int64_t kBytes = int64_t{15} << 20;
  std::vector<std::byte*> arrays;
  for (int i = 0; i < 40; ++i) arrays.push_back(pool.allocate(kBytes).value());
  EXPECT_EQ(source.pieces.size(), 3u);  // of 17 arrays
  for (int i = 16; i >= 0; --i) pool.release(arrays[i]);
  EXPECT_EQ(source.pieces.size(), 2u);
  for (int i = 17; i < 40; ++i) pool.release(arrays[i]);
  EXPECT_TRUE(source.pieces.empty());
}

// Arrays of random sizes that come and go: none touches another, and the holes are filled again.
TEST(PiecePool, HolesAreFilledAgain) {
  Source source;
  PiecePool pool = source.pool();
  std::mt19937 random(7);
  std::map<std::byte*, std::pair<int64_t, std::byte>> arrays;
  size_t most_pieces = 0;
  for (int step = 0; step < 20000; ++step) {
    if (arrays.size() < 40) {
      const int64_t size = 1 + static_cast<int64_t>(random() % (4 << 20));
      std::byte* array = pool.allocate(size).value();
      const auto value = static_cast<std::byte>(step);
      array[0] = array[size - 1] = value;
      ASSERT_TRUE(arrays.emplace(array, std::pair(size, value)).second);
    } else {
      const auto one = std::next(arrays.begin(), static_cast<int64_t>(random() % arrays.size()));
      const auto [size, value] = one->second;
      ASSERT_EQ(one->first[0], value);
      ASSERT_EQ(one->first[size - 1], value);
      pool.release(one->first);
      arrays.erase(one);
    }
    most_pieces = std::max(most_pieces, source.pieces.size());
  }
  EXPECT_LE(most_pieces, 2u);  // 80 MiB on average, 160 at most
  for (const auto& [array, kept] : arrays) pool.release(array);
  EXPECT_TRUE(source.pieces.empty());
}

TEST(PiecePool, TheLastOfTheMemoryIsGivenToo) {
  Source source;
  source.most_bytes = 5000;
  PiecePool pool = source.pool();
  std::byte* array = pool.allocate(4000).value();
  EXPECT_EQ(source.last_bytes, 4096);
  EXPECT_EQ(pool.allocate(6000).error().code(), StatusCode::resource_exhausted);
  pool.release(array);
  EXPECT_TRUE(source.pieces.empty());
}

}  // namespace
}  // namespace cachalot::device
