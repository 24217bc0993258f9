// What the fused mHC kernels read and write, counted, and that fusing changes no bit. The kernels
// are compiled here over vectors that count the bytes of every load and store; coefficients are
// scalars and not counted.
// Source  reference/infrastructure 7.2: the post kernel reads (n + 1)C and writes nC a token, where
//         unfused it reads (3n + 1)C and writes 3nC.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "numeric/formats.h"

namespace cachalot::ops {
namespace {

int64_t bytes_read = 0, bytes_written = 0;

struct F32x16 {
  float v[16];
};
template <typename F>
F32x16 each(F f) {
  F32x16 out;
  for (int i = 0; i < 16; ++i) out.v[i] = f(i);
  return out;
}
F32x16 splat(float value) {
  return each([&](int) { return value; });
}
F32x16 load_first(const float* p, int64_t left) {
  bytes_read += 4 * std::min<int64_t>(left, 16);
  return each([&](int i) { return i < left ? p[i] : 0.0f; });
}
void store_first(float* p, int64_t left, const F32x16& a) {
  bytes_written += 4 * std::min<int64_t>(left, 16);
  for (int i = 0; i < 16 && i < left; ++i) p[i] = a.v[i];
}
F32x16 operator*(const F32x16& a, const F32x16& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
F32x16 round_to_bf16(const F32x16& a) {
  return each([&](int i) { return numeric::round_to_bf16(a.v[i]); });
}
float fold_sum(const F32x16& a) {
  float sums[16];
  std::copy_n(a.v, 16, sums);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  return sums[0];
}

}  // namespace
}  // namespace cachalot::ops

#include "ops/elementwise/kernel_test.h"
#include "ops/hyper/hyper_connection_simd.h"

namespace cachalot::ops {
namespace {

struct Shape {
  int64_t rows, n, d;
};
constexpr Shape kShapes[] = {{3, 4, 96}, {2, 4, 37}, {5, 2, 48}, {1, 8, 17}};

std::vector<float> normals(int64_t count, uint64_t seed) {
  RngStream rng(seed, RngPurpose::data, 0);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = static_cast<float>(rng.next_normal());
  return values;
}

TEST(HyperTraffic, PostReadsStreamsAndOutputOnceAndWritesStreamsOnce) {
  for (const auto& [rows, n, d] : kShapes) {
    const std::vector<float> x = normals(rows * n * d, 1), y = normals(rows * d, 2),
                             post = normals(rows * n, 3), comb = normals(rows * n * n, 4);
    std::vector<float> out(x.size());
    bytes_read = bytes_written = 0;
    hyper_post_simd({x.data(), y.data(), post.data(), comb.data(), n, d, false, out.data()},
                    {0, rows, 0, d});
    EXPECT_EQ(bytes_read, rows * (n + 1) * d * 4);
    EXPECT_EQ(bytes_written, rows * n * d * 4);
  }
}

TEST(HyperTraffic, PreReadsStreamsOnce) {
  for (const auto& [rows, n, d] : kShapes) {
    const std::vector<float> x = normals(rows * n * d, 1), pre = normals(rows * n, 3);
    std::vector<float> u(static_cast<size_t>(rows * d));
    bytes_read = bytes_written = 0;
    hyper_pre_simd({x.data(), pre.data(), n, d, false, u.data()}, {0, rows, 0, d});
    EXPECT_EQ(bytes_read, rows * n * d * 4);
    EXPECT_EQ(bytes_written, rows * d * 4);
  }
}

TEST(HyperTraffic, InvRmsReadsStreamsOnce) {
  for (const auto& [rows, n, d] : kShapes) {
    const std::vector<float> x = normals(rows * n * d, 1);
    std::vector<float> inv_rms(static_cast<size_t>(rows));
    bytes_read = bytes_written = 0;
    hyper_inv_rms_simd(x.data(), 0, rows, n * d, 1e-6f, inv_rms.data());
    EXPECT_EQ(bytes_read, rows * n * d * 4);
    EXPECT_EQ(bytes_written, 0);  // one scalar a row
  }
}

// The parts of hyper_post one after the other, each through memory: C y, then B's terms stream by
// stream, then the rounding.
std::vector<float> unfused_post(const Shape& s, const std::vector<float>& x,
                                const std::vector<float>& y, const std::vector<float>& post,
                                const std::vector<float>& comb, bool round_x) {
  std::vector<float> out(x.size());
  const auto each_value = [&](auto f) {
    for (int64_t row = 0; row < s.rows; ++row)
      for (int64_t k = 0; k < s.n; ++k)
        for (int64_t i = 0; i < s.d; ++i) f(row, k, i, out[(row * s.n + k) * s.d + i]);
  };
  each_value([&](int64_t row, int64_t k, int64_t i, float& value) {
    value = post[row * s.n + k] * y[row * s.d + i];
  });
  for (int64_t j = 0; j < s.n; ++j) {
    each_value([&](int64_t row, int64_t k, int64_t i, float& value) {
      value = std::fma(comb[(row * s.n + j) * s.n + k], x[(row * s.n + j) * s.d + i], value);
    });
  }
  if (round_x) {
    each_value(
        [](int64_t, int64_t, int64_t, float& value) { value = numeric::round_to_bf16(value); });
  }
  return out;
}

TEST(HyperFusion, InPlaceBesideAndUnfusedHaveTheSameBits) {
  for (const Shape& s : kShapes) {
    const std::vector<float> x = normals(s.rows * s.n * s.d, 1), y = normals(s.rows * s.d, 2),
                             post = normals(s.rows * s.n, 3), comb = normals(s.rows * s.n * s.n, 4);
    for (const bool round_x : {false, true}) {
      const std::vector<float> expected = unfused_post(s, x, y, post, comb, round_x);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        std::vector<float> beside(x.size()), in_place = x;
        hyper_post(ctx, x.data(), y.data(), post.data(), comb.data(), s.rows, s.n, s.d, round_x,
                   beside.data());
        hyper_post(ctx, in_place.data(), y.data(), post.data(), comb.data(), s.rows, s.n, s.d,
                   round_x, in_place.data());
        EXPECT_EQ(expected, beside) << name;
        EXPECT_EQ(expected, in_place) << name;
      });
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
