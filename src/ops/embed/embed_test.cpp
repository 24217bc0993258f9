#include "ops/embed/embed.h"

#include <cstring>

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

TEST(Embed, DecodesRowsOfEveryFormatAtAnyAddress) {
  using tensor::DType;
  const int64_t vocab_size = 5, d = 19;
  const std::vector<int32_t> ids = {4, 0, 0, 2};  // first and last row, one twice
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const int64_t width = tensor::dtype_bytes(dtype);
    std::vector<std::byte> bytes(static_cast<size_t>(vocab_size * d * width + 1));
    std::vector<float> values;
    for (int64_t i = 0; i < vocab_size * d; ++i) {
      const float value = static_cast<float>(i) - 40.0f;  // exact in all three
      values.push_back(value);
      const uint32_t f32 = std::bit_cast<uint32_t>(value);
      const uint16_t bf16 = numeric::bf16_from_float(value);
      // fp16 of a small integer: rebias the exponent, keep ten bits.
      const auto f16 = static_cast<uint16_t>(value == 0 ? 0
                                                        : (f32 >> 16 & 0x8000) |
                                                              (((f32 >> 23 & 255) - 112) << 10) |
                                                              (f32 >> 13 & 1023));
      const void* source = dtype == DType::f32    ? static_cast<const void*>(&f32)
                           : dtype == DType::bf16 ? static_cast<const void*>(&bf16)
                                                  : static_cast<const void*>(&f16);
      std::memcpy(bytes.data() + 1 + i * width, source, static_cast<size_t>(width));
    }
    const tensor::TensorView table{dtype, {vocab_size, d}, bytes.data() + 1};
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> out(ids.size() * d);
      embed(ctx, table, ids.data(), static_cast<int64_t>(ids.size()), out.data());
      for (size_t t = 0; t < ids.size(); ++t) {
        for (int64_t i = 0; i < d; ++i) EXPECT_EQ(out[t * d + i], values[ids[t] * d + i]) << name;
      }
    });
  }
}

// Sums in double: a chain of n additions to the starting value has n roundings.
TEST(EmbedBackward, AddsEveryRowToItsToken) {
  const int64_t vocab_size = 7;
  const std::vector<int32_t> ids = {6, 0, 3, 3, 0, 3, 3, 3, 1};
  for (int64_t d : {1, 63, 64, 65, 200}) {
    const auto rows = static_cast<int64_t>(ids.size());
    const std::vector<float> d_out = random_values(rows * d, 1),
                             start = random_values(vocab_size * d, 2);
    std::vector<double> sum(start.begin(), start.end()), magnitude(sum.size());
    for (int64_t i = 0; i < vocab_size * d; ++i) magnitude[i] = std::fabs(sum[i]);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        sum[ids[t] * d + i] += d_out[t * d + i];
        magnitude[ids[t] * d + i] += std::fabs(d_out[t * d + i]);
      }
    }
    TestContext reference(device::Isa::reference);
    std::vector<float> expected = start;
    embed_backward(reference, ids.data(), d_out.data(), rows, vocab_size, d, expected.data());
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> d_table = start;
      embed_backward(ctx, ids.data(), d_out.data(), rows, vocab_size, d, d_table.data());
      for (int64_t i = 0; i < vocab_size * d; ++i)
        EXPECT_NEAR(d_table[i], sum[i], 5 * 0x1p-24 * magnitude[i]) << name << " " << i;
      for (int64_t i = 2 * d; i < 3 * d; ++i)
        EXPECT_EQ(d_table[i], start[i]) << "token 2 is absent";

      expect_same_values(expected, d_table, name);
      std::vector<float> cut = start;
      embed_backward(ctx, ids.data(), d_out.data(), 4, vocab_size, d, cut.data());
      embed_backward(ctx, ids.data() + 4, d_out.data() + 4 * d, rows - 4, vocab_size, d,
                     cut.data());
      expect_same_values(d_table, cut, name + ", in two calls");
    });
  }
}

// 2^24 + 1 - 2^24 is 0 in this order and 1 in another.
TEST(EmbedBackward, SumsInTheOrderOfTheRows) {
  const std::vector<int32_t> ids = {0, 0, 0};
  const std::vector<float> d_out = {0x1p24f, 1.0f, -0x1p24f};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    float d_table = 0;
    embed_backward(ctx, ids.data(), d_out.data(), 3, 1, 1, &d_table);
    EXPECT_EQ(d_table, 0.0f) << name;
  });
}

TEST(EmbedBackwardDeathTest, IdsLieInTheTable) {
  const int32_t id = 4;
  const float d_out = 1;
  std::vector<float> d_table(4);
  TestContext context(device::Isa::reference);
  EXPECT_DEATH(embed_backward(context, &id, &d_out, 1, 4, 1, d_table.data()), "vocab_size");
}

}  // namespace
}  // namespace cachalot::ops
