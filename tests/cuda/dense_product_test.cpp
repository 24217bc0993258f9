// The fp8 product on the GPU against double, over shapes that leave rests everywhere, and its
// promises about bits.
#include <algorithm>

#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/streamed_weight.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/quantised_reference.h"

namespace cachalot::ops {
namespace {

using testing::Fp8Weight;
using testing::Rng;

struct Operands {
  Fp8Weight weight;
  std::vector<uint16_t> x;  // [m, groups * columns]
};

Operands random_operands(Rng& rng, const DenseShape& s) {
  Operands o;
  o.weight.rows = s.rows;
  o.weight.columns = s.columns;
  o.weight.codes = testing::random_e4m3(rng, s.rows * s.columns);
  o.weight.scales = testing::random_bytes(rng, (s.rows + 127) / 128 * (s.columns / 128), 112, 122);
  o.x = testing::random_bf16(rng, s.m * s.groups * s.columns);
  return o;
}

class DenseProduct : public testing::CudaTest {
 protected:
  std::vector<uint16_t> run(const DenseShape& s, const testing::cuda::DeviceBuffer& weight,
                            const std::vector<uint16_t>& x) {
    Result<DensePlan> plan = make_dense_plan(device_, s);
    EXPECT_TRUE(plan.has_value()) << plan.error().message();
    if (!plan) return {};
    const auto x_buffer = put(x);
    const auto y_buffer = room(s.m * s.rows * 2);
    const auto scratch = room(std::max<int64_t>(16, plan->scratch_bytes));
    launch_dense(*plan, stream_, x_buffer.as<uint16_t>(), s.groups * s.columns, weight.data(),
                 y_buffer.as<uint16_t>(), s.rows, scratch.data());
    return get<uint16_t>(y_buffer);
  }
  testing::cuda::DeviceBuffer streamed(const Fp8Weight& w) {
    Result<std::vector<std::byte>> bytes =
        stream_fp8(w.codes.data(), w.scales.data(), w.rows, w.columns);
    EXPECT_TRUE(bytes.has_value());
    return put(*bytes);
  }
  // From some rows on.
  void expect_rows_alone(int64_t rows, int64_t columns);
  void expect_many_as_few(int64_t rows, int64_t columns);
  // Two groups of rows that share x, of many rows, and each alone.
  void expect_groups_as_alone(int64_t first_rows, int64_t rows, int64_t columns);
  // Unquantised: many rows of floats, the same rows in bf16, and few.
  void expect_wide_as_few(int64_t rows, int64_t columns);
};

const char* name(DenseForm form) {
  return form == DenseForm::official       ? "official"
         : form == DenseForm::official_fp8 ? "official-fp8"
                                           : "unquantised";
}

void DenseProduct::expect_rows_alone(int64_t rows, int64_t columns) {
  Rng rng(2);
  for (const DenseForm form :
       {DenseForm::official, DenseForm::official_fp8, DenseForm::unquantised}) {
    const DenseShape s{form, 13, rows, columns};
    const Operands o = random_operands(rng, s);
    const auto weight = streamed(o.weight);
    const auto all = run(s, weight, o.x);
    ASSERT_EQ(all, run(s, weight, o.x)) << name(form);
    for (const int64_t m : {1, 2, 3, 4, 7, 8, 12}) {
      DenseShape few = s;
      few.m = m;
      for (int64_t first = 0; first + m <= s.m; first += 5) {
        const auto found = run(few, weight,
                               std::vector<uint16_t>(o.x.begin() + first * columns,
                                                     o.x.begin() + (first + m) * columns));
        int64_t num_different = 0;
        for (size_t i = 0; i < found.size(); ++i)
          num_different += found[i] != all[first * s.rows + i];
        EXPECT_EQ(num_different, 0)
            << name(form) << " columns " << columns << " m " << m << " from row " << first;
      }
    }
  }
}

void DenseProduct::expect_many_as_few(int64_t rows, int64_t columns) {
  Rng rng(3);
  const DenseShape s{DenseForm::official_fp8, 700, rows, columns};
  const Operands o = random_operands(rng, s);
  const auto weight = streamed(o.weight);
  const auto all = run(s, weight, o.x);
  for (const int64_t first : {0, 63, 130, 690}) {
    DenseShape few = s;
    few.m = 10;
    const auto found = run(few, weight,
                           std::vector<uint16_t>(o.x.begin() + first * columns,
                                                 o.x.begin() + (first + few.m) * columns));
    int64_t num_different = 0;
    for (size_t i = 0; i < found.size(); ++i) num_different += found[i] != all[first * s.rows + i];
    EXPECT_EQ(num_different, 0) << "rows " << rows << " columns " << columns << " from row "
                                << first;
  }
}

void DenseProduct::expect_groups_as_alone(int64_t first_rows, int64_t rows, int64_t columns) {
  Rng rng(7);
  const DenseShape s{DenseForm::official_fp8, 700, rows, columns, 2, false, true};
  const DenseShape alone[2] = {{s.form, s.m, first_rows, columns},
                               {s.form, s.m, rows - first_rows, columns}};
  const Operands o[2] = {random_operands(rng, alone[0]), random_operands(rng, alone[1])};
  const testing::cuda::DeviceBuffer weights[2] = {streamed(o[0].weight), streamed(o[1].weight)};
  const Result<DensePlan> plan = make_dense_plan(device_, s);
  ASSERT_TRUE(plan.has_value()) << plan.error().message();
  const auto x = put(o[0].x), y = room(s.m * rows * 2),
             scratch = room(std::max<int64_t>(16, plan->scratch_bytes));
  const DenseGroup groups[2] = {
      {weights[0].data(), first_rows, y.data(), rows},
      {weights[1].data(), rows - first_rows, y.data() + first_rows * 2, rows}};
  launch_dense(*plan, stream_, x.data(), columns, groups, scratch.data());
  const auto found = get<uint16_t>(y);
  int64_t begin = 0;
  for (int g = 0; g < 2; ++g) {
    const auto expected = run(alone[g], weights[g], o[0].x);
    int64_t num_different = 0;
    for (int64_t i = 0; i < s.m * alone[g].rows; ++i) {
      const int64_t row = i / alone[g].rows, n = i % alone[g].rows;
      num_different += found[row * rows + begin + n] != expected[i];
    }
    EXPECT_EQ(num_different, 0) << "rows " << first_rows << " of " << rows << " columns " << columns
                                << " group " << g;
    begin += alone[g].rows;
  }
}

void DenseProduct::expect_wide_as_few(int64_t rows, int64_t columns) {
  Rng rng(4);
  DenseShape s{DenseForm::unquantised, 700, rows, columns, 2, true};
  const Operands o = random_operands(rng, s);
  const auto weight = streamed(o.weight);
  const int64_t width = s.groups * columns;
  const auto of_rows = [&](const DenseShape& shape, const auto& x) {
    const Result<DensePlan> plan = make_dense_plan(device_, shape);
    EXPECT_TRUE(plan.has_value()) << plan.error().message();
    const auto x_there = put(x), y = room(shape.m * s.rows * 4),
               scratch = room(std::max<int64_t>(16, plan->scratch_bytes));
    launch_dense(*plan, stream_, x_there.data(), width, weight.data(), y.data(), s.rows,
                 scratch.data());
    return get<float>(y);
  };
  const std::vector<float> x = testing::floats_of(o.x);
  const auto all = of_rows(s, x);
  DenseShape narrow = s;
  narrow.bf16_x = true;
  ASSERT_TRUE(dense_takes_bf16(device_, narrow));
  EXPECT_EQ(of_rows(narrow, o.x), all);
  for (const int64_t m : {10, 40}) {
    for (const int64_t first : {0, 63, 660}) {
      DenseShape few = s;
      few.m = m;
      const auto found = of_rows(
          few, std::vector<float>(x.begin() + first * width, x.begin() + (first + m) * width));
      EXPECT_TRUE(std::equal(found.begin(), found.end(), all.begin() + first * s.rows))
          << "columns " << columns << " m " << m << " from row " << first;
    }
  }
  narrow.m = 10;
  EXPECT_FALSE(make_dense_plan(device_, narrow).has_value());
}

TEST_F(DenseProduct, EqualsTheFormulaOverOddShapes) {
  Rng rng(1);
  struct Case {
    int64_t m, rows, columns, groups;
  };
  for (const DenseForm form :
       {DenseForm::official, DenseForm::official_fp8, DenseForm::unquantised}) {
    for (const Case& c : std::initializer_list<Case>{{1, 16, 128, 1},
                                                     {1, 40, 384, 1},
                                                     {1, 256, 4096, 1},
                                                     {2, 136, 1024, 1},
                                                     {3, 72, 1152, 1},
                                                     {5, 2200, 1536, 1},
                                                     {8, 64, 8192, 1},
                                                     {19, 48, 896, 1},
                                                     {19, 48, 1536, 1},
                                                     {1, 64, 1024, 4},
                                                     {3, 96, 1024, 2}}) {
      const DenseShape s{form, c.m, c.rows, c.columns, c.groups};
      const Operands o = random_operands(rng, s);
      const auto found = testing::floats_of(run(s, streamed(o.weight), o.x));
      ASSERT_EQ(found.size(), static_cast<size_t>(s.m * s.rows));
      std::vector<float> x = testing::floats_of(o.x);
      std::vector<double> values(x.begin(), x.end());
      if (form != DenseForm::unquantised) values = testing::quantised(x);
      std::vector<double> expected, bound;
      for (int64_t m = 0; m < s.m; ++m) {
        for (int64_t n = 0; n < s.rows; ++n) {
          const int64_t group = n / (s.rows / s.groups);
          const testing::Dot d =
              testing::dot(values.data() + (m * s.groups + group) * s.columns, o.weight, n);
          expected.push_back(d.value);
          bound.push_back((form == DenseForm::official_fp8 ? testing::wgmma_bound(d, s.columns)
                                                           : testing::mma_bound(d, s.columns)) +
                          testing::bf16_bound(d.value));
        }
      }
      const testing::Difference d = testing::difference(found, expected, bound);
      EXPECT_EQ(d.num_nan, 0);
      EXPECT_LT(d.worst_over_bound, 1)
          << name(form) << " m " << s.m << " rows " << s.rows << " columns " << s.columns
          << " groups " << s.groups << ": at " << d.worst_at << " found " << found[d.worst_at]
          << ", expected " << expected[d.worst_at] << "; relative error " << d.relative;
    }
  }
}

// reference/infrastructure 5.2: a row's bits are those it has alone, and equal run to run.
TEST_F(DenseProduct, ARowDoesNotDependOnTheOthers) {
  for (const int64_t columns : {1152, 4096}) expect_rows_alone(2128, columns);
}

// The kernel for many rows has the bits of that for few.
TEST_F(DenseProduct, ManyRowsHaveTheBitsOfFew) {
  // Blocks of 64 rows and of 128, then of 256; up to eight runs of 128 columns, and more.
  for (const int64_t columns : {384, 1024, 1152, 4096}) expect_many_as_few(2456, columns);
  for (const int64_t columns : {128, 640, 1024, 1280, 4224}) expect_many_as_few(4424, columns);
}

// Where a block of outputs has rows of two groups, so more than one scale.
TEST_F(DenseProduct, ManyRowsOfGroupsHaveTheBitsOfEachAlone) {
  for (const int64_t columns : {640, 1152}) {
    expect_groups_as_alone(1040, 2456, columns);
    expect_groups_as_alone(2064, 4424, columns);
  }
}

TEST_F(DenseProduct, ManyUnquantisedRowsHaveTheBitsOfFew) {
  for (const int64_t columns : {1024, 2048, 4096}) expect_wide_as_few(8192, columns);
}

// reference/infrastructure 4.4: a card of fewer multiprocessors has other plans.
TEST_F(DenseProduct, FewerMultiprocessorsChangeNoBit) {
  Rng rng(6);
  const testing::cuda::Device whole = device_;
  for (const DenseForm form :
       {DenseForm::official, DenseForm::official_fp8, DenseForm::unquantised}) {
    for (const int64_t m : {3, 13, 700}) {
      const DenseShape s{form, m, 2456, 1152};
      const Operands o = random_operands(rng, s);
      const auto weight = streamed(o.weight);
      const auto expected = run(s, weight, o.x);
      for (const int num_sms : {2, 7, 66}) {
        device_.num_sms = num_sms;
        EXPECT_TRUE(run(s, weight, o.x) == expected)
            << name(form) << " m " << m << ", " << num_sms << " multiprocessors";
      }
      device_ = whole;
    }
  }
}

// Of each kernel: rows that are prepared and that are not, blocks of 64, 128 and 256 rows with few
// columns and with many, rows of floats.
TEST_F(DenseProduct, SmallCase) {
  expect_rows_alone(144, 1408);
  for (const int64_t rows : {1280, 2816, 4424}) {
    for (const int64_t columns : {128, 1152}) expect_many_as_few(rows, columns);
  }
  expect_groups_as_alone(1296, 2816, 1152);
  expect_wide_as_few(4608, 1024);
}

// Where rows are floats, x and y of many may be bf16, which holds them.
TEST_F(DenseProduct, ManyRowsMayBeBf16) {
  Rng rng(5);
  for (const DenseForm form : {DenseForm::official_fp8, DenseForm::unquantised}) {
    DenseShape s{form, 300, 8192, 1024, 1, true};
    const Operands o = random_operands(rng, s);
    const auto weight = streamed(o.weight);
    const auto floats = put(testing::floats_of(o.x)), narrow = put(o.x);
    const auto run_as = [&](const DenseShape& shape) {
      const Result<DensePlan> plan = make_dense_plan(device_, shape);
      EXPECT_TRUE(plan.has_value()) << plan.error().message();
      auto y = room(s.m * s.rows * (shape.bf16_y ? 2 : 4));
      const auto scratch = room(std::max<int64_t>(16, plan->scratch_bytes));
      launch_dense(*plan, stream_, shape.bf16_x ? narrow.data() : floats.data(), s.columns,
                   weight.data(), y.data(), s.rows, scratch.data());
      return y;
    };
    const auto all = get<float>(run_as(s));
    s.bf16_x = true;
    ASSERT_TRUE(dense_takes_bf16(device_, s));
    EXPECT_EQ(get<float>(run_as(s)), all) << name(form);
    s.bf16_y = true;
    EXPECT_EQ(testing::floats_of(get<uint16_t>(run_as(s))), all) << name(form);
    s.bf16_x = false;
    EXPECT_EQ(testing::floats_of(get<uint16_t>(run_as(s))), all) << name(form);
    s.m = 10;
    EXPECT_FALSE(make_dense_plan(device_, s).has_value());
  }
}

TEST_F(DenseProduct, APlanNamesWhatItCannotTake) {
  EXPECT_EQ(make_dense_plan(device_, {DenseForm::official, 1, 16, 100}).error().message(),
            "dense product: expected columns in blocks of 128, found 100");
  EXPECT_FALSE(make_dense_plan(device_, {DenseForm::official, 0, 16, 128}).has_value());
  EXPECT_FALSE(make_dense_plan(device_, {DenseForm::official, 1, 24, 1024, 2}).has_value());
}

}  // namespace
}  // namespace cachalot::ops
