// compress: against double, every version against the reference, and the batch form against the
// streaming one for every cut.
#include "ops/compressor/compressor.h"

#include <gmock/gmock.h>
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
      const tensor::LayerRows rows{.tail = {ring.data(), capacity, layout}};
      const int64_t ends[] = {0, n};
      const tensor::Sequences one{1, ends, &begin};
      const tensor::RowBlocks step_rows{&block, n, layout};
      compress(ctx, {one, &rows, tensor::Recent::tail, step_rows, shape_.ratio, shape_.overlap,
                     shape_.width, out.data() + begin / shape_.ratio * shape_.width});
      store_recent_rows(ctx, {one, &rows, tensor::Recent::tail, step_rows});
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

// Sequences of other lengths and positions in one step, each with a ring of its own: each as it is
// alone. One completes no entry, one is empty, one begins inside an entry.
TEST(Compress, SequencesOfOneStepDoNotMeet) {
  const Shape shape{4, true, 20};
  const int64_t row_width = 2 * shape.width;
  const tensor::RowLayout layout{2 * row_width * 4, 0};
  const std::vector<std::pair<int64_t, int64_t>> cases = {{0, 13}, {9, 2}, {5, 0}, {7, 30}, {4, 4}};
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      device::Arena arena;
      device::ExecContext ctx{&pool, &arena, isa};
      std::vector<std::vector<std::byte>> rings;
      std::vector<tensor::LayerRows> layer_rows;
      std::vector<int64_t> first_row = {0}, first_position;
      std::vector<float> rows, expected;
      for (const auto& [first, n] : cases) {
        const Sequence seq(shape, first + n, 50 + first);
        rings.emplace_back(8 * layout.data_bytes, std::byte{0xFF});
        layer_rows.push_back({.index_tail = {rings.back().data(), 8, layout}});
        for (int64_t p = std::max<int64_t>(0, first - 8); p < first; ++p)
          std::memcpy(layer_rows.back().index_tail.row(p).data, seq.k(p), layout.data_bytes);
        rows.insert(rows.end(), seq.k(first), seq.k(first) + n * 2 * row_width);
        first_row.push_back(first_row.back() + n);
        first_position.push_back(first);
        const std::vector<float> alone = seq.run(Isa::reference, 1, {});
        expected.insert(expected.end(), alone.begin() + first / 4 * shape.width, alone.end());
      }
      const tensor::Sequences sequences{5, first_row.data(), first_position.data()};
      auto* block = reinterpret_cast<std::byte*>(rows.data());
      const tensor::RowBlocks step_rows{&block, first_row.back(), layout};
      ASSERT_EQ(sequences.num_entries(4) * shape.width, static_cast<int64_t>(expected.size()));
      std::vector<float> found(expected.size());
      compress(ctx, {sequences, layer_rows.data(), tensor::Recent::index_tail, step_rows, 4, true,
                     shape.width, found.data()});
      expect_same_bits(expected, found, std::string(device::isa_name(isa)));
      store_recent_rows(ctx, {sequences, layer_rows.data(), tensor::Recent::index_tail, step_rows});
      for (size_t s = 0; s < cases.size(); ++s) {
        const auto [first, n] = cases[s];
        const Sequence seq(shape, first + n, 50 + first);
        for (int64_t p = std::max<int64_t>(0, first + n - 8); p < first + n; ++p) {
          EXPECT_EQ(std::memcmp(layer_rows[s].index_tail.row(p).data, seq.k(p), layout.data_bytes),
                    0)
              << "sequence " << s << " position " << p;
        }
      }
    }
  }
}

// The bias of a row is that of its position within its own sequence.
TEST(AddPositionalBias, BelongsToThePosition) {
  constexpr int64_t kColumns = 3, kRatio = 4;
  const int64_t first_row[] = {0, 5, 5, 7}, first_position[] = {0, 9, 6};
  std::vector<float> rows(7 * 2 * kColumns), ape(kRatio * kColumns);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  for (size_t i = 0; i < ape.size(); ++i) ape[i] = static_cast<float>(100 * (i + 1));
  std::vector<float> expected = rows;
  const int64_t positions[] = {0, 1, 2, 3, 4, 6, 7};
  for (int64_t row = 0; row < 7; ++row) {
    for (int64_t c = 0; c < kColumns; ++c)
      expected[(2 * row + 1) * kColumns + c] += ape[positions[row] % kRatio * kColumns + c];
  }
  ThreadPool pool(2);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  add_positional_bias(ctx,
                      {rows.data(), {3, first_row, first_position}, kRatio, kColumns, ape.data()});
  expect_same_bits(expected, rows, "rows");
}

TEST(EntryPositions, AreThoseOfTheFirstTokens) {
  const int64_t first_row[] = {0, 9, 10, 13}, first_position[] = {0, 6, 7};
  int64_t positions[4] = {-1, -1, -1, -1};
  TestContext ctx(device::Isa::reference);
  entry_positions(ctx, {3, first_row, first_position}, 4, positions);
  EXPECT_THAT(positions, testing::ElementsAre(0, 4, 4, -1));
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
  ThreadPool pool(2);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  for (const std::vector<int64_t>& chunks :
       {std::vector<int64_t>{5}, {8}, {9}, {30}, {3, 4, 1, 1}, {7, 8, 20, 1}}) {
    std::vector<std::byte> ring(kCapacity * layout.row_bytes());
    const tensor::LayerRows rows{.window = {ring.data(), kCapacity, layout}};
    int64_t position = 0;
    for (int64_t n : chunks) {
      std::vector<std::byte> bytes(n * layout.row_bytes());
      auto* block = bytes.data();
      const tensor::RowBlocks step_rows{&block, n, layout};
      for (int64_t i = 0; i < n; ++i) {
        const auto value = static_cast<std::byte>(position + i + 1);
        std::fill_n(step_rows.row(i).data, 3, value);
        std::fill_n(step_rows.row(i).scale, 2, value);
      }
      const int64_t ends[] = {0, n};
      store_recent_rows(ctx, {{1, ends, &position}, &rows, tensor::Recent::window, step_rows});
      position += n;
    }
    for (int64_t p = std::max<int64_t>(0, position - kCapacity); p < position; ++p) {
      const auto value = static_cast<std::byte>(p + 1);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(rows.window.row(p).data[i], value) << "position " << p;
      for (int i = 0; i < 2; ++i) EXPECT_EQ(rows.window.row(p).scale[i], value) << "position " << p;
    }
  }
}

TEST(Compress, NothingToMake) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  compress(ctx, {{}, nullptr, tensor::Recent::tail, {}, 4, true, 16, nullptr});
  store_recent_rows(ctx, {{}, nullptr, tensor::Recent::tail, {}});
}

}  // namespace
}  // namespace cachalot::ops
