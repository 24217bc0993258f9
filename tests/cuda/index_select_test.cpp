// The index scan with top-k on the GPU's tensor cores, behind its front: the picks are those of its
// own scores, which are within their bound, ties and order included; they do not depend on the
// other rows, nor on which kernel took them.
#include <algorithm>
#include <numeric>

#include "device/cuda/cuda_gpu.h"
#include "ops/indexer/index_prefill_cuda.h"
#include "ops/indexer/index_select_cuda.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Rng;
using testing::Side;
constexpr int64_t kHeads = 64, kDim = 128, kPage = 64, kRowBytes = 68;

// Keys of a sequence, in blocks of `page` rows that lie in some order.
struct Keys {
  int64_t page;
  std::vector<uint8_t> pool;
  std::vector<int32_t> blocks;

  Keys(int64_t count, int64_t rows_of_page)
      : page(rows_of_page),
        pool(static_cast<size_t>((count + page - 1) / page * page * kRowBytes)),
        blocks(static_cast<size_t>((count + page - 1) / page)) {
    std::iota(blocks.rbegin(), blocks.rend(), 0);
  }
  uint8_t* codes(int64_t e) { return block(e) + e % page * 64; }
  uint8_t* scales(int64_t e) { return block(e) + page * 64 + e % page * 4; }

 private:
  uint8_t* block(int64_t e) { return pool.data() + blocks[e / page] * page * kRowBytes; }
};

Keys random_keys(Rng& rng, int64_t count, bool tied) {
  Keys keys(count, kPage);
  std::shuffle(keys.blocks.begin(), keys.blocks.end(), rng);
  for (int64_t e = 0; e < static_cast<int64_t>(keys.blocks.size()) * kPage; ++e) {
    for (int64_t k = 0; k < 64; ++k) keys.codes(e)[k] = static_cast<uint8_t>(rng());
    for (int64_t k = 0; k < 4; ++k) keys.scales(e)[k] = static_cast<uint8_t>(121 + rng() % 6);
    if (!tied || e % kPage == 0) continue;
    const int64_t first = e / kPage * kPage;  // all keys of a block are its first or zero
    std::copy_n(keys.codes(first), 64, keys.codes(e));
    std::copy_n(keys.scales(first), 4, keys.scales(e));
    if (rng() % 2 == 0) std::fill_n(keys.codes(e), 64, 0);
  }
  return keys;
}

std::vector<float> decoded(Keys& keys, int64_t count) {
  std::vector<float> values;
  for (int64_t e = 0; e < count; ++e) {
    for (int64_t k = 0; k < kDim; ++k) {
      values.push_back(numeric::float_from_e2m1(keys.codes(e)[k / 2] >> (k % 2 * 4) & 15) *
                       numeric::float_from_e8m0(keys.scales(e)[k / 32]));
    }
  }
  return values;
}

// Of rows, one after the other.
struct Queries {
  std::vector<float> q, weight;

  Queries(Rng& rng, int64_t rows) {
    for (int64_t i = 0; i < rows * kHeads * 4; ++i) {  // values of e2m1 with one scale per 32
      const float scale = numeric::pow2(-3 + static_cast<int>(rng() % 3));
      for (int64_t k = 0; k < 32; ++k)
        q.push_back(numeric::float_from_e2m1(static_cast<uint8_t>(rng() % 16)) * scale);
    }
    weight = testing::floats_of(testing::random_bf16(rng, rows * kHeads, 0.05f));
  }
};

// The score, and what the tensor cores' sums can move it by.
struct Score {
  float value;
  float slack;
};
Score score(const float* q, const float* weight, const float* key) {
  double sum = 0, magnitude = 0, lost = 0;
  for (int64_t h = 0; h < kHeads; ++h) {
    // 32 products at a time, eight of each scale, and the sum before them are aligned to the
    // largest and cut 13 bits after its first.
    double d = 0, lost_of_head = 0;
    for (int64_t step = 0; step < kDim; step += 32) {
      double largest = std::fabs(d);
      for (int64_t i = 0; i < 32; ++i) {
        const int64_t k = i / 8 * 32 + step / 4 + i % 8;
        const double term = double{q[h * kDim + k]} * key[k];
        d += term;
        largest = std::max(largest, std::fabs(term));
      }
      lost_of_head += 33 * 0x1p-13 * largest;
    }
    const float dot = std::max(numeric::round_to_bf16(static_cast<float>(d)), 0.0f);
    const float term = numeric::round_to_bf16(dot * weight[h]);
    sum += term;
    magnitude += std::fabs(term);
    lost += std::fabs(weight[h]) * lost_of_head;
  }
  // A dot product near a tie of bf16 may round the other way, as its product with the weight then.
  return {numeric::round_to_bf16(static_cast<float>(sum)),
          static_cast<float>(std::fabs(sum) * 0x1p-7 + magnitude * (0x1p-19 + 0x1p-8) + lost)};
}

// A step's rows of some sequences: `rows` from position `first` on.
struct Cut {
  int64_t sequence;
  int64_t first;
  int64_t rows;
};

class IndexSelect : public testing::GpuTest {
 protected:
  struct Picks {
    std::vector<int32_t> selected, num_selected;
    bool operator==(const Picks&) const = default;
  };
  // One step. The queries are those of its rows in their order.
  Picks run(std::vector<Keys>& keys, const float* q, const float* weight,
            const std::vector<Cut>& cuts, int64_t topk, int64_t ratio) {
    Side side(gpu_.get());
    std::vector<int64_t> first_row = {0}, first_position;
    std::vector<tensor::LayerRows> layer_rows;
    for (const Cut& cut : cuts) {
      first_row.push_back(first_row.back() + cut.rows);
      first_position.push_back(cut.first);
      const Keys& own = keys[cut.sequence];
      auto* const pool = reinterpret_cast<std::byte*>(side.array(own.pool));
      std::vector<std::byte*> blocks;
      for (const int32_t block : own.blocks) blocks.push_back(pool + block * own.page * kRowBytes);
      layer_rows.push_back({.index_keys = {side.array(blocks), own.page, {64, 4}}});
    }
    const int64_t rows = first_row.back();
    IndexSelectParams p{};
    p.q = side.array(std::vector<float>(q, q + rows * kHeads * kDim));
    p.weight = side.array(std::vector<float>(weight, weight + rows * kHeads));
    p.heads = kHeads;
    p.dim = kDim;
    p.sequences = side.sequences(first_row, first_position);
    p.layer_rows = side.table(layer_rows);
    p.ratio = ratio;
    p.topk = topk;
    p.format = tensor::IndexFormat::fp4;
    p.bf16_math = p.round_scores = p.tensor_cores = true;
    p.selected = side.room<int32_t>(rows * topk);
    p.num_selected = side.room<int32_t>(rows);
    EXPECT_TRUE(index_select_on_tensor_cores(side.ctx, p));
    const Picks first{side.read(p.selected, rows * topk), side.read(p.num_selected, rows)};
    index_select(side.ctx, p);
    const Picks second{side.read(p.selected, rows * topk), side.read(p.num_selected, rows)};
    EXPECT_EQ(first, second);
    std::vector<uint16_t> narrow;
    for (int64_t i = 0; i < rows * kHeads * kDim; ++i)
      narrow.push_back(numeric::bf16_from_float(q[i]));
    EXPECT_EQ(testing::floats_of(narrow), std::vector<float>(q, q + rows * kHeads * kDim));
    p.q = nullptr;
    p.q_bf16 = side.array(narrow);
    EXPECT_TRUE(index_select_takes_bf16(side.ctx, p));
    index_select(side.ctx, p);
    const Picks third{side.read(p.selected, rows * topk), side.read(p.num_selected, rows)};
    EXPECT_EQ(third, second);
    return second;
  }
  // Each of one row, that sees so many entries.
  Picks run(std::vector<Keys>& keys, const Queries& queries, const std::vector<int32_t>& visible,
            int64_t topk) {
    std::vector<Cut> cuts;
    for (size_t i = 0; i < visible.size(); ++i)
      cuts.push_back({static_cast<int64_t>(i), visible[i] - 1, 1});
    return run(keys, queries.q.data(), queries.weight.data(), cuts, topk, 1);
  }
  // A prompt of one sequence from position `first` on, its pieces one after the other.
  Picks run_pieces(std::vector<Keys>& keys, const Queries& queries, int64_t first,
                   const std::vector<int64_t>& pieces, int64_t topk, int64_t ratio) {
    Picks all;
    int64_t row = 0;
    for (const int64_t rows : pieces) {
      const Picks own =
          run(keys, queries.q.data() + row * kHeads * kDim, queries.weight.data() + row * kHeads,
              {{0, first + row, rows}}, topk, ratio);
      all.selected.insert(all.selected.end(), own.selected.begin(), own.selected.end());
      all.num_selected.insert(all.num_selected.end(), own.num_selected.begin(),
                              own.num_selected.end());
      row += rows;
    }
    return all;
  }
  void expect_same(const Picks& found, const Picks& expected, int64_t topk,
                   const std::string& what) {
    EXPECT_EQ(found.num_selected, expected.num_selected) << what;
    const auto at = std::mismatch(found.selected.begin(), found.selected.end(),
                                  expected.selected.begin(), expected.selected.end());
    EXPECT_TRUE(at.first == found.selected.end())
        << what << ": row " << (at.first - found.selected.begin()) / topk << " place "
        << (at.first - found.selected.begin()) % topk << ": " << *at.first << ", expected "
        << *at.second;
  }
};

// Many rows of a sequence are taken by the one kernel, few by the other.
TEST_F(IndexSelect, APromptPicksAsItsPiecesDo) {
  Rng rng(12);
  struct Prompt {
    int64_t first, rows, topk, ratio;
    bool tied;
  };
  for (const Prompt& c : {Prompt{0, 700, 64, 4, false}, Prompt{35000, 301, 512, 4, false},
                          Prompt{1900, 600, 512, 4, true}, Prompt{11700, 300, 512, 1, true},
                          Prompt{19800, 258, 1024, 4, false}, Prompt{3, 257, 8, 128, false}}) {
    std::vector<Keys> keys = {random_keys(rng, (c.first + c.rows) / c.ratio, c.tied)};
    const Queries queries(rng, c.rows);
    const std::string what =
        "first " + std::to_string(c.first) + ", topk " + std::to_string(c.topk);
    const Picks expected = run_pieces(keys, queries, c.first, {c.rows}, c.topk, c.ratio);
    std::vector<int64_t> pieces;
    for (int64_t left = c.rows; left > 0; left -= pieces.back())
      pieces.push_back(std::min<int64_t>(left, 1 + rng() % 140));
    expect_same(run_pieces(keys, queries, c.first, pieces, c.topk, c.ratio), expected, c.topk,
                what);
    pieces = {1, c.rows - 1};
    expect_same(run_pieces(keys, queries, c.first, pieces, c.topk, c.ratio), expected, c.topk,
                what + ", all but one");
  }
}

TEST_F(IndexSelect, PrefillRefusesATopkThatDoesNotFit) {
  const Side side(gpu_.get());
  const device::cuda::Device& device = device::cuda::device_of(side.ctx);
  EXPECT_TRUE(make_index_prefill_plan(device, 1024).has_value());
  EXPECT_FALSE(make_index_prefill_plan(device, 2048).has_value());
  EXPECT_FALSE(make_index_prefill_plan(device, 0).has_value());
}

TEST_F(IndexSelect, APlanNamesWhatItCannotTake) {
  const Side side(gpu_.get());
  const auto refusal = [&](const IndexShape& shape) {
    const Result<IndexPlan> plan = make_index_plan(device::cuda::device_of(side.ctx), shape);
    return plan ? "none" : plan.error().message();
  };
  EXPECT_EQ(refusal({1, 1000, 512}), "none");
  EXPECT_EQ(refusal({0, 1000, 512}), "index selection: expected 1 row to one an SM, found 0");
  EXPECT_EQ(refusal({1, 1000, 0}), "index selection: expected topk from 1 to 65536, found 0");
  EXPECT_EQ(refusal({1, 0, 512}), "index selection: expected 1 to 2^26 entries, found 0");
  EXPECT_EQ(refusal({1000, 1000, 512}), "index selection: expected 1 row to one an SM, found 1000");
}

// Of each kernel: a prompt, one block a row, several.
TEST_F(IndexSelect, SmallCase) {
  Rng rng(17);
  constexpr int64_t kRows = 256, kTopk = 32;
  std::vector<Keys> keys = {random_keys(rng, 300, true)};
  const Queries queries(rng, kRows);
  expect_same(run_pieces(keys, queries, 40, {kRows}, kTopk, 1),
              run_pieces(keys, queries, 40, {250, 6}, kTopk, 1), kTopk, "prompt");
  std::vector<Keys> two = {random_keys(rng, 5000, false), random_keys(rng, 500, false)};
  const Picks both = run(two, queries, {5000, 500}, kTopk);
  two.pop_back();
  const Picks alone = run(two, queries, {5000}, kTopk);
  EXPECT_TRUE(std::equal(alone.selected.begin(), alone.selected.end(), both.selected.begin()));
}

TEST_F(IndexSelect, TheSizeOfBlocksDoesNotMatter) {
  Rng rng(14);
  constexpr int64_t kRows = 260, kCount = 5000, kTopk = 512;
  std::vector<Keys> keys = {random_keys(rng, kCount, false)};
  const Queries queries(rng, kRows);
  const int64_t first = kCount - kRows;
  const Picks expected = run_pieces(keys, queries, first, {kRows}, kTopk, 1);
  for (const int64_t page : {16, 48, 320}) {
    std::vector<Keys> other = {Keys(kCount, page)};
    for (int64_t e = 0; e < kCount; ++e) {
      std::copy_n(keys[0].codes(e), 64, other[0].codes(e));
      std::copy_n(keys[0].scales(e), 4, other[0].scales(e));
    }
    for (const std::vector<int64_t>& pieces : {std::vector<int64_t>{kRows}, {130, 130}}) {
      expect_same(run_pieces(other, queries, first, pieces, kTopk, 1), expected, kTopk,
                  "page " + std::to_string(page));
    }
  }
}

// Every entry is at least as good as those before it: the candidates fill up again and again.
TEST_F(IndexSelect, APromptOfRisingScoresPicksAsItsPiecesDo) {
  Rng rng(13);
  constexpr int64_t kRows = 256, kCount = 20000, kTopk = 512;
  Keys rising(kCount, kPage);
  for (int64_t e = 0; e < kCount; ++e) {
    const int64_t level = e * 42 / kCount;
    std::fill_n(rising.codes(e), 64, static_cast<uint8_t>((level % 7 + 1) * 0x11));
    std::fill_n(rising.scales(e), 4, static_cast<uint8_t>(115 + 4 * (level / 7)));
  }
  std::vector<Keys> keys = {rising};
  Queries queries(rng, kRows);
  for (std::vector<float>* values : {&queries.q, &queries.weight}) {
    for (float& value : *values) value = std::fabs(value);
  }
  const int64_t first = kCount - kRows;
  expect_same(run_pieces(keys, queries, first, {kRows}, kTopk, 1),
              run_pieces(keys, queries, first, {100, 100, 56}, kTopk, 1), kTopk, "rising");
}

TEST_F(IndexSelect, PicksTheBest) {
  Rng rng(10);
  struct Case {
    std::vector<int32_t> visible;
    int64_t topk;
    bool tied;
  };
  for (const Case& c :
       {Case{{100, 7, 64, 65}, 64, false}, Case{{1000}, 512, false},
        Case{{4097, 513, 512, 2000, 3333}, 512, false}, Case{{5000, 3000}, 512, true},
        Case{{30000}, 1024, false}, Case{{20000}, 512, true}}) {
    std::vector<Keys> all_keys;
    for (const int32_t visible : c.visible) all_keys.push_back(random_keys(rng, visible, c.tied));
    const Queries queries(rng, static_cast<int64_t>(c.visible.size()));
    const Picks found = run(all_keys, queries, c.visible, c.topk);
    for (size_t row = 0; row < c.visible.size(); ++row) {
      const int64_t visible = c.visible[row];
      const int64_t taken = std::min<int64_t>(visible, c.topk);
      const int32_t* picks = found.selected.data() + row * c.topk;
      ASSERT_EQ(found.num_selected[row], taken);
      std::vector<bool> picked(visible);
      for (int64_t i = 0; i < taken; ++i) {
        ASSERT_GE(picks[i], i == 0 ? 0 : picks[i - 1] + 1)
            << "visible " << visible << " place " << i;
        ASSERT_LT(picks[i], visible);
        picked[picks[i]] = true;
      }
      for (int64_t i = taken; i < c.topk; ++i) ASSERT_EQ(picks[i], -1);
      if (visible <= c.topk) continue;
      const std::vector<float> keys = decoded(all_keys[row], visible);
      std::vector<Score> scores;
      for (int64_t e = 0; e < visible; ++e) {
        scores.push_back(score(queries.q.data() + row * kHeads * kDim,
                               queries.weight.data() + row * kHeads, keys.data() + e * kDim));
      }
      std::vector<float> sorted;
      for (const Score& s : scores) sorted.push_back(s.value);
      std::nth_element(sorted.begin(), sorted.begin() + (c.topk - 1), sorted.end(),
                       std::greater<>());
      const float threshold = sorted[c.topk - 1];
      int64_t num_clear = 0;
      for (int64_t e = 0; e < visible; ++e) {
        if (std::fabs(scores[e].value - threshold) <= scores[e].slack) continue;
        ++num_clear;
        ASSERT_EQ(picked[e], scores[e].value > threshold)
            << "visible " << visible << " entry " << e << " score " << scores[e].value
            << " threshold " << threshold;
      }
      EXPECT_GT(num_clear, c.tied ? 0 : visible / 2);
      if (!c.tied) continue;
      // Equal keys have equal scores: of those in one block the earlier are taken first.
      for (int64_t first = 0; first < visible; first += kPage) {
        const int64_t last = std::min(visible, first + kPage);
        for (int64_t e = first; e < last; ++e) {
          for (int64_t f = e + 1; f < last; ++f) {
            const float* at = keys.data();
            if (picked[f] && !picked[e]) {
              ASSERT_FALSE(std::equal(at + e * kDim, at + (e + 1) * kDim, at + f * kDim))
                  << "entry " << f << " was taken, its equal " << e << " was not";
            }
          }
        }
      }
    }
  }
}

// Decoding sequences, drafts and a prompt in one step; then each row alone.
TEST_F(IndexSelect, ARowDoesNotDependOnTheOthers) {
  Rng rng(11);
  constexpr int64_t kTopk = 512, kRatio = 4;
  for (int trial = 0; trial < 3; ++trial) {
    std::vector<Keys> keys;
    std::vector<Cut> cuts;
    int64_t rows = 0;
    for (int64_t s = 0; s < 9; ++s) {
      const int64_t first = rng() % (s % 2 == 0 ? 40000 : 3000);
      const int64_t count = s == 4 ? 256 + rng() % 50 : s % 3 == 0 ? 1 + rng() % 90 : rng() % 3;
      cuts.push_back({s, first, count});
      keys.push_back(random_keys(rng, std::max<int64_t>(1, (first + count) / kRatio), false));
      rows += count;
    }
    const Queries queries(rng, rows);
    const Picks expected = run(keys, queries.q.data(), queries.weight.data(), cuts, kTopk, kRatio);
    int64_t row = 0;
    for (const Cut& cut : cuts) {
      for (int64_t i = 0; i < cut.rows; ++i, ++row) {
        if (i > 0 && i + 1 < cut.rows && rng() % 16 != 0) continue;
        const Picks found =
            run(keys, queries.q.data() + row * kHeads * kDim, queries.weight.data() + row * kHeads,
                {{cut.sequence, cut.first + i, 1}}, kTopk, kRatio);
        EXPECT_EQ(found.num_selected[0], expected.num_selected[row]);
        EXPECT_TRUE(std::equal(found.selected.begin(), found.selected.end(),
                               expected.selected.begin() + row * kTopk))
            << "row " << row;
      }
    }
  }
}

// More rows than the chip has places for, with more entries than shared memory has at once.
TEST_F(IndexSelect, ManyLongSequencesAreTakenSomeAtATime) {
  Rng rng(15);
  constexpr int64_t kRows = 140, kTopk = 512;
  const int64_t count = 200000;
  std::vector<Keys> keys = {random_keys(rng, count, false)};
  const Queries queries(rng, kRows);
  std::vector<Cut> cuts;
  for (int64_t i = 0; i < kRows; ++i) cuts.push_back({0, i == 70 ? count - 1 : 5000 + i, 1});
  const Picks expected = run(keys, queries.q.data(), queries.weight.data(), cuts, kTopk, 1);
  for (const int64_t row : {0, 70, 139}) {
    const Picks found = run(keys, queries.q.data() + row * kHeads * kDim,
                            queries.weight.data() + row * kHeads, {cuts[row]}, kTopk, 1);
    EXPECT_TRUE(std::equal(found.selected.begin(), found.selected.end(),
                           expected.selected.begin() + row * kTopk))
        << "row " << row;
  }
}

}  // namespace
}  // namespace cachalot::ops
