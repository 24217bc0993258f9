// What training relies on in mHC (reference/training 10): the mixing matrices are close to doubly
// stochastic, their products stay bounded over the depth of the model, the norm may follow the
// projection, and the projection repeats its bits.
#include <algorithm>
#include <array>
#include <utility>

#include "ops/elementwise/kernel_test.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/matmul/matmul.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kStreams = 4;
using Mixing = std::array<double, kStreams * kStreams>;  // comb: source, destination

// `rows` mixing matrices from uniform logits in [-range, range].
std::vector<Mixing> random_mixings(int64_t rows, double range, uint64_t index) {
  constexpr int64_t kWidth = 2 * kStreams + kStreams * kStreams;
  RngStream rng(20260424, RngPurpose::data, index);
  std::vector<float> mixes(rows * kWidth), inv_rms(rows, 1.0f), pre(rows * kStreams);
  for (float& value : mixes) value = static_cast<float>((2 * rng.next_unit() - 1) * range);
  const std::vector<float> base(kWidth, 0.0f), scale(3, 1.0f);
  std::vector<float> post(pre.size()), comb(rows * kStreams * kStreams);
  TestContext ctx(device::machine_isa());
  hyper_split(ctx, {mixes.data(), inv_rms.data(), base.data(), scale.data(), rows, kStreams, 20,
                    1e-6f, HyperKind::mhc, pre.data(), post.data(), comb.data()});
  std::vector<Mixing> mixings(rows);
  for (size_t row = 0; row < mixings.size(); ++row) {
    std::copy_n(comb.data() + row * mixings[row].size(), mixings[row].size(), mixings[row].begin());
  }
  return mixings;
}

// The largest distance from 1 of a sum over destinations (rows of comb) or sources.
double row_error(const Mixing& m) {
  double worst = 0;
  for (size_t j = 0; j < kStreams; ++j) {
    worst = std::max(worst, std::fabs(m[4 * j] + m[4 * j + 1] + m[4 * j + 2] + m[4 * j + 3] - 1));
  }
  return worst;
}
double column_error(const Mixing& m) {
  double worst = 0;
  for (size_t k = 0; k < kStreams; ++k) {
    worst = std::max(worst, std::fabs(m[k] + m[4 + k] + m[8 + k] + m[12 + k] - 1));
  }
  return worst;
}

// The envelopes of H1 are of real numbers. In fp32 the last column pass adds the rounding of its
// divisor (n additions, each half an ulp of a sum up to 1, of which one at most rounds above 1) and
// of its quotients: (n + 2) * 2^-25 of a sum of 1, for columns and for rows.
TEST(MixingMatrix, IsNonNegativeAndNearlyDoublyStochastic) {
  constexpr double kRounding = (kStreams + 2) * 0x1p-25;
  const std::pair<double, double> envelopes[] = {{1, 1e-6}, {2, 2e-4}, {4, 3e-2}, {8, 7e-2}};
  for (const auto& [range, row_envelope] : envelopes) {
    double worst_row = 0, worst_column = 0;
    for (const Mixing& m : random_mixings(3000, range, 171)) {
      for (double value : m) EXPECT_GE(value, 0.0);
      worst_row = std::max(worst_row, row_error(m));
      worst_column = std::max(worst_column, column_error(m));
    }
    EXPECT_LE(worst_column, 1.1e-6 + kRounding) << range;
    EXPECT_LE(worst_row, row_envelope + kRounding) << range;
    EXPECT_GE(worst_row, row_envelope / 10) << range << ": the draws do not come near the envelope";
  }
  for (double range : {30.0, 300.0}) {
    for (const Mixing& m : random_mixings(300, range, 172)) {
      for (double value : m) EXPECT_GE(value, 0.0);
      EXPECT_LE(column_error(m), 1.1e-6 + kRounding) << range;
    }
  }
}

// 61 layers of two sublayers.
TEST(MixingMatrix, ProductsOverTheDepthOfProStayBounded) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Mixing product{};
    for (size_t j = 0; j < kStreams; ++j) product[5 * j] = 1;
    for (const Mixing& m : random_mixings(122, 4.0, 180 + seed)) {
      Mixing next{};
      for (size_t j = 0; j < kStreams; ++j) {
        for (size_t i = 0; i < kStreams; ++i) {
          for (size_t k = 0; k < kStreams; ++k)
            next[4 * j + k] += product[4 * j + i] * m[4 * i + k];
        }
      }
      product = next;
    }
    // Entries are not negative: a sum is below 1.05 where the error above 1 is below 0.05.
    EXPECT_LT(row_error(product), 0.05) << seed;
    EXPECT_LT(column_error(product), 0.05) << seed;
  }
}

constexpr int64_t kMixes = 2 * kStreams + kStreams * kStreams;

PackedWeight pack(device::ExecContext& ctx, const std::vector<float>& fn, int64_t columns) {
  tensor::QuantTensor weight;
  weight.rows = kMixes;
  weight.columns = columns;
  weight.weight = {tensor::DType::f32, {kMixes, columns}, std::as_bytes(std::span(fn)).data()};
  return std::move(PackedWeight::pack(ctx, weight)).value();
}

std::vector<float> project(device::ExecContext& ctx, const PackedWeight& fn,
                           const std::vector<float>& x, int64_t first_row, int64_t rows) {
  std::vector<float> mixes(rows * kMixes);
  MatmulParams p{};
  p.x = x.data() + first_row * fn.columns();
  p.m = rows;
  p.x_stride = fn.columns();
  p.w = &fn;
  p.y = mixes.data();
  p.y_stride = kMixes;
  p.math = MatmulMath::f32;
  matmul(ctx, p);
  return mixes;
}

// (fn . x) * factor against fn . (x * factor): both sum K terms in fp32.
TEST(MixProjection, NormalisingAfterItEqualsNormalisingBefore) {
  const int64_t d = 300, columns = kStreams * d, rows = 5;
  const std::vector<float> x = random_values(rows * columns, 201, 2.0);
  const std::vector<float> fn = random_values(kMixes * columns, 202);
  TestContext ctx(device::machine_isa(), 2);
  const PackedWeight weight = pack(ctx, fn, columns);
  std::vector<float> factor(rows), normalised = x;
  hyper_inv_rms(ctx, x.data(), rows, columns, 1e-6f, factor.data());
  for (size_t i = 0; i < x.size(); ++i) normalised[i] *= factor[i / columns];
  const std::vector<float> after = project(ctx, weight, x, 0, rows);
  const std::vector<float> before = project(ctx, weight, normalised, 0, rows);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < kMixes; ++i) {
      double size = 0;
      for (int64_t q = 0; q < columns; ++q) {
        size += std::fabs(static_cast<double>(fn[i * columns + q]) * normalised[row * columns + q]);
      }
      // Each sum is a chain of K roundings, whose errors, at most half an ulp of partial sums below
      // `size`, add up like the steps of a random walk: 8 sqrt(K) leaves nothing to chance. One
      // more rounding for the factor.
      const double tolerance =
          0x1p-24 * size * (2 * 8 * std::sqrt(static_cast<double>(columns)) + 1);
      EXPECT_NEAR(after[row * kMixes + i] * factor[row], before[row * kMixes + i], tolerance);
    }
  }
}

// The product is 24 wide and long in K, the shape where others split K and add the parts as they
// come.
TEST(MixProjection, RepeatsItsBitsForAnyBatchAndThreads) {
  const int64_t columns = kStreams * 2048, rows = 9;
  const std::vector<float> x = random_values(rows * columns, 203);
  const std::vector<float> fn = random_values(kMixes * columns, 204);
  TestContext single(device::machine_isa());
  const PackedWeight weight = pack(single, fn, columns);
  const std::vector<float> expected = project(single, weight, x, 0, rows);
  for (int num_threads : {1, 2, 3, 5}) {
    TestContext ctx(device::machine_isa(), num_threads);
    for (int repeat = 0; repeat < 5; ++repeat) {
      for (int64_t batch : {rows, int64_t{1}, int64_t{4}}) {
        std::vector<float> found;
        for (int64_t row = 0; row < rows; row += batch) {
          const auto part = project(ctx, weight, x, row, std::min(batch, rows - row));
          found.insert(found.end(), part.begin(), part.end());
        }
        expect_same_values(expected, found, std::to_string(num_threads) + " threads");
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
