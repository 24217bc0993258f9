// Every version of the matrix product against the reference, bit for bit; and the reference against
// double precision.
#include "ops/matmul/matmul.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "ops/matmul/matmul_test_data.h"

namespace cachalot::ops {
namespace {

using device::Isa;

struct Machine {
  explicit Machine(Isa level, int num_threads = 2) : pool(num_threads), isa(level) {}
  device::ExecContext ctx() { return {&pool, &arena, isa}; }
  ThreadPool pool;
  device::Arena arena{1 << 18};
  Isa isa;
};

struct Case {
  WeightFormat format;
  MatmulMath math;
};
const Case kCases[] = {
    {WeightFormat::f32, MatmulMath::f32},   {WeightFormat::bf16, MatmulMath::f32},
    {WeightFormat::fp8, MatmulMath::f32},   {WeightFormat::fp4, MatmulMath::f32},
    {WeightFormat::bf16, MatmulMath::bf16}, {WeightFormat::fp8, MatmulMath::bf16},
    {WeightFormat::fp4, MatmulMath::bf16}};

std::string name(const Case& c) {
  return fmt::format("{} weights, {} math", weight_format_name(c.format),
                     c.math == MatmulMath::f32 ? "f32" : "bf16");
}

std::vector<Isa> fast_isas() {
  std::vector<Isa> isas = device::machine_isas();
  isas.erase(isas.begin());
  return isas;
}

PackedWeight pack(const tensor::QuantTensor& tensor) {
  Machine machine(Isa::reference, 1);
  device::ExecContext ctx = machine.ctx();
  return std::move(PackedWeight::pack(ctx, tensor)).value();
}

constexpr float kUntouched = -12345.0f;

// Y with a few floats between rows, which must stay untouched.
std::vector<float> product(Machine& machine, const PackedWeight& w, MatmulMath math, const float* x,
                           int64_t m, int64_t x_stride, const int32_t* x_rows = nullptr,
                           bool round_y = false) {
  const int64_t stride = w.rows() + 3;
  std::vector<float> y(static_cast<size_t>(m * stride), kUntouched);
  device::ExecContext ctx = machine.ctx();
  matmul(ctx, {x, m, x_stride, x_rows, &w, y.data(), stride, math, round_y});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t n = w.rows(); n < stride; ++n)
      EXPECT_EQ(y[i * stride + n], kUntouched) << "row " << i;
  }
  std::vector<float> packed;
  for (int64_t i = 0; i < m; ++i)
    packed.insert(packed.end(), &y[i * stride], &y[i * stride] + w.rows());
  return packed;
}

void expect_same(const std::vector<float>& found, const std::vector<float>& expected,
                 int64_t columns, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  int64_t differing = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (same_bits(found[i], expected[i])) continue;
    if (++differing == 1) {
      ADD_FAILURE() << what << ": [" << i / columns << ", " << i % columns << "] expected "
                    << fmt::format("{:a}, found {:a}", expected[i], found[i]);
    }
  }
  EXPECT_EQ(differing, 0) << what << ": differing elements of " << found.size();
}

std::vector<float> make_rows(MatmulMath math, int64_t m, int64_t stride, RngStream& rng) {
  return math == MatmulMath::bf16 ? make_bf16_rows(m, stride, rng) : make_f32_rows(m, stride, rng);
}

class MatmulVersions : public testing::TestWithParam<Isa> {};

void compare(Isa isa, const Case& c, int64_t m, int64_t n, int64_t k, bool round_y = false) {
  RngStream rng(7, RngPurpose::data, static_cast<uint64_t>(m * 1000003 + n * 1009 + k));
  if (c.format == WeightFormat::fp4) k += k % 2;
  const ScaleKind scale_kind =
      n % 2 == 0 || c.format == WeightFormat::fp4 ? ScaleKind::e8m0 : ScaleKind::f32;
  const TestWeight weight = make_weight(c.format, n, k, rng, scale_kind);
  const PackedWeight w = pack(weight.tensor);
  const int64_t stride = k + 5;
  const std::vector<float> x = make_rows(c.math, m, stride, rng);
  Machine reference(Isa::reference), fast(isa);
  expect_same(product(fast, w, c.math, x.data(), m, stride, nullptr, round_y),
              product(reference, w, c.math, x.data(), m, stride, nullptr, round_y), n,
              fmt::format("{}, {} m={} n={} k={}", device::isa_name(isa), name(c), m, n, k));
}

TEST_P(MatmulVersions, EveryRowCountUpToAFewTiles) {
  for (const Case& c : kCases) {
    for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 23, 24, 25, 31, 61})
      compare(GetParam(), c, m, 80, 160);
  }
}

TEST_P(MatmulVersions, EveryWidthUpToTwoPanelsAndMore) {
  for (const Case& c : kCases) {
    for (int64_t n = 1; n <= 130; ++n)
      compare(GetParam(), c, std::array{1, 2, 4, 26}[n % 4], n, 64);
  }
}

TEST_P(MatmulVersions, InputRemainders) {
  for (const Case& c : kCases) {
    for (int64_t k : {1,   2,   3,   5,   31,  32,  33,  63,  65,   127,
                      128, 129, 255, 256, 257, 300, 511, 513, 1000, 4096}) {
      for (int64_t m : {1, 2, 12, 30}) compare(GetParam(), c, m, k > 600 ? 18 : 66, k);
    }
  }
}

TEST_P(MatmulVersions, RoundsToBf16) {
  for (const Case& c : kCases) compare(GetParam(), c, 5, 70, 256, true);
}

TEST_P(MatmulVersions, ManyRowsAndManyThreads) {
  for (const Case& c : kCases) {
    RngStream rng(8, RngPurpose::data, 0);
    const int64_t m = 700, n = 40, k = 160;
    const TestWeight weight = make_weight(c.format, n, k, rng);
    const PackedWeight w = pack(weight.tensor);
    const std::vector<float> x = make_rows(c.math, m, k, rng);
    Machine reference(Isa::reference);
    const std::vector<float> expected = product(reference, w, c.math, x.data(), m, k);
    for (int threads : {1, 2, 5}) {
      Machine fast(GetParam(), threads);
      expect_same(product(fast, w, c.math, x.data(), m, k), expected, n,
                  fmt::format("{}, {} threads", name(c), threads));
    }
  }
}

// The row of a batch has the bits of the same row alone, on real widths.
TEST_P(MatmulVersions, ARowDoesNotDependOnTheOthers) {
  for (const Case& c : kCases) {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{4096, 20, 128}, {70, 200, 4096}, {9, 320, 7168}}) {
      RngStream rng(9, RngPurpose::data, static_cast<uint64_t>(m));
      const TestWeight weight = make_weight(c.format, n, k, rng);
      const PackedWeight w = pack(weight.tensor);
      const std::vector<float> x = make_rows(c.math, m, k, rng);
      Machine fast(GetParam());
      const std::vector<float> all = product(fast, w, c.math, x.data(), m, k);
      for (int64_t i = 0; i<m; i += m> 100 ? 131 : 7) {
        expect_same(product(fast, w, c.math, x.data() + i * k, 1, k),
                    {all.begin() + i * n, all.begin() + (i + 1) * n}, n,
                    fmt::format("{}, row {} of {}", name(c), i, m));
      }
    }
  }
}

TEST_P(MatmulVersions, GatheredRowsAndGroups) {
  for (const Case& c : kCases) {
    RngStream rng(10, RngPurpose::data, 0);
    const int64_t num_rows = 40, k = 192;
    const std::vector<float> x = make_rows(c.math, num_rows, k, rng);
    const std::vector<int32_t> rows = {3, 39, 0, 3, 17, 22, 5, 5, 8};
    std::vector<TestWeight> tensors;
    std::vector<PackedWeight> weights;
    for (int64_t n : {72, 72, 16, 200, 72, 130}) {
      tensors.push_back(make_weight(c.format, n, k, rng));
      // Beside one without, on the same rows of x.
      if (c.format == WeightFormat::fp8 && weights.size() == 1)
        tensors.back().codes()[k + 2] = 0xFF;
      weights.push_back(pack(tensors.back().tensor));
    }
    const int64_t counts[] = {9, 9, 0, 1, 4, 7};
    for (int threads : {1, 3}) {
      Machine machine(GetParam(), threads);
      std::vector<MatmulParams> products;
      std::vector<std::vector<float>> found;
      for (size_t i = 0; i < weights.size(); ++i) {
        found.emplace_back(static_cast<size_t>(counts[i] * weights[i].rows()), kUntouched);
        products.push_back({x.data(), counts[i], k, rows.data() + (i == 4 ? 2 : 0), &weights[i],
                            found.back().data(), weights[i].rows(), c.math, false});
      }
      device::ExecContext ctx = machine.ctx();
      grouped_matmul(ctx, products);
      Machine reference(Isa::reference);
      for (size_t i = 0; i < weights.size(); ++i) {
        std::vector<float> gathered;
        for (int64_t r = 0; r < counts[i]; ++r) {
          const float* row = x.data() + products[i].x_rows[r] * k;
          gathered.insert(gathered.end(), row, row + k);
        }
        expect_same(found[i], product(reference, weights[i], c.math, gathered.data(), counts[i], k),
                    weights[i].rows(), fmt::format("{}, product {}", name(c), i));
      }
    }
  }
}

// With x a unit vector the output is the weight itself: every code and every scale.
TEST_P(MatmulVersions, EveryCodeTimesEveryScale) {
  for (MatmulMath math : {MatmulMath::f32, MatmulMath::bf16}) {
    for (WeightFormat format : {WeightFormat::fp8, WeightFormat::fp4}) {
      RngStream rng(11, RngPurpose::data, 0);
      const int64_t n = 256, k = format == WeightFormat::fp8 ? 8 : 32;
      for (int scale = 0; scale < 255; scale += scale < 3 || scale > 251 ? 1 : 31) {
        TestWeight weight = make_weight(format, n, k, rng);
        for (int64_t row = 0; row < n; ++row) {
          std::fill_n(weight.codes() + row * weight.tensor.weight.shape[1],
                      weight.tensor.weight.shape[1], static_cast<uint8_t>(row));
        }
        std::fill_n(weight.scales(), weight.tensor.scale.num_bytes(), static_cast<uint8_t>(scale));
        const PackedWeight w = pack(weight.tensor);
        EXPECT_EQ(w.has_nan_codes(), format == WeightFormat::fp8);
        for (int64_t m : {1, 2, 3, 26}) {
          std::vector<float> x(static_cast<size_t>(m * k), 0.0f);
          for (int64_t i = 0; i < m; ++i) x[i * k + i % k] = 1.0f;
          Machine fast(GetParam());
          const std::vector<float> y = product(fast, w, math, x.data(), m, k);
          for (int64_t i = 0; i < m * n; ++i) {
            const auto byte = static_cast<uint8_t>(i % n);
            const bool high = i / n % k % 2 == 1;
            const float code = format == WeightFormat::fp8
                                   ? numeric::float_from_e4m3(byte)
                                   : numeric::float_from_e2m1(high ? byte >> 4 : byte & 15);
            // The chain starts at +0, so a product of -0 leaves +0. bf16 math flushes a denormal
            // total.
            float expected = code * numeric::float_from_e8m0(static_cast<uint8_t>(scale)) + 0.0f;
            if (math == MatmulMath::bf16 && std::fabs(expected) < 0x1p-126f)
              expected = std::copysign(0.0f, expected);
            EXPECT_TRUE(same_bits(y[i], expected) || (y[i] == 0 && expected == 0))
                << weight_format_name(format) << " code " << int{byte} << " scale " << scale
                << " m " << m << ": expected " << expected << ", found " << y[i];
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

// Without NaN codes the fast decoder runs; it must know the other 254.
TEST_P(MatmulVersions, EveryFiniteE4m3Code) {
  for (MatmulMath math : {MatmulMath::f32, MatmulMath::bf16}) {
    RngStream rng(12, RngPurpose::data, 0);
    const int64_t n = 256, k = 4;
    TestWeight weight = make_weight(WeightFormat::fp8, n, k, rng);
    for (int64_t i = 0; i < n * k; ++i)
      weight.codes()[i] = static_cast<uint8_t>((i / k & 0x7F) == 0x7F ? 0 : i / k);
    std::fill_n(weight.scales(), weight.tensor.scale.num_bytes(), uint8_t{127});
    const PackedWeight w = pack(weight.tensor);
    EXPECT_FALSE(w.has_nan_codes());
    for (int64_t m : {1, 4}) {
      std::vector<float> x(static_cast<size_t>(m * k), 0.0f);
      for (int64_t i = 0; i < m; ++i) x[i * k + (i + 1) % k] = 1.0f;
      Machine fast(GetParam());
      const std::vector<float> y = product(fast, w, math, x.data(), m, k);
      for (int64_t i = 0; i < m * n; ++i) {
        EXPECT_EQ(y[i], numeric::float_from_e4m3(weight.codes()[i % n * k])) << "code " << i % n;
      }
    }
  }
}

// Versions that multiply x by a power of two beforehand must see where that overflows.
TEST_P(MatmulVersions, LargeInputs) {
  for (const Case& c : kCases) {
    for (int64_t m : {2, 3, 4, 6, 9, 23, 24}) {
      for (float largest : {255.0f, 256.0f, 0x1p100f}) {
        RngStream rng(17, RngPurpose::data, static_cast<uint64_t>(m));
        const int64_t n = 80, k = 160;
        const TestWeight weight = make_weight(c.format, n, k, rng);
        const PackedWeight w = pack(weight.tensor);
        std::vector<float> x = make_rows(c.math, m, k, rng);
        x.back() = -largest;
        Machine reference(Isa::reference), fast(GetParam());
        expect_same(product(fast, w, c.math, x.data(), m, k),
                    product(reference, w, c.math, x.data(), m, k), n,
                    fmt::format("{} m={} largest={}", name(c), m, largest));
      }
    }
  }
}

TEST_P(MatmulVersions, NanAndInfinityPropagate) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Case& c : kCases) {
    for (int64_t m : {1, 4, 30}) {
      RngStream rng(13, RngPurpose::data, 0);
      const int64_t n = 70, k = 160;
      const TestWeight weight = make_weight(c.format, n, k, rng);
      const PackedWeight w = pack(weight.tensor);
      std::vector<float> x = make_rows(c.math, m, k, rng);
      x[0] = kInf;
      x[k - 1] = -kInf;
      if (m > 1) x[k + 77] = std::numeric_limits<float>::quiet_NaN();
      if (m > 2) x[2 * k + 100] = kInf;
      Machine reference(Isa::reference), fast(GetParam());
      const std::vector<float> y = product(fast, w, c.math, x.data(), m, k);
      expect_same(y, product(reference, w, c.math, x.data(), m, k), n, name(c));
      if (m > 1) {
        EXPECT_TRUE(std::isnan(y[n])) << name(c);
      }
    }
  }
}

// Values around the smallest normal float and the largest: flushing and overflow fall where the
// reference has them.
TEST_P(MatmulVersions, DenormalsAndOverflow) {
  for (const Case& c : kCases) {
    for (int64_t m : {1, 5, 30}) {
      RngStream rng(14, RngPurpose::data, static_cast<uint64_t>(m));
      const int64_t n = 80, k = 256;
      TestWeight weight = make_weight(c.format, n, k, rng);
      if (scale_group(c.format) != 0) {
        for (int64_t i = 0; i < weight.tensor.scale.num_bytes(); ++i) {
          weight.scales()[i] =
              static_cast<uint8_t>(std::array{0, 1, 2, 100, 253, 254}[rng.next_u32() % 6]);
        }
      }
      if (c.format == WeightFormat::bf16) {
        for (int64_t i = 0; i < n * k; ++i) {
          const auto bits =
              static_cast<uint16_t>((rng.next_u32() & 0x80FF) | (i % 3 == 0 ? 0x3F80 : 0));
          std::memcpy(weight.codes() + i * 2, &bits, 2);
        }
      }
      const PackedWeight w = pack(weight.tensor);
      std::vector<float> x(static_cast<size_t>(m * k));
      // Small ones alone too: beside large ones they would only be rounded away.
      for (const auto& exponents :
           {std::array<uint32_t, 6>{0, 1, 3, 10, 120, 230}, {0, 0, 0, 1, 1, 2}}) {
        for (float& value : x) {
          const uint32_t exponent = exponents[rng.next_u32() % 6] << 23;
          value = std::bit_cast<float>((rng.next_u32() & 0x807F0000) | exponent);
        }
        Machine reference(Isa::reference, 1), fast(GetParam());
        expect_same(product(fast, w, c.math, x.data(), m, k),
                    product(reference, w, c.math, x.data(), m, k), n,
                    fmt::format("{} m={}", name(c), m));
      }
    }
  }
}

TEST_P(MatmulVersions, NoRows) {
  RngStream rng(15, RngPurpose::data, 0);
  const TestWeight weight = make_weight(WeightFormat::fp4, 64, 64, rng);
  const PackedWeight w = pack(weight.tensor);
  Machine fast(GetParam());
  device::ExecContext ctx = fast.ctx();
  matmul(ctx, {nullptr, 0, 0, nullptr, &w, nullptr, 0, MatmulMath::bf16, false});
}

INSTANTIATE_TEST_SUITE_P(Isa, MatmulVersions, testing::ValuesIn(fast_isas()), [](const auto& info) {
  return std::string(device::isa_name(info.param));
});

TEST(Matmul, PrintsTheVersionsThatRan) {
  std::string names;
  for (Isa isa : fast_isas()) names += fmt::format(" {}", device::isa_name(isa));
  std::cout << "versions tested against the reference:" << names << "\n";
  if (names.empty()) GTEST_SKIP() << "this machine has none of the fast instruction sets";
}

// |y - exact| <= gamma * sum |x w| with gamma = (K + 2G) u / (1 - (K + 2G) u): K roundings in the
// chain, two per scale group, one more each in bf16 math's pairs being the same count (u = 2^-24;
// Higham, Accuracy and Stability, 3.1).
TEST(MatmulReference, AgreesWithDoublePrecision) {
  for (const Case& c : kCases) {
    RngStream rng(16, RngPurpose::data, 0);
    const int64_t m = 3, n = 70, k = 530;
    const TestWeight weight = make_weight(c.format, n, k, rng);
    const PackedWeight w = pack(weight.tensor);
    const std::vector<float> x = make_rows(c.math, m, k, rng);
    Machine reference(Isa::reference);
    const std::vector<float> y = product(reference, w, c.math, x.data(), m, k);
    const std::vector<float> values = tensor::dequantize(weight.tensor);
    const double steps = static_cast<double>(k + 2 * (k / 32 + 1)) * 0x1p-24;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double exact = 0, magnitude = 0;
        for (int64_t l = 0; l < k; ++l) {
          const double term = double{x[i * k + l]} * values[j * k + l];
          exact += term;
          magnitude += std::fabs(term);
        }
        EXPECT_LE(std::fabs(y[i * n + j] - exact), steps / (1 - steps) * magnitude) << name(c);
      }
    }
  }
}

// The order of the chain, from the header, on numbers that tell orders apart: 2^24 + 1 rounds to
// 2^24.
TEST(MatmulReference, TakesTheOddInputOfEachPairFirstInBf16Math) {
  TestWeight weight;
  weight.tensor.rows = 1;
  weight.tensor.columns = 4;
  weight.tensor.weight = {tensor::DType::bf16, {1, 4}, nullptr};
  weight.weight_bytes.resize(9);
  const uint16_t one = numeric::bf16_from_float(1.0f);
  for (int i = 0; i < 4; ++i) std::memcpy(weight.codes() + 2 * i, &one, 2);
  weight.tensor.weight.data = reinterpret_cast<std::byte*>(weight.codes());
  const PackedWeight w = pack(weight.tensor);
  Machine reference(Isa::reference);
  const float big = 0x1p24f;
  const std::vector<float> x = {big, 1.0f, 1.0f, -big};
  EXPECT_EQ(product(reference, w, MatmulMath::f32, x.data(), 1, 4)[0], 0.0f);   // big + 1 + 1 - big
  EXPECT_EQ(product(reference, w, MatmulMath::bf16, x.data(), 1, 4)[0], 1.0f);  // 1 + big - big + 1
}

}  // namespace
}  // namespace cachalot::ops
