#include "device/paged_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

namespace cachalot::device {
namespace {

constexpr int64_t kPage = 4096;

TEST(PagedArena, ArraysAreWholePagesAndDoNotOverlap) {
  PagedArena arena;
  float* a = arena.allocate(1);
  float* b = arena.allocate(kPage / 4 + 1);
  float* c = arena.allocate(0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % kPage, 0u);
  EXPECT_EQ(b - a, kPage / 4);
  EXPECT_EQ(c - b, 2 * kPage / 4);
  EXPECT_EQ(arena.live_bytes(), 4 * kPage);
}

TEST(PagedArena, ReleasedPagesComeBackAtTheirAddressAndZero) {
  PagedArena arena;
  constexpr int64_t kCount = int64_t{3} << 20;
  float* before = arena.allocate(1024);
  float* x = arena.allocate(kCount);
  float* after = arena.allocate(1024);
  std::fill_n(before, 1024, 1.0f), std::fill_n(x, kCount, 2.0f), std::fill_n(after, 1024, 3.0f);
  const int64_t resident = arena.resident_bytes(), live = arena.live_bytes();
  arena.release(x, kCount);
  EXPECT_EQ(live - arena.live_bytes(), kCount * 4);
  EXPECT_GE(resident - arena.resident_bytes(), kCount * 4);
  EXPECT_EQ(before[1023], 1.0f);
  EXPECT_EQ(after[0], 3.0f);
  arena.restore(x, kCount);
  EXPECT_EQ(x[0], 0.0f);
  EXPECT_EQ(x[kCount - 1], 0.0f);
  EXPECT_EQ(arena.live_bytes(), live);
  EXPECT_EQ(arena.peak_bytes(), live);
}

TEST(PagedArenaDeathTest, AReleasedArrayCannotBeRead) {
  PagedArena arena;
  float* x = arena.allocate(1);
  arena.release(x, 1);
  EXPECT_DEATH({ *static_cast<volatile float*>(x) = 1; }, "");
}

TEST(PagedArena, RewindGivesTheSameAddressesAgain) {
  PagedArena arena;
  arena.allocate(10);
  const PagedArena::Mark mark = arena.mark();
  const int64_t live = arena.live_bytes();
  float* a = arena.allocate(int64_t{200} << 20);  // most of a slab
  float* b = arena.allocate(int64_t{200} << 20);  // in the next
  const int64_t reserved = arena.reserved_bytes();
  arena.rewind(mark, arena.live_bytes() - live);
  EXPECT_EQ(arena.live_bytes(), live);
  EXPECT_EQ(arena.allocate(int64_t{200} << 20), a);
  EXPECT_EQ(arena.allocate(int64_t{200} << 20), b);
  EXPECT_EQ(arena.reserved_bytes(), reserved);
}

TEST(PagedArena, BlocksCountInThePeakAndServeTheNextOfTheirSize) {
  PagedArena arena;
  arena.allocate(1024);
  float* block = arena.take_block(1025);
  float* other = arena.take_block(1);
  std::fill_n(block, 1025, 1.0f);
  EXPECT_EQ(arena.live_bytes(), 4 * kPage);
  arena.give_block(block, 1025);
  EXPECT_EQ(arena.live_bytes(), 2 * kPage);
  EXPECT_EQ(arena.peak_bytes(), 4 * kPage);
  float* third = arena.take_block(1024);
  EXPECT_NE(third, block);
  EXPECT_EQ(arena.take_block(2048), block);
  EXPECT_EQ(arena.live_bytes(), 5 * kPage);
  arena.give_block(other, 1);
  arena.reset_peak();
  EXPECT_EQ(arena.peak_bytes(), 4 * kPage);
  EXPECT_EQ(arena.take_block(1024), other);  // idle since one reset
  arena.give_block(other, 1024);
  arena.reset_peak();
  arena.reset_peak();  // to the system
  EXPECT_EQ(arena.live_bytes(), 4 * kPage);
  arena.give_block(third, 1024);
  arena.give_block(block, 2048);
}

}  // namespace
}  // namespace cachalot::device
