#include "device/buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

// The sanitizers end the process at an allocation that cannot succeed unless they are told to
// return null.
extern "C" const char* __asan_default_options();
extern "C" const char* __tsan_default_options();
const char* __asan_default_options() { return "allocator_may_return_null=1"; }
const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

namespace cachalot::device {
namespace {

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

TEST(Buffer, IsAlignedAndZeroed) {
  for (int64_t size : {1, 63, 64, 65, 4096, (1 << 21) - 1, 1 << 21, 5 << 20}) {
    {
      Buffer used(size);  // its memory is likely to be handed out again below
      std::memset(used.data(), 0xFF, static_cast<size_t>(size));
    }
    const Buffer buffer(size);
    ASSERT_EQ(buffer.size(), size);
    EXPECT_TRUE(is_aligned(buffer.data()));
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + size,
                            [](std::byte byte) { return byte == std::byte{0}; }));
  }
}

TEST(Buffer, OfNoBytesIsEmpty) {
  EXPECT_EQ(Buffer(0).data(), nullptr);
  EXPECT_EQ(Buffer::create(-5)->size(), 0);
}

TEST(Buffer, MovesItsMemory) {
  Buffer a(100);
  std::byte* data = a.data();
  Buffer b(std::move(a));
  EXPECT_EQ(b.data(), data);
  Buffer c(10);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.size(), 100);
}

TEST(Buffer, MoreThanTheMachineHasIsAnError) {
  const auto buffer = Buffer::create(int64_t{1} << 60);
  ASSERT_FALSE(buffer.has_value());
  EXPECT_EQ(buffer.error().code(), StatusCode::resource_exhausted);
}

TEST(Arena, PiecesAreAlignedAndDoNotOverlap) {
  Arena arena(1024);
  std::vector<std::pair<std::byte*, int64_t>> pieces;
  for (int64_t size : {1, 64, 100, 1000, 3000, 0, 7}) {
    auto* piece = static_cast<std::byte*>(arena.allocate_bytes(size));
    ASSERT_NE(piece, nullptr);
    EXPECT_TRUE(is_aligned(piece));
    std::memset(piece, static_cast<int>(pieces.size() + 1), static_cast<size_t>(size));
    pieces.emplace_back(piece, size);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto [piece, size] = pieces[i];
    EXPECT_EQ(std::count(piece, piece + size, static_cast<std::byte>(i + 1)), size);
  }
}

TEST(Arena, ScopesReleaseInStackOrder) {
  Arena arena(1024);
  int* kept = arena.allocate<int>(4);
  kept[0] = 7;
  const float* outer_piece = nullptr;
  {
    ArenaScope outer(arena);
    float* first = arena.allocate<float>(8);
    first[0] = 1.5f;
    outer_piece = first;
    const double* inner_piece = nullptr;
    {
      ArenaScope inner(arena);
      inner_piece = arena.allocate<double>(8);
      EXPECT_NE(static_cast<const void*>(inner_piece), static_cast<const void*>(first));
    }
    EXPECT_EQ(arena.allocate<double>(8), inner_piece);  // the inner scope's room again
    EXPECT_EQ(first[0], 1.5f);
  }
  EXPECT_EQ(arena.allocate<float>(8), outer_piece);
  EXPECT_EQ(kept[0], 7);
}

TEST(Arena, AWarmedUpStepReservesNothingMore) {
  Arena arena(1 << 12);
  auto step = [&](int64_t large) {
    ArenaScope scope(arena);
    for (int i = 0; i < 20; ++i) (void)arena.allocate<float>(300);
    ArenaScope inner(arena);
    (void)arena.allocate<float>(large);
  };
  EXPECT_EQ(arena.reserved_bytes(), 0);
  step(1 << 16);
  const int64_t peak = arena.reserved_bytes();
  EXPECT_GE(peak, 20 * 300 * 4 + (4 << 16));
  for (int i = 0; i < 100; ++i) step(1 << (i % 17));
  EXPECT_EQ(arena.reserved_bytes(), peak);
}

TEST(Arena, AScopeThatOutgrowsItsBlockReturnsToIt) {
  Arena arena(256);
  const void* first = nullptr;
  {
    ArenaScope scope(arena);
    first = arena.allocate_bytes(200);
    (void)arena.allocate_bytes(200);
    (void)arena.allocate_bytes(5000);
  }
  EXPECT_EQ(arena.allocate_bytes(200), first);
}

}  // namespace
}  // namespace cachalot::device
