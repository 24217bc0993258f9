#include "ops/quant/act_quant.h"

#include <functional>

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

using Op = std::function<void(device::ExecContext&, const RowsParams&)>;

std::vector<float> apply(device::ExecContext& ctx, std::vector<float> x, int64_t rows,
                         int64_t columns, int64_t stride, const Op& op) {
  op(ctx, {x.data(), rows, columns, stride});
  return x;
}
std::vector<float> apply(std::vector<float> x, const Op& op) {
  TestContext ctx(device::machine_isa());
  const auto n = static_cast<int64_t>(x.size());
  return apply(ctx, std::move(x), 1, n, n, op);
}

void expect_every_version(const std::vector<float>& x, int64_t rows, int64_t columns,
                          int64_t stride, const Op& op, const std::string& what) {
  TestContext reference(device::Isa::reference);
  const std::vector<float> expected = apply(reference, x, rows, columns, stride, op);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    expect_same_values(expected, apply(ctx, x, rows, columns, stride, op), what + ", " + name);
  });
}

const Op kFp8Of64 = [](device::ExecContext& ctx, const RowsParams& p) { simulate_fp8(ctx, p, 64); };
const Op kFp8Of128 = [](device::ExecContext& ctx, const RowsParams& p) {
  simulate_fp8(ctx, p, 128);
};
const Op kFp4 = [](device::ExecContext& ctx, const RowsParams& p) { simulate_fp4(ctx, p); };
const Op kRound = [](device::ExecContext& ctx, const RowsParams& p) { round_bf16(ctx, p); };

std::vector<float> padded(std::vector<float> x, size_t n) {
  x.resize(n, 0.0f);
  return x;
}

TEST(SimulateFp8, WorkedExample) {
  const std::vector<float> x = {0.5f,     -1.25f, 3.0f,     0.010009765625f, -0.000701904296875f,
                                2.71875f, 100.0f, -7.09375f};
  const std::vector<float> y = {0.5f,  -1.25f, 3.0f, 0.009765625f, -0.00048828125f,
                                2.75f, 96.0f,  -7.0f};
  expect_same_values(padded(y, 64), apply(padded(x, 64), kFp8Of64), "example");
}

TEST(SimulateFp4, WorkedExample) {
  const std::vector<float> x = {0.5f,        -1.25f,   3.0f,          0.01001f,
                                -0.0007019f, 2.71875f, -0.259765625f, 0.30078125f};
  const std::vector<float> y = {0.5f, -1.0f, 3.0f, 0.0f, -0.0f, 3.0f, -0.25f, 0.25f};
  expect_same_values(padded(y, 32), apply(padded(x, 32), kFp4), "example");
}

// reference/forward 12: with an outlier of 448 (6) in the block the scale is 1, and the values are
// the format's own.
TEST(SimulateFp8, GoldenCodesAtScaleOne) {
  const std::vector<float> x = {448.0f, 17.0f, 19.0f, 13.5f, 0x1p-10f, 0.00146484375f, -17.0f};
  const std::vector<float> y = {448.0f, 16.0f, 20.0f, 14.0f, 0.0f, 0.001953125f, -16.0f};
  expect_same_values(padded(y, 64), apply(padded(x, 64), kFp8Of64), "e4m3");
}

TEST(SimulateFp4, GoldenCodesAtScaleOne) {
  const std::vector<float> x = {6.0f, 0.25f, 0.2500001f, 0.75f, 1.25f, 1.75f,
                                2.5f, 3.5f,  5.0f,       5.01f, -5.0f};
  const std::vector<float> y = {6.0f, 0.0f, 0.5f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f, 6.0f, -4.0f};
  expect_same_values(padded(y, 32), apply(padded(x, 32), kFp4), "e2m1");
}

TEST(SimulateFp8, TheScaleDoublesJustAbove448TimesAPowerOfTwo) {
  for (int n = -22; n <= 100; ++n) {
    const float scale = std::ldexp(1.0f, n);
    // 2^-9 of the scale survives only while the scale is that small: it tells which one was taken.
    std::vector<float> x = padded({448.0f * scale, 0x1p-9f * scale}, 64);
    EXPECT_EQ(apply(x, kFp8Of64)[0], x[0]) << n;
    EXPECT_EQ(apply(x, kFp8Of64)[1], x[1]) << n;
    x[0] = 450.0f * scale;  // the next bf16
    EXPECT_EQ(apply(x, kFp8Of64)[0], 448.0f * scale) << n;
    EXPECT_EQ(apply(x, kFp8Of64)[1], 0.0f) << n;  // half a step, ties to even
    x[0] = -448.0f * scale;
    EXPECT_EQ(apply(x, kFp8Of64)[1], x[1]) << n;
  }
}

TEST(SimulateFp8, ZeroRowsAndTheFloor) {
  EXPECT_EQ(apply(std::vector<float>(128, 0.0f), kFp8Of64), std::vector<float>(128, 0.0f));
  // Below the floor the scale is 2^-22, its smallest step 2^-31.
  const std::vector<float> x = padded({0x1p-31f, 0x1p-32f, 0x1.8p-32f, -0x1p-40f}, 64);
  expect_same_values(padded({0x1p-31f, 0.0f, 0x1p-31f, -0.0f}, 64), apply(x, kFp8Of64), "floor");
}

TEST(SimulateFp4, ZeroRowsAndTheFloor) {
  EXPECT_EQ(apply(std::vector<float>(32, 0.0f), kFp4), std::vector<float>(32, 0.0f));
  const std::vector<float> x = padded({0x1p-127f, 0x1p-128f, 0x1.8p-128f}, 32);
  expect_same_values(padded({0x1p-127f, 0.0f, 0x1p-127f}, 32), apply(x, kFp4), "floor");
}

TEST(SimulateFp8, AnOutlierCostsOnlyItsOwnBlock) {
  std::vector<float> x(192, 0.01171875f);
  x[70] = 30000.0f;
  const std::vector<float> y = apply(x, kFp8Of64);
  EXPECT_EQ(y[0], 0.01171875f);
  EXPECT_EQ(y[64], 0.0f);
  EXPECT_EQ(y[128], 0.01171875f);
}

// Snapping again with the scale of the snapped values changes nothing: what makes storing the codes
// lossless.
TEST(SimulateFp8, IsIdempotent) {
  const std::vector<float> once =
      apply(rounded_to_bf16(random_values(64 * 500, 61, 6.0)), kFp8Of64);
  expect_same_values(once, apply(once, kFp8Of64), "fp8");
  expect_same_values(once, rounded_to_bf16(once), "bf16-valued");
}
TEST(SimulateFp4, IsIdempotent) {
  const std::vector<float> once = apply(rounded_to_bf16(random_values(32 * 500, 62, 6.0)), kFp4);
  expect_same_values(once, apply(once, kFp4), "fp4");
  expect_same_values(once, rounded_to_bf16(once), "bf16-valued");
}

// All bf16 values in turn, each beside a companion that sets the scale; NaN and infinities among
// them.
TEST(ActQuant, EveryVersionHasTheReferenceBitsOnEveryBf16Value) {
  for (float companion : {0.0f, 1e-3f, 1.0f, 447.0f, 6.0f, 1e10f, 3e38f}) {
    std::vector<float> x(65536 * 4);
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      x[bits * 4] = companion;
      x[bits * 4 + 1 + bits % 3] = numeric::float_from_bf16(static_cast<uint16_t>(bits));
    }
    const auto n = static_cast<int64_t>(x.size());
    const std::string what = "companion " + std::to_string(companion);
    const Op fp8 = [](device::ExecContext& ctx, const RowsParams& p) { simulate_fp8(ctx, p, 4); };
    expect_every_version(x, 16, n / 16, n / 16, fp8, "fp8 " + what);
    expect_every_version(x, 16, n / 16, n / 16, kFp8Of64, "fp8 " + what);
    expect_every_version(x, 16, n / 16, n / 16, kFp4, "fp4 " + what);
  }
}

TEST(ActQuant, NanStaysWhereItIsAndInfinityStaysFiniteForOthers) {
  std::vector<float> x(64, 1.0f);
  x[5] = kNan;
  for (const Op& op : {kFp8Of64, kFp4}) {
    const std::vector<float> y = apply(x, op);
    for (size_t i = 0; i < 64; ++i) EXPECT_TRUE(i == 5 ? std::isnan(y[i]) : y[i] == 1.0f) << i;
  }
  x[5] = -kInf;
  for (const Op& op : {kFp8Of64, kFp4}) {
    const std::vector<float> y = apply(x, op);
    EXPECT_EQ(y[5], -kInf);
    EXPECT_TRUE(std::isfinite(y[6]));
  }
}

TEST(ActQuant, EveryVersionHasTheReferenceBitsOnEveryRemainder) {
  for (int64_t columns = 1; columns <= 200; columns += columns < 40 ? 1 : 23) {
    const int64_t stride = columns + columns % 4;
    const std::vector<float> x = rounded_to_bf16(random_values(5 * stride, 63, 5.0));
    const std::string what = "columns " + std::to_string(columns);
    expect_every_version(x, 5, columns, stride, kFp8Of64, what);
    expect_every_version(x, 5, columns, stride, kFp8Of128, what);
    expect_every_version(x, 5, columns, stride, kRound, what);
    if (columns % 32 == 0) expect_every_version(x, 5, columns, stride, kFp4, what);
  }
  const std::vector<float> large = rounded_to_bf16(random_values(100 * 512, 64, 5.0));
  expect_every_version(large, 100, 448, 512, kFp8Of64, "100 rows");
  expect_every_version(large, 100, 512, 512, kFp4, "100 rows");
  // What lies past the columns is left alone.
  TestContext ctx(device::machine_isa(), 2);
  const std::vector<float> y = apply(ctx, large, 100, 448, 512, kFp8Of64);
  for (size_t i = 0; i < large.size(); ++i) {
    if (i % 512 >= 448) {
      EXPECT_EQ(y[i], large[i]);
    }
  }
}

// Into other rows, picked by number or not: the bits are those of a copy rounded in place, and what
// is read stays as it was.
TEST(ActQuant, OutOfPlaceHasTheBitsOfACopy) {
  constexpr int64_t kFromRows = 9, kRows = 6, kColumns = 160, kFromStride = 163, kStride = 161;
  const std::vector<float> from = rounded_to_bf16(random_values(kFromRows * kFromStride, 5, 8.0));
  const int32_t index[kRows] = {8, 1, 1, 0, 5, 3};
  const Op kColumnsFp8 = [](device::ExecContext& ctx, const RowsParams& p) {
    simulate_fp8_columns(ctx, p, 4);
  };
  for (const Op& op : {kFp8Of64, kFp8Of128, kFp4, kRound, kColumnsFp8}) {
    for (const int32_t* from_rows : {static_cast<const int32_t*>(nullptr), &index[0]}) {
      std::vector<float> copy(kRows * kStride, 7.0f);
      for (int64_t row = 0; row < kRows; ++row) {
        const int64_t picked = from_rows == nullptr ? row : from_rows[row];
        std::copy_n(&from[picked * kFromStride], kColumns, &copy[row * kStride]);
      }
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        const std::vector<float> expected = apply(ctx, copy, kRows, kColumns, kStride, op);
        std::vector<float> found(copy.size(), 7.0f);
        const std::vector<float> read = from;
        op(ctx, {found.data(), kRows, kColumns, kStride, read.data(), kFromStride, from_rows});
        expect_same_bits(expected, found, name);
        expect_same_bits(from, read, name);
      });
    }
  }
}

TEST(RoundBf16, EqualsTheDefinition) {
  std::vector<float> x = random_values(1000, 65, 100.0);
  for (uint32_t bits = 0; bits < 0x40000; ++bits) {
    x.push_back(
        std::bit_cast<float>(0x7F7E0000 + bits));  // across the largest float, infinity and NaN
    x.push_back(std::bit_cast<float>(0x3F800000 + bits));
    x.push_back(std::bit_cast<float>(0x80000000 + bits));
  }
  expect_same_values(rounded_to_bf16(x), apply(x, kRound), "round_bf16");
}

Op hadamard_op(bool round_result) {
  return [=](device::ExecContext& ctx, const RowsParams& p) { hadamard(ctx, p, round_result); };
}

TEST(Hadamard, SignsOfOrderEight) {
  const char* rows[] = {"++++++++", "+-+-+-+-", "++--++--", "+--++--+",
                        "++++----", "+-+--+-+", "++----++", "+--+-++-"};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    for (size_t j = 0; j < 8; ++j) {
      std::vector<float> unit(8, 0.0f);
      unit[j] = 1.0f;
      const std::vector<float> column = apply(ctx, unit, 1, 8, 8, hadamard_op(false));
      for (size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(column[i], (rows[i][j] == '+' ? 1.0f : -1.0f) * 0.35355339059327373f) << name;
      }
    }
  });
}

// The element (i, j) of Sylvester's matrix is the parity of i & j. Seven additions on values of the
// given size, and the factor.
TEST(Hadamard, OfOrder128IsSylvestersMatrix) {
  const std::vector<float> x = rounded_to_bf16(random_values(128, 66));
  double size = 0;
  for (float value : x) size += std::fabs(value);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> y = apply(ctx, x, 1, 128, 128, hadamard_op(false));
    for (uint32_t i = 0; i < 128; ++i) {
      double sum = 0;
      for (uint32_t j = 0; j < 128; ++j) sum += (std::popcount(i & j) % 2 == 0 ? 1.0 : -1.0) * x[j];
      EXPECT_NEAR(y[i], sum * 0.08838834764831845, 9 * 0x1p-24 * size * 0.0884) << name << " " << i;
    }
    // Symmetric and orthogonal: twice is once.
    const std::vector<float> back = apply(ctx, y, 1, 128, 128, hadamard_op(false));
    for (size_t i = 0; i < 128; ++i) EXPECT_NEAR(back[i], x[i], 20 * 0x1p-24 * size) << name;
  });
}

TEST(Hadamard, EveryVersionHasTheReferenceBits) {
  for (int64_t columns = 1; columns <= 512; columns *= 2) {
    for (bool round_result : {false, true}) {
      std::vector<float> x = rounded_to_bf16(random_values(70 * (columns + 3), 67, 3.0));
      x[1] = kNan;
      x[x.size() / 2] = kInf;
      expect_every_version(x, 70, columns, columns + 3, hadamard_op(round_result),
                           "columns " + std::to_string(columns));
    }
  }
}

TEST(Hadamard, KeepsDotProducts) {
  const Op rotate = hadamard_op(false);
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> q = rounded_to_bf16(random_values(128, 100 + seed, 1.0)),
                             k = rounded_to_bf16(random_values(128, 200 + seed, 1.0));
    const std::vector<float> rotated_q = apply(q, rotate), rotated_k = apply(k, rotate);
    double before = 0, after = 0, q2 = 0, k2 = 0;
    for (size_t i = 0; i < 128; ++i) {
      before += static_cast<double>(q[i]) * k[i];
      after += static_cast<double>(rotated_q[i]) * rotated_k[i];
      q2 += static_cast<double>(q[i]) * q[i];
      k2 += static_cast<double>(k[i]) * k[i];
    }
    EXPECT_NEAR(after, before, 1e-6 * std::sqrt(q2 * k2));
  }
}

TEST(SimulateFp8, ColumnsAreRowsOfTheTranspose) {
  const int64_t rows = 300, columns = 37, stride = 41;
  const std::vector<float> x = rounded_to_bf16(random_values(rows * stride, 71, 3.0));
  const Op of_columns = [](device::ExecContext& ctx, const RowsParams& p) {
    simulate_fp8_columns(ctx, p, 128);
  };
  expect_every_version(x, rows, columns, stride, of_columns, "columns");
  TestContext ctx(device::machine_isa());
  const std::vector<float> found = apply(ctx, x, rows, columns, stride, of_columns);
  std::vector<float> transposed(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) transposed[c * rows + r] = x[r * stride + c];
  transposed = apply(ctx, transposed, columns, rows, rows, kFp8Of128);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < stride; ++c) {
      const float expected = c < columns ? transposed[c * rows + r] : x[r * stride + c];
      ASSERT_EQ(found[r * stride + c], expected) << r << ", " << c;
    }
  }
}

TEST(SimulateFp8, TheGradientsFloorKeepsSmallValues) {
  const Op gradient = [](device::ExecContext& ctx, const RowsParams& p) {
    simulate_fp8(ctx, p, 128, kFp8GradientFloor);
  };
  std::vector<float> x = random_values(128, 73);
  for (float& v : x) v *= 1e-11f;
  EXPECT_EQ(apply(x, kFp8Of128), std::vector<float>(128));  // under 2^-32 all is 0
  const std::vector<float> kept = apply(x, gradient);
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(kept[i], x[i], std::max(std::abs(x[i]) / 16, largest * 2 / 448 * 0x1p-10f));
  expect_every_version(x, 1, 128, 128, gradient, "gradient");
  for (float& v : x) v *= 1e-22f;
  expect_every_version(x, 1, 128, 128, gradient, "below the floor");
}

}  // namespace
}  // namespace cachalot::ops
