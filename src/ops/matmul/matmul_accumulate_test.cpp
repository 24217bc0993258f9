// Products that continue what y holds (matmul.h, `accumulate`).
#include <fmt/format.h>

#include "ops/elementwise/kernel_test.h"
#include "ops/matmul/matmul_test_data.h"

namespace cachalot::ops {
namespace {

PackedWeight pack(const tensor::QuantTensor& tensor) {
  TestContext reference(device::Isa::reference);
  return std::move(PackedWeight::pack(reference, tensor)).value();
}

// y += x w^T on a padded copy of y, whose padding must stay as it is.
std::vector<float> accumulated(device::ExecContext& ctx, const PackedWeight& w, const float* x,
                               int64_t m, int64_t x_stride, const std::vector<float>& y) {
  constexpr float kUntouched = -12345.0f;
  const int64_t n = w.rows(), stride = n + 3;
  std::vector<float> padded(static_cast<size_t>(m * stride), kUntouched);
  for (int64_t i = 0; i < m; ++i) std::copy_n(y.data() + i * n, n, padded.data() + i * stride);
  matmul(ctx, {.x = x,
               .m = m,
               .x_stride = x_stride,
               .w = &w,
               .y = padded.data(),
               .y_stride = stride,
               .math = MatmulMath::f32,
               .accumulate = true});
  std::vector<float> result;
  for (int64_t i = 0; i < m; ++i) {
    result.insert(result.end(), &padded[i * stride], &padded[i * stride] + n);
    for (int64_t j = n; j < stride; ++j) EXPECT_EQ(padded[i * stride + j], kUntouched);
  }
  return result;
}

constexpr WeightFormat kFormats[] = {WeightFormat::f32, WeightFormat::bf16, WeightFormat::fp8,
                                     WeightFormat::fp4};

TEST(MatmulAccumulate, EveryVersionHasTheReferenceBits) {
  for (WeightFormat format : kFormats) {
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 70, 160},
                                  {1, 16, 2},
                                  {4, 64, 300},
                                  {13, 130, 66},
                                  {30, 65, 514},
                                  {61, 48, 32},
                                  {5, 3, 4}}) {
      RngStream rng(21, RngPurpose::data, static_cast<uint64_t>(m * n));
      const PackedWeight w = pack(make_weight(format, n, k, rng).tensor);
      const std::vector<float> x = make_f32_rows(m, k + 1, rng);
      const std::vector<float> y = make_f32_rows(m, n, rng);
      TestContext reference(device::Isa::reference);
      const std::vector<float> expected = accumulated(reference, w, x.data(), m, k + 1, y);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        expect_same_values(
            expected, accumulated(ctx, w, x.data(), m, k + 1, y),
            fmt::format("{}, {} m={} n={} k={}", name, weight_format_name(format), m, n, k));
      });
    }
  }
}

// chain_inputs: the products over parts of K from the definition above, added in order.
TEST(MatmulChains, AreSeparateProductsAddedInOrder) {
  constexpr int64_t kChain = 64;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 24, 1024},
                                {7, 70, 160},
                                {40, 24, 200},
                                {300, 24, 384},
                                {3, 5, 64},
                                {2, 4, 20}}) {
    RngStream rng(23, RngPurpose::data, static_cast<uint64_t>(m * k));
    const auto made = make_weight(WeightFormat::f32, n, k, rng);
    const PackedWeight w = pack(made.tensor);
    const std::vector<float> weights = tensor::dequantize(made.tensor);
    const std::vector<float> x = make_f32_rows(m, k, rng);
    std::vector<float> expected(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m * n; ++i) {
      for (int64_t begin = 0; begin < k; begin += kChain) {
        float chain = 0;
        for (int64_t q = begin; q < std::min(k, begin + kChain); ++q)
          chain = std::fma(x[i / n * k + q], weights[i % n * k + q], chain);
        expected[i] = begin == 0 ? chain : expected[i] + chain;
      }
    }
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> found(expected.size());
      matmul(ctx, {.x = x.data(),
                   .m = m,
                   .x_stride = k,
                   .w = &w,
                   .y = found.data(),
                   .y_stride = n,
                   .math = MatmulMath::f32,
                   .chain_inputs = kChain});
      expect_same_values(expected, found, fmt::format("{} m={} n={} k={}", name, m, n, k));
    });
  }
}

// |found - (y + sum x w)| <= gamma * (|y| + sum |x w|), gamma = u s / (1 - u s) with s = K + 2
// groups roundings (Higham 3.1).
TEST(MatmulAccumulate, AddsTheProduct) {
  for (WeightFormat format : kFormats) {
    RngStream rng(22, RngPurpose::data, 0);
    const int64_t m = 3, n = 40, k = 258;
    const TestWeight weight = make_weight(format, n, k, rng);
    const std::vector<float> x = make_f32_rows(m, k, rng);
    const std::vector<float> y = make_f32_rows(m, n, rng);
    TestContext reference(device::Isa::reference);
    const std::vector<float> found = accumulated(reference, pack(weight.tensor), x.data(), m, k, y);
    const std::vector<float> values = tensor::dequantize(weight.tensor);
    const double steps = static_cast<double>(k + 2 * (k / 32 + 1)) * 0x1p-24;
    for (int64_t i = 0; i < m * n; ++i) {
      double exact = y[i], magnitude = std::fabs(exact);
      for (int64_t l = 0; l < k; ++l) {
        const double term = double{x[i / n * k + l]} * values[i % n * k + l];
        exact += term;
        magnitude += std::fabs(term);
      }
      EXPECT_LE(std::fabs(found[i] - exact), steps / (1 - steps) * magnitude)
          << weight_format_name(format) << " " << i;
    }
  }
}

// Cut anywhere along K, the product has the bits of the uncut one.
TEST(MatmulAccumulate, ContinuesTheChainOverK) {
  const int64_t m = 26, n = 70, k = 400;
  const std::vector<float> x = random_values(m * k, 23), weights = random_values(n * k, 24);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    PackedWeight whole;
    whole.assign(ctx, WeightFormat::f32, {weights.data(), n, k, k});
    const std::vector<float> zeros(static_cast<size_t>(m * n), 0.0f);
    const std::vector<float> expected = accumulated(ctx, whole, x.data(), m, k, zeros);
    std::vector<float> y = zeros;
    int64_t begin = 0;
    for (int64_t end : {int64_t{1}, int64_t{130}, int64_t{131}, k}) {
      PackedWeight part;
      part.assign(ctx, WeightFormat::f32, {weights.data() + begin, n, end - begin, k});
      y = accumulated(ctx, part, x.data() + begin, m, k, y);
      begin = end;
    }
    expect_same_values(expected, y, name);
  });
}

// In a group some products continue and others start anew, beside each other in y and with a
// prepared x in common.
TEST(MatmulAccumulate, GroupsHaveTheBitsOfSingleProducts) {
  const int64_t m = 14, n = 40, k = 96, y_stride = 2 * n;
  const std::vector<float> x = random_values(m * k, 26), start = random_values(m * y_stride, 27);
  const std::vector<float> weights[] = {random_values(n * k, 28), random_values(n * k, 29)};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    PackedWeight packed[2];
    std::vector<float> together = start, apart = start;
    std::vector<MatmulParams> products;
    for (int i = 0; i < 2; ++i) {
      packed[i].assign(ctx, WeightFormat::f32, {weights[i].data(), n, k, k});
      products.push_back({.x = x.data(),
                          .m = m,
                          .x_stride = k,
                          .w = &packed[i],
                          .y = together.data() + i * n,
                          .y_stride = y_stride,
                          .math = MatmulMath::f32,
                          .accumulate = i == 0});
      MatmulParams alone = products.back();
      alone.y = apart.data() + i * n;
      matmul(ctx, alone);
    }
    grouped_matmul(ctx, products);
    expect_same_values(apart, together, name);
    EXPECT_NE(std::vector<float>(together.begin(), together.begin() + n),
              std::vector<float>(start.begin(), start.begin() + n));
  });
}

TEST(MatmulAccumulateDeathTest, TakesF32MathOnly) {
  RngStream rng(25, RngPurpose::data, 0);
  const PackedWeight w = pack(make_weight(WeightFormat::bf16, 16, 16, rng).tensor);
  std::vector<float> x(16), y(16);
  TestContext context(device::Isa::reference);
  EXPECT_DEATH(matmul(context, {.x = x.data(),
                                .m = 1,
                                .x_stride = 16,
                                .w = &w,
                                .y = y.data(),
                                .y_stride = 16,
                                .math = MatmulMath::bf16,
                                .accumulate = true}),
               "accumulate");
}

}  // namespace
}  // namespace cachalot::ops
