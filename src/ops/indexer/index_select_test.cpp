// index_select: the reference against an evaluation in double, every version against the reference,
// whatever the cut.
#include "ops/indexer/index_select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/indexer/index_kernels.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using device::Isa;
using tensor::IndexFormat;

struct Shape {
  int64_t heads;
  int64_t dim;
  int64_t ratio;
  int64_t topk;
  IndexFormat format;
  bool bf16_math;
  bool round_scores;
};

struct Selection {
  std::vector<int32_t> selected;
  std::vector<int32_t> counts;
  bool operator==(const Selection&) const = default;
};

class Index {
 public:
  Index(const Shape& shape, int64_t first, int64_t rows, uint64_t seed)
      : shape_(shape),
        first_(first),
        rows_(rows),
        num_keys_((first + rows) / shape.ratio),
        layout_(tensor::index_row_layout(shape.format, shape.dim)) {
    RngStream rng(seed, RngPurpose::data, 2);
    q.resize(rows * shape.heads * shape.dim);
    weight.resize(rows * shape.heads);
    keys.resize(num_keys_ * shape.dim);
    for (auto* values : {&q, &weight, &keys}) {
      for (float& x : *values) {
        x = static_cast<float>(rng.next_normal());
        if (shape.bf16_math) x = numeric::round_to_bf16(x);
      }
    }
    encode();
  }

  void set_round_scores(bool value) { shape_.round_scores = value; }

  void set_rows_per_block(int64_t rows) {
    rows_per_block_ = rows;
    encode();
  }

  void encode() {
    const int64_t rows = rows_per_block_;
    storage_.assign((num_keys_ + rows - 1) / rows,
                    std::vector<std::byte>(rows * layout_.row_bytes()));
    blocks_.clear();
    for (auto& page : storage_) blocks_.push_back(page.data());
    view_ = {blocks_.data(), rows, layout_};
    for (int64_t e = 0; e < num_keys_; ++e) {
      encode_index_row(shape_.format, &keys[e * shape_.dim], shape_.dim, view_.row(e));
    }
  }

  // Rows in pieces of these sizes, the rest in one: a call each, or all of them in one call, as
  // sequences with the same keys.
  Selection run(Isa isa, int num_threads, const std::vector<int64_t>& chunks,
                bool together = false) const {
    Selection out{std::vector<int32_t>(rows_ * shape_.topk, -7), std::vector<int32_t>(rows_, -7)};
    std::vector<int64_t> first_row = {0}, first_position;
    for (size_t i = 0; first_row.back() < rows_; ++i) {
      const int64_t row = first_row.back();
      first_position.push_back(first_ + row);
      first_row.push_back(std::min(rows_, row + (i < chunks.size() ? chunks[i] : rows_)));
    }
    const auto count = static_cast<int64_t>(first_position.size());
    const std::vector<tensor::LayerRows> layer_rows(first_position.size(), {.index_keys = view_});
    if (together) {
      select(isa, num_threads, {count, first_row.data(), first_position.data()}, layer_rows.data(),
             0, out);
      return out;
    }
    for (int64_t s = 0; s < count; ++s) {
      const int64_t ends[] = {0, first_row[s + 1] - first_row[s]};
      select(isa, num_threads, {1, ends, &first_position[s]}, &layer_rows[s], first_row[s], out);
    }
    return out;
  }

  // One call, whose first row is row `row` of the queries and of out.
  void select(Isa isa, int num_threads, const tensor::Sequences& sequences,
              const tensor::LayerRows* layer_rows, int64_t row, Selection& out) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    index_select(ctx, {.q = &q[row * shape_.heads * shape_.dim],
                       .weight = &weight[row * shape_.heads],
                       .heads = shape_.heads,
                       .dim = shape_.dim,
                       .sequences = sequences,
                       .layer_rows = layer_rows,
                       .ratio = shape_.ratio,
                       .topk = shape_.topk,
                       .format = shape_.format,
                       .bf16_math = shape_.bf16_math,
                       .round_scores = shape_.round_scores,
                       .selected = &out.selected[row * shape_.topk],
                       .num_selected = &out.counts[row]});
  }

  const tensor::RowBlocks& key_rows() const { return view_; }

  // Every kept entry scores at least as much as every dropped one, but for the rounding of both: u
  // = 2^-24; a dot product of dim terms is off by dim u sum |q k|, the sum over heads by heads u
  // more; round_scores adds three roundings of 2^-8.
  void expect_best(const Selection& found, int64_t row) const {
    const int64_t visible = (first_ + row + 1) / shape_.ratio;
    const int32_t* selected = &found.selected[row * shape_.topk];
    const int64_t count = found.counts[row];
    ASSERT_EQ(count, std::min(visible, shape_.topk)) << "row " << row;
    for (int64_t i = count; i < shape_.topk; ++i) ASSERT_EQ(selected[i], -1);
    std::vector<bool> kept(visible);
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_TRUE(selected[i] >= 0 && selected[i] < visible) << selected[i] << " of " << visible;
      ASSERT_TRUE(i == 0 || selected[i] > selected[i - 1]);
      kept[selected[i]] = true;
    }
    double lowest_kept = INFINITY;
    double highest_dropped = -INFINITY;
    double error = 0;
    std::vector<float> key(shape_.dim);
    for (int64_t e = 0; e < visible; ++e) {
      decode_index_row(Isa::reference, shape_.format, view_.row(e), shape_.dim, key.data());
      for (float& x : key) x = shape_.bf16_math ? numeric::round_to_bf16(x) : x;
      double score = 0;
      double magnitude = 0;
      for (int64_t h = 0; h < shape_.heads; ++h) {
        double dot = 0;
        double sum = 0;
        const float* head = &q[(row * shape_.heads + h) * shape_.dim];
        for (int64_t j = 0; j < shape_.dim; ++j) {
          dot += double{head[j]} * key[j];
          sum += std::fabs(double{head[j]} * key[j]);
        }
        const double w = weight[row * shape_.heads + h];
        score += std::max(dot, 0.0) * w;
        magnitude += sum * std::fabs(w);
      }
      const auto depth = static_cast<double>(shape_.dim + shape_.heads + 1);
      error =
          std::max(error, (depth * 0x1p-24 + (shape_.round_scores ? 3 * 0x1p-8 : 0)) * magnitude);
      (kept[e] ? lowest_kept : highest_dropped) =
          kept[e] ? std::min(lowest_kept, score) : std::max(highest_dropped, score);
    }
    ASSERT_GE(lowest_kept, highest_dropped - 2 * error) << "row " << row;
  }

  std::vector<float> q, weight, keys;

 private:
  Shape shape_;
  int64_t first_;
  int64_t rows_;
  int64_t num_keys_;
  tensor::RowLayout layout_;
  int64_t rows_per_block_ = 7;
  std::vector<std::vector<std::byte>> storage_;
  std::vector<std::byte*> blocks_;
  tensor::RowBlocks view_;
};

void expect_same(const Index& index, const Selection& expected,
                 const std::vector<std::vector<int64_t>>& cuts) {
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      for (const auto& cut : cuts) {
        for (bool together : {false, true}) {
          ASSERT_EQ(expected, index.run(isa, threads, cut, together))
              << device::isa_name(isa) << ", " << threads << " threads, " << cut.size()
              << " chunks, " << (together ? "together" : "apart");
        }
      }
    }
  }
}

void check(const Shape& shape, int64_t first, int64_t rows,
           const std::vector<std::vector<int64_t>>& cuts) {
  const Index index(shape, first, rows, 31 + shape.dim + shape.heads);
  const Selection expected = index.run(Isa::reference, 1, {});
  for (int64_t row = 0; row < rows; ++row) {
    index.expect_best(expected, row);
    if (testing::Test::HasFatalFailure()) return;
  }
  expect_same(index, expected, cuts);
}

TEST(IndexSelect, FormatsAndMath) {
  for (IndexFormat format :
       {IndexFormat::f32, IndexFormat::bf16, IndexFormat::fp4, IndexFormat::fp8}) {
    for (int mode = 0; mode < 3; ++mode) {
      check({4, 32, 4, 5, format, mode > 0, mode > 1}, 0, 90, {{}, {1, 2, 3}, {40}});
      check({16, 64, 4, 7, format, mode > 0, mode > 1}, 300, 9, {{}, {1, 1, 1, 1, 1}});
    }
  }
}

TEST(IndexSelect, Shapes) {
  check({1, 32, 1, 3, IndexFormat::f32, false, false}, 0, 70, {{}, {13}});
  check({2, 16, 4, 2, IndexFormat::bf16, true, true}, 0, 130, {{}, {5, 6, 7}});
  check({3, 128, 2, 6, IndexFormat::fp4, true, true}, 40, 50, {{}, {5, 6, 7}});
  check({32, 128, 4, 8, IndexFormat::f32, false, false}, 500, 6, {{}, {1, 2}});
  check({64, 128, 4, 16, IndexFormat::fp4, true, false}, 700, 3, {{}, {1, 1, 1}});
  check({5, 20, 4, 3, IndexFormat::f32, true, false}, 0, 90, {{}, {5, 6, 7}});
}

// Enough keys for several ranges and many cuts of the candidates.
TEST(IndexSelect, ManyKeys) {
  for (bool bf16 : {false, true}) {
    const Shape shape{2, 32, 4, 40, IndexFormat::bf16, bf16, bf16};
    const Index index(shape, 40000, 20, 5);
    const Selection expected = index.run(Isa::reference, 2, {});
    index.expect_best(expected, 0);
    index.expect_best(expected, 19);
    for (Isa isa : device::machine_isas()) {
      if (isa == Isa::reference) continue;
      for (int threads : {1, 2, 5}) {
        for (const auto& cut : std::vector<std::vector<int64_t>>{{}, {1, 1, 1, 1}, {9}}) {
          for (bool together : {false, true}) {
            ASSERT_EQ(expected, index.run(isa, threads, cut, together))
                << device::isa_name(isa) << " " << threads;
          }
        }
      }
    }
  }
}

// Sequences of other keys, lengths and positions in one call: each row as it is alone. Some see no
// more than topk entries, some are empty, one has keys enough for several ranges.
TEST(IndexSelect, SequencesOfOneCallDoNotMeet) {
  const Shape shape{3, 32, 4, 12, IndexFormat::fp4, true, true};
  const std::pair<int64_t, int64_t> cases[] = {{0, 30}, {9000, 1}, {40, 0}, {30, 70}, {5000, 3}};
  std::vector<Index> alone;
  for (const auto& [first, rows] : cases) alone.emplace_back(shape, first, rows, 40 + alone.size());
  Index joined(shape, 0, 104, 1);  // its queries and weights are replaced
  std::vector<int64_t> first_row = {0}, first_position;
  std::vector<tensor::LayerRows> layer_rows;
  joined.q.clear();
  joined.weight.clear();
  for (size_t s = 0; s < alone.size(); ++s) {
    joined.q.insert(joined.q.end(), alone[s].q.begin(), alone[s].q.end());
    joined.weight.insert(joined.weight.end(), alone[s].weight.begin(), alone[s].weight.end());
    first_row.push_back(first_row.back() + cases[s].second);
    first_position.push_back(cases[s].first);
    layer_rows.push_back({.index_keys = alone[s].key_rows()});
  }
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      Selection found{std::vector<int32_t>(104 * 12, -7), std::vector<int32_t>(104, -7)};
      joined.select(isa, threads, {5, first_row.data(), first_position.data()}, layer_rows.data(),
                    0, found);
      Selection expected;
      for (const Index& index : alone) {
        const Selection one = index.run(Isa::reference, 1, {});
        expected.selected.insert(expected.selected.end(), one.selected.begin(), one.selected.end());
        expected.counts.insert(expected.counts.end(), one.counts.begin(), one.counts.end());
      }
      ASSERT_EQ(expected, found) << device::isa_name(isa) << ", " << threads << " threads";
    }
  }
}

TEST(ReplaySelection, CopiesPicksAndCountsThem) {
  const std::vector<int32_t> picks = {0, 4, 9, 2, -1, -1, -1, -1, -1, 1, 5, -1};
  std::vector<int32_t> selected(12), num_selected(4);
  ThreadPool pool(2);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  replay_selection(ctx, picks.data(), 4, 3, selected.data(), num_selected.data());
  EXPECT_EQ(selected, picks);
  EXPECT_EQ(num_selected, (std::vector<int32_t>{3, 1, 0, 2}));
}

// Ascending scores: every key beats the threshold, so the candidates are cut over and over.
// Keys whose blocks hold whole runs of sixteen are read as they lie, of others not, nor where a
// scale is too small or too large for that.
TEST(IndexSelect, Fp4KeysInBlocksOfRuns) {
  for (const int64_t dim : {32, 64, 96, 128}) {
    const Shape shape{3, dim, 4, 100, IndexFormat::fp4, true, false};
    Index index(shape, 4 * 531, 3, 77 + static_cast<uint64_t>(dim));
    for (const bool extreme : {false, true}) {
      for (int64_t i = 0; extreme && i < dim; ++i) {
        index.keys[70 * dim + i] *= 0x1p-125f;
        index.keys[200 * dim + i] *= 0x1p+120f;
        index.keys[300 * dim + i] = 0;
      }
      index.encode();
      const Selection expected = index.run(Isa::reference, 1, {});
      for (const int64_t rows : {int64_t{7}, kIndexRunKeys, 2 * kIndexRunKeys}) {
        index.set_rows_per_block(rows);
        expect_same(index, expected, {{}, {1, 1, 1}});
      }
    }
  }
}

// Every code of a pair under every scale: the panel has the bits of the decoded rows' panel (on
// AVX2 but for the sign of zeros), or the version says that it has not.
TEST(IndexSelect, Fp4PanelsHaveTheBitsOfDecodedKeys) {
  struct Version {
    Isa isa;
    int64_t value_bytes;
    int num_exact;  // of the scales
  };
  for (const auto& [isa, value_bytes, exact_scales] :
       {Version{Isa::avx2, 4, 229}, Version{Isa::avx512bf16, 2, 251}}) {
    if (isa > device::machine_isa()) continue;
    const IndexKernels& kernels = index_kernels(isa, true);
    for (const int64_t dim : {32, 64, 128}) {
      const tensor::RowLayout layout = tensor::index_row_layout(IndexFormat::fp4, dim);
      std::vector<std::byte> block(kIndexTileKeys * layout.row_bytes());
      std::byte* first = block.data();
      const tensor::RowBlocks rows{&first, kIndexTileKeys, layout};
      int num_exact = 0;
      for (int scale = 0; scale < 255; ++scale) {
        std::vector<float> keys(kIndexTileKeys * dim);
        for (int64_t e = 0; e < kIndexTileKeys; ++e) {
          const tensor::RowRef row = rows.row(e);
          for (int64_t i = 0; i < dim / 2; ++i)
            row.data[i] = static_cast<std::byte>(e * dim / 2 + i + scale);
          for (int64_t i = 0; i < dim / 32; ++i)
            row.scale[i] = static_cast<std::byte>(i == 0 ? scale : 100 + (e + i) % 50);
          decode_index_row(Isa::reference, IndexFormat::fp4, row, dim, &keys[e * dim]);
        }
        if (isa == Isa::avx2) {
          for (float& key : keys) key += 0.0f;  // -0 to 0
        }
        Fp4Run runs[4];
        for (int64_t i = 0; i < 4; ++i) {
          const tensor::RowRef row = rows.row(i * kIndexRunKeys);
          runs[i] = {row.data, row.scale};
        }
        std::vector<float> found(kIndexTileKeys * dim), expected(kIndexTileKeys * dim);
        if (!kernels.pack_fp4_keys(runs, dim, found.data())) continue;
        ++num_exact;
        kernels.pack_keys(keys.data(), dim, kIndexTileKeys, dim, expected.data());
        ASSERT_EQ(0, std::memcmp(found.data(), expected.data(),
                                 static_cast<size_t>(kIndexTileKeys * dim * value_bytes)))
            << device::isa_name(isa) << ", dim " << dim << ", scale " << scale;
      }
      EXPECT_EQ(num_exact, exact_scales);
    }
  }
}

TEST(IndexSelect, AscendingScores) {
  const Shape shape{1, 16, 1, 30, IndexFormat::f32, false, false};
  Index index(shape, 9999, 1, 6);
  std::fill(index.q.begin(), index.q.end(), 0.0f);
  index.q[0] = 1;
  index.weight[0] = 1;
  for (int64_t e = 0; e < 10000; ++e) index.keys[e * 16] = static_cast<float>(e / 3);
  index.encode();
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2}) {
      const Selection found = index.run(isa, threads, {});
      // 9999 = 3 * 3333 alone has the best score; then the threes 3332, 3331, ...; of the last one
      // the first two.
      EXPECT_EQ(found.selected[29], 9999);
      for (int i = 0; i < 27; ++i) EXPECT_EQ(found.selected[i + 2], 9972 + i);
      EXPECT_EQ(found.selected[0], 9969);
      EXPECT_EQ(found.selected[1], 9970);
    }
  }
}

// (t + 1) / r = K - 1, K, K + 1: everything is taken up to K, unscored (NaN keys do not matter),
// then the best K.
TEST(IndexSelect, FromDenseToSparse) {
  const Shape shape{4, 32, 4, 6, IndexFormat::f32, false, false};
  Index index(shape, 0, 40, 8);
  const Selection expected = index.run(Isa::reference, 1, {});
  for (Isa isa : device::machine_isas()) {
    const Selection found = index.run(isa, 2, std::vector<int64_t>(40, 1));
    EXPECT_EQ(found, expected);
    for (int64_t t = 0; t < 40; ++t) {
      const int64_t visible = (t + 1) / 4;
      EXPECT_EQ(found.counts[t], std::min<int64_t>(visible, 6));
      for (int64_t i = 0; i < std::min<int64_t>(visible, 6) && visible <= 6; ++i) {
        EXPECT_EQ(found.selected[t * 6 + i], i);
      }
      // The entry finished by token t itself is visible, the next one is not.
      for (int64_t i = 0; i < 6; ++i) EXPECT_LT(found.selected[t * 6 + i], visible);
    }
    index.expect_best(found, 27);  // the first to drop one: 7 visible
    index.expect_best(found, 26);
  }
}

TEST(IndexSelect, TiesGoToTheLowestEntries) {
  for (IndexFormat format : {IndexFormat::f32, IndexFormat::fp4}) {
    const Shape shape{4, 32, 4, 5, format, true, true};
    Index index(shape, 399, 3, 9);
    // All dot products negative: relu leaves zero for every entry, whatever the weights' signs.
    for (float& x : index.q) x = -std::fabs(x) - 0.125f;
    for (float& x : index.keys) x = std::fabs(x) + 0.5f;
    index.encode();
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2, 5}) {
        const Selection found = index.run(isa, threads, {});
        for (int64_t row = 0; row < 3; ++row) {
          for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(found.selected[row * 5 + i], i);
        }
      }
    }
    // Equal keys but for three that are better: those and the first two of the rest.
    for (float& x : index.q) x = 1;
    for (float& x : index.weight) x = 1;
    for (float& x : index.keys) x = 1;
    for (int64_t e : {31, 64, 97}) std::fill_n(&index.keys[e * 32], 32, 2.0f);
    index.encode();
    for (Isa isa : device::machine_isas()) {
      const Selection found = index.run(isa, 2, {});
      EXPECT_EQ(std::vector<int32_t>(found.selected.begin(), found.selected.begin() + 5),
                (std::vector<int32_t>{0, 1, 31, 64, 97}));
    }
  }
}

// The relu stands before the weight: a negative weight pushes down what it matches and lifts
// nothing else.
TEST(IndexSelect, NegativeWeights) {
  const Shape shape{1, 16, 1, 2, IndexFormat::f32, false, false};
  Index index(shape, 3, 1, 10);
  std::fill(index.q.begin(), index.q.end(), 0.0f);
  std::fill(index.keys.begin(), index.keys.end(), 0.0f);
  index.q[0] = 1;
  index.weight[0] = -1;
  const float dots[] = {3, -5, 1, -1};  // scores -3, 0, -1, 0
  for (int64_t e = 0; e < 4; ++e) index.keys[e * 16] = dots[e];
  index.encode();
  for (Isa isa : device::machine_isas()) {
    const Selection found = index.run(isa, 1, {});
    EXPECT_EQ(found.selected, (std::vector<int32_t>{1, 3}));
  }
}

// The published roundings are taken: a case where the exact order differs from the rounded one.
TEST(IndexSelect, RoundedScoresTie) {
  const Shape shape{1, 16, 1, 1, IndexFormat::f32, true, true};
  Index index(shape, 1, 1, 10);
  std::fill(index.q.begin(), index.q.end(), 0.0f);
  std::fill(index.keys.begin(), index.keys.end(), 0.0f);
  index.q[0] = index.q[1] = 1;
  index.weight[0] = 1;
  index.keys[0] = 1;
  index.keys[16] = 1;
  index.keys[17] = 0x1p-10f;  // 1 + 2^-10 rounds to 1: a tie, which entry 0 wins
  index.encode();
  for (Isa isa : device::machine_isas()) EXPECT_EQ(index.run(isa, 1, {}).selected[0], 0);
}

// The published shape at 4096 entries. Scores of independent normals are the hard case: nothing
// separates the kept from the dropped. Trained scores have heavier tails; here a sixteenth of the
// keys points where the queries do.
TEST(IndexSelect, RoundedScoresRecallWhatExactOnesChoose) {
  for (const bool separated : {true, false}) {
    const Shape rounded{64, 128, 4, 512, IndexFormat::fp4, true, true};
    const int64_t rows = 24, first = 16384;
    Index index(rounded, first, rows, 11);
    const auto dim = static_cast<size_t>(rounded.dim);
    for (size_t e = 0; separated && e * dim < index.keys.size(); e += 16) {
      for (size_t i = 0; i < dim; ++i) {
        float& key = index.keys[e * dim + i];
        key = numeric::round_to_bf16(key + 0.5f * index.q[i]);
      }
    }
    index.encode();
    const Selection a = index.run(device::machine_isa(), 2, {});
    index.set_round_scores(false);
    const Selection b = index.run(device::machine_isa(), 2, {});
    int64_t found = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const auto begin = row * rounded.topk, end = begin + rounded.topk;
      std::vector<int32_t> both;
      std::set_intersection(a.selected.begin() + begin, a.selected.begin() + end,
                            b.selected.begin() + begin, b.selected.begin() + end,
                            std::back_inserter(both));
      found += static_cast<int64_t>(both.size());
    }
    const double recall = static_cast<double>(found) / static_cast<double>(rows * rounded.topk);
    RecordProperty(separated ? "recall_separated" : "recall_normal", std::to_string(recall));
    EXPECT_GE(recall, 0.997);
  }
}

}  // namespace
}  // namespace cachalot::ops
