#include "ops/rows/rows.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kSizes[] = {0, 1, 17, 40000};

TEST(Rows, AddRoundsEachSumOnceOrTwice) {
  for (int64_t n : kSizes) {
    const std::vector<float> x = random_values(n, 1), y = random_values(n, 2, 10.0);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      for (bool round_x : {false, true}) {
        std::vector<float> expected(x.size()), found = x;
        for (size_t i = 0; i < x.size(); ++i) {
          expected[i] = x[i] + y[i];
          if (round_x) expected[i] = numeric::round_to_bf16(expected[i]);
        }
        add_rows(ctx, {found.data(), n, 1, n, y.data(), n}, round_x);
        expect_same_values(expected, found, name);
      }
    });
  }
}

TEST(Rows, FillAndScaleTakeEveryValue) {
  for (int64_t n : kSizes) {
    const std::vector<float> x = random_values(n, 1);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> expected = x, found = x;
      for (float& value : expected) value *= 0.3f;
      scale(ctx, found.data(), n, 0.3f);
      expect_same_bits(expected, found, name);
      fill(ctx, found.data(), n, 2.5f);
      expect_same_bits(std::vector<float>(x.size(), 2.5f), found, name);
    });
  }
}

// Rows and columns of every size against the plain loop, with strides that leave gaps; what lies in
// the gaps stays.
class Strided : public ::testing::Test {
 protected:
  template <typename Plain, typename Op>
  void check(int64_t from_copies, int64_t to_copies, Plain plain, Op op) {
    for (const int64_t rows : {0, 1, 3, 70}) {
      for (const int64_t columns : {1, 5, 64, 9000}) {
        const int64_t from_stride = from_copies * columns + 3, to_stride = to_copies * columns + 2;
        const std::vector<float> from = random_values(rows * from_stride, 1);
        const std::vector<float> to = random_values(rows * to_stride, 2);
        std::vector<float> expected = to;
        plain(from, from_stride, rows, columns, expected, to_stride);
        for_each_context([&](device::ExecContext& ctx, const std::string& name) {
          std::vector<float> found = to;
          op(ctx, from.data(), from_stride, rows, columns, found.data(), to_stride);
          expect_same_bits(expected, found, name + ", " + std::to_string(columns) + " columns");
        });
      }
    }
  }
};

TEST_F(Strided, CopyRepeatsARow) {
  for (const int64_t copies : {1, 4}) {
    check(
        1, copies,
        [&](const auto& from, int64_t from_stride, int64_t rows, int64_t columns, auto& to,
            int64_t to_stride) {
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < copies * columns; ++i)
              to[r * to_stride + i] = from[r * from_stride + i % columns];
        },
        [&](device::ExecContext& ctx, const float* from, int64_t from_stride, int64_t rows,
            int64_t columns, float* to, int64_t to_stride) {
          copy_rows(ctx, {from, from_stride, rows, columns, to, to_stride, copies});
        });
  }
}

TEST_F(Strided, AddTakesARowToEachCopyAndBackLastFirst) {
  for (const int64_t copies : {1, 4}) {
    check(
        1, copies,
        [&](const auto& from, int64_t from_stride, int64_t rows, int64_t columns, auto& to,
            int64_t to_stride) {
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < copies * columns; ++i)
              to[r * to_stride + i] += from[r * from_stride + i % columns];
        },
        [&](device::ExecContext& ctx, const float* from, int64_t from_stride, int64_t rows,
            int64_t columns, float* to, int64_t to_stride) {
          add_rows(ctx, {to, to_stride, rows, columns, from, from_stride, copies}, false);
        });
    check(
        copies, 1,
        [&](const auto& from, int64_t from_stride, int64_t rows, int64_t columns, auto& to,
            int64_t to_stride) {
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = copies * columns - 1; i >= 0; --i)
              to[r * to_stride + i % columns] += from[r * from_stride + i];
        },
        [&](device::ExecContext& ctx, const float* from, int64_t from_stride, int64_t rows,
            int64_t columns, float* to, int64_t to_stride) {
          add_copies(ctx, {to, to_stride, rows, columns, from, from_stride, copies});
        });
  }
}

template <typename Index>
void check_by_index() {
  const int64_t rows = 5, all_rows = 9;
  const std::vector<Index> index = {8, 0, 3, 7, 2};
  for (const int64_t columns : {1, 5, 9000}) {
    const int64_t stride = columns + 2;
    const std::vector<float> many = random_values(all_rows * stride, 1);
    const std::vector<float> few = random_values(rows * stride, 2);
    std::vector<float> gathered = few, gather_added = few, scattered = many, scatter_added = many;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < columns; ++i) {
        const auto one = static_cast<size_t>(r * stride + i);
        const auto other = static_cast<size_t>(index[r] * stride + i);
        gathered[one] = many[other];
        gather_added[one] += many[other];
        scattered[other] = few[one];
        scatter_added[other] += few[one];
      }
    }
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const auto by = [&](const std::vector<float>& from, std::vector<float>& to) {
        return RowsByIndex<Index>{from.data(), stride,    index.data(), rows,
                                  columns,     to.data(), stride};
      };
      std::vector<float> found = few;
      gather_rows(ctx, by(many, found));
      expect_same_bits(gathered, found, name + ", gather");
      found = few;
      gather_add_rows(ctx, by(many, found));
      expect_same_bits(gather_added, found, name + ", gather and add");
      found = many;
      scatter_rows(ctx, by(few, found));
      expect_same_bits(scattered, found, name + ", scatter");
      found = many;
      scatter_add_rows(ctx, by(few, found));
      expect_same_bits(scatter_added, found, name + ", scatter and add");
    });
  }
}

TEST(Rows, GatherAndScatterTakeTheRowsNamed) {
  check_by_index<int32_t>();
  check_by_index<int64_t>();
}

TEST(Rows, MaxMagnitudePassesOverNan) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> x(200'000, 0.5f);
    EXPECT_EQ(max_magnitude(ctx, x.data(), 0, 0.25f), 0.25f) << name;
    EXPECT_EQ(max_magnitude(ctx, x.data(), 200'000, 0.25f), 0.5f) << name;
    EXPECT_EQ(max_magnitude(ctx, x.data(), 200'000, 7.0f), 7.0f) << name;
    x[70'000] = -3;
    x[199'999] = kNan;
    EXPECT_EQ(max_magnitude(ctx, x.data(), 200'000, 0.0f), 3.0f) << name;
    x[199'998] = -kInf;
    EXPECT_EQ(max_magnitude(ctx, x.data(), 200'000, 0.0f), kInf) << name;
  });
}

}  // namespace
}  // namespace cachalot::ops
