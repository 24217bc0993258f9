// Sparse decode attention on the GPU against double, and its promises about bits.
#include <algorithm>
#include <numeric>

#include "ops/attention/sparse_decode_cuda.h"
#include "tests/cuda/cuda_fixture.h"

namespace cachalot::ops {
namespace {

using testing::Rng;
using testing::cuda::DeviceBuffer;
constexpr int64_t kDim = 512, kCodes = 448, kData = 576, kWindow = 128;
constexpr SparseForm kForms[] = {SparseForm::split, SparseForm::whole};

struct Row {
  int32_t position;
  int32_t num_selected;
};

struct Operands {
  std::vector<Row> rows;
  int64_t heads, topk, entries;  // entries of each row's table
  bool all;                      // entries 0 .. num_selected - 1 instead of a list
  std::vector<uint16_t> q;
  std::vector<float> sink, rotation;
  std::vector<uint8_t> rings, pool;
  std::vector<int32_t> ring, blocks, selected;
  int64_t capacity = kWindow, page = 32;  // rows of a ring, of a block
};

int64_t bytes_of(int64_t rows) { return rows * (kData + 8); }

double rounding(double value) { return std::fabs(value) * 0x1p-8; }

void random_block(Rng& rng, uint8_t* block, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
    uint8_t* data = block + i * kData;
    for (int64_t k = 0; k < kCodes; ++k) {
      data[k] = static_cast<uint8_t>(rng());
      if ((data[k] & 0x7F) == 0x7F) data[k] ^= 8;
    }
    const std::vector<uint16_t> rope = testing::random_bf16(rng, kDim - kCodes);
    std::memcpy(data + kCodes, rope.data(), 128);
    for (int64_t k = 0; k < 7; ++k)
      block[rows * kData + i * 8 + k] = static_cast<uint8_t>(117 + rng() % 4);
    block[rows * kData + i * 8 + 7] = 0;
  }
}

void decode(const uint8_t* block, int64_t rows, int64_t slot, double* key) {
  const uint8_t* data = block + slot * kData;
  const uint8_t* scales = block + rows * kData + slot * 8;
  for (int64_t k = 0; k < kCodes; ++k) {
    key[k] = double{numeric::float_from_e4m3(data[k])} * numeric::float_from_e8m0(scales[k / 64]);
  }
  for (int64_t k = kCodes; k < kDim; ++k) {
    uint16_t bits;
    std::memcpy(&bits, data + kCodes + (k - kCodes) * 2, 2);
    key[k] = numeric::float_from_bf16(bits);
  }
}

Operands random_operands(Rng& rng, std::vector<Row> rows, int64_t heads, int64_t topk,
                         int64_t entries, bool all) {
  Operands o{std::move(rows), heads, topk, entries, all, {}, {}, {}, {}, {}, {}, {}, {},
             kWindow,         32};
  const auto n = static_cast<int64_t>(o.rows.size());
  o.q = testing::random_bf16(rng, n * heads * kDim, 0.3f);
  o.sink = testing::random_floats(rng, heads);
  o.sink[0] = -INFINITY;
  for (int64_t i = 0; i < n * 32; ++i) {
    const double angle = static_cast<double>(rng()) / 1e8;
    o.rotation.push_back(static_cast<float>(std::cos(angle)));
    o.rotation.push_back(static_cast<float>(std::sin(angle)));
  }
  o.ring.resize(n);
  std::iota(o.ring.begin(), o.ring.end(), 0);
  std::shuffle(o.ring.begin(), o.ring.end(), rng);
  o.rings.resize(n * bytes_of(o.capacity));
  for (int64_t i = 0; i < n; ++i)
    random_block(rng, o.rings.data() + i * bytes_of(o.capacity), o.capacity);
  const int64_t stride = (entries + o.page - 1) / o.page;
  o.blocks.resize(n * stride);
  std::iota(o.blocks.begin(), o.blocks.end(), 0);
  std::shuffle(o.blocks.begin(), o.blocks.end(), rng);
  o.pool.resize(o.blocks.size() * bytes_of(o.page));
  for (size_t b = 0; b < o.blocks.size(); ++b)
    random_block(rng, o.pool.data() + b * bytes_of(o.page), o.page);
  for (int64_t row = 0; row < n; ++row) {
    std::vector<int32_t> picks(entries);
    std::iota(picks.begin(), picks.end(), 0);
    if (!all) std::shuffle(picks.begin(), picks.end(), rng);
    picks.resize(topk, -1);
    std::sort(picks.begin(), picks.begin() + o.rows[row].num_selected);
    o.selected.insert(o.selected.end(), picks.begin(), picks.end());
  }
  return o;
}

Operands one_row(const Operands& o, int64_t row) {
  Operands one = o;
  const int64_t stride =
      static_cast<int64_t>(o.blocks.size()) / static_cast<int64_t>(o.rows.size());
  const auto cut = [&](auto& values, int64_t width) {
    values = {values.begin() + row * width, values.begin() + (row + 1) * width};
  };
  cut(one.rows, 1);
  cut(one.q, o.heads * kDim);
  cut(one.rotation, 64);
  cut(one.ring, 1);
  cut(one.blocks, stride);
  cut(one.selected, o.topk);
  return one;
}

class SparseDecode : public testing::CudaTest {
 protected:
  std::vector<uint16_t> run(const Operands& o, SparseForm form) {
    const auto n = static_cast<int64_t>(o.rows.size());
    std::vector<int32_t> positions, num_selected;
    for (const Row& row : o.rows) {
      positions.push_back(row.position);
      num_selected.push_back(row.num_selected);
    }
    const DeviceBuffer q = put(o.q), position = put(positions), sink = put(o.sink),
                       rotation = put(o.rotation), rings = put(o.rings), ring = put(o.ring),
                       pool = put(o.pool), blocks = put(o.blocks), selected = put(o.selected),
                       num = put(num_selected), out = room(n * o.heads * kDim * 2);
    SparseDecodeParams p = {};
    p.rows = n;
    p.heads = o.heads;
    p.q = q.as<uint16_t>();
    p.position = position.as<int32_t>();
    p.sink = sink.as<float>();
    p.rotation = rotation.as<float>();
    p.scale = 0.04419417382415922f;
    p.window = kWindow;
    p.window_base = rings.data();
    p.ring = ring.as<int32_t>();
    p.ring_bytes = bytes_of(o.capacity);
    p.window_capacity = o.capacity;
    p.entries = pool.data();
    p.blocks = blocks.as<int32_t>();
    p.table_stride = static_cast<int64_t>(o.blocks.size()) / n;
    p.block_bytes = bytes_of(o.page);
    p.rows_per_block = o.page;
    p.selected = o.all ? nullptr : selected.as<int32_t>();
    p.num_selected = num.as<int32_t>();
    p.topk = o.topk;
    p.out = out.as<uint16_t>();
    const DeviceBuffer scratch = room(sparse_decode_scratch_bytes(p));
    p.scratch = scratch.data();
    EXPECT_TRUE(check_sparse_decode(p).ok());
    prepare_sparse_decode();
    launch_sparse_decode(device_, stream_, form, p);
    return get<uint16_t>(out);
  }
};

TEST_F(SparseDecode, EqualsTheFormula) {
  Rng rng(14);
  struct Case {
    std::vector<Row> rows;
    int64_t heads, topk, entries;
    bool all;
  };
  for (const Case& c : {Case{{{700, 90}, {0, 0}, {62, 1}, {63, 65}}, 64, 96, 128, false},
                        Case{{{5000, 512}}, 64, 512, 1000, false},
                        Case{{{127, 0}, {200, 33}}, 128, 64, 64, true}}) {
    const Operands o = random_operands(rng, c.rows, c.heads, c.topk, c.entries, c.all);
    const std::vector<uint16_t> whole = run(o, SparseForm::whole);
    EXPECT_EQ(whole, run(o, SparseForm::split));
    const std::vector<float> found = testing::floats_of(whole);
    const int64_t stride =
        static_cast<int64_t>(o.blocks.size()) / static_cast<int64_t>(o.rows.size());
    std::vector<double> expected, bound;
    for (size_t row = 0; row < o.rows.size(); ++row) {
      std::vector<std::vector<double>> keys;
      const Row& r = o.rows[row];
      for (int64_t p = std::max<int64_t>(0, r.position - kWindow + 1); p <= r.position; ++p) {
        keys.emplace_back(kDim);
        decode(o.rings.data() + o.ring[row] * bytes_of(o.capacity), o.capacity, p % o.capacity,
               keys.back().data());
      }
      for (int64_t i = 0; i < r.num_selected; ++i) {
        const int64_t e = o.selected[row * o.topk + i];
        keys.emplace_back(kDim);
        decode(o.pool.data() + o.blocks[row * stride + e / o.page] * bytes_of(o.page), o.page,
               e % o.page, keys.back().data());
      }
      for (int64_t h = 0; h < o.heads; ++h) {
        std::vector<double> scores;
        double score_error = 0;
        for (const auto& key : keys) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < kDim; ++k) {
            const double term =
                numeric::float_from_bf16(o.q[(row * o.heads + h) * kDim + k]) * key[k];
            sum += term;
            magnitude += std::fabs(term);
          }
          scores.push_back(sum * 0.04419417382415922);
          // 32 instructions of 17 addends, each cut at 2^-23; two more roundings, the product with
          // log2 e and the exponential.
          score_error = std::max(score_error, magnitude * 0.0442 * (17 * 32 + 4) * 0x1p-23 +
                                                  std::fabs(scores.back()) * 0x1p-21 + 0x1p-20);
        }
        const double max = *std::max_element(scores.begin(), scores.end());
        double z = std::exp(o.sink[h] - max);
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
          value[k] /= z;
          // p is rounded to bf16 (2^-8), and off by its score's error, as Z is; instructions of 16
          // keys, each of whose 17 addends may lose 2^-23.
          magnitude[k] = magnitude[k] / z *
                         (0x1p-8 + 4 * score_error +
                          (17 * static_cast<double>(keys.size()) / 16 + 40) * 0x1p-23);
        }
        for (int64_t k = 0; k < kDim; ++k) {
          if (k < kCodes) {
            expected.push_back(value[k]);
            bound.push_back(magnitude[k] + rounding(value[k]));
            continue;
          }
          const int64_t pair = (k - kCodes) / 2, other = k ^ 1;
          const double c0 = o.rotation[(row * 32 + pair) * 2],
                       s0 = o.rotation[(row * 32 + pair) * 2 + 1];
          expected.push_back(k % 2 == 0 ? value[k] * c0 + value[other] * s0
                                        : value[k] * c0 - value[other] * s0);
          bound.push_back(magnitude[k] + rounding(value[k]) + magnitude[other] +
                          rounding(value[other]) + rounding(expected.back()));
        }
      }
    }
    const testing::Difference d = testing::difference(found, expected, bound);
    EXPECT_EQ(d.num_nan, 0);
    EXPECT_LT(d.worst_over_bound, 1)
        << "heads " << c.heads << " topk " << c.topk << ": at row " << d.worst_at / (o.heads * kDim)
        << " head " << d.worst_at / kDim % o.heads << " dimension " << d.worst_at % kDim
        << " found " << found[d.worst_at] << ", expected " << expected[d.worst_at]
        << "; relative error " << d.relative;
  }
}

TEST_F(SparseDecode, BothFormsGiveTheSameBits) {
  Rng rng(16);
  std::vector<Row> rows;  // more than a chip has places for
  for (int32_t i = 0; i < 331; ++i) {
    rows.push_back({static_cast<int32_t>(rng() % 200), static_cast<int32_t>(rng() % 41)});
  }
  rows[3] = {-1, 0};
  rows[200] = {-1, 40};
  rows[330] = {-1, 0};
  for (const int64_t heads : {64, 128}) {
    const Operands o = random_operands(rng, rows, heads, 40, 48, false);
    const std::vector<uint16_t> split = run(o, SparseForm::split);
    EXPECT_EQ(split, run(o, SparseForm::whole)) << "heads " << heads;
    for (int64_t i = 0; i < heads * kDim; ++i) {
      ASSERT_EQ(split[3 * heads * kDim + i], 0) << "a row without a key";
      ASSERT_EQ(split[330 * heads * kDim + i], 0) << "a row without a key";
    }
  }
  // More chunks than the split form keeps at a time; weights that fade by whole chunks.
  Operands o = random_operands(rng, {{4000, 900}, {300, 1000}, {62, 1}}, 64, 1024, 1100, false);
  for (size_t i = 0; i < 64 * kDim; ++i)
    o.q[i] = numeric::bf16_from_float(40 * numeric::float_from_bf16(o.q[i]));
  EXPECT_EQ(run(o, SparseForm::split), run(o, SparseForm::whole));
}

TEST_F(SparseDecode, ARowDoesNotDependOnTheOthers) {
  Rng rng(15);
  const Operands all = random_operands(
      rng, {{900, 200}, {3, 0}, {64, 64}, {5000, 512}, {130, 17}, {127, 511}}, 64, 512, 600, false);
  for (const SparseForm form : kForms) {
    const std::vector<uint16_t> expected = run(all, form);
    EXPECT_EQ(expected, run(all, form));
    for (int64_t row = 0; row < static_cast<int64_t>(all.rows.size()); ++row) {
      const std::vector<uint16_t> found = run(one_row(all, row), form);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin() + row * 64 * kDim))
          << "row " << row;
    }
  }
}

// The same rows one after the other in rings of 128 and blocks of another size.
TEST_F(SparseDecode, RowsOfOneSequenceAtOnceAreThoseOfItsDecode) {
  Rng rng(17);
  const int32_t first = 60, count = 150;
  std::vector<Row> rows;
  for (int32_t i = 0; i < count; ++i) rows.push_back({first + i, (first + i + 1) / 4});
  Operands all = random_operands(rng, rows, 64, 64, 64, false);
  all.capacity = 256;
  all.rings.resize(bytes_of(all.capacity));
  random_block(rng, all.rings.data(), all.capacity);
  std::fill(all.ring.begin(), all.ring.end(), 0);
  for (int32_t i = 0; i < count; ++i) {  // one table
    all.blocks[2 * i] = all.blocks[0];
    all.blocks[2 * i + 1] = all.blocks[1];
  }
  const std::vector<uint16_t> expected = run(all, SparseForm::whole);
  EXPECT_EQ(expected, run(all, SparseForm::split));
  const auto copy = [](const uint8_t* from, int64_t from_rows, int64_t from_slot, uint8_t* to,
                       int64_t to_rows, int64_t to_slot) {
    std::memcpy(to + to_slot * kData, from + from_slot * kData, kData);
    std::memcpy(to + to_rows * kData + to_slot * 8, from + from_rows * kData + from_slot * 8, 8);
  };
  for (const int32_t row : {0, 67, 68, 149}) {
    Operands one = one_row(all, row);
    one.capacity = kWindow;
    one.page = 4;
    one.ring = {0};
    one.rings.assign(bytes_of(kWindow), 0);
    for (int64_t p = std::max(0, first + row - 127); p <= first + row; ++p) {
      copy(all.rings.data(), all.capacity, p % all.capacity, one.rings.data(), kWindow,
           p % kWindow);
    }
    one.blocks.resize(16);
    std::iota(one.blocks.rbegin(), one.blocks.rend(), 0);
    one.pool.assign(16 * bytes_of(4), 0);
    for (int64_t e = 0; e < 64; ++e) {
      copy(all.pool.data() + all.blocks[e / 32] * bytes_of(32), 32, e % 32,
           one.pool.data() + one.blocks[e / 4] * bytes_of(4), 4, e % 4);
    }
    for (const SparseForm form : kForms) {
      const std::vector<uint16_t> found = run(one, form);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin() + row * 64 * kDim))
          << "row " << row;
    }
  }
}

TEST_F(SparseDecode, RefusesWhatItCannotDo) {
  SparseDecodeParams p = {};
  p.rows = 1;
  p.heads = 64;
  p.scale = 1;
  p.window = p.window_capacity = 128;
  EXPECT_TRUE(check_sparse_decode(p).ok());
  p.heads = 96;
  EXPECT_FALSE(check_sparse_decode(p).ok());
  p.heads = 64;
  p.scale = 0;
  EXPECT_FALSE(check_sparse_decode(p).ok());
  p.scale = 1;
  p.window_capacity = 127;
  EXPECT_FALSE(check_sparse_decode(p).ok());
}

}  // namespace
}  // namespace cachalot::ops
