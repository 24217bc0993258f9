// compress: against double, every version against the reference, and the batch form against the
// streaming one for every cut.
#include "ops/compressor/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
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
};

class Sequence {
 public:
  Sequence(const Shape& shape, int64_t num_positions, uint64_t seed)
      : shape_(shape),
        num_positions_(num_positions),
        row_width_((shape.overlap ? 2 : 1) * shape.width) {
    RngStream rng(seed, RngPurpose::data, 1);
    rows_.resize(num_positions * 2 * row_width_);
    for (float& x : rows_) x = static_cast<float>(rng.next_normal()) * 3;
  }

  const float* k(int64_t p) const { return rows_.data() + p * 2 * row_width_; }
  const float* s(int64_t p) const { return k(p) + row_width_; }
  int64_t num_entries() const { return num_positions_ / shape_.ratio; }

  std::vector<float> run(Isa isa, int num_threads, const std::vector<int64_t>& chunks) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    const tensor::RowLayout layout{2 * row_width_ * 4, 0};
    const int64_t capacity = (shape_.overlap ? 2 : 1) * shape_.ratio;
    std::vector<std::byte> ring(capacity * layout.data_bytes,
                                std::byte{0xFF});  // NaN until written
    std::vector<float> out(num_entries() * shape_.width, std::nanf(""));
    int64_t begin = 0;
    for (size_t i = 0; begin < num_positions_; ++i) {
      const int64_t n =
          std::min(i < chunks.size() ? chunks[i] : num_positions_, num_positions_ - begin);
      std::vector<float> copy(rows_.begin() + begin * 2 * row_width_,
                              rows_.begin() + (begin + n) * 2 * row_width_);
      auto* block = reinterpret_cast<std::byte*>(copy.data());
      const tensor::RecentRows rows{{ring.data(), capacity, layout}, {&block, n, layout}, begin};
      const int64_t first = begin / shape_.ratio;
      compress(ctx, {rows, shape_.ratio, shape_.overlap, shape_.width, first,
                     (begin + n) / shape_.ratio, out.data() + first * shape_.width});
      store_recent_rows(rows, n);
      begin += n;
    }
    return out;
  }

  // Softmax over the slots, per channel, in double.
  double expected(int64_t e, int64_t channel, double* magnitude) const {
    double max = -INFINITY;
    std::vector<std::pair<double, double>> slots;  // S, K
    for (int64_t p = e * shape_.ratio - (shape_.overlap ? shape_.ratio : 0);
         p < (e + 1) * shape_.ratio; ++p) {
      if (p < 0) continue;
      const int64_t at = channel + (shape_.overlap && p >= e * shape_.ratio ? shape_.width : 0);
      slots.emplace_back(s(p)[at], k(p)[at]);
      max = std::max(max, slots.back().first);
    }
    double sum = 0;
    double weighted = 0;
    *magnitude = 0;
    for (const auto& [score, value] : slots) {
      sum += std::exp(score - max);
      weighted += std::exp(score - max) * value;
      *magnitude += std::fabs(std::exp(score - max) * value);
    }
    *magnitude /= sum;
    return weighted / sum;
  }

 private:
  Shape shape_;
  int64_t num_positions_;
  int64_t row_width_;
  std::vector<float> rows_;
};

// With u = 2^-24: a difference of scores up to 40 is off by 40 u, exp by 2 u, and each of two sums
// of n terms by n u.
TEST(Compress, AgainstDouble) {
  for (const Shape& shape : {Shape{4, true, 64}, Shape{4, true, 23}, Shape{128, false, 32},
                             Shape{16, false, 40}, Shape{1, false, 8}}) {
    const Sequence seq(shape, 300, shape.ratio);
    const std::vector<float> out = seq.run(Isa::reference, 1, {});
    const double slots = static_cast<double>(shape.ratio) * (shape.overlap ? 2 : 1);
    for (int64_t e = 0; e < seq.num_entries(); ++e) {
      for (int64_t i = 0; i < shape.width; ++i) {
        double magnitude;
        const double expected = seq.expected(e, i, &magnitude);
        ASSERT_NEAR(out[e * shape.width + i], expected,
                    (2 * 42 + 2 * slots + 2) * 0x1p-24 * magnitude)
            << "ratio " << shape.ratio << " entry " << e << " channel " << i;
      }
    }
  }
}

TEST(Compress, VersionsAndThreadsAgree) {
  for (const Shape& shape : {Shape{4, true, 512}, Shape{4, true, 128}, Shape{4, true, 7},
                             Shape{128, false, 512}, Shape{128, false, 33}, Shape{16, true, 130}}) {
    const Sequence seq(shape, 300, shape.width);
    const std::vector<float> expected = seq.run(Isa::reference, 1, {});
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2, 5}) {
        expect_same_bits(expected, seq.run(isa, threads, {}), std::string(device::isa_name(isa)));
      }
    }
  }
}

// Batch form = streaming form: one token at a time, and every residue of a cut mod 4 and mod 128.
TEST(Compress, EveryCutGivesTheSameBits) {
  for (const Shape& shape : {Shape{4, true, 16}, Shape{128, false, 16}}) {
    const Sequence seq(shape, 400, 5);
    const std::vector<float> expected = seq.run(Isa::reference, 1, {});
    const Isa isa = device::machine_isa();
    expect_same_bits(expected, seq.run(isa, 1, std::vector<int64_t>(400, 1)), "one at a time");
    for (int64_t cut = 1; cut <= 2 * 128; ++cut) {
      const std::string what =
          "ratio " + std::to_string(shape.ratio) + " cut " + std::to_string(cut);
      expect_same_bits(expected, seq.run(isa, 1, {cut}), what);
      expect_same_bits(expected, seq.run(isa, 1, {cut, cut % 5 + 1, 1, 1}), what + " and more");
      if (HasFatalFailure()) return;
    }
  }
}

// The first entry has no earlier half: its slots are its own tokens alone.
TEST(Compress, FirstEntryHasOnlyItsOwnTokens) {
  const Shape shape{4, true, 8};
  const Sequence seq(shape, 4, 9);
  const std::vector<float> out = seq.run(Isa::reference, 1, {1, 1, 1, 1});
  for (int64_t i = 0; i < 8; ++i) {
    double sum = 0;
    double weighted = 0;
    for (int64_t p = 0; p < 4; ++p) {
      sum += std::exp(seq.s(p)[8 + i]);
      weighted += std::exp(seq.s(p)[8 + i]) * seq.k(p)[8 + i];
    }
    EXPECT_NEAR(out[i], weighted / sum, 1e-5 * (1 + std::fabs(weighted / sum)));
  }
}

// The ring holds exactly the last `capacity` positions, data and scale parts, whatever the chunks
// were.
TEST(StoreRecentRows, KeepsTheLastRows) {
  constexpr int64_t kCapacity = 8;
  const tensor::RowLayout layout{3, 2};
  for (const std::vector<int64_t>& chunks :
       {std::vector<int64_t>{5}, {8}, {9}, {30}, {3, 4, 1, 1}, {7, 8, 20, 1}}) {
    std::vector<std::byte> ring(kCapacity * layout.row_bytes());
    tensor::RecentRows rows{{ring.data(), kCapacity, layout}, {}, 0};
    for (int64_t n : chunks) {
      std::vector<std::byte> bytes(n * layout.row_bytes());
      auto* block = bytes.data();
      rows.chunk = {&block, n, layout};
      for (int64_t i = 0; i < n; ++i) {
        const auto value = static_cast<std::byte>(rows.first_position + i + 1);
        std::fill_n(rows.chunk.row(i).data, 3, value);
        std::fill_n(rows.chunk.row(i).scale, 2, value);
      }
      store_recent_rows(rows, n);
      rows.first_position += n;
    }
    for (int64_t p = std::max<int64_t>(0, rows.first_position - kCapacity); p < rows.first_position;
         ++p) {
      const auto value = static_cast<std::byte>(p + 1);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(rows.ring.row(p).data[i], value) << "position " << p;
      for (int i = 0; i < 2; ++i) EXPECT_EQ(rows.ring.row(p).scale[i], value) << "position " << p;
    }
  }
}

TEST(Compress, NothingToMake) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  compress(ctx, {{}, 4, true, 16, 3, 3, nullptr});
  store_recent_rows({}, 0);
}

}  // namespace
}  // namespace cachalot::ops
