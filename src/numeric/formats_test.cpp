#include "numeric/formats.h"

#include <gtest/gtest.h>

#include <cmath>

namespace cachalot::numeric {
namespace {

// The nearest code by exhaustive search, ties to the even one: the definition that the bit tricks
// must meet.
template <typename Decode>
int nearest_code(double value, int num_codes, Decode decode) {
  int best = 0;
  for (int code = 1; code < num_codes; ++code) {
    const double error = std::fabs(decode(code) - value);
    const double best_error = std::fabs(decode(best) - value);
    if (error < best_error || (error == best_error && (code & 1) == 0)) best = code;
  }
  return best;
}

TEST(Formats, E4m3RoundsToNearestEvenEverywhere) {
  auto decode = [](int code) { return static_cast<double>(float_from_e4m3(code)); };
  for (int code = 0; code < 0x7E; ++code) {
    const double low = decode(code), high = decode(code + 1);
    for (double t : {0.0, 0.25, 0.499, 0.5, 0.501, 0.75, 1.0}) {
      const float value = static_cast<float>(low + (high - low) * t);
      const int expected = nearest_code(value, 0x7F, decode);
      EXPECT_EQ(e4m3_from_float(value), expected) << value;
      EXPECT_EQ(e4m3_from_float(-value), expected | 0x80) << value;
    }
  }
}

TEST(Formats, E4m3PublishedValues) {
  auto round = [](float value) { return float_from_e4m3(e4m3_from_float(value)); };
  EXPECT_EQ(round(17), 16);
  EXPECT_EQ(round(19), 20);
  EXPECT_EQ(round(13.5f), 14);
  EXPECT_EQ(round(449), 448);
  EXPECT_EQ(round(1e30f), 448);
  EXPECT_EQ(round(0x1p-10f), 0);
  EXPECT_EQ(round(0.00146484375f), 0.001953125f);
  EXPECT_TRUE(std::isnan(round(NAN)));
  EXPECT_TRUE(std::isnan(float_from_e4m3(0xFF)));
}

TEST(Formats, E4m3DecodesARealRow) {
  const uint8_t bytes[] = {0xd8, 0x71, 0xf2, 0x79, 0x70, 0x69, 0xf0, 0xe5};
  const float expected[] = {-0.00390625f, 0.03515625f,  -0.0390625f, 0.0703125f,
                            0.03125f,     0.017578125f, -0.03125f,   -0.0126953125f};
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(float_from_e4m3(bytes[i]) * float_from_e8m0(0x73), expected[i]);
  }
}

TEST(Formats, E2m1RoundsToNearestEven) {
  const float in[] = {0.25f, 0.2500001f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 5.01f, 100.0f};
  const float out[] = {0.0f, 0.5f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f, 6.0f, 6.0f};
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(float_from_e2m1(e2m1_from_float(in[i])), out[i]) << in[i];
    EXPECT_EQ(float_from_e2m1(e2m1_from_float(-in[i])), -out[i]) << in[i];
  }
  for (int code = 0; code < 16; ++code) EXPECT_EQ(e2m1_from_float(float_from_e2m1(code)), code);
}

TEST(Formats, E8m0) {
  EXPECT_EQ(std::bit_cast<uint32_t>(float_from_e8m0(0)), 0x00400000u);
  EXPECT_EQ(float_from_e8m0(127), 1.0f);
  EXPECT_TRUE(std::isnan(float_from_e8m0(255)));
}

TEST(Formats, Bf16RoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(bf16_from_float(1.00390625f), 0x3F80);  // tie, to even
  EXPECT_EQ(bf16_from_float(1.01171875f), 0x3F82);  // tie, to even
  EXPECT_TRUE(std::isnan(round_to_bf16(NAN)));
  EXPECT_TRUE(std::isnan(round_to_bf16(std::bit_cast<float>(0x7F800001u))));
  EXPECT_TRUE(std::isinf(round_to_bf16(3.4e38f)));
  for (uint32_t bits = 0; bits < 0x7F80; ++bits)
    EXPECT_EQ(bf16_from_float(float_from_bf16(bits)), bits);
}

TEST(Formats, F16) {
  EXPECT_EQ(float_from_f16(0x3C00), 1.0f);
  EXPECT_EQ(float_from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(float_from_f16(0xFBFF), -65504.0f);
}

TEST(Formats, Pow2CeilExponent) {
  EXPECT_EQ(pow2_ceil_exponent(1.0f), 0);
  EXPECT_EQ(pow2_ceil_exponent(std::nextafter(1.0f, 2.0f)), 1);
  EXPECT_EQ(pow2_ceil_exponent(std::nextafter(1.0f, 0.0f)), 0);
  EXPECT_EQ(pow2_ceil_exponent(0.3f), -1);
}

}  // namespace
}  // namespace cachalot::numeric
