#include "ops/matmul/matmul_backward.h"

#include <fmt/format.h>

#include "ops/elementwise/kernel_test.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_test_data.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t m, n, k;
  bool gathers = false;
};

// One product's operands, with padding between rows and dw already holding numbers.
struct Operands {
  Case c;
  int64_t dy_stride, x_stride, dw_stride;
  std::vector<float> dy, x, dw;
  std::vector<int32_t> x_rows;

  explicit Operands(const Case& shape, uint64_t seed = 0)
      : c(shape), dy_stride(c.n + 3), x_stride(c.k + 2), dw_stride(c.k + 5) {
    dy = random_values(c.m * dy_stride, 31 + seed, 2.0);
    x = random_values((c.m + 2) * x_stride, 32 + seed, 2.0);
    dw = random_values(c.n * dw_stride, 33 + seed);
    for (int64_t t = 0; t < c.m; ++t)
      x_rows.push_back(static_cast<int32_t>(c.gathers ? (t * 7 + 1) % (c.m + 2) : t));
  }
  // Rows [begin, end).
  MatmulWeightGradParams params(std::vector<float>& into, int64_t begin, int64_t end) const {
    return {.dy = dy.data() + begin * dy_stride,
            .m = end - begin,
            .dy_stride = dy_stride,
            .x = c.gathers ? x.data() : x.data() + begin * x_stride,
            .x_stride = x_stride,
            .x_rows = c.gathers ? x_rows.data() + begin : nullptr,
            .dw = into.data(),
            .n = c.n,
            .k = c.k,
            .dw_stride = dw_stride};
  }
  std::vector<float> gradient(device::ExecContext& ctx) const {
    std::vector<float> result = dw;
    matmul_weight_grad(ctx, params(result, 0, c.m));
    return result;
  }
  std::string name() const {
    return fmt::format("m={} n={} k={}{}", c.m, c.n, c.k, c.gathers ? " gathered" : "");
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 65}) all.push_back({9, n, 20});
  for (int64_t k : {1, 7, 15, 16, 17, 33, 63, 64, 65, 130}) {
    all.push_back({5, 13, k});
    all.push_back({3, 30, k, true});
  }
  for (int64_t m : {1, 2, 31, 32, 33, 64, 65, 255, 256, 257, 300}) {
    all.push_back({m, 7, 18});
    all.push_back({m, 26, 66, true});
  }
  all.push_back({258, 1, 8195, true});  // two chunks of rows
  all.push_back({40, 400, 70});
  return all;
}

TEST(MatmulWeightGrad, EveryVersionHasTheReferenceBits) {
  for (const Case& c : cases()) {
    const Operands operands(c);
    TestContext reference(device::Isa::reference);
    const std::vector<float> expected = operands.gradient(reference);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      expect_same_values(expected, operands.gradient(ctx), name + ", " + operands.name());
    });
  }
}

// M fused steps after the starting value: |found - exact| <= gamma (|dw| + sum |dy x|), gamma = M u
// / (1 - M u).
TEST(MatmulWeightGrad, AddsTheProductOfTheTransposes) {
  for (const Case& c : {Case{1, 5, 9}, Case{70, 13, 21, true}}) {
    const Operands o(c);
    TestContext reference(device::Isa::reference);
    const std::vector<float> found = o.gradient(reference);
    const double steps = static_cast<double>(c.m) * 0x1p-24;
    for (int64_t n = 0; n < c.n; ++n) {
      for (int64_t k = 0; k < o.dw_stride; ++k) {
        const auto at = static_cast<size_t>(n * o.dw_stride + k);
        if (k >= c.k) {
          EXPECT_EQ(found[at], o.dw[at]) << "padding of row " << n;
          continue;
        }
        double exact = o.dw[at], magnitude = std::fabs(exact);
        for (int64_t t = 0; t < c.m; ++t) {
          const double term = double{o.dy[t * o.dy_stride + n]} * o.x[o.x_rows[t] * o.x_stride + k];
          exact += term;
          magnitude += std::fabs(term);
        }
        EXPECT_LE(std::fabs(found[at] - exact), steps / (1 - steps) * magnitude) << n << " " << k;
      }
    }
  }
}

TEST(MatmulWeightGrad, RowsInSeveralCallsGiveTheSameBits) {
  for (bool gathers : {false, true}) {
    const Operands operands({260, 1, 8195, gathers});
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> cut = operands.dw;
      int64_t begin = 0;
      for (int64_t end : {1, 9, 100, 100, 260}) {
        matmul_weight_grad(ctx, operands.params(cut, begin, end));
        begin = end;
      }
      expect_same_values(operands.gradient(ctx), cut, name);
    });
  }
}

TEST(MatmulWeightGrad, GroupsHaveTheBitsOfSingleProducts) {
  std::vector<Operands> experts;
  for (const Case& c : {Case{12, 40, 70, true}, Case{0, 40, 70, true}, Case{1, 40, 70, true},
                        Case{258, 1, 8195, true}, Case{33, 70, 40}}) {
    experts.emplace_back(c, experts.size() * 10);
  }
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<std::vector<float>> found;
    for (const Operands& expert : experts) found.push_back(expert.dw);
    std::vector<MatmulWeightGradParams> products;
    for (size_t i = 0; i < experts.size(); ++i)
      products.push_back(experts[i].params(found[i], 0, experts[i].c.m));
    grouped_matmul_weight_grad(ctx, products);
    for (size_t i = 0; i < experts.size(); ++i)
      expect_same_values(experts[i].gradient(ctx), found[i], fmt::format("{}, {}", name, i));
  });
}

// The whole of the backward pass against central differences: L = sum c * (X W^T) in double, dY =
// c. L is bilinear, so a central difference is exact but for rounding: h = 1/8 and terms below 2^6
// leave 2^-44. The gradients have chains of 13 and 6 fp32 steps over terms below 8, and start from
// 1.
TEST(MatmulBackward, EqualsCentralDifferences) {
  const int64_t m = 6, n = 13, k = 9;
  const std::vector<float> x = random_values(m * k, 41), w = random_values(n * k, 42),
                           dy = random_values(m * n, 43);
  const auto loss = [&](const std::vector<double>& x64, const std::vector<double>& w64) {
    double sum = 0;
    for (int64_t i = 0; i < m * n; ++i) {
      double y = 0;
      for (int64_t l = 0; l < k; ++l) y += x64[i / n * k + l] * w64[i % n * k + l];
      sum += dy[i] * y;
    }
    return sum;
  };
  const std::vector<double> x64(x.begin(), x.end()), w64(w.begin(), w.end());
  const auto slope = [&](bool of_x, size_t i) {
    std::vector<double> up = of_x ? x64 : w64, down = up;
    up[i] += 0.125;
    down[i] -= 0.125;
    return of_x ? (loss(up, w64) - loss(down, w64)) * 4 : (loss(x64, up) - loss(x64, down)) * 4;
  };
  constexpr double kTolerance = 14 * 8 * 14 * 0x1p-24;
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> dx(x.size(), 1.0f), dw(w.size(), 1.0f);
    PackedWeight transposed;
    transposed.assign_transposed(ctx, WeightFormat::f32, {w.data(), n, k, k});
    matmul(ctx, {.x = dy.data(),
                 .m = m,
                 .x_stride = n,
                 .w = &transposed,
                 .y = dx.data(),
                 .y_stride = k,
                 .math = MatmulMath::f32,
                 .accumulate = true});
    matmul_weight_grad(ctx, {.dy = dy.data(),
                             .m = m,
                             .dy_stride = n,
                             .x = x.data(),
                             .x_stride = k,
                             .dw = dw.data(),
                             .n = n,
                             .k = k,
                             .dw_stride = k});
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_NEAR(dx[i], 1 + slope(true, i), kTolerance) << name;
    for (size_t i = 0; i < w.size(); ++i)
      EXPECT_NEAR(dw[i], 1 + slope(false, i), kTolerance) << name;
  });
}

// The packed matrix is W or its transpose, f32 or rounded once, whatever was in the object before.
TEST(PackedWeightAssign, HoldsTheMatrixOrItsTranspose) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    PackedWeight w, transposed;
    for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16}) {
      for (const auto& [rows, columns] :
           {std::array<int64_t, 2>{1, 1}, {3, 70}, {64, 33}, {64, 33}, {65, 16}, {130, 47}}) {
        const int64_t stride = columns + 3;
        const std::vector<float> values =
            random_values(rows * stride, static_cast<uint64_t>(rows * 100 + columns));
        w.assign(ctx, format, {values.data(), rows, columns, stride});
        transposed.assign_transposed(ctx, format, {values.data(), rows, columns, stride});
        ASSERT_EQ(w.rows(), rows);
        ASSERT_EQ(transposed.rows(), columns);
        ASSERT_EQ(transposed.columns(), rows);
        ASSERT_EQ(w.format(), format);
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            float expected = values[i * stride + j];
            if (format == WeightFormat::bf16) expected = numeric::round_to_bf16(expected);
            ASSERT_EQ(w.code_value(i, j), expected) << name << " " << i << " " << j;
            ASSERT_EQ(transposed.code_value(j, i), expected) << name << " " << i << " " << j;
          }
        }
        // Lanes and inputs beyond the matrix are zeros, also where the memory held another matrix.
        for (const PackedWeight* packed : {&w, &transposed}) {
          const int64_t last = packed->num_panels() - 1;
          for (int64_t lane = packed->rows(); lane < last * 64 + packed->panel_width(last);
               ++lane) {
            for (int64_t i = 0; i < packed->padded_columns(); ++i)
              ASSERT_EQ(packed->code_value(lane, i), 0.0f) << name << " lane " << lane;
          }
          for (int64_t lane = 0; lane < packed->rows(); ++lane) {
            for (int64_t i = packed->columns(); i < packed->padded_columns(); ++i)
              ASSERT_EQ(packed->code_value(lane, i), 0.0f) << name << " input " << i;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace cachalot::ops
