// The products with bf16 weights on the GPU's tensor cores against double, over shapes that leave
// rests everywhere, and their promises about bits.
#include <deque>

#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_test_data.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Side;

class Bf16Product : public testing::GpuTest {
 protected:
  PackedWeight streamed(const TestWeight& weight,
                        PackedWeight::OnGpu form = PackedWeight::OnGpu::streamed) {
    Side host(nullptr);
    PackedWeight w = PackedWeight::pack(host.ctx, weight.tensor).value();
    EXPECT_TRUE(w.move_to(*gpu_, form).ok());
    EXPECT_EQ(w.on_gpu(), PackedWeight::OnGpu::streamed);
    return w;
  }
  // Of the rows x [m, K], a result a weight; the first is rounded.
  std::vector<std::vector<float>> run(const std::vector<float>& x, int64_t m,
                                      const std::deque<PackedWeight>& weights) {
    Side side(gpu_.get());
    const float* rows = side.array(x);
    std::vector<MatmulParams> products;
    for (const PackedWeight& w : weights) {
      MatmulParams p{};
      p.x = rows;
      p.m = m;
      p.x_stride = w.columns();
      p.w = &w;
      p.y = side.room<float>(m * (w.rows() + 1));
      p.y_stride = w.rows() + 1;
      p.math = MatmulMath::bf16;
      p.round_y = products.empty();
      products.push_back(p);
    }
    grouped_matmul(side.ctx, products);
    std::vector<std::vector<float>> results;
    for (const MatmulParams& p : products) {
      const std::vector<float> padded = side.read(p.y, m * p.y_stride);
      results.emplace_back();
      for (int64_t i = 0; i < m; ++i) {
        const auto row = padded.begin() + i * p.y_stride;
        results.back().insert(results.back().end(), row, row + p.y_stride - 1);
        EXPECT_TRUE(std::isnan(row[p.y_stride - 1]));
      }
    }
    return results;
  }
  void expect_rows_alone(int64_t columns, std::initializer_list<int64_t> rows, int64_t m,
                         std::initializer_list<int64_t> alone);
};

// Of weights of so many rows: m rows of x at once, and fewer.
void Bf16Product::expect_rows_alone(int64_t columns, std::initializer_list<int64_t> rows,
                                    int64_t m_of_all, std::initializer_list<int64_t> alone) {
  RngStream rng(2, RngPurpose::data, 0);
  std::deque<PackedWeight> weights;
  for (const int64_t of_weight : rows)
    weights.push_back(streamed(make_weight(WeightFormat::bf16, of_weight, columns, rng)));
  const std::vector<float> x = make_bf16_rows(m_of_all, columns, rng);
  const auto all = run(x, m_of_all, weights);
  ASSERT_EQ(all, run(x, m_of_all, weights));
  for (const int64_t m : alone) {
    const int64_t first = (m_of_all - m) / 2;
    const auto found =
        run(std::vector<float>(x.begin() + first * columns, x.begin() + (first + m) * columns), m,
            weights);
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto expected = all[i].begin() + first * weights[i].rows();
      testing::expect_same(found[i], std::vector<float>(expected, expected + m * weights[i].rows()),
                           "columns " + std::to_string(columns) + " m " + std::to_string(m));
    }
  }
}

TEST_F(Bf16Product, EqualsTheFormulaOverOddShapes) {
  RngStream rng(1, RngPurpose::data, 0);
  struct Case {
    int64_t m, columns;
    std::vector<int64_t> rows;
  };
  for (const Case& c : {Case{1, 16, {16}}, Case{1, 208, {40, 5}}, Case{3, 4096, {64, 1024, 17}},
                        Case{8, 2064, {300}}, Case{9, 208, {40, 16}}, Case{33, 4096, {256}},
                        Case{70, 1024, {2100, 40}}, Case{300, 256, {1040}},
                        Case{1700, 1024, {1040, 17}}, Case{2, 7168, {24}}, Case{1, 512, {40000}}}) {
    std::vector<TestWeight> weights;
    std::deque<PackedWeight> packed;
    for (const int64_t rows : c.rows) {
      weights.push_back(make_weight(WeightFormat::bf16, rows, c.columns, rng));
      packed.push_back(streamed(weights.back(), rows % 2 == 0
                                                    ? PackedWeight::OnGpu::streamed
                                                    : PackedWeight::OnGpu::streamed_bf16));
    }
    const std::vector<float> x = make_bf16_rows(c.m, c.columns, rng);
    const auto found = run(x, c.m, packed);
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::vector<float> w = tensor::dequantize(weights[i].tensor);
      std::vector<double> expected, bound;
      std::vector<float> some;
      for (int64_t m = 0; m<c.m; m += c.m> 40 ? 23 : 1) {
        for (int64_t n = 0; n<c.rows[i]; n += c.rows[i]> 3000 ? 37 : 1) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < c.columns; ++k) {
            const double term = double{x[m * c.columns + k]} * w[n * c.columns + k];
            sum += term;
            magnitude += std::fabs(term);
          }
          expected.push_back(sum);
          some.push_back(found[i][m * c.rows[i] + n]);
          // Every instruction cuts its 17 addends to fp32 of the largest; a run has an eighth of
          // the instructions. Then seven additions, and of the first part a rounding to bf16.
          const double steps = static_cast<double>(c.columns) / 16 / 8 + 1;
          bound.push_back(magnitude * 0x1p-23 * (17 * steps + 7) +
                          (i == 0 ? std::fabs(sum) * 0x1p-8 : 0) + 1e-30);
        }
      }
      const testing::Difference d = testing::difference(some, expected, bound);
      EXPECT_EQ(d.num_nan, 0);
      EXPECT_LT(d.worst_over_bound, 1) << "m " << c.m << " columns " << c.columns << " rows "
                                       << c.rows[i] << ": relative error " << d.relative;
    }
  }
}

// reference/infrastructure 5.2: a row's bits are those it has alone, and equal run to run.
TEST_F(Bf16Product, ARowDoesNotDependOnTheOthers) {
  for (const int64_t columns : {208, 4096})
    expect_rows_alone(columns, {1040, 64}, 700, {1, 5, 8, 9, 40, 150, 699});
}

// Blocks of 128 outputs: of all rows, and of the last outputs for twice the rows or as they are.
TEST_F(Bf16Product, ARowOfVeryManyDoesNotDependOnTheOthers) {
  for (const int64_t columns : {1024, 4096}) {
    expect_rows_alone(columns, {1040, 24, 5}, 1630, {1, 8, 150, 1629});
    expect_rows_alone(columns, {1040, 60, 24}, 1700, {3, 700, 1601});
  }
  expect_rows_alone(1024, {1040, 24, 5}, 760, {9, 759});
  expect_rows_alone(7168, {256}, 3299, {1, 33, 3200});
}

TEST_F(Bf16Product, SmallCase) {
  expect_rows_alone(48, {1040, 64}, 700, {1, 5, 8, 9, 40, 150, 699});
}

TEST(Bf16Tile, IsTheLargestThatGivesEverySmABlock) {
  const auto tile = [](int64_t m, int64_t columns, int64_t units) {
    const Bf16Tile t = choose_bf16_tile(m, columns, units, 132);
    return std::pair(t.units, t.token_tiles);
  };
  EXPECT_EQ(tile(1, 4096, 16), std::pair(1, 0));
  EXPECT_EQ(tile(8, 4096, 16), std::pair(1, 0));
  EXPECT_EQ(tile(8, 16384, 16), std::pair(1, 2));  // x does not fit shared memory
  EXPECT_EQ(tile(9, 4096, 16), std::pair(1, 2));
  EXPECT_EQ(tile(64, 4096, 264), std::pair(2, 4));
  EXPECT_EQ(tile(64, 4096, 528), std::pair(4, 8));
  EXPECT_EQ(tile(4096, 4096, 16), std::pair(8, 8));
  EXPECT_EQ(tile(4096, 4096, 64), std::pair(8, 16));
  EXPECT_EQ(tile(1630, 4096, 68), std::pair(8, 16));
  EXPECT_EQ(tile(1700, 4096, 71), std::pair(8, 16));
  EXPECT_EQ(tile(700, 4096, 69), std::pair(8, 8));
  EXPECT_EQ(tile(760, 1024, 68), std::pair(8, 8));
  EXPECT_EQ(tile(3299, 7168, 16), std::pair(8, 8));
  EXPECT_EQ(tile(4096, 4112, 16), std::pair(4, 8));  // runs are no whole pieces
}

}  // namespace
}  // namespace cachalot::ops
