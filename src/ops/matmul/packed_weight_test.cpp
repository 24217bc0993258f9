#include "ops/matmul/packed_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/sha256.h"
#include "ops/matmul/matmul_test_data.h"
#include "ops/matmul/pack_panels.h"

namespace cachalot::ops {
namespace {

Result<PackedWeight> pack(const tensor::QuantTensor& tensor) {
  ThreadPool pool(2);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::Isa::reference};
  return PackedWeight::pack(ctx, tensor);
}

TEST(PackedWeight, KeepsEveryWeightAndScale) {
  RngStream rng(1, RngPurpose::data, 0);
  for (WeightFormat format :
       {WeightFormat::f32, WeightFormat::bf16, WeightFormat::fp8, WeightFormat::fp4}) {
    for (int64_t n : {1, 16, 17, 64, 65, 111, 130}) {
      for (int64_t k : {2, 30, 32, 34, 128, 130, 258}) {
        for (ScaleKind kind : {ScaleKind::e8m0, ScaleKind::f32}) {
          if (kind == ScaleKind::f32 && format != WeightFormat::fp8) continue;
          const TestWeight weight = make_weight(format, n, k, rng, kind);
          const Result<PackedWeight> packed = pack(weight.tensor);
          ASSERT_TRUE(packed.has_value()) << packed.error().to_string();
          EXPECT_EQ(packed->rows(), n);
          EXPECT_EQ(packed->columns(), k);
          const std::vector<float> values = tensor::dequantize(weight.tensor);
          const int64_t group = scale_group(format) == 0 ? k : scale_group(format);
          for (int64_t row = 0; row < n; ++row) {
            for (int64_t i = 0; i < k; ++i) {
              ASSERT_EQ(packed->code_value(row, i) * packed->scale(row, i / group),
                        values[row * k + i])
                  << weight_format_name(format) << " [" << row << ", " << i << "] of " << n << " x "
                  << k;
            }
          }
        }
      }
    }
  }
}

// What a GPU writes, word by word, is what the host packs, but for the scales of fp8.
TEST(PackPanels, AreThoseOfTheHost) {
  RngStream rng(5, RngPurpose::data, 0);
  for (int format = 0; format < 5; ++format) {
    for (int64_t n : {1, 16, 17, 64, 65, 111, 192}) {
      for (int64_t k : {2, 30, 32, 34, 37, 130, 258}) {
        const bool is_f16 = format == 4;
        const auto of = is_f16 ? WeightFormat::bf16 : static_cast<WeightFormat>(format);
        if (of == WeightFormat::fp4 && k % 2 != 0) continue;
        TestWeight weight = make_weight(of, n, k, rng);
        if (is_f16) {  // any 16 bits are one
          weight.tensor.weight.dtype = tensor::DType::f16;
          for (int64_t i = 0; i < n * k; ++i) {
            const auto bits = static_cast<uint16_t>(rng.next_u32());
            std::memcpy(weight.codes() + 2 * i, &bits, 2);
          }
        }
        if (of == WeightFormat::fp8 && n == 65) weight.codes()[n * k - 1] = 0xFF;
        const PackedWeight packed = pack(weight.tensor).value();
        int32_t has_nan_codes = 0;
        std::vector<std::byte> panels(packed.bytes().size());
        const PackPanels p{packed.format(),
                           is_f16,
                           n,
                           k,
                           weight.tensor.weight.data,
                           weight.tensor.scale.data,
                           panels.data(),
                           &has_nan_codes};
        for (int64_t word = p.num_words(); word-- > 0;) p.write(word);
        const auto num_bytes = static_cast<size_t>(4 * p.num_words());
        const auto found = std::span(panels).first(num_bytes);
        ASSERT_TRUE(std::ranges::equal(found, packed.bytes().first(num_bytes)))
            << format << " " << n << " x " << k;
        EXPECT_EQ(has_nan_codes != 0, packed.has_nan_codes());
        if (of != WeightFormat::fp8) {
          EXPECT_EQ((num_bytes + 63) / 64 * 64, packed.bytes().size());
        }
      }
    }
  }
}

TEST(PackedWeight, TakesNoMoreThanTheCheckpointForWholePanels) {
  RngStream rng(2, RngPurpose::data, 0);
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::fp4}) {
    const TestWeight weight = make_weight(format, 256, 512, rng);
    EXPECT_EQ(pack(weight.tensor)->num_bytes(), weight.tensor.num_bytes())
        << weight_format_name(format);
  }
  // fp8: a float per panel and 128 inputs beside 8,192 codes, where the file has a byte per 16,384.
  const TestWeight weight = make_weight(WeightFormat::fp8, 256, 512, rng);
  EXPECT_EQ(pack(weight.tensor)->num_bytes(), weight.tensor.weight.num_bytes() + 4 * 4 * 4);
}

// The packed bytes do not depend on where they lie, what lay there before, threads or instruction
// set; and they are those of kLayoutVersion, whose files are kept. Whoever changes them raises it.
TEST(PackedWeight, TheBytesAreThoseOfTheLayoutVersion) {
  ASSERT_EQ(PackedWeight::kLayoutVersion, 1);
  RngStream rng(3, RngPurpose::data, 0);
  Sha256 hash;
  for (WeightFormat format :
       {WeightFormat::f32, WeightFormat::bf16, WeightFormat::fp8, WeightFormat::fp4}) {
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{1, 2}, {17, 34}, {130, 258}, {64, 128}}) {
      const TestWeight weight = make_weight(format, n, k, rng);
      const int64_t num_bytes = *PackedWeight::packed_bytes(weight.tensor);
      const Result<PackedWeight> owned = pack(weight.tensor);
      ASSERT_EQ(static_cast<int64_t>(owned->bytes().size()), num_bytes);
      for (device::Isa isa : device::machine_isas()) {
        for (int num_threads : {1, 3}) {
          ThreadPool pool(num_threads);
          device::Arena arena;
          device::ExecContext ctx{&pool, &arena, isa};
          device::Buffer memory(num_bytes);
          std::memset(memory.data(), 0xA5, static_cast<size_t>(num_bytes));
          ASSERT_TRUE(PackedWeight::pack_into(ctx, weight.tensor, memory.data()).has_value());
          EXPECT_EQ(std::memcmp(memory.data(), owned->bytes().data(), owned->bytes().size()), 0)
              << weight_format_name(format) << " " << n << " x " << k;
          const Result<PackedWeight> found =
              PackedWeight::packed_at(weight.tensor, owned->has_nan_codes(), memory.data());
          EXPECT_EQ(found->bytes().data(), memory.data());
          EXPECT_EQ(found->scale(n - 1, 0), owned->scale(n - 1, 0));
        }
      }
      hash.add(owned->bytes());
    }
  }
  EXPECT_EQ(hash.hex().substr(0, 16), "8685d56cb3a8d023");
}

// A weight in a caller's memory may be read-only, a file's: it is left alone.
TEST(PackedWeight, AssigningLeavesACallersMemory) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::Isa::reference};
  RngStream rng(4, RngPurpose::data, 0);
  const TestWeight weight = make_weight(WeightFormat::f32, 16, 16, rng);
  const Result<PackedWeight> kept = pack(weight.tensor);
  PackedWeight mapped = *PackedWeight::packed_at(weight.tensor, false, kept->bytes().data());
  const std::vector<std::byte> before(kept->bytes().begin(), kept->bytes().end());
  const std::vector<float> ones(256, 1.0f);
  mapped.assign(ctx, WeightFormat::f32, {ones.data(), 16, 16, 16});
  EXPECT_NE(mapped.bytes().data(), kept->bytes().data());
  EXPECT_EQ(mapped.code_value(3, 3), 1.0f);
  EXPECT_TRUE(std::ranges::equal(kept->bytes(), before));
}

TEST(PackedWeight, WidensF16) {
  TestWeight weight;
  weight.tensor.rows = 1;
  weight.tensor.columns = 3;
  weight.tensor.weight = {tensor::DType::f16, {1, 3}, nullptr};
  weight.weight_bytes = {0, 0x00, 0x3C, 0x01, 0x00, 0x00, 0xC0};  // 1, the smallest subnormal, -2
  weight.tensor.weight.data = reinterpret_cast<std::byte*>(weight.codes());
  const Result<PackedWeight> packed = pack(weight.tensor);
  ASSERT_TRUE(packed.has_value());
  EXPECT_EQ(packed->format(), WeightFormat::f32);
  EXPECT_EQ(packed->code_value(0, 0), 1.0f);
  EXPECT_EQ(packed->code_value(0, 1), 0x1p-24f);
  EXPECT_EQ(packed->code_value(0, 2), -2.0f);
}

void expect_error(const tensor::QuantTensor& tensor, StatusCode code, std::string_view part) {
  const Result<PackedWeight> packed = pack(tensor);
  ASSERT_FALSE(packed.has_value()) << part;
  EXPECT_EQ(packed.error().code(), code) << packed.error().message();
  EXPECT_NE(packed.error().message().find(part), std::string::npos) << packed.error().message();
}

TEST(PackedWeight, RefusesWhatItCannotTake) {
  RngStream rng(3, RngPurpose::data, 0);
  TestWeight fp4 = make_weight(WeightFormat::fp4, 70, 64, rng);
  fp4.scales()[2 * 33 + 1] = 255;
  expect_error(fp4.tensor, StatusCode::invalid_argument,
               "[33, 1]: expected an e8m0 byte below 255, found 255");
  fp4.scales()[2 * 33 + 1] = 100;
  EXPECT_TRUE(pack(fp4.tensor).has_value());

  TestWeight fp8 = make_weight(WeightFormat::fp8, 130, 256, rng);
  fp8.scales()[3] = 255;
  expect_error(fp8.tensor, StatusCode::invalid_argument, "[1, 1]: expected a finite number");
  TestWeight f32_scales = make_weight(WeightFormat::fp8, 130, 256, rng, ScaleKind::f32);
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(f32_scales.scales() + 4, &infinity, 4);
  expect_error(f32_scales.tensor, StatusCode::invalid_argument,
               "[0, 1]: expected a finite number, found inf");

  const TestWeight good = make_weight(WeightFormat::fp8, 130, 256, rng);
  tensor::QuantTensor bad = good.tensor;
  bad.weight.shape = {130, 255};
  expect_error(bad, StatusCode::invalid_argument, "expected [130, 256], found [130, 255]");
  bad = good.tensor;
  bad.scale.shape = {1, 2};
  expect_error(bad, StatusCode::invalid_argument, "expected [2, 2], found [1, 2]");
  bad = good.tensor;
  bad.scale.data = nullptr;
  expect_error(bad, StatusCode::invalid_argument, "expected one with fp8 weights, found none");
  bad = good.tensor;
  bad.block_columns = 64;
  expect_error(bad, StatusCode::unsupported, "expected 128 x 128, found 128 x 64");
  bad = good.tensor;
  bad.scale.dtype = tensor::DType::bf16;
  expect_error(bad, StatusCode::unsupported, "expected F8_E8M0 or F32, found BF16");
  bad = good.tensor;
  bad.weight.dtype = tensor::DType::i64;
  expect_error(bad, StatusCode::unsupported, "found I64");
  bad = good.tensor;
  bad.rows = 0;
  expect_error(bad, StatusCode::invalid_argument, "found 0 x 256");
  bad = make_weight(WeightFormat::bf16, 4, 4, rng).tensor;
  bad.scale = good.tensor.scale;
  expect_error(bad, StatusCode::unsupported, "expected none with BF16 weights");
}

}  // namespace
}  // namespace cachalot::ops
