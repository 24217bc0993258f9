// sparse_attention: the reference against an evaluation in double, every version against the
// reference bit for bit, with sequences cut into chunks that go through a ring and through paged
// entries as a server's do.
#include "ops/attention/sparse_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/compressor/compressor.h"
#include "ops/elementwise/kernel_test.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using device::Isa;
using tensor::KvFormat;
using tensor::RowLayout;

struct Shape {
  int64_t heads;
  int64_t head_dim;
  int64_t rope_dim;
  int64_t window;
  int64_t ratio;
  int64_t topk;  // 0: no selection
  KvFormat format;
  bool bf16_math;
};

// Pages of `per_block` rows.
struct Pages {
  std::vector<std::vector<std::byte>> storage;
  std::vector<std::byte*> blocks;
  tensor::RowBlocks view;

  Pages(int64_t num_rows, int64_t per_block, RowLayout layout) {
    for (int64_t i = 0; i < num_rows; i += per_block) {
      storage.emplace_back(per_block * layout.row_bytes());
    }
    for (auto& page : storage) blocks.push_back(page.data());
    view = {blocks.data(), per_block, layout};
  }
};

// A sequence: queries, window rows and entries for all positions.
class Sequence {
 public:
  // Queries of positions before first_query are zero.
  Sequence(const Shape& shape, int64_t num_positions, uint64_t seed, float spread = 1,
           int64_t first_query = 0)
      : shape_(shape),
        num_positions_(num_positions),
        layout_(tensor::kv_row_layout(shape.format, shape.head_dim, shape.rope_dim)),
        rows_(num_positions, num_positions, layout_),
        entries_(std::max<int64_t>(1, shape.ratio > 0 ? num_positions / shape.ratio : 0), 3,
                 layout_) {
    RngStream rng(seed, RngPurpose::data, 0);
    const auto value = [&] {
      const auto x = static_cast<float>(rng.next_normal()) * spread;
      return shape.bf16_math ? numeric::round_to_bf16(x) : x;
    };
    sink_.resize(shape.heads);
    for (float& x : sink_) x = static_cast<float>(rng.next_normal());
    std::vector<float> row(shape.head_dim);
    const auto fill = [&](const tensor::RowBlocks& blocks, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        for (float& x : row) x = value();
        encode_kv_row(shape.format, row.data(), shape.head_dim, shape.rope_dim, blocks.row(i));
      }
    };
    fill(rows_.view, num_positions);
    fill(entries_.view, num_entries(num_positions - 1));
    q_.resize(num_positions * shape.heads * shape.head_dim);
    for (size_t i = first_query * shape.heads * shape.head_dim; i < q_.size(); ++i) q_[i] = value();
    if (shape.topk > 0) {
      selected_.assign(num_positions * shape.topk, -1);
      num_selected_.resize(num_positions);
      for (int64_t t = 0; t < num_positions; ++t) select(t, rng);
    }
  }

  int64_t num_entries(int64_t t) const { return shape_.ratio > 0 ? (t + 1) / shape_.ratio : 0; }
  const Shape& shape() const { return shape_; }
  std::vector<float>& sink() { return sink_; }
  std::vector<float>& q() { return q_; }
  tensor::RowRef row(int64_t position) const { return rows_.view.row(position); }
  tensor::RowRef entry(int64_t e) const { return entries_.view.row(e); }
  const tensor::RowBlocks& entries() const { return entries_.view; }
  const float* q(int64_t t) const { return q_.data() + t * shape_.heads * shape_.head_dim; }
  const std::vector<int32_t>& selected() const { return selected_; }
  const std::vector<int32_t>& num_selected() const { return num_selected_; }

  // Rows of token t's keys, in order.
  std::vector<tensor::RowRef> keys(int64_t t) const {
    std::vector<tensor::RowRef> keys;
    if (shape_.window > 0) {
      for (int64_t p = std::max<int64_t>(0, t - shape_.window + 1); p <= t; ++p)
        keys.push_back(row(p));
    }
    if (shape_.topk > 0) {
      for (int64_t i = 0; i < num_selected_[t]; ++i)
        keys.push_back(entry(selected_[t * shape_.topk + i]));
    } else {
      for (int64_t e = 0; e < num_entries(t); ++e) keys.push_back(entry(e));
    }
    return keys;
  }

  // Outputs of positions [first, end) computed in chunks; rows before `first` go through the ring
  // unseen by attention. What chunk sizes are left of the positions becomes one more chunk.
  std::vector<float> run(Isa isa, int num_threads, int64_t first,
                         const std::vector<int64_t>& chunks) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    const int64_t capacity = std::max<int64_t>(1, shape_.window);
    std::vector<std::byte> ring(capacity * layout_.row_bytes());
    const int64_t width = shape_.heads * shape_.head_dim;
    std::vector<float> out((num_positions_ - first) * width, std::nanf(""));
    const tensor::LayerRows rows{.window = {ring.data(), capacity, layout_},
                                 .entries = entries_.view};
    int64_t begin = 0;
    size_t idx = 0;
    while (begin < num_positions_) {
      int64_t n = first - begin;
      if (begin >= first) n = idx < chunks.size() ? chunks[idx++] : num_positions_ - begin;
      n = std::min(n, num_positions_ - begin);
      Pages chunk(n, 5, layout_);
      for (int64_t i = 0; i < n; ++i) copy(row(begin + i), chunk.view.row(i));
      const int64_t ends[] = {0, n};
      const tensor::Sequences one{1, ends, &begin};
      if (begin >= first) {
        SparseAttentionParams p = params();
        p.q = q(begin);
        p.sequences = one;
        p.layer_rows = &rows;
        p.step_rows = chunk.view;
        if (shape_.topk > 0) {
          p.selected = selected_.data() + begin * shape_.topk;
          p.num_selected = num_selected_.data() + begin;
        }
        p.out = out.data() + (begin - first) * width;
        sparse_attention(ctx, p);
      }
      store_recent_rows(ctx, {one, &rows, tensor::Recent::window, chunk.view});
      begin += n;
    }
    return out;
  }

  // What does not depend on the step.
  SparseAttentionParams params() const {
    SparseAttentionParams p{};
    p.heads = shape_.heads;
    p.head_dim = shape_.head_dim;
    p.rope_dim = shape_.rope_dim;
    p.scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    p.sink = sink_.data();
    p.window = shape_.window;
    p.ratio = shape_.ratio;
    p.topk = shape_.topk;
    p.format = shape_.format;
    p.bf16_math = shape_.bf16_math;
    return p;
  }

  void copy(tensor::RowRef from, tensor::RowRef to) const {
    std::memcpy(to.data, from.data, layout_.data_bytes);
    std::memcpy(to.scale, from.scale, layout_.scale_bytes);
  }

 private:
  // Ascending, every entry as likely as another.
  void select(int64_t t, RngStream& rng) {
    std::vector<int32_t> all(num_entries(t));
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng.next_u32() % i]);
    all.resize(std::min<size_t>(all.size(), shape_.topk));
    std::sort(all.begin(), all.end());
    std::copy(all.begin(), all.end(), selected_.begin() + t * shape_.topk);
    num_selected_[t] = static_cast<int32_t>(all.size());
  }

  Shape shape_;
  int64_t num_positions_;
  RowLayout layout_;
  Pages rows_;
  Pages entries_;
  std::vector<float> q_;
  std::vector<float> sink_;
  std::vector<int32_t> selected_;
  std::vector<int32_t> num_selected_;
};

// The definition in double. Error bound of an fp32 evaluation, with u = 2^-24: a score of c
// products has at most ds = (c + 2) u |scale| sum |q k|; exp of a difference of two scores is off
// by a factor 1 + 2 ds + 3u; sums of n terms add n u each; bf16 math adds 2^-9 for p and 2^-9 for
// the result.
void expect_close(const Sequence& seq, int64_t t, const float* out) {
  const Shape& s = seq.shape();
  const std::vector<tensor::RowRef> keys = seq.keys(t);
  const int64_t c = s.head_dim;
  const double u = std::ldexp(1.0, -24);
  const double half_ulp = s.bf16_math ? std::ldexp(1.0, -8) : u;
  std::vector<std::vector<float>> k(keys.size(), std::vector<float>(c));
  for (size_t i = 0; i < keys.size(); ++i) {
    decode_kv_row(Isa::reference, s.format, keys[i], c, s.rope_dim, k[i].data());
  }
  const double scale = 1 / std::sqrt(static_cast<float>(c));
  for (int64_t h = 0; h < s.heads; ++h) {
    const float* q = const_cast<Sequence&>(seq).q().data() + (t * s.heads + h) * c;
    std::vector<double> scores(keys.size());
    double max = -kInf;
    double score_error = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t j = 0; j < c; ++j) {
        sum += double{q[j]} * k[i][j];
        magnitude += std::fabs(double{q[j]} * k[i][j]);
      }
      scores[i] = sum * scale;
      score_error = std::max(score_error, (c + 2) * u * magnitude * scale);
      max = std::max(max, scores[i]);
    }
    double z = keys.empty() ? 1 : std::exp(const_cast<Sequence&>(seq).sink()[h] - max);
    for (double& p : scores) z += (p = std::exp(p - max));
    const auto n = static_cast<double>(keys.size());
    const double relative = 2 * (2 * score_error + 3 * u) + (2 * n + 2) * u + 2 * half_ulp;
    for (int64_t j = 0; j < c; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (size_t i = 0; i < keys.size(); ++i) {
        sum += scores[i] * k[i][j];
        magnitude += std::fabs(scores[i] * k[i][j]);
      }
      ASSERT_LE(std::fabs(out[h * c + j] - sum / z), relative * magnitude / z + 1e-37)
          << "position " << t << " head " << h << " channel " << j << " expected " << sum / z
          << " found " << out[h * c + j];
    }
  }
}

// The reference is right, and every version, thread count and cut gives its bits.
void check(const Shape& shape, int64_t num_positions, int64_t first,
           const std::vector<std::vector<int64_t>>& cuts, float spread = 1) {
  const Sequence seq(shape, num_positions, 7 + shape.head_dim + shape.window, spread, first);
  const std::vector<float> expected = seq.run(Isa::reference, 1, first, {});
  const int64_t width = shape.heads * shape.head_dim;
  if (spread == 1) {
    for (int64_t t = first; t < num_positions; ++t)
      expect_close(seq, t, &expected[(t - first) * width]);
  }
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      for (size_t i = 0; i < cuts.size(); ++i) {
        if (isa == Isa::reference && (threads != 2 || i != 1)) continue;  // slow
        if (threads == 5 && i > 1) continue;
        const auto& chunks = cuts[i];
        const std::string what = std::string(device::isa_name(isa)) + ", " +
                                 std::to_string(threads) + " threads, " +
                                 std::to_string(chunks.size()) + " chunks, first of " +
                                 std::to_string(chunks.empty() ? 0 : chunks[0]);
        expect_same_bits(expected, seq.run(isa, threads, first, chunks), what);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

const std::vector<std::vector<int64_t>> kCuts = {
    {}, std::vector<int64_t>(64, 1), {1, 2, 3, 4, 5}, {7, 8, 9}, {13, 1, 1}, {30}};

TEST(SparseAttention, WindowOnly) {
  for (bool bf16 : {false, true}) {
    check({4, 32, 8, 8, 0, 0, KvFormat::f32, bf16}, 50, 0, kCuts);
    check({8, 64, 16, 16, 0, 0, KvFormat::bf16, bf16}, 50, 0, kCuts);
    check({4, 128, 64, 8, 0, 0, KvFormat::fp8, bf16}, 40, 0, kCuts);
  }
}

TEST(SparseAttention, SelectedEntries) {
  for (bool bf16 : {false, true}) {
    check({4, 64, 16, 8, 4, 3, KvFormat::f32, bf16}, 61, 0, kCuts);
    check({8, 32, 8, 7, 4, 5, KvFormat::bf16, bf16}, 61, 0, kCuts);
    check({3, 128, 64, 8, 4, 6, KvFormat::fp8, bf16}, 61, 0, kCuts);
  }
}

TEST(SparseAttention, AllEntries) {
  for (bool bf16 : {false, true}) {
    check({4, 64, 16, 8, 16, 0, KvFormat::f32, bf16}, 70, 0, kCuts);
    check({9, 32, 8, 8, 4, 0, KvFormat::bf16, bf16}, 70, 0, kCuts);
    check({5, 128, 64, 5, 8, 0, KvFormat::fp8, bf16}, 70, 0, kCuts);
  }
}

TEST(SparseAttention, FullAttentionOverEntriesOfRatioOne) {
  for (bool bf16 : {false, true}) check({4, 32, 8, 0, 1, 0, KvFormat::f32, bf16}, 90, 0, kCuts);
}

TEST(SparseAttention, OddShapes) {
  for (bool bf16 : {false, true}) {
    check({3, 40, 8, 7, 2, 0, KvFormat::f32, bf16}, 41, 0, kCuts);
    check({1, 20, 4, 3, 4, 2, KvFormat::bf16, bf16}, 41, 0, kCuts);
    check({17, 72, 8, 6, 3, 0, KvFormat::fp8, bf16}, 41, 0, kCuts);
  }
}

// The real head: 584-byte rows, window 128, wrapped ring, every residue of the chunk's start mod 4.
TEST(SparseAttention, RealHead) {
  for (bool bf16 : {false, true}) {
    check({64, 512, 64, 128, 4, 24, KvFormat::fp8, bf16}, 309, 299,
          {{}, {1, 1, 1}, {2}, {3, 5}, {4}});
    check({16, 512, 64, 128, 128, 0, KvFormat::f32, bf16}, 309, 299, {{}, {1, 1, 1}, {2, 6}});
  }
}

// More decoded keys than are kept at once: they go by in segments, where the window's length is
// even and where it is odd.
TEST(SparseAttention, KeysInSegments) {
  const std::vector<std::vector<int64_t>> cuts = {{}, {1}, {4, 3}};
  check({2, 512, 64, 128, 1, 0, KvFormat::fp8, false}, 1397, 1389, cuts);
  for (bool bf16 : {false, true})
    check({1, 512, 64, 7, 1, 0, KvFormat::bf16, bf16}, 1306, 1298, cuts);
  check({1, 512, 64, 0, 1, 0, KvFormat::bf16, true}, 1306, 1298, cuts);
  check({1, 512, 64, 1500, 1, 0, KvFormat::bf16, true}, 1206, 1198, cuts);
}

// A window chunk of every residue mod 128.
TEST(SparseAttention, EveryCutOfTheWindow) {
  const Shape shape{4, 32, 8, 128, 4, 6, KvFormat::f32, false};
  const Sequence seq(shape, 300, 3);
  const std::vector<float> expected = seq.run(Isa::reference, 1, 0, {});
  const Isa isa = device::machine_isa();
  for (int64_t cut = 1; cut <= 128; ++cut) {
    expect_same_bits(expected, seq.run(isa, 2, 0, {cut, cut % 7 + 1}),
                     "cut at " + std::to_string(cut));
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Magnitudes over the whole range of bf16, denormal products included: bf16 math flushes them in
// every version.
TEST(SparseAttention, DenormalsAgree) {
  for (bool bf16 : {false, true}) {
    check({4, 64, 16, 8, 4, 3, KvFormat::bf16, bf16}, 40, 0, {{}, {1, 1, 7}}, 0x1p-66f);
    check({4, 64, 16, 8, 4, 3, KvFormat::bf16, bf16}, 40, 0, {{}, {1, 1, 7}}, 0x1p-125f);
  }
}

TEST(SparseAttention, Sinks) {
  const Shape shape{3, 32, 8, 8, 4, 0, KvFormat::f32, false};
  Sequence seq(shape, 30, 11);
  seq.sink() = {-kInf, 0, 50};
  const std::vector<float> expected = seq.run(Isa::reference, 1, 0, {});
  for (int64_t t = 0; t < 30; ++t) expect_close(seq, t, &expected[t * 3 * 32]);
  for (Isa isa : device::machine_isas())
    expect_same_bits(expected, seq.run(isa, 2, 0, {}), "sinks");
  seq.sink() = {kInf, kInf, kInf};
  for (Isa isa : device::machine_isas()) {
    for (float x : seq.run(isa, 2, 0, {})) EXPECT_EQ(x, 0);
  }
}

TEST(SparseAttention, PositionZeroIsOneKeyAndTheSink) {
  const Shape shape{2, 32, 8, 8, 4, 0, KvFormat::f32, false};
  Sequence seq(shape, 1, 12);
  seq.sink() = {-kInf, 0};
  std::vector<float> key(32);
  decode_kv_row(Isa::reference, shape.format, seq.row(0), 32, 8, key.data());
  for (Isa isa : device::machine_isas()) {
    const std::vector<float> out = seq.run(isa, 1, 0, {});
    double score = 0;
    for (int64_t j = 0; j < 32; ++j) score += double{seq.q()[32 + j]} * key[j];
    const double weight = 1 / (1 + std::exp(-score / std::sqrt(32.0)));
    for (int64_t j = 0; j < 32; ++j) {
      EXPECT_EQ(out[j], key[j]);
      EXPECT_NEAR(out[32 + j], weight * key[j], 1e-5 * std::fabs(key[j]));
    }
  }
}

TEST(SparseAttention, NoKeyGivesZero) {
  const Shape shape{2, 32, 8, 0, 4, 0, KvFormat::f32, false};
  Sequence seq(shape, 5, 13);
  seq.sink() = {-kInf, 1};
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2}) {
      const std::vector<float> out = seq.run(isa, threads, 0, {});
      for (int64_t i = 0; i < 3 * 64; ++i) EXPECT_EQ(out[i], 0);
      EXPECT_NE(out[3 * 64], 0);
    }
  }
}

// Identical keys: whatever the weights, the output is the key (without a sink), within the rounding
// of the sums: n steps each in the chain and in Z.
TEST(SparseAttention, IdenticalKeys) {
  const Shape shape{4, 64, 16, 8, 4, 0, KvFormat::f32, false};
  Sequence seq(shape, 40, 14);
  std::fill(seq.sink().begin(), seq.sink().end(), -kInf);
  std::vector<float> key(64);
  decode_kv_row(Isa::reference, shape.format, seq.row(0), 64, 16, key.data());
  for (int64_t p = 0; p < 40; ++p) encode_kv_row(shape.format, key.data(), 64, 16, seq.row(p));
  for (int64_t e = 0; e < 10; ++e) encode_kv_row(shape.format, key.data(), 64, 16, seq.entry(e));
  for (Isa isa : device::machine_isas()) {
    const std::vector<float> out = seq.run(isa, 2, 0, {});
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_NEAR(out[i], key[i % 64], 40 * 0x1p-24 * std::fabs(key[i % 64]));
    }
  }
}

// Sequences of other lengths in one step, at other positions, with rings and entries of their own:
// each row as it is alone. Whether there are few rows or many decides how the work is cut.
void check_together(const Shape& shape, const std::vector<std::pair<int64_t, int64_t>>& cases) {
  const RowLayout layout = tensor::kv_row_layout(shape.format, shape.head_dim, shape.rope_dim);
  const int64_t capacity = std::max<int64_t>(1, shape.window);
  std::vector<Sequence> alone;
  std::vector<Pages> rings;
  std::vector<tensor::LayerRows> layer_rows;
  std::vector<int64_t> first_row = {0}, first_position;
  for (const auto& [first, n] : cases) {
    alone.emplace_back(shape, first + n, 60);
    first_row.push_back(first_row.back() + n);
    first_position.push_back(first);
  }
  Pages step(first_row.back(), 3, layout);
  std::vector<float> q, expected;
  std::vector<int32_t> selected, num_selected;
  for (size_t s = 0; s < cases.size(); ++s) {
    const auto [first, n] = cases[s];
    rings.emplace_back(capacity, capacity, layout);
    layer_rows.push_back(
        {.window = {rings.back().blocks[0], capacity, layout}, .entries = alone[s].entries()});
    for (int64_t p = std::max<int64_t>(0, first - capacity); p < first; ++p)
      alone[s].copy(alone[s].row(p), layer_rows[s].window.row(p));
    for (int64_t i = 0; i < n; ++i)
      alone[s].copy(alone[s].row(first + i), step.view.row(first_row[s] + i));
    q.insert(q.end(), alone[s].q(first), alone[s].q(first + n));
    if (shape.topk > 0) {
      const auto& picks = alone[s].selected();
      selected.insert(selected.end(), picks.begin() + first * shape.topk, picks.end());
      const auto& counts = alone[s].num_selected();
      num_selected.insert(num_selected.end(), counts.begin() + first, counts.end());
    }
    const std::vector<float> one = alone[s].run(Isa::reference, 1, first, {});
    expected.insert(expected.end(), one.begin(), one.end());
  }
  SparseAttentionParams p = alone[0].params();  // the sinks of all are the same
  p.sequences = {static_cast<int64_t>(cases.size()), first_row.data(), first_position.data()};
  p.layer_rows = layer_rows.data();
  p.step_rows = step.view;
  p.q = q.data();
  if (shape.topk > 0) {
    p.selected = selected.data();
    p.num_selected = num_selected.data();
  }
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      device::Arena arena;
      device::ExecContext ctx{&pool, &arena, isa};
      std::vector<float> found(expected.size(), std::nanf(""));
      p.out = found.data();
      sparse_attention(ctx, p);
      expect_same_bits(expected, found,
                       std::string(device::isa_name(isa)) + ", " + std::to_string(threads) +
                           " threads, " + std::to_string(cases.size()) + " sequences");
    }
  }
}

TEST(SparseAttention, SequencesOfOneStepDoNotMeet) {
  const std::vector<std::pair<int64_t, int64_t>> many = {
      {0, 20}, {37, 1}, {9, 0}, {30, 25}, {3, 2}};
  const std::vector<std::pair<int64_t, int64_t>> few = {{40, 1}, {0, 1}, {23, 2}};
  for (const auto& cases : {many, few}) {
    check_together({4, 64, 16, 8, 4, 3, KvFormat::fp8, true}, cases);
    check_together({3, 32, 8, 7, 8, 0, KvFormat::f32, false}, cases);
    check_together({4, 32, 8, 6, 0, 0, KvFormat::bf16, true}, cases);
    check_together({2, 32, 8, 0, 1, 0, KvFormat::f32, false}, cases);
  }
}

}  // namespace
}  // namespace cachalot::ops
