#include "ops/rows/random_bits.h"

#include <gtest/gtest.h>

#include <vector>

namespace cachalot::ops {
namespace {

// The first numbers of splitmix64 for seed 0, as its author lists them.
TEST(RandomBits, AreThoseOfSplitmix) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, device::Isa::reference};
    std::vector<uint64_t> words(200'001);
    const RandomBits all{0, ~uint64_t{0}, 0, reinterpret_cast<std::byte*>(words.data()),
                         static_cast<int64_t>(words.size())};
    random_bits(ctx, all);
    EXPECT_EQ(words[0], 0xE220A8397B1DCDAFu);
    EXPECT_EQ(words[1], 0x6E789E6AA1B965F4u);
    EXPECT_EQ(words[2], 0x06C45D188009454Fu);
    for (size_t i = 0; i < words.size(); ++i)
      ASSERT_EQ(words[i], all.word(static_cast<int64_t>(i)));
    RandomBits masked = all;
    masked.keep = 0x80FF'80FF'80FF'80FF;
    masked.set = 0x3F00'3F00'3F00'3F00;
    masked.num_words = 2;
    random_bits(ctx, masked);
    EXPECT_EQ(words[0], 0xBF20'BF39'3F1D'BFAFu);
    EXPECT_EQ(words[2], 0x06C45D188009454Fu);
  }
}

}  // namespace
}  // namespace cachalot::ops
