// The index scan with top-k on the GPU: the picks are those of its own scores, which are within
// their bound, ties and order included.
#include <algorithm>
#include <numeric>

#include "ops/indexer/index_prefill_cuda.h"
#include "ops/indexer/index_select_cuda.h"
#include "tests/cuda/cuda_fixture.h"

namespace cachalot::ops {
namespace {

using testing::Rng;
using testing::cuda::DeviceBuffer;
constexpr int64_t kHeads = 64, kDim = 128, kRowsPerBlock = 64;

struct Case {
  std::vector<int32_t> visible;
  int64_t topk;
  bool tied;  // few different scores
};

struct Operands {
  std::vector<uint16_t> q, weight;
  std::vector<uint8_t> pool;
  std::vector<int32_t> blocks;
  int64_t table_stride;
  std::vector<std::vector<float>> keys;  // of each row, decoded
  int64_t page = kRowsPerBlock;          // rows of a block
};

Operands random_operands(Rng& rng, const Case& c) {
  Operands o;
  const auto rows = static_cast<int64_t>(c.visible.size());
  for (int64_t i = 0; i < rows * kHeads; ++i) {  // values of e2m1 with one scale per 32
    for (int64_t g = 0; g < 4; ++g) {
      const float scale = numeric::pow2(-3 + static_cast<int>(rng() % 3));
      for (int64_t k = 0; k < 32; ++k) {
        o.q.push_back(numeric::bf16_from_float(
            numeric::float_from_e2m1(static_cast<uint8_t>(rng() % 16)) * scale));
      }
    }
  }
  o.weight = testing::random_bf16(rng, rows * kHeads, 0.05f);
  const int64_t most = *std::max_element(c.visible.begin(), c.visible.end());
  o.table_stride = (most + kRowsPerBlock - 1) / kRowsPerBlock;
  const int64_t block_bytes = kRowsPerBlock * 68;
  o.blocks.resize(rows * o.table_stride);
  std::iota(o.blocks.begin(), o.blocks.end(), 0);
  std::shuffle(o.blocks.begin(), o.blocks.end(), rng);
  o.pool.resize(o.blocks.size() * block_bytes);
  for (uint8_t& byte : o.pool) byte = static_cast<uint8_t>(rng());
  for (size_t b = 0; b < o.blocks.size(); ++b) {
    uint8_t* block = o.pool.data() + b * block_bytes;
    for (int64_t i = 0; i < kRowsPerBlock * 4; ++i)
      block[kRowsPerBlock * 64 + i] = static_cast<uint8_t>(121 + rng() % 6);
    if (!c.tied) continue;
    for (int64_t i = 1; i < kRowsPerBlock; ++i) {  // all keys of a block are its first or zero
      std::copy_n(block, 64, block + i * 64);
      std::copy_n(block + kRowsPerBlock * 64, 4, block + kRowsPerBlock * 64 + i * 4);
      if (rng() % 2 == 0) std::fill_n(block + i * 64, 64, 0);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<float>& keys = o.keys.emplace_back();
    for (int64_t e = 0; e < c.visible[row]; ++e) {
      const uint8_t* block =
          o.pool.data() + o.blocks[row * o.table_stride + e / kRowsPerBlock] * block_bytes;
      const uint8_t* codes = block + e % kRowsPerBlock * 64;
      const uint8_t* scales = block + kRowsPerBlock * 64 + e % kRowsPerBlock * 4;
      for (int64_t k = 0; k < kDim; ++k) {
        keys.push_back(numeric::float_from_e2m1(codes[k / 2] >> (k % 2 * 4) & 15) *
                       numeric::float_from_e8m0(scales[k / 32]));
      }
    }
  }
  return o;
}

// The score, and what the order of the fp32 sums can move it by: it is rounded to bf16.
struct Score {
  float value;
  float slack;
};
Score score(const uint16_t* q, const uint16_t* weight, const float* key) {
  double sum = 0, magnitude = 0;
  for (int64_t h = 0; h < kHeads; ++h) {
    double d = 0;  // exact
    for (int64_t k = 0; k < kDim; ++k)
      d += double{numeric::float_from_bf16(q[h * kDim + k])} * key[k];
    const float dot = std::max(numeric::round_to_bf16(static_cast<float>(d)), 0.0f);
    const float term = numeric::round_to_bf16(dot * numeric::float_from_bf16(weight[h]));
    sum += term;
    magnitude += std::fabs(term);
  }
  // A dot product near a tie of bf16 may round the other way: one step of one term.
  return {numeric::round_to_bf16(static_cast<float>(sum)),
          static_cast<float>(std::fabs(sum) * 0x1p-7 + magnitude * (0x1p-19 + 0x1p-9))};
}

class IndexSelect : public testing::CudaTest {
 protected:
  struct Picks {
    std::vector<int32_t> selected, num_selected;
    bool operator==(const Picks&) const = default;
  };
  Picks run(const Case& c, const Operands& o) {
    const auto rows = static_cast<int64_t>(c.visible.size());
    const int64_t most = *std::max_element(c.visible.begin(), c.visible.end());
    Result<IndexPlan> plan = make_index_plan(device_, {rows, most, c.topk});
    EXPECT_TRUE(plan.has_value()) << plan.error().message();
    if (!plan) return {};
    const DeviceBuffer q = put(o.q), weight = put(o.weight), visible = put(c.visible),
                       pool = put(o.pool), blocks = put(o.blocks),
                       selected = room(rows * c.topk * 4), num_selected = room(rows * 4),
                       scratch = room(plan->scratch_bytes, 0);
    IndexParams p = {};
    p.rows = rows;
    p.q = q.as<uint16_t>();
    p.weight = weight.as<uint16_t>();
    p.visible = visible.as<int32_t>();
    p.base = pool.data();
    p.blocks = blocks.as<int32_t>();
    p.table_stride = o.table_stride;
    p.block_bytes = o.page * 68;
    p.rows_per_block = o.page;
    p.selected = selected.as<int32_t>();
    p.num_selected = num_selected.as<int32_t>();
    p.scratch = scratch.data();
    launch_index_select(*plan, stream_, p);
    const Picks first{get<int32_t>(selected), get<int32_t>(num_selected)};
    launch_index_select(*plan, stream_, p);  // the scratch is as it was
    const Picks second{get<int32_t>(selected), get<int32_t>(num_selected)};
    EXPECT_EQ(first, second);
    return first;
  }
  // All rows over the keys of the first.
  Picks run_prefill(const Case& c, const Operands& o) {
    const auto rows = static_cast<int64_t>(c.visible.size());
    Result<IndexPrefillPlan> plan = make_index_prefill_plan(device_, c.topk);
    EXPECT_TRUE(plan.has_value()) << plan.error().message();
    if (!plan) return {};
    const DeviceBuffer q = put(o.q), weight = put(o.weight), visible = put(c.visible),
                       pool = put(o.pool), blocks = put(o.blocks),
                       selected = room(rows * c.topk * 4), num_selected = room(rows * 4);
    IndexParams p = {};
    p.rows = rows;
    p.q = q.as<uint16_t>();
    p.weight = weight.as<uint16_t>();
    p.visible = visible.as<int32_t>();
    p.base = pool.data();
    p.blocks = blocks.as<int32_t>();
    p.block_bytes = o.page * 68;
    p.rows_per_block = o.page;
    p.selected = selected.as<int32_t>();
    p.num_selected = num_selected.as<int32_t>();
    launch_index_prefill(*plan, stream_, p);
    return {get<int32_t>(selected), get<int32_t>(num_selected)};
  }
};

// Row i of several over the keys of the first, alone.
Operands one_of(const Operands& o, int64_t row) {
  Operands one = o;
  one.q.assign(o.q.begin() + row * kHeads * kDim, o.q.begin() + (row + 1) * kHeads * kDim);
  one.weight.assign(o.weight.begin() + row * kHeads, o.weight.begin() + (row + 1) * kHeads);
  one.blocks.assign(o.blocks.begin(), o.blocks.begin() + o.table_stride);
  return one;
}

TEST_F(IndexSelect, PrefillPicksAsDecodeDoes) {
  Rng rng(12);
  for (const Case& c :
       {Case{{100, 7, 64, 65, 1000, 999}, 64, false},
        Case{{9001, 511, 512, 513, 6000, 9000, 4097}, 512, false},
        Case{{12000, 11999, 513}, 512, true}, Case{{5000}, 1024, false}, Case{{3}, 8, false}}) {
    const Operands o = random_operands(rng, c);
    const Picks found = run_prefill(c, o);
    for (size_t row = 0; row < c.visible.size(); ++row) {
      const Case alone{{c.visible[row]}, c.topk, c.tied};
      const Operands one = one_of(o, static_cast<int64_t>(row));
      const Picks expected = run(alone, one);
      const Picks prefill = run_prefill(alone, one);
      EXPECT_EQ(prefill, expected) << "visible " << c.visible[row] << " topk " << c.topk;
      EXPECT_EQ(found.num_selected[row], expected.num_selected[0]);
      EXPECT_TRUE(std::equal(expected.selected.begin(), expected.selected.end(),
                             found.selected.begin() + static_cast<int64_t>(row) * c.topk))
          << "row " << row << " visible " << c.visible[row] << " topk " << c.topk;
    }
  }
}

TEST_F(IndexSelect, PrefillRefusesATopkThatDoesNotFit) {
  EXPECT_TRUE(make_index_prefill_plan(device_, 1024).has_value());
  EXPECT_FALSE(make_index_prefill_plan(device_, 2048).has_value());
  EXPECT_FALSE(make_index_prefill_plan(device_, 0).has_value());
}

TEST_F(IndexSelect, TheSizeOfBlocksDoesNotMatter) {
  Rng rng(14);
  const Case c{{5000, 4000, 4999}, 512, false};
  const Operands o = random_operands(rng, c);
  const Picks expected = run_prefill(c, o);
  for (const int64_t page : {16, 48, 320}) {
    Operands other = o;
    other.page = page;
    other.table_stride = (5000 + page - 1) / page;
    other.blocks.resize(other.table_stride);
    std::iota(other.blocks.rbegin(), other.blocks.rend(), 0);
    other.pool.assign(other.table_stride * page * 68, 0);
    for (int64_t e = 0; e < 5000; ++e) {
      const uint8_t* from = o.pool.data() + o.blocks[e / kRowsPerBlock] * kRowsPerBlock * 68;
      uint8_t* to = other.pool.data() + other.blocks[e / page] * page * 68;
      std::copy_n(from + e % kRowsPerBlock * 64, 64, to + e % page * 64);
      std::copy_n(from + kRowsPerBlock * 64 + e % kRowsPerBlock * 4, 4,
                  to + page * 64 + e % page * 4);
    }
    EXPECT_EQ(run_prefill(c, other), expected) << "page " << page;
    const Picks decode = run({{5000}, 512, false}, one_of(other, 0));
    EXPECT_TRUE(
        std::equal(decode.selected.begin(), decode.selected.end(), expected.selected.begin()))
        << "page " << page;
  }
}

// Every entry is at least as good as those before it: the candidates fill up again and again.
TEST_F(IndexSelect, PrefillOfRisingScoresPicksAsDecodeDoes) {
  Rng rng(13);
  const Case c{{20000, 20000, 19999, 700, 20000}, 512, false};
  Operands o = random_operands(rng, c);
  for (uint16_t& value : o.q) value &= 0x7FFF;
  for (uint16_t& value : o.weight) value &= 0x7FFF;
  for (int64_t e = 0; e < 20000; ++e) {
    const int64_t level = e * 42 / 20000;
    uint8_t* block = o.pool.data() + o.blocks[e / kRowsPerBlock] * kRowsPerBlock * 68;
    std::fill_n(block + e % kRowsPerBlock * 64, 64, static_cast<uint8_t>((level % 7 + 1) * 0x11));
    std::fill_n(block + kRowsPerBlock * 64 + e % kRowsPerBlock * 4, 4,
                static_cast<uint8_t>(115 + 4 * (level / 7)));
  }
  const Picks found = run_prefill(c, o);
  for (int64_t row = 0; row < 5; ++row) {
    const Picks expected = run({{c.visible[row]}, 512, false}, one_of(o, row));
    EXPECT_TRUE(std::equal(expected.selected.begin(), expected.selected.end(),
                           found.selected.begin() + row * 512))
        << "row " << row;
  }
}

TEST_F(IndexSelect, PicksTheBest) {
  Rng rng(10);
  for (const Case& c :
       {Case{{100, 7, 64, 65}, 64, false}, Case{{1000}, 512, false},
        Case{{4097, 513, 512, 2000, 3333}, 512, false}, Case{{5000, 3000}, 512, true},
        Case{{30000}, 1024, false}, Case{{20000}, 512, true}}) {
    const Operands o = random_operands(rng, c);
    const Picks found = run(c, o);
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
      std::vector<Score> scores;
      for (int64_t e = 0; e < visible; ++e) {
        scores.push_back(score(o.q.data() + row * kHeads * kDim, o.weight.data() + row * kHeads,
                               o.keys[row].data() + e * kDim));
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
      for (int64_t first = 0; first < visible; first += kRowsPerBlock) {
        const int64_t last = std::min(visible, first + kRowsPerBlock);
        for (int64_t e = first; e < last; ++e) {
          for (int64_t f = e + 1; f < last; ++f) {
            const float* keys = o.keys[row].data();
            if (picked[f] && !picked[e]) {
              ASSERT_FALSE(std::equal(keys + e * kDim, keys + (e + 1) * kDim, keys + f * kDim))
                  << "entry " << f << " was taken, its equal " << e << " was not";
            }
          }
        }
      }
    }
  }
}

TEST_F(IndexSelect, ARowDoesNotDependOnTheOthers) {
  Rng rng(11);
  const Case all{{3000, 700, 9000, 4444, 512, 6001}, 512, false};
  const Operands o = random_operands(rng, all);
  const Picks expected = run(all, o);
  for (size_t row = 0; row < all.visible.size(); ++row) {
    Operands one = o;
    const auto at = static_cast<int64_t>(row);
    one.q.assign(o.q.begin() + at * kHeads * kDim, o.q.begin() + (at + 1) * kHeads * kDim);
    one.weight.assign(o.weight.begin() + at * kHeads, o.weight.begin() + (at + 1) * kHeads);
    one.blocks.assign(o.blocks.begin() + at * o.table_stride,
                      o.blocks.begin() + (at + 1) * o.table_stride);
    const Picks found = run({{all.visible[row]}, 512, false}, one);
    EXPECT_TRUE(std::equal(found.selected.begin(), found.selected.end(),
                           expected.selected.begin() + at * 512))
        << "row " << row;
  }
}

}  // namespace
}  // namespace cachalot::ops
