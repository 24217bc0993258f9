// Attention over fp8 rows on the GPU's tensor cores, behind its front, against double; and its
// promises about bits.
#include <algorithm>
#include <numeric>

#include "ops/attention/sparse_decode_cuda.h"
#include "ops/rope/head_rows.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Rng;
using testing::Side;
constexpr int64_t kDim = 512, kCodes = 448, kData = 576, kScales = 8, kRow = kData + kScales;
constexpr int64_t kWindow = 128;
constexpr float kScale = 0.04419417382415922f;

// The rows of all positions of a sequence, and its entries: data, then scales, of each.
struct Sequence {
  std::vector<uint8_t> rows, entries;
};

std::vector<uint8_t> random_rows(Rng& rng, int64_t count) {
  std::vector<uint8_t> rows(static_cast<size_t>(count * kRow));
  for (int64_t i = 0; i < count; ++i) {
    uint8_t* data = rows.data() + i * kRow;
    for (int64_t k = 0; k < kCodes; ++k) {
      data[k] = static_cast<uint8_t>(rng());
      if ((data[k] & 0x7F) == 0x7F) data[k] ^= 8;
    }
    const std::vector<uint16_t> rope = testing::random_bf16(rng, kDim - kCodes);
    std::memcpy(data + kCodes, rope.data(), 128);
    for (int64_t k = 0; k < 7; ++k) data[kData + k] = static_cast<uint8_t>(117 + rng() % 4);
  }
  return rows;
}

std::vector<double> decoded(const uint8_t* row) {
  std::vector<double> key(kDim);
  for (int64_t k = 0; k < kCodes; ++k) {
    key[k] =
        double{numeric::float_from_e4m3(row[k])} * numeric::float_from_e8m0(row[kData + k / 64]);
  }
  for (int64_t k = kCodes; k < kDim; ++k) {
    uint16_t bits;
    std::memcpy(&bits, row + kCodes + (k - kCodes) * 2, 2);
    key[k] = numeric::float_from_bf16(bits);
  }
  return key;
}

void put_row(const uint8_t* row, std::vector<uint8_t>& block, int64_t rows, int64_t slot) {
  std::memcpy(block.data() + slot * kData, row, kData);
  std::memcpy(block.data() + rows * kData + slot * kScales, row + kData, kScales);
}

// What a layer attends to beside the window.
enum class Entries { none, selected, all };

// A layer and the rows of all its sequences that are asked about, in some order.
struct Layer {
  Entries kind;
  int64_t heads;
  int64_t ratio;
  int64_t topk;
  std::vector<Sequence> sequences;
  std::vector<float> sink;
  int64_t capacity = kWindow, page = 32;  // rows of a ring, of a block
};
struct Row {
  int64_t sequence;
  int64_t position;
  std::vector<float> q;
  std::vector<int32_t> picks;
};

Layer random_layer(Rng& rng, Entries kind, int64_t heads, int64_t topk, int64_t ratio,
                   const std::vector<int64_t>& lengths) {
  Layer layer{kind, heads, ratio, topk, {}, testing::random_floats(rng, heads)};
  layer.sink[0] = -INFINITY;
  for (const int64_t length : lengths) {
    layer.sequences.push_back(
        {random_rows(rng, length), random_rows(rng, kind == Entries::none ? 0 : length / ratio)});
  }
  return layer;
}
Row random_row(Rng& rng, const Layer& layer, int64_t sequence, int64_t position, float size) {
  Row row{sequence,
          position,
          testing::floats_of(testing::random_bf16(rng, layer.heads * kDim, size)),
          {}};
  if (layer.kind == Entries::selected) {
    row.picks.resize(static_cast<size_t>((position + 1) / layer.ratio));
    std::iota(row.picks.begin(), row.picks.end(), 0);
    std::shuffle(row.picks.begin(), row.picks.end(), rng);
    row.picks.resize(std::min<size_t>(row.picks.size(), layer.topk));
    std::sort(row.picks.begin(), row.picks.end());
  }
  return row;
}

// A head whose mean of squares, 257 / 512 and a little more, is in the middle between two values of
// bf16 unless sums keep the little, which depends on their order.
std::vector<uint16_t> head_between(Rng& rng) {
  std::vector<uint16_t> head(kDim, 0);
  const int64_t large = rng() % (rng() % 2 == 0 ? 48 : kDim);
  const int64_t chain = (large + rng() % 2 * 8) % 16;
  for (int64_t i = chain; i < kDim; i += 16)
    head[i] = numeric::bf16_from_float(rng() % 2 == 0 ? 0x1p-9f : -0x1p-9f);
  head[large] = numeric::bf16_from_float(16);
  head[(large + 1) % kDim] = numeric::bf16_from_float(rng() % 2 == 0 ? 1 : -1);
  return head;
}
// Its sum of squares by so many chains, which are added by halves.
float sum_of_squares(const std::vector<uint16_t>& head, int64_t chains, bool backwards) {
  std::vector<float> sum(static_cast<size_t>(chains), 0);
  for (int64_t i = 0; i < kDim; ++i) {
    const int64_t at = backwards ? kDim - 1 - i : i;
    const float x = numeric::float_from_bf16(head[at]);
    sum[at % chains] += numeric::float_from_bf16(numeric::bf16_from_float(x * x));
  }
  for (int64_t half = chains / 2; half > 0; half /= 2)
    for (int64_t c = 0; c < half; ++c) sum[c] += sum[c + half];
  return sum[0];
}

// Of heads before their norm: random ones of all sizes, such as show the order of sums, zeros.
std::vector<uint16_t> raw_heads(Rng& rng, int64_t count) {
  std::vector<uint16_t> all;
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<uint16_t> head =
        i % 2 == 0 ? head_between(rng)
        : i % 7 == 0
            ? std::vector<uint16_t>(kDim, 0)
            : testing::random_bf16(rng, kDim, std::exp2f(static_cast<float>(rng() % 12)) / 64);
    all.insert(all.end(), head.begin(), head.end());
  }
  return all;
}

class SparseDecode : public testing::GpuTest {
 protected:
  // The result is the same with queries and results in bf16.
  static void expect_same_in_bf16(Side& side, SparseAttentionParams p) {
    if (!sparse_attention_takes_bf16(side.ctx, p)) return;
    const int64_t count = p.sequences.rows() * p.heads * kDim;
    std::vector<uint16_t> q;
    for (const float value : side.read(p.q, count)) q.push_back(numeric::bf16_from_float(value));
    const std::vector<float> expected = side.read(p.out, count);
    p.q_bf16 = side.array(q);
    p.out_bf16 = side.room<uint16_t>(count);
    sparse_attention(side.ctx, p);
    std::vector<float> found;
    for (const uint16_t bits : side.read(p.out_bf16, count))
      found.push_back(numeric::float_from_bf16(bits));
    EXPECT_EQ(found, expected);
  }

  // Of raw queries the result is that of what head_rows makes of them; they stay as they are.
  static void expect_same_of_raw(Side& side, SparseAttentionParams p) {
    if (!sparse_attention_takes_bf16(side.ctx, p)) return;
    Rng rng(19);
    const int64_t rows = p.sequences.rows(), count = rows * p.heads * kDim;
    const std::vector<uint16_t> raw = raw_heads(rng, rows * p.heads);
    const int64_t angles = rows * p.rope_dim / 2;
    HeadRowsParams q{};
    q.rows = rows;
    q.row_stride = p.heads * kDim;
    q.heads = p.heads;
    q.head_dim = kDim;
    q.norm = HeadNorm::bf16_steps;
    q.eps = 1e-6f;
    q.rope_dim = p.rope_dim;
    q.table = {side.array(testing::random_floats(rng, angles)),
               side.array(testing::random_floats(rng, angles))};
    q.round = true;
    q.from_bf16 = side.array(raw);
    q.to_bf16 = side.room<uint16_t>(count);
    head_rows(side.ctx, q);
    const auto attention = [&](const uint16_t* from, const RawQueries& of) {
      p.q_bf16 = from;
      p.raw = of;
      p.out_bf16 = side.room<uint16_t>(count);
      sparse_attention(side.ctx, p);
      return side.read(p.out_bf16, count);
    };
    const std::vector<uint16_t> expected = attention(q.to_bf16, {});
    testing::expect_same(attention(q.from_bf16, {q.table, q.eps}), expected,
                         "raw queries of " + std::to_string(rows) + " rows");
    EXPECT_EQ(side.read(q.from_bf16, count), raw);
    EXPECT_NE(attention(q.from_bf16, {}), expected);
  }

  // With tables the result is what rope() makes of the one without, `found`.
  void expect_rotated_back(Side& side, SparseAttentionParams p, const std::vector<float>& found) {
    Rng rng(15);
    const int64_t angles = p.sequences.rows() * p.rope_dim / 2;
    p.rotate_back = {side.array(testing::random_floats(rng, angles)),
                     side.array(testing::random_floats(rng, angles))};
    EXPECT_TRUE(sparse_attention_on_tensor_cores(side.ctx, p));
    expect_same_in_bf16(side, p);
    expect_same_of_raw(side, p);
    RopeParams rotation = rotation_back(p);
    rotation.x = side.array(found);
    rope(side.ctx, rotation);
    EXPECT_EQ(side.read(p.out, static_cast<int64_t>(found.size())),
              side.read(rotation.x, static_cast<int64_t>(found.size())));
  }

  // Rows first .. last - 1 in one step; consecutive positions of a sequence are one piece of it.
  std::vector<float> run(const Layer& layer, const std::vector<Row>& all, size_t first,
                         size_t last) {
    Side side(gpu_.get());
    const auto count = static_cast<int64_t>(last - first);
    std::vector<int64_t> first_row, first_position;
    std::vector<tensor::LayerRows> layer_rows;
    std::vector<uint8_t> step(static_cast<size_t>(count * kRow));
    std::vector<float> q;
    std::vector<int32_t> selected, num_selected;
    const tensor::RowLayout layout = {kData, kScales};
    for (size_t i = first; i < last; ++i) {
      const Row& row = all[i];
      const Sequence& own = layer.sequences[row.sequence];
      const auto place = static_cast<int64_t>(i - first);
      put_row(own.rows.data() + row.position * kRow, step, count, place);
      q.insert(q.end(), row.q.begin(), row.q.end());
      num_selected.push_back(static_cast<int32_t>(row.picks.size()));
      selected.insert(selected.end(), row.picks.begin(), row.picks.end());
      selected.resize(static_cast<size_t>((place + 1) * layer.topk), -1);
      if (i > first && all[i - 1].sequence == row.sequence &&
          all[i - 1].position + 1 == row.position)
        continue;
      first_row.push_back(place);
      first_position.push_back(row.position);
      std::vector<uint8_t> ring(static_cast<size_t>(layer.capacity * kRow), 0xFF);
      for (int64_t p = std::max<int64_t>(0, row.position - layer.capacity); p < row.position; ++p)
        put_row(own.rows.data() + p * kRow, ring, layer.capacity, p % layer.capacity);
      const auto num_entries = static_cast<int64_t>(own.entries.size()) / kRow;
      std::vector<std::byte*> blocks;
      for (int64_t e = 0; e < num_entries; e += layer.page) {
        std::vector<uint8_t> block(static_cast<size_t>(layer.page * kRow));
        for (int64_t j = 0; j < std::min(layer.page, num_entries - e); ++j)
          put_row(own.entries.data() + (e + j) * kRow, block, layer.page, j);
        blocks.push_back(reinterpret_cast<std::byte*>(side.array(block)));
      }
      tensor::LayerRows rows;
      if (row.position > 0)
        rows.window = {reinterpret_cast<std::byte*>(side.array(ring)), layer.capacity, layout};
      if (layer.kind != Entries::none) rows.entries = {side.array(blocks), layer.page, layout};
      layer_rows.push_back(rows);
    }
    first_row.push_back(count);
    SparseAttentionParams p{};
    p.q = side.array(q);
    p.heads = layer.heads;
    p.head_dim = kDim;
    p.rope_dim = kDim - kCodes;
    p.sequences = side.sequences(first_row, first_position);
    p.layer_rows = side.table(layer_rows);
    p.step_rows = side.step_rows(reinterpret_cast<std::byte*>(side.array(step)), count, layout);
    p.scale = kScale;
    p.sink = side.table(layer.sink);
    p.window = kWindow;
    p.ratio = layer.kind == Entries::none ? 0 : layer.ratio;
    if (layer.kind == Entries::selected) {
      p.selected = side.array(selected);
      p.num_selected = side.array(num_selected);
      p.topk = layer.topk;
    }
    p.format = tensor::KvFormat::fp8;
    p.bf16_math = p.tensor_cores = true;
    p.out = side.room<float>(static_cast<int64_t>(q.size()));
    EXPECT_TRUE(sparse_attention_on_tensor_cores(side.ctx, p));
    const std::vector<float> found = side.read(p.out, static_cast<int64_t>(q.size()));
    sparse_attention(side.ctx, p);
    EXPECT_EQ(side.read(p.out, static_cast<int64_t>(q.size())), found);
    expect_same_in_bf16(side, p);
    expect_same_of_raw(side, p);
    expect_rotated_back(side, p, found);
    return found;
  }
  std::vector<float> run(const Layer& layer, const std::vector<Row>& rows) {
    return run(layer, rows, 0, rows.size());
  }
};

double rounding(double value) { return std::fabs(value) * 0x1p-8; }

TEST_F(SparseDecode, EqualsTheFormula) {
  Rng rng(14);
  struct Case {
    Entries kind;
    int64_t heads, topk, ratio;
    std::vector<int64_t> positions;
  };
  for (const Case& c :
       {Case{Entries::selected, 64, 96, 4, {700, 0, 62, 259, 3}},
        Case{Entries::selected, 64, 512, 4, {4000}}, Case{Entries::none, 64, 0, 0, {700, 127, 0}},
        Case{Entries::all, 128, 0, 128, {127, 8000, 126}}}) {
    std::vector<int64_t> lengths;
    for (const int64_t position : c.positions) lengths.push_back(position + 1);
    const Layer layer = random_layer(rng, c.kind, c.heads, c.topk, c.ratio, lengths);
    std::vector<Row> rows;
    for (size_t i = 0; i < c.positions.size(); ++i)
      rows.push_back(random_row(rng, layer, static_cast<int64_t>(i), c.positions[i], 0.3f));
    const std::vector<float> found = run(layer, rows);
    std::vector<double> expected, bound;
    for (const Row& row : rows) {
      const Sequence& own = layer.sequences[row.sequence];
      std::vector<std::vector<double>> keys;
      for (int64_t p = std::max<int64_t>(0, row.position - kWindow + 1); p <= row.position; ++p)
        keys.push_back(decoded(own.rows.data() + p * kRow));
      for (const int32_t e : row.picks) keys.push_back(decoded(own.entries.data() + e * kRow));
      for (int64_t e = 0; c.kind == Entries::all && e < (row.position + 1) / c.ratio; ++e)
        keys.push_back(decoded(own.entries.data() + e * kRow));
      for (int64_t h = 0; h < c.heads; ++h) {
        std::vector<double> scores;
        double score_error = 0;
        for (const auto& key : keys) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < kDim; ++k) {
            const double term = row.q[h * kDim + k] * key[k];
            sum += term;
            magnitude += std::fabs(term);
          }
          scores.push_back(sum * double{kScale});
          // 32 instructions of 17 addends, each cut at 2^-23; two more roundings, the product with
          // log2 e and the exponential.
          score_error = std::max(score_error, magnitude * 0.0442 * (17 * 32 + 4) * 0x1p-23 +
                                                  std::fabs(scores.back()) * 0x1p-21 + 0x1p-20);
        }
        const double max = *std::max_element(scores.begin(), scores.end());
        double z = std::exp(layer.sink[h] - max);
        std::vector<double> value(kDim), magnitude(kDim);
        for (size_t i = 0; i < keys.size(); ++i) {
          const double p = std::exp(scores[i] - max);
          z += p;
          for (int64_t k = 0; k < kDim; ++k) {
            value[k] += p * keys[i][k];
            magnitude[k] += p * std::fabs(keys[i][k]);
          }
        }
        for (int64_t k = 0; k < kDim; ++k) {
          // p is rounded to bf16 (2^-8), and off by its score's error, as Z is; instructions of 16
          // keys, each of whose 17 addends may lose 2^-23.
          expected.push_back(value[k] / z);
          bound.push_back(magnitude[k] / z *
                              (0x1p-8 + 4 * score_error +
                               (17 * static_cast<double>(keys.size()) / 16 + 40) * 0x1p-23) +
                          rounding(value[k] / z));
        }
      }
    }
    const testing::Difference d = testing::difference(found, expected, bound);
    EXPECT_EQ(d.num_nan, 0);
    EXPECT_LT(d.worst_over_bound, 1)
        << "heads " << c.heads << " topk " << c.topk << ": at row " << d.worst_at / (c.heads * kDim)
        << " head " << d.worst_at / kDim % c.heads << " dimension " << d.worst_at % kDim
        << " found " << found[d.worst_at] << ", expected " << expected[d.worst_at]
        << "; relative error " << d.relative;
  }
}

// Steps with decoding sequences, drafts and prompts, of more rows than the chip has places for; the
// same prompts in pieces; rows alone, which another form takes; rings and blocks of other sizes.
TEST_F(SparseDecode, ARowDoesNotDependOnTheOthersNorOnTheForm) {
  Rng rng(15);
  struct Case {
    Entries kind;
    int64_t heads, topk, ratio;
    float size;  // of queries: weights fade by whole chunks where it is large
  };
  for (const Case& c :
       {Case{Entries::none, 64, 0, 0, 0.3f}, Case{Entries::selected, 64, 512, 4, 0.3f},
        Case{Entries::all, 64, 0, 32, 0.3f}, Case{Entries::selected, 128, 1024, 4, 12.0f},
        Case{Entries::all, 128, 0, 128, 0.3f}}) {
    const std::string what = "entries " + std::to_string(static_cast<int>(c.kind)) + ", heads " +
                             std::to_string(c.heads);
    std::vector<int64_t> lengths, counts;
    for (int64_t s = 0; s < 9; ++s) {
      counts.push_back(s == 4 ? 100 + rng() % 60 : s % 3 == 0 ? 1 + rng() % 4 : 1);
      lengths.push_back(counts.back() + (s == 8 ? 0 : rng() % (s % 2 == 0 ? 6000 : 200)));
    }
    Layer layer = random_layer(rng, c.kind, c.heads, c.topk, c.ratio, lengths);
    std::vector<Row> rows;
    for (size_t s = 0; s < counts.size(); ++s) {
      for (int64_t p = lengths[s] - counts[s]; p < lengths[s]; ++p)
        rows.push_back(random_row(rng, layer, static_cast<int64_t>(s), p, c.size));
    }
    const std::vector<float> expected = run(layer, rows);
    const auto expect_same = [&](size_t first, size_t last) {
      const std::vector<float> found = run(layer, rows, first, last);
      EXPECT_TRUE(std::equal(found.begin(), found.end(),
                             expected.begin() + static_cast<int64_t>(first) * c.heads * kDim))
          << what << ": rows " << first << " to " << last;
    };
    for (size_t row = 0; row < rows.size(); row += 1 + rng() % 12) expect_same(row, row + 1);
    for (size_t first = 0; first < rows.size();) {
      const size_t last = std::min(rows.size(), first + 1 + rng() % 70);
      expect_same(first, last);
      first = last;
    }
    std::vector<Row> turned(rows.rbegin(), rows.rend());
    std::stable_sort(turned.begin(), turned.end(),
                     [](const Row& a, const Row& b) { return a.sequence > b.sequence; });
    const std::vector<float> other_order = run(layer, turned);
    const auto width = c.heads * kDim;
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_TRUE(std::equal(other_order.begin() + static_cast<int64_t>(i) * width,
                             other_order.begin() + static_cast<int64_t>(i + 1) * width,
                             expected.begin() + static_cast<int64_t>(rows.size() - 1 - i) * width))
          << what << ": row " << rows.size() - 1 - i << " in a step the other way round";
    }
    layer.capacity = kWindow + 37;
    layer.page = 3;
    expect_same(0, rows.size());
    expect_same(rows.size() / 2, rows.size() / 2 + 5);
  }
}

// A block has several rows of one or two chunks after each other, each of another sequence.
TEST_F(SparseDecode, RowsOfFewKeysFollowEachOther) {
  Rng rng(18);
  for (const Entries kind : {Entries::none, Entries::selected, Entries::all}) {
    std::vector<int64_t> lengths;
    for (int64_t s = 0; s < 600; ++s) lengths.push_back(1 + rng() % 75);
    const Layer layer = random_layer(rng, kind, 64, 16, 4, lengths);
    std::vector<Row> rows;
    for (int64_t s = 0; s < 600; ++s)
      rows.push_back(random_row(rng, layer, s, lengths[s] - 1, 0.3f));
    const std::vector<float> expected = run(layer, rows);
    for (size_t row = 0; row < rows.size(); row += 1 + rng() % 40) {
      const std::vector<float> found = run(layer, rows, row, row + 1);
      EXPECT_TRUE(std::equal(found.begin(), found.end(),
                             expected.begin() + static_cast<int64_t>(row) * layer.heads * kDim))
          << "entries " << static_cast<int>(kind) << " row " << row;
    }
  }
}

// What expect_same_of_raw relies on: of another order the norms of many heads would be others.
TEST_F(SparseDecode, RawHeadsShowTheOrderOfTheirSums) {
  Rng rng(20);
  int64_t fewer = 0, more = 0, backwards = 0;
  constexpr int64_t kCount = 1000;
  for (int64_t i = 0; i < kCount; ++i) {
    const std::vector<uint16_t> head = head_between(rng);
    const auto factor = [&](int64_t chains, bool is_backwards) {
      const float mean = sum_of_squares(head, chains, is_backwards) / kDim;
      const auto round = [](float x) {
        return numeric::float_from_bf16(numeric::bf16_from_float(x));
      };
      return round(1 / std::sqrt(round(round(mean) + 1e-6f)));
    };
    fewer += factor(8, false) != factor(16, false) ? 1 : 0;
    more += factor(32, false) != factor(16, false) ? 1 : 0;
    backwards += factor(16, true) != factor(16, false) ? 1 : 0;
  }
  EXPECT_GT(fewer, kCount / 10);
  EXPECT_GT(more, kCount / 10);
  EXPECT_GT(backwards, kCount / 10);
}

// Of both forms.
TEST_F(SparseDecode, SmallCase) {
  Rng rng(16);
  for (const Entries kind : {Entries::none, Entries::selected, Entries::all}) {
    const Layer layer = random_layer(rng, kind, 64, 24, 4, {150, 40});
    std::vector<Row> rows = {random_row(rng, layer, 1, 39, 0.3f)};
    for (int64_t p = 110; p < 150; ++p) rows.push_back(random_row(rng, layer, 0, p, 0.3f));
    const std::vector<float> expected = run(layer, rows);
    for (const size_t row : {0, 1, 40}) {
      const std::vector<float> found = run(layer, rows, row, row + 1);
      EXPECT_TRUE(std::equal(found.begin(), found.end(),
                             expected.begin() + static_cast<int64_t>(row) * layer.heads * kDim))
          << "entries " << static_cast<int>(kind) << " row " << row;
    }
  }
}

TEST_F(SparseDecode, RefusesWhatItCannotTake) {
  SparseDecodeParams good = {};
  good.rows = 1;
  good.heads = 64;
  good.scale = kScale;
  good.window = kWindow;
  ASSERT_TRUE(check_sparse_decode(good).ok());
  const auto refusal = [&](auto change) {
    SparseDecodeParams p = good;
    change(p);
    return check_sparse_decode(p).message();
  };
  EXPECT_EQ(refusal([](SparseDecodeParams& p) { p.rows = 0; }),
            "sparse decode: expected 1 to 2^21 rows, found 0");
  EXPECT_EQ(refusal([](SparseDecodeParams& p) { p.heads = 96; }),
            "sparse decode: expected 64 n heads, found 96");
  EXPECT_EQ(refusal([](SparseDecodeParams& p) { p.window = 0; }),
            "sparse decode: expected a window, found 0");
  EXPECT_EQ(refusal([](SparseDecodeParams& p) { p.max_entries = -1; }),
            "sparse decode: expected up to 2^22 entries, found -1");
  EXPECT_FALSE(refusal([](SparseDecodeParams& p) { p.scale = NAN; }).empty());
}

TEST_F(SparseDecode, LeavesOtherShapesToThePlainVersion) {
  Side side(gpu_.get());
  SparseAttentionParams p{};
  p.heads = 64;
  p.head_dim = kDim;
  p.rope_dim = 64;
  p.scale = kScale;
  p.window = kWindow;
  p.format = tensor::KvFormat::fp8;
  p.bf16_math = p.tensor_cores = true;
  p.sequences = side.sequences({0, 1}, {0});
  p.layer_rows = side.table(std::vector<tensor::LayerRows>(1));
  p.step_rows = side.step_rows(side.array(std::vector<std::byte>(kRow)), 1, {kData, kScales});
  p.sink = side.table(std::vector<float>(64));
  p.q = side.array(std::vector<float>(64 * kDim));
  p.out = side.room<float>(64 * kDim);
  EXPECT_TRUE(sparse_attention_on_tensor_cores(side.ctx, p));
  const auto refuses = [&](auto change) {
    SparseAttentionParams other = p;
    change(other);
    return !sparse_attention_on_tensor_cores(side.ctx, other);
  };
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.tensor_cores = false; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.bf16_math = false; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.heads = 8; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.head_dim = 64; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.rope_dim = 32; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.window = 0; }));
  EXPECT_TRUE(refuses([](SparseAttentionParams& o) { o.format = tensor::KvFormat::bf16; }));
}

}  // namespace
}  // namespace cachalot::ops
