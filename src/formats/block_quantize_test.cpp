#include "formats/block_quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "numeric/formats.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {
namespace {

struct Quantised {
  std::vector<uint8_t> codes, scales;
  QuantizeCounts counts;
};

Quantised fp8(const std::vector<float>& values, int64_t rows, int64_t columns, int64_t block,
              const std::vector<uint8_t>& preferred = {}) {
  Quantised out;
  out.codes.resize(values.size());
  out.scales.resize(
      static_cast<size_t>(((rows + block - 1) / block) * ((columns + block - 1) / block)));
  EXPECT_TRUE(quantize_fp8_blocks(values, rows, columns, block, block, preferred, out.codes,
                                  out.scales, &out.counts)
                  .ok());
  return out;
}
Quantised fp4(const std::vector<float>& values, int64_t rows, int64_t columns,
              const std::vector<uint8_t>& preferred = {}) {
  Quantised out;
  out.codes.resize(values.size() / 2);
  out.scales.resize(values.size() / 32);
  EXPECT_TRUE(
      quantize_fp4_groups(values, rows, columns, preferred, out.codes, out.scales, &out.counts)
          .ok());
  return out;
}
std::vector<float> values_of_fp8(const Quantised& q, int64_t rows, int64_t columns, int64_t block) {
  using tensor::DType;
  const tensor::Shape scales = {(rows + block - 1) / block, (columns + block - 1) / block};
  return tensor::dequantize(
      {{DType::f8_e4m3, {rows, columns}, reinterpret_cast<const std::byte*>(q.codes.data())},
       {DType::f8_e8m0, scales, reinterpret_cast<const std::byte*>(q.scales.data())},
       rows,
       columns,
       block,
       block});
}
std::vector<float> values_of_fp4(const Quantised& q, int64_t rows, int64_t columns) {
  using tensor::DType;
  return tensor::dequantize(
      {{DType::i8, {rows, columns / 2}, reinterpret_cast<const std::byte*>(q.codes.data())},
       {DType::f8_e8m0, {rows, columns / 32}, reinterpret_cast<const std::byte*>(q.scales.data())},
       rows,
       columns,
       1,
       32});
}

// reference/forward 12: SIM8 and SIM4 on the published values.
TEST(BlockQuantize, PublishedValues) {
  std::vector<float> x = {0.5f,     -1.25f, 3.0f,     0.010009765625f, -0.000701904296875f,
                          2.71875f, 100.0f, -7.09375f};
  x.resize(64);
  Quantised q = fp8(x, 1, 64, 64);
  EXPECT_EQ(q.scales[0], 127 - 2);
  const std::vector<float> y = values_of_fp8(q, 1, 64, 64);
  const float expected8[] = {0.5f,  -1.25f, 3.0f, 0.009765625f, -0.00048828125f,
                             2.75f, 96.0f,  -7.0f};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(y[i], expected8[i]);

  std::vector<float> z = {0.5f,        -1.25f,   3.0f,          0.01001f,
                          -0.0007019f, 2.71875f, -0.259765625f, 0.30078125f};
  z.resize(32);
  q = fp4(z, 1, 32);
  EXPECT_EQ(q.scales[0], 127 - 1);
  const std::vector<float> w = values_of_fp4(q, 1, 32);
  const float expected4[] = {0.5f, -1.0f, 3.0f, 0.0f, -0.0f, 3.0f, -0.25f, 0.25f};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(w[i], expected4[i]);
  EXPECT_TRUE(std::signbit(w[4]));
  EXPECT_EQ(q.codes[0] & 15, 2);      // 0.5 = 1 * 2^-1, in the low nibble; code 2 is 1
  EXPECT_EQ(q.codes[0] >> 4, 8 | 4);  // -1.25 / 0.5 = -2.5, tie to even: -2
}

TEST(BlockQuantize, ScaleAtPowersOfTwoAndFloors) {
  for (int e = -20; e <= 20; ++e) {
    const float full8 = std::ldexp(448.0f, e), full4 = std::ldexp(6.0f, e);
    if (full8 > 1e-3f) {
      EXPECT_EQ(fp8(std::vector<float>(4, full8), 2, 2, 2).scales[0], 127 + e);
      EXPECT_EQ(fp8(std::vector<float>(4, std::nextafter(full8, 1e30f)), 2, 2, 2).scales[0],
                127 + e + 1);
    }
    EXPECT_EQ(fp4(std::vector<float>(32, full4), 1, 32).scales[0], 127 + e);
    EXPECT_EQ(fp4(std::vector<float>(32, std::nextafter(full4, 1e30f)), 1, 32).scales[0],
              127 + e + 1);
  }
  EXPECT_EQ(fp8(std::vector<float>(4, 0.0f), 2, 2, 2).scales[0], 127 - 22);
  EXPECT_EQ(fp4(std::vector<float>(32, 0.0f), 1, 32).scales[0], 1);
  EXPECT_EQ(fp8(std::vector<float>(4, std::numeric_limits<float>::max()), 2, 2, 2).scales[0],
            127 + 120);
}

TEST(BlockQuantize, PartialBlocksHaveTheirOwnScales) {
  const std::vector<float> small = {1, 2, 3, 4, 5, 6, 7, 448 * 8};
  const Quantised blocks = fp8(small, 2, 4, 3);
  ASSERT_EQ(blocks.scales.size(), 2u);
  EXPECT_EQ(blocks.scales[0], 127 - 6);  // 7 <= 448 * 2^-6
  EXPECT_EQ(blocks.scales[1], 127 + 3);
}

TEST(BlockQuantize, ValuesThatAreNotFiniteAreErrors) {
  for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                    std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(64, 1.0f);
    x[37] = bad;
    std::vector<uint8_t> codes(64), scales(2);
    QuantizeCounts counts;
    const Status eight =
        quantize_fp8_blocks(x, 2, 32, 32, 32, {}, codes, std::span(scales).first(1), &counts);
    EXPECT_NE(eight.message().find("row 1, column 5"), std::string::npos) << eight.message();
    EXPECT_FALSE(
        quantize_fp4_groups(x, 2, 32, {}, std::span(codes).first(32), scales, &counts).ok());
  }
}

// Random codes under random scales: the values come back exactly without help, the bytes with the
// old scales.
TEST(BlockQuantize, DequantisedBlocksComeBack) {
  RngStream rng(1, RngPurpose::weights, 0);
  int64_t respelled = 0;
  for (int trial = 0; trial < 300; ++trial) {
    Quantised q;
    q.codes.resize(64 * 16);
    q.scales.resize(4 * 1);
    for (uint8_t& scale : q.scales) scale = static_cast<uint8_t>(105 + rng.next_u32() % 40);
    const uint32_t mask = trial % 3 == 0   ? 0x8F
                          : trial % 3 == 1 ? 0xBF
                                           : 0xFF;  // small codes: not canonical
    for (uint8_t& code : q.codes) {
      code = static_cast<uint8_t>(rng.next_u32() & mask);
      if ((code & 0x7F) == 0x7F) code = 0;
    }
    const std::vector<float> values = values_of_fp8(q, 64, 16, 16);
    const Quantised alone = fp8(values, 64, 16, 16);
    EXPECT_EQ(values_of_fp8(alone, 64, 16, 16), values);
    EXPECT_EQ(alone.counts.inexact_blocks, 0);
    respelled += alone.codes != q.codes;
    const Quantised like = fp8(values, 64, 16, 16, q.scales);
    EXPECT_EQ(like.codes, q.codes);
    EXPECT_EQ(like.scales, q.scales);
    EXPECT_EQ(like.counts.preferred_blocks, 4);

    q.codes.resize(32 * 16);
    q.scales.resize(32);
    for (uint8_t& scale : q.scales) scale = static_cast<uint8_t>(4 + rng.next_u32() % 240);
    for (uint8_t& code : q.codes)
      code = static_cast<uint8_t>(rng.next_u32() & (trial % 2 == 0 ? 0xFF : 0xBB));
    const std::vector<float> values4 = values_of_fp4(q, 32, 32);
    EXPECT_EQ(values_of_fp4(fp4(values4, 32, 32), 32, 32), values4);
    const Quantised like4 = fp4(values4, 32, 32, q.scales);
    EXPECT_EQ(like4.codes, q.codes);
    EXPECT_EQ(like4.scales, q.scales);
  }
  EXPECT_GT(respelled,
            0);  // the test does reach blocks whose scale cannot be told from their values
}

TEST(BlockQuantize, APreferredScaleThatLosesBitsIsNotTaken) {
  std::vector<float> x(32, 1.0f);
  x[3] = 0.5f + 1.0f / 1024;
  const Quantised q = fp4(x, 1, 32, {127});
  EXPECT_EQ(q.scales[0], 127 - 2);  // 1 <= 6 * 2^-2
  EXPECT_EQ(q.counts.preferred_blocks, 0);
  EXPECT_EQ(q.counts.inexact_blocks, 1);
  EXPECT_EQ(fp4(std::vector<float>(32, 100.0f), 1, 32, {100}).counts.preferred_blocks,
            0);  // would saturate
}

}  // namespace
}  // namespace cachalot::formats
