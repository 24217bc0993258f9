// FP4 to FP8: which exponents are exact, what the limit counts, whole matrices; the FP4 quantiser's
// own properties.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "formats/block_quantize.h"
#include "numeric/formats.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {
namespace {

using tensor::DType;

struct Fp4 {
  int64_t rows, columns;
  std::vector<uint8_t> codes, scales;

  Fp4(int64_t rows, int64_t columns)
      : rows(rows),
        columns(columns),
        codes(static_cast<size_t>(rows * columns / 2)),
        scales(static_cast<size_t>(rows * columns / 32), 127) {}
  std::vector<float> values() const {
    return tensor::dequantize(
        {{DType::i8, {rows, columns / 2}, reinterpret_cast<const std::byte*>(codes.data())},
         {DType::f8_e8m0, {rows, columns / 32}, reinterpret_cast<const std::byte*>(scales.data())},
         rows,
         columns,
         1,
         32});
  }
};

struct Fp8 {
  std::vector<float> values;
  std::vector<uint8_t> scales;
  RecastCounts counts;
};

Fp8 recast(const Fp4& from, int limit = kMaxFp4ExponentSpread) {
  const int64_t down = (from.rows + 127) / 128, across = (from.columns + 127) / 128;
  std::vector<uint8_t> codes(static_cast<size_t>(from.rows * from.columns));
  Fp8 out;
  out.scales.resize(static_cast<size_t>(down * across));
  recast_fp4_to_fp8(from.codes, from.scales, from.rows, from.columns, codes, out.scales, limit,
                    &out.counts);
  out.values = tensor::dequantize(
      {{DType::f8_e4m3,
        {from.rows, from.columns},
        reinterpret_cast<const std::byte*>(codes.data())},
       {DType::f8_e8m0, {down, across}, reinterpret_cast<const std::byte*>(out.scales.data())},
       from.rows,
       from.columns,
       128,
       128});
  return out;
}

Fp4 quantise(const std::vector<float>& values, int64_t rows, int64_t columns) {
  Fp4 out(rows, columns);
  QuantizeCounts counts;
  EXPECT_TRUE(quantize_fp4_groups(values, rows, columns, {}, out.codes, out.scales, &counts).ok());
  return out;
}

std::vector<float> normals(size_t n, double size, uint64_t seed) {
  RngStream rng(seed, RngPurpose::weights, 0);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(size * rng.next_normal());
  return out;
}

// Two groups of all 16 codes, twice, whose exponents are `spread` apart.
Fp4 all_codes(int spread) {
  Fp4 m(1, 64);
  for (size_t i = 0; i < m.codes.size(); ++i) {
    const auto low = static_cast<uint8_t>(2 * i % 16);
    m.codes[i] = static_cast<uint8_t>(low | (low + 1) << 4);
  }
  m.scales[1] = static_cast<uint8_t>(127 - spread);
  return m;
}

TEST(Fp4Recast, EveryCodeIsExactFromOffset6DownToMinus8AndNoFurther) {
  for (int spread = 0; spread <= 14; ++spread) {
    const Fp4 m = all_codes(spread);
    const Fp8 fp8 = recast(m);
    EXPECT_EQ(fp8.scales[0], 127 - 6);
    EXPECT_EQ(fp8.values, m.values()) << spread;
    EXPECT_EQ(fp8.counts.inexact_blocks, 0) << spread;
    EXPECT_EQ(fp8.counts.max_spread, spread);
    EXPECT_EQ(fp8.counts.blocks_over_limit, spread > 11 ? 1 : 0) << spread;
    EXPECT_EQ(recast(m, spread).counts.blocks_over_limit, 0);
    EXPECT_EQ(recast(m, spread - 1).counts.blocks_over_limit, 1);
  }
  const Fp4 m = all_codes(15);
  const Fp8 fp8 = recast(m);
  EXPECT_EQ(fp8.counts.inexact_blocks, 1);
  EXPECT_NE(fp8.values, m.values());
}

TEST(Fp4Recast, GroupsOfZerosDoNotCount) {
  Fp4 m = all_codes(15);
  std::fill(m.codes.begin() + 16, m.codes.end(), uint8_t{0x80});  // 0 and -0
  const Fp8 fp8 = recast(m);
  EXPECT_EQ(fp8.counts.max_spread, 0);
  EXPECT_EQ(fp8.counts.blocks_over_limit, 0);
  EXPECT_EQ(fp8.counts.inexact_blocks, 0);
  EXPECT_EQ(fp8.values, m.values());
  const Fp8 zeros = recast(Fp4(3, 32));
  EXPECT_EQ(zeros.values, std::vector<float>(96));
}

TEST(Fp4Recast, WholeMatricesDequantiseToTheSameBits) {
  RngStream rng(3, RngPurpose::weights, 1);
  for (const auto& [rows, columns] :
       std::vector<std::pair<int64_t, int64_t>>{{128, 128}, {256, 384}, {200, 160}, {1, 32}}) {
    Fp4 m(rows, columns);
    for (uint8_t& code : m.codes) code = static_cast<uint8_t>(rng.next_u32());
    for (uint8_t& scale : m.scales) scale = static_cast<uint8_t>(100 + rng.next_u32() % 12);
    const Fp8 fp8 = recast(m);
    const std::vector<float> expected = m.values();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(fp8.values[i], expected[i]) << i;
      ASSERT_EQ(std::signbit(fp8.values[i]), std::signbit(expected[i])) << i;
    }
    EXPECT_EQ(fp8.counts.blocks_over_limit, 0);
  }
}

TEST(Fp4Quantiser, IsIdempotent) {
  const std::vector<float> once = quantise(normals(64 * 96, 0.02, 5), 64, 96).values();
  const Fp4 twice = quantise(once, 64, 96);
  EXPECT_EQ(twice.values(), once);
}

TEST(Fp4Quantiser, TheLargestValueNeverClips) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> x =
        normals(32, std::ldexp(1.0, static_cast<int>(seed % 40) - 20), seed);
    const Fp4 q = quantise(x, 1, 32);
    const float scale = numeric::float_from_e8m0(q.scales[0]);
    const std::vector<float> values = q.values();
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_LE(std::abs(x[i]) / scale, 6.0f);
      // Half of the widest step, between 4 and 6.
      EXPECT_LE(std::abs(values[i] - x[i]), scale);
    }
  }
}

TEST(Fp4Quantiser, SixTimesAPowerOfTwoKeepsItsExponent) {
  for (int k = -100; k <= 100; ++k) {
    std::vector<float> x(32, 0.0f);
    x[7] = std::ldexp(6.0f, k);
    EXPECT_EQ(quantise(x, 1, 32).scales[0], 127 + k);
    x[7] = std::nextafter(x[7], INFINITY);
    EXPECT_EQ(quantise(x, 1, 32).scales[0], 127 + k + 1);
  }
}

TEST(Fp4Quantiser, TwoCodesAByteTheEvenColumnInTheLowNibble) {
  std::vector<float> x(32, 0.0f);
  x[0] = 0.5f;
  x[1] = 6.0f;
  x[30] = -1.5f;
  const Fp4 q = quantise(x, 1, 32);
  EXPECT_EQ(q.codes[0], 0x71);
  EXPECT_EQ(q.codes[15], 0x0B);
  EXPECT_EQ(q.scales[0], 127);
  EXPECT_EQ(q.values(), x);
}

}  // namespace
}  // namespace cachalot::formats
