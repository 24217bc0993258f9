// compress_backward: against central differences of an evaluation in double, and every version and
// thread count against the reference bit for bit.
#include "ops/compressor/compressor_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

using device::Isa;

struct Shape {
  int64_t ratio;
  bool overlap;
  int64_t width;

  int64_t row_width() const { return (overlap ? 2 : 1) * width; }
};

std::vector<float> normals(int64_t n, uint64_t seed) {
  RngStream rng(seed, RngPurpose::data, 3);
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(rng.next_normal());
  return values;
}

struct Problem {
  Problem(const Shape& shape, int64_t num_positions)
      : shape(shape),
        num_entries(num_positions / shape.ratio),
        rows(normals(num_positions * 2 * shape.row_width(), 1)),
        d_out(normals(num_entries * shape.width, 2)) {}

  // d_rows += gradients.
  void add(Isa isa, int num_threads, std::vector<float>& d_rows) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    std::vector<float> copy = rows;
    auto* block = reinterpret_cast<std::byte*>(copy.data());
    const tensor::RowLayout layout{2 * shape.row_width() * 4, 0};
    const auto num_rows = static_cast<int64_t>(rows.size()) / (2 * shape.row_width());
    const int64_t ends[] = {0, num_rows}, first_position[] = {0};
    const tensor::LayerRows no_ring;
    compress_backward(ctx, {{{1, ends, first_position},
                             &no_ring,
                             tensor::Recent::tail,
                             {&block, num_rows, layout},
                             shape.ratio,
                             shape.overlap,
                             shape.width,
                             nullptr},
                            d_out.data(),
                            d_rows.data()});
  }

  // fn(entry, channel, indices of the slots' K in `rows`); S is row_width() after K.
  template <typename Fn>
  void for_channels(const Fn& fn) const {
    for (int64_t e = 0; e < num_entries; ++e) {
      for (int64_t i = 0; i < shape.width; ++i) {
        std::vector<int64_t> slots;
        for (int64_t p = (e - (shape.overlap ? 1 : 0)) * shape.ratio; p < (e + 1) * shape.ratio;
             ++p) {
          const int64_t half = shape.overlap && p >= e * shape.ratio ? shape.width : 0;
          if (p >= 0) slots.push_back(p * 2 * shape.row_width() + half + i);
        }
        fn(e, i, slots);
      }
    }
  }

  // Sum of exp(S), and the entry.
  std::pair<double, double> pool(const std::vector<double>& x,
                                 const std::vector<int64_t>& slots) const {
    double z = 0;
    double weighted = 0;
    for (int64_t k : slots) {
      z += std::exp(x[k + shape.row_width()]);
      weighted += std::exp(x[k + shape.row_width()]) * x[k];
    }
    return {z, weighted / z};
  }

  // The sum of d_out * entries in double.
  double loss(const std::vector<double>& x) const {
    double sum = 0;
    for_channels([&](int64_t e, int64_t i, const std::vector<int64_t>& slots) {
      sum += d_out[e * shape.width + i] * pool(x, slots).second;
    });
    return sum;
  }

  // With u = 2^-24, scores that differ by 8 at most and n slots: exp is off by a factor 10 u, sums
  // by n u more, so p by (20 + n) u and c by (20 + 2 n) u of the sum of p |K|. A central difference
  // of step 1e-5 is off by less than 1e-8.
  std::vector<double> bounds(const std::vector<double>& x) const {
    constexpr double kU = 0x1p-24;
    std::vector<double> bounds(x.size(), 1e-8);
    for_channels([&](int64_t e, int64_t i, const std::vector<int64_t>& slots) {
      const auto [z, c] = pool(x, slots);
      const auto n = static_cast<double>(slots.size());
      const double dc = std::fabs(d_out[e * shape.width + i]);
      double magnitude = 0;
      for (int64_t k : slots) {
        magnitude += std::exp(x[k + shape.row_width()]) / z * std::fabs(x[k]);
      }
      for (int64_t k : slots) {
        const double p = std::exp(x[k + shape.row_width()]) / z;
        const double relative = (20 + n + 4) * kU;
        bounds[k] += p * dc * relative;
        bounds[k + shape.row_width()] +=
            p * dc * (std::fabs(x[k] - c) * relative + (20 + 2 * n) * kU * magnitude);
      }
    });
    return bounds;
  }

  Shape shape;
  int64_t num_entries;
  std::vector<float> rows;
  std::vector<float> d_out;
};

TEST(CompressBackward, EqualsCentralDifferences) {
  for (const Shape& shape :
       {Shape{4, true, 3}, Shape{3, false, 5}, Shape{1, false, 2}, Shape{16, false, 2}}) {
    for (int64_t positions : {shape.ratio, 3 * shape.ratio + 1}) {
      const Problem problem(shape, positions);
      std::vector<float> found(problem.rows.size());
      problem.add(Isa::reference, 1, found);
      std::vector<double> x(problem.rows.begin(), problem.rows.end());
      const std::vector<double> bounds = problem.bounds(x);
      for (size_t i = 0; i < x.size(); ++i) {
        constexpr double kStep = 1e-5;
        const double saved = x[i];
        x[i] = saved + kStep;
        const double above = problem.loss(x);
        x[i] = saved - kStep;
        const double below = problem.loss(x);
        x[i] = saved;
        ASSERT_NEAR(found[i], (above - below) / (2 * kStep), bounds[i])
            << "ratio " << shape.ratio << " element " << i;
      }
    }
  }
}

TEST(CompressBackward, VersionsAndThreadsAgree) {
  for (const Shape& shape : {Shape{4, true, 128}, Shape{4, true, 7}, Shape{4, true, 17},
                             Shape{128, false, 33}, Shape{16, true, 130}}) {
    const Problem problem(shape, 300);
    const std::vector<float> start = normals(static_cast<int64_t>(problem.rows.size()), 4);
    std::vector<float> expected = start;
    problem.add(Isa::reference, 1, expected);
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2, 5}) {
        std::vector<float> found = start;
        problem.add(isa, threads, found);
        expect_same_bits(expected, found, std::string(device::isa_name(isa)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Sequences of one call: each gets the gradients that it gets alone.
TEST(CompressBackward, SequencesOfOneCallDoNotMeet) {
  const Shape shape{4, true, 9};
  const Problem a(shape, 14), b(shape, 3), c(shape, 29);
  std::vector<float> rows, d_out, expected;
  for (const Problem* problem : {&a, &b, &c}) {
    rows.insert(rows.end(), problem->rows.begin(), problem->rows.end());
    d_out.insert(d_out.end(), problem->d_out.begin(), problem->d_out.end());
    std::vector<float> alone(problem->rows.size());
    problem->add(Isa::reference, 1, alone);
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  const int64_t first_row[] = {0, 14, 17, 46}, first_position[] = {0, 0, 0};
  const tensor::LayerRows no_rings[3];
  auto* block = reinterpret_cast<std::byte*>(rows.data());
  for (Isa isa : device::machine_isas()) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    std::vector<float> found(expected.size());
    compress_backward(ctx, {{{3, first_row, first_position},
                             no_rings,
                             tensor::Recent::tail,
                             {&block, 46, {2 * shape.row_width() * 4, 0}},
                             shape.ratio,
                             shape.overlap,
                             shape.width,
                             nullptr},
                            d_out.data(),
                            found.data()});
    expect_same_bits(expected, found, std::string(device::isa_name(isa)));
  }
}

// Positions after the last complete entry, and the first halves of the last entry's own, have no
// gradient yet.
TEST(CompressBackward, WhatNoEntryUsesStays) {
  const Problem problem({4, true, 5}, 10);
  std::vector<float> found(problem.rows.size());
  problem.add(device::machine_isa(), 1, found);
  for (int64_t p = 0; p < 10; ++p) {
    for (int64_t i = 0; i < 20; ++i) {
      const bool second_half = i % 10 >= 5;
      const bool is_used = p < 4 || (p < 8 && second_half);
      EXPECT_EQ(found[p * 20 + i] != 0, is_used) << "position " << p << " element " << i;
    }
  }
}

// Rows one after another in one float each, for any cut of the rows into sequences and any thread
// count.
TEST(CompressBiasBackward, SumsByPositionModRatio) {
  constexpr int64_t kRows = 23;
  constexpr int64_t kColumns = 6;
  const std::vector<float> d_rows = normals(kRows * 2 * kColumns, 5);
  for (int64_t ratio : {1, 4, 7, 128}) {
    std::vector<float> expected = normals(ratio * kColumns, 6);
    const std::vector<float> start = expected;
    for (int64_t p = 0; p < kRows; ++p) {
      for (int64_t c = 0; c < kColumns; ++c) {
        expected[p % ratio * kColumns + c] += d_rows[(2 * p + 1) * kColumns + c];
      }
    }
    for (int threads : {1, 2}) {
      for (int64_t cut : {0, 1, 6, 22}) {
        ThreadPool pool(threads);
        device::Arena arena;
        device::ExecContext ctx{&pool, &arena, device::machine_isa()};
        std::vector<float> found = start;
        const int64_t first_row[] = {0, cut, kRows}, first_position[] = {0, cut};
        compress_bias_backward(
            ctx, {d_rows.data(), {2, first_row, first_position}, ratio, kColumns, found.data()});
        expect_same_bits(expected, found, "ratio " + std::to_string(ratio));
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
