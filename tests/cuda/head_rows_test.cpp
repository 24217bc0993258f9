// Heads' ops in one kernel on the GPU: the bits of the CPU's ops one after another.
#include "ops/rope/head_rows.h"

#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/matmul/matmul_test_data.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Side;
using HeadRows = testing::GpuTest;

TEST_F(HeadRows, HaveTheBitsOfTheOpsOneAfterAnother) {
  RngStream rng(1, RngPurpose::data, 0);
  struct Case {
    int64_t head_dim, rope_dim;
    HeadNorm norm;
    bool has_g, hadamard;
    HeadSnap snap;
    bool round;
  };
  for (const Case& c : {Case{512, 64, HeadNorm::bf16_steps, false, false, HeadSnap::none, true},
                        Case{512, 64, HeadNorm::weighted, true, false, HeadSnap::fp8, true},
                        Case{128, 64, HeadNorm::none, false, true, HeadSnap::fp4, true},
                        Case{128, 64, HeadNorm::weighted, true, true, HeadSnap::fp4, true},
                        Case{64, 32, HeadNorm::bf16_steps, false, false, HeadSnap::none, true},
                        Case{32, 32, HeadNorm::none, false, true, HeadSnap::fp4, true},
                        Case{512, 64, HeadNorm::weighted, true, false, HeadSnap::none, false},
                        Case{96, 32, HeadNorm::weighted, true, false, HeadSnap::fp8, true}}) {
    for (const int64_t rows : {1, 3, 37}) {
      for (const int64_t heads : {1, 5, 64}) {
        std::vector<float> x = make_bf16_rows(rows, heads * c.head_dim, rng);
        if (rows > 1) x[7] = std::numeric_limits<float>::quiet_NaN();
        if (rows > 1) std::fill_n(x.begin() + heads * c.head_dim, c.head_dim, 0.0f);
        const std::vector<float> g = make_f32_rows(1, c.head_dim, rng);
        const std::vector<float> angles = make_f32_rows(rows, c.rope_dim, rng);
        compare("dim " + std::to_string(c.head_dim) + " rows " + std::to_string(rows) + " heads " +
                    std::to_string(heads),
                [&](Side& side) {
                  HeadRowsParams p{};
                  p.x = side.array(x);
                  p.rows = rows;
                  p.row_stride = heads * c.head_dim;
                  p.heads = heads;
                  p.head_dim = c.head_dim;
                  p.norm = c.norm;
                  p.g = c.has_g ? side.constant(g).data() : nullptr;
                  p.eps = 1e-6f;
                  p.rope_dim = c.rope_dim;
                  const float* table = side.array(angles);
                  p.table = {table, table + rows * c.rope_dim / 2};
                  p.hadamard = c.hadamard;
                  p.snap = c.snap;
                  p.round = c.round;
                  head_rows(side.ctx, p);
                  return side.read(p.x, rows * heads * c.head_dim);
                });
      }
    }
  }
}

TEST_F(HeadRows, InBf16AreTheSame) {
  RngStream rng(2, RngPurpose::data, 0);
  Side side(gpu_.get());
  for (const int64_t head_dim : {32, 128, 512}) {
    constexpr int64_t kRows = 5, kHeads = 3, kRope = 32;
    const int64_t count = kRows * kHeads * head_dim;
    HeadRowsParams p{};
    p.rows = kRows;
    p.row_stride = kHeads * head_dim;
    p.heads = kHeads;
    p.head_dim = head_dim;
    p.norm = HeadNorm::bf16_steps;
    p.eps = 1e-6f;
    p.rope_dim = kRope;
    const float* table = side.array(make_f32_rows(kRows, kRope, rng));
    p.table = {table, table + kRows * kRope / 2};
    p.round = true;
    const std::vector<float> x = make_bf16_rows(kRows, kHeads * head_dim, rng);
    p.x = side.array(x);
    ASSERT_TRUE(head_rows_takes_bf16(side.ctx, p));
    HeadRowsParams narrow = p;
    narrow.to_bf16 = side.room<uint16_t>(count);
    head_rows(side.ctx, narrow);
    EXPECT_EQ(side.read(p.x, count), x);
    head_rows(side.ctx, p);
    std::vector<float> found;
    for (const uint16_t bits : side.read(narrow.to_bf16, count))
      found.push_back(numeric::float_from_bf16(bits));
    EXPECT_EQ(found, side.read(p.x, count)) << head_dim;

    // From bf16 too, in place.
    std::vector<uint16_t> raw;
    for (const float value : x) raw.push_back(numeric::bf16_from_float(value));
    const std::vector<uint16_t> expected = side.read(narrow.to_bf16, count);
    narrow.x = nullptr;
    narrow.to_bf16 = side.array(raw);
    narrow.from_bf16 = narrow.to_bf16;
    head_rows(side.ctx, narrow);
    EXPECT_EQ(side.read(narrow.to_bf16, count), expected) << head_dim;
  }
}

}  // namespace
}  // namespace cachalot::ops
