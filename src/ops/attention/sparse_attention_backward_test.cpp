// sparse_attention_backward: the reference against central differences of an evaluation in double,
// every version against the reference bit for bit, for any cut of the rows and any thread count. The
// same of attention_target.
#include "ops/attention/sparse_attention_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "ops/attention/attention_target.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using device::Isa;
using tensor::KvFormat;
using tensor::RowLayout;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t heads;
  int64_t head_dim;
  int64_t rope_dim;
  int64_t window;
  int64_t ratio;
  int64_t topk;  // 0: no selection
  KvFormat format = KvFormat::f32;
};

// Encoded rows in one block, and what they hold.
struct Rows {
  std::vector<std::byte> bytes;
  std::byte* block = nullptr;
  tensor::RowBlocks view;
  std::vector<float> values;

  Rows(const Shape& s, int64_t n, RngStream& rng) {
    const RowLayout layout = tensor::kv_row_layout(s.format, s.head_dim, s.rope_dim);
    bytes.resize(n * layout.row_bytes());
    block = bytes.data();
    view = {&block, std::max<int64_t>(1, n), layout};
    values.resize(n * s.head_dim);
    for (float& x : values) x = static_cast<float>(rng.next_normal());
    for (int64_t i = 0; i < n; ++i) {
      float* row = values.data() + i * s.head_dim;
      encode_kv_row(s.format, row, s.head_dim, s.rope_dim, view.row(i));
      decode_kv_row(Isa::reference, s.format, view.row(i), s.head_dim, s.rope_dim, row);
    }
  }
  Rows(const Rows&) = delete;
};

struct Gradients {
  std::vector<float> q, recent, entries, sink;
};

class Segment {
 public:
  Segment(const Shape& shape, int64_t num_positions, uint64_t seed)
      : shape(shape),
        num_positions(num_positions),
        rng_(seed, RngPurpose::data, 2),
        window(shape, num_positions, rng_),
        entries(shape, num_entries(num_positions - 1), rng_) {
    const int64_t n = num_positions * shape.heads * shape.head_dim;
    q.resize(n);
    dout.resize(n);
    sink.resize(shape.heads);
    for (auto* values : {&q, &dout, &sink}) {
      for (float& x : *values) x = static_cast<float>(rng_.next_normal());
    }
    if (shape.topk > 0) {
      selected.assign(num_positions * shape.topk, -1);
      num_selected.resize(num_positions);
      for (int64_t t = 0; t < num_positions; ++t) select(t);
    }
  }

  int64_t num_entries(int64_t t) const { return shape.ratio > 0 ? (t + 1) / shape.ratio : 0; }

  // Token t's rows: (in window, row).
  std::vector<std::pair<bool, int64_t>> keys(int64_t t) const {
    std::vector<std::pair<bool, int64_t>> keys;
    if (shape.window > 0) {
      for (int64_t p = std::max<int64_t>(0, t - shape.window + 1); p <= t; ++p) {
        keys.emplace_back(true, p);
      }
    }
    const int64_t n = shape.topk > 0 ? num_selected[t] : num_entries(t);
    for (int64_t i = 0; i < n; ++i) {
      keys.emplace_back(false, shape.topk > 0 ? selected[t * shape.topk + i] : i);
    }
    return keys;
  }

  SparseAttentionParams forward(int64_t first, int64_t rows) const {
    SparseAttentionParams p{};
    p.q = q.data() + first * shape.heads * shape.head_dim;
    p.rows = rows;
    p.heads = shape.heads;
    p.head_dim = shape.head_dim;
    p.rope_dim = shape.rope_dim;
    p.first_position = first;
    p.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    p.sink = sink.data();
    p.window = shape.window;
    p.recent.chunk = window.view;
    p.ratio = shape.ratio;
    p.entries = entries.view;
    if (shape.topk > 0) {
      p.selected = selected.data() + first * shape.topk;
      p.num_selected = num_selected.data() + first;
      p.topk = shape.topk;
    }
    p.format = shape.format;
    return p;
  }

  Gradients zeros() const {
    return {std::vector<float>(q.size()), std::vector<float>(window.values.size()),
            std::vector<float>(entries.values.size()), std::vector<float>(shape.heads)};
  }

  // Gradients added to g by calls of `cuts` rows; what is left of the positions is one more call.
  void add(Isa isa, int num_threads, const std::vector<int64_t>& cuts, Gradients& g) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    int64_t first = 0;
    for (size_t i = 0; first < num_positions; ++i) {
      const int64_t rows =
          std::min(i < cuts.size() ? cuts[i] : num_positions, num_positions - first);
      const int64_t at = first * shape.heads * shape.head_dim;
      sparse_attention_backward(ctx, {forward(first, rows), dout.data() + at, g.q.data() + at,
                                      g.recent.data(), g.entries.data(), g.sink.data()});
      first += rows;
    }
  }

  Gradients run(Isa isa, int num_threads, const std::vector<int64_t>& cuts) const {
    Gradients g = zeros();
    add(isa, num_threads, cuts, g);
    return g;
  }

  const Shape shape;
  const int64_t num_positions;

 private:
  // Ascending, every entry as likely as another.
  void select(int64_t t) {
    std::vector<int32_t> all(num_entries(t));
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng_.next_u32() % i]);
    all.resize(std::min<size_t>(all.size(), shape.topk));
    std::sort(all.begin(), all.end());
    std::copy(all.begin(), all.end(), selected.begin() + t * shape.topk);
    num_selected[t] = static_cast<int32_t>(all.size());
  }

  RngStream rng_;

 public:
  Rows window;
  Rows entries;
  std::vector<float> q, dout, sink;
  std::vector<int32_t> selected, num_selected;
};

// The op in double, on values of its own that a test may move.
struct Evaluation {
  explicit Evaluation(const Segment& segment)
      : segment(segment),
        q(segment.q.begin(), segment.q.end()),
        recent(segment.window.values.begin(), segment.window.values.end()),
        entries(segment.entries.values.begin(), segment.entries.values.end()),
        sink(segment.sink.begin(), segment.sink.end()) {}

  const double* key(std::pair<bool, int64_t> at) const {
    return (at.first ? recent : entries).data() + at.second * segment.shape.head_dim;
  }

  static double dot(const double* a, const double* b, int64_t n) {
    return std::inner_product(a, a + n, b, 0.0);
  }

  // Probabilities of token t's keys for head h.
  std::vector<double> probabilities(int64_t t, int64_t h) const {
    const Shape& s = segment.shape;
    const auto keys = segment.keys(t);
    const double scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    std::vector<double> p;
    for (const auto& at : keys) {
      p.push_back(dot(q.data() + (t * s.heads + h) * s.head_dim, key(at), s.head_dim) * scale);
    }
    const double max = p.empty() ? 0 : *std::max_element(p.begin(), p.end());
    double z = std::exp(sink[h] - max);
    for (double& x : p) z += (x = std::exp(x - max));
    for (double& x : p) x /= z;
    return p;
  }

  // The sum of dout * out.
  double loss() const {
    const Shape& s = segment.shape;
    double sum = 0;
    for (int64_t t = 0; t < segment.num_positions; ++t) {
      const auto keys = segment.keys(t);
      for (int64_t h = 0; h < s.heads; ++h) {
        const std::vector<double> p = probabilities(t, h);
        const float* dout = segment.dout.data() + (t * s.heads + h) * s.head_dim;
        for (size_t i = 0; i < keys.size(); ++i) {
          sum += p[i] * std::inner_product(dout, dout + s.head_dim, key(keys[i]), 0.0);
        }
      }
    }
    return sum;
  }

  double difference(double& x) {
    constexpr double kStep = 1e-5;
    const double saved = x;
    x = saved + kStep;
    const double above = loss();
    x = saved - kStep;
    const double below = loss();
    x = saved;
    return (above - below) / (2 * kStep);
  }

  const Segment& segment;
  std::vector<double> q, recent, entries, sink;
};

// Error bounds of an fp32 evaluation. u = 2^-24; of a token's head with n keys of c channels, with S and M
// the largest scale sum |q key| and scale sum |dout key|: scores are off by at most ds = (c + 2) u S, so
// P by a factor 1 + e, e = 2 ds + (n + 8) u; b is off by (c + 2) u M, B by that and (e + (n + 1) u) M;
// so g, at most 2 P M, is off by P M r, r = 3 e + (2 c + n + 12) u. A chain of m terms adds m u of their
// magnitude. A central difference is off by 1e-10 / 6 of third derivatives, and by 1e-11 of the sum.
struct Bounds {
  explicit Bounds(const Evaluation& e)
      : q(e.q.size(), kDifference),
        recent(e.recent.size(), kDifference),
        entries(e.entries.size(), kDifference),
        sink(e.sink.size(), kDifference) {
    const Shape& s = e.segment.shape;
    const auto c = static_cast<double>(s.head_dim);
    const auto terms = static_cast<double>(2 * s.heads * e.segment.num_positions);
    const double scale = 1 / std::sqrt(c);
    for (int64_t t = 0; t < e.segment.num_positions; ++t) {
      const auto keys = e.segment.keys(t);
      const auto n = static_cast<double>(keys.size());
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t at = (t * s.heads + h) * s.head_dim;
        const float* dout = e.segment.dout.data() + at;
        double score = 0;
        double m = 0;
        for (const auto& key : keys) {
          score = std::max(score, scale * magnitude(e.q.data() + at, e.key(key), s.head_dim));
          m = std::max(m, scale * magnitude(dout, e.key(key), s.head_dim));
        }
        const double factor = 2 * (c + 2) * kU * score + (n + 8) * kU;
        const double r = 3 * factor + (2 * c + n + 12) * kU;
        const std::vector<double> p = e.probabilities(t, h);
        for (size_t i = 0; i < keys.size(); ++i) {
          auto& row = keys[i].first ? recent : entries;
          for (int64_t k = 0; k < s.head_dim; ++k) {
            q[at + k] += p[i] * m * (r + 2 * (n + 1) * kU) * std::fabs(e.key(keys[i])[k]);
            row[keys[i].second * s.head_dim + k] +=
                p[i] * (m * (r + 2 * terms * kU) * std::fabs(e.q[at + k]) +
                        (factor + terms * kU) * std::fabs(dout[k]));
          }
        }
        sink[h] += (r + factor + (terms + 3) * kU) * m / scale;
      }
    }
  }

  template <typename T>
  static double magnitude(const T* a, const double* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::fabs(a[i] * b[i]);
    return sum;
  }

  static constexpr double kU = 0x1p-24;
  static constexpr double kDifference = 1e-8;
  std::vector<double> q, recent, entries, sink;
};

void expect_gradients(const Segment& segment, const Gradients& g) {
  Evaluation e(segment);
  const Bounds bounds(e);
  const auto compare = [&](const char* name, const std::vector<float>& found,
                           std::vector<double>& values, const std::vector<double>& bound) {
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], e.difference(values[i]), bound[i]) << name << " element " << i;
    }
  };
  compare("dq", g.q, e.q, bounds.q);
  compare("d_recent", g.recent, e.recent, bounds.recent);
  compare("d_entries", g.entries, e.entries, bounds.entries);
  compare("d_sink", g.sink, e.sink, bounds.sink);
}

void expect_same_bits(const Gradients& a, const Gradients& b, const std::string& what) {
  const auto compare = [&](const std::vector<float>& x, const std::vector<float>& y,
                           const char* name) {
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(x[i]), std::bit_cast<uint32_t>(y[i]))
          << what << ": " << name << " element " << i << " expected " << x[i] << " found " << y[i];
    }
  };
  compare(a.q, b.q, "dq");
  compare(a.recent, b.recent, "d_recent");
  compare(a.entries, b.entries, "d_entries");
  compare(a.sink, b.sink, "d_sink");
}

const Shape kWindowOnly = {2, 9, 2, 4, 0, 0};
const Shape kSelected = {3, 10, 2, 3, 2, 3};
const Shape kAllEntries = {2, 8, 2, 3, 4, 0};
const Shape kFull = {2, 12, 4, 0, 1, 0};

TEST(SparseAttentionBackward, EqualsCentralDifferences) {
  for (const Shape& shape : {kWindowOnly, kSelected, kAllEntries, kFull}) {
    for (int64_t positions : {1, 13}) {
      const Segment segment(shape, positions, 20 + shape.head_dim);
      expect_gradients(segment, segment.run(Isa::reference, 1, {}));
      if (HasFatalFailure()) return;
    }
  }
}

// The gradient of an encoded row is that of what it holds.
TEST(SparseAttentionBackward, EqualsCentralDifferencesAtDecodedRows) {
  const Segment bf16({2, 8, 2, 3, 2, 2, KvFormat::bf16}, 9, 31);
  expect_gradients(bf16, bf16.run(Isa::reference, 1, {}));
  const Segment fp8({1, 72, 8, 3, 4, 0, KvFormat::fp8}, 6, 32);
  expect_gradients(fp8, fp8.run(Isa::reference, 1, {}));
}

// Every version, thread count and cut gives the reference's bits, onto buffers that already hold
// something.
void check_bits(const Shape& shape, int64_t num_positions) {
  const Segment segment(shape, num_positions, 40 + shape.head_dim);
  Gradients start = segment.zeros();
  RngStream rng(3, RngPurpose::data, 0);
  for (auto* values : {&start.q, &start.recent, &start.entries, &start.sink}) {
    for (float& x : *values) x = static_cast<float>(rng.next_normal());
  }
  Gradients expected = start;
  segment.add(Isa::reference, 1, {}, expected);
  const std::vector<std::vector<int64_t>> cuts = {
      {}, {1, 2, 3, 4, 5}, {num_positions - 1}, std::vector<int64_t>(num_positions, 1)};
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      for (size_t i = 0; i < cuts.size(); ++i) {
        if (threads == 5 && i > 1) continue;
        if (isa == Isa::reference && (threads != 2 || i != 1)) continue;  // slow
        Gradients found = start;
        segment.add(isa, threads, cuts[i], found);
        expect_same_bits(expected, found,
                         std::string(device::isa_name(isa)) + ", " + std::to_string(threads) +
                             " threads, cut " + std::to_string(i));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(SparseAttentionBackward, VersionsThreadsAndCutsAgree) {
  check_bits({8, 32, 8, 8, 0, 0}, 50);
  check_bits({4, 64, 16, 8, 4, 5, KvFormat::bf16}, 61);
  check_bits({9, 32, 8, 7, 3, 0}, 50);
  check_bits({17, 128, 64, 8, 2, 6, KvFormat::fp8}, 31);
  check_bits({4, 32, 8, 0, 1, 0}, 70);
}

TEST(SparseAttentionBackward, OddShapes) {
  check_bits({3, 40, 8, 7, 2, 0}, 41);
  check_bits({1, 21, 4, 3, 4, 2}, 41);
  check_bits({2, 3, 0, 5, 1, 3}, 9);
  check_bits({8, 32, 8, 8, 4, 0}, 1);
}

// More rows and channels than a task has, lists that leave most entries out, and more coefficients
// than a block has (2^21: 48 a key, 256 tokens of 1 to 256 entries).
TEST(SparseAttentionBackward, ManyRows) {
  check_bits({3, 72, 8, 70, 1, 20}, 100);
  check_bits({1, 136, 8, 128, 1, 0}, 140);
  check_bits({24, 5, 0, 100, 1, 0}, 256);
}

// A token without keys has no gradient; sinks that are off, and sinks that leave nothing for keys.
TEST(SparseAttentionBackward, NoKeysAndExtremeSinks) {
  Segment segment({3, 16, 4, 0, 4, 0}, 9, 50);
  segment.sink = {-kInf, 0, 200};
  const Gradients expected = segment.run(Isa::reference, 1, {});
  for (int64_t i = 0; i < 3 * 3 * 16; ++i) EXPECT_EQ(expected.q[i], 0);
  EXPECT_EQ(expected.sink[0], 0);
  EXPECT_EQ(expected.sink[2], 0);
  EXPECT_NE(expected.sink[1], 0);
  for (Isa isa : device::machine_isas()) {
    expect_same_bits(expected, segment.run(isa, 2, {}), std::string(device::isa_name(isa)));
  }
}

// A selection of all visible entries is no selection: forward and backward.
TEST(SparseAttentionBackward, DenseAndSparseAgreeWhereAllIsSelected) {
  const int64_t positions = 40;
  Segment sparse({8, 32, 8, 8, 4, 10}, positions, 60);  // at most 10 entries are visible
  Segment dense({8, 32, 8, 8, 4, 0}, positions, 60);
  dense.q = sparse.q;
  dense.dout = sparse.dout;
  dense.sink = sparse.sink;
  for (Isa isa : device::machine_isas()) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    std::vector<std::vector<float>> out;
    for (const Segment* segment : {&sparse, &dense}) {
      SparseAttentionParams p = segment->forward(0, positions);
      p.out = out.emplace_back(segment->q.size()).data();
      sparse_attention(ctx, p);
    }
    for (size_t i = 0; i < out[0].size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(out[0][i]), std::bit_cast<uint32_t>(out[1][i]));
    }
    expect_same_bits(sparse.run(isa, 2, {}), dense.run(isa, 2, {}), "dense and sparse");
  }
}

// Tokens of a call with what stands behind their last entry.
std::vector<float> targets(const Segment& segment, Isa isa, int num_threads, int64_t stride,
                           int64_t first, int64_t rows) {
  ThreadPool pool(num_threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  std::vector<float> target(rows * stride, std::nanf(""));
  attention_target(ctx, segment.forward(first, rows), stride, target.data());
  return target;
}

// Against double, with the error of P as in Bounds: a factor 1 + e for every head, its sum over H heads
// and the one over n entries add (H + n + 2) u.
TEST(AttentionTarget, EqualsTheFormula) {
  for (const Shape& shape : {kSelected, kAllEntries, kFull}) {
    const int64_t positions = 17;
    const Segment segment(shape, positions, 80);
    const int64_t stride = segment.num_entries(positions - 1) + 2;
    const std::vector<float> found = targets(segment, Isa::reference, 1, stride, 0, positions);
    const Evaluation e(segment);
    for (int64_t t = 0; t < positions; ++t) {
      const auto keys = segment.keys(t);
      std::vector<double> expected;
      double factor = 0;
      for (int64_t h = 0; h < shape.heads; ++h) {
        const std::vector<double> p = e.probabilities(t, h);
        std::vector<double> entries;
        for (size_t i = 0; i < keys.size(); ++i) {
          const double* q = e.q.data() + (t * shape.heads + h) * shape.head_dim;
          const double score = Bounds::magnitude(q, e.key(keys[i]), shape.head_dim) /
                               std::sqrt(static_cast<double>(shape.head_dim));
          factor = std::max(factor, static_cast<double>(shape.head_dim + 2) * score);
          if (!keys[i].first) entries.push_back(p[i]);
        }
        expected.resize(entries.size());
        for (size_t i = 0; i < entries.size(); ++i) expected[i] += entries[i];
      }
      const double sum = std::accumulate(expected.begin(), expected.end(), 0.0);
      const auto n = static_cast<double>(keys.size());
      const double relative =
          2 * (2 * factor + 2 * n + static_cast<double>(shape.heads) + 12) * Bounds::kU;
      for (int64_t i = 0; i < stride; ++i) {
        const double x = i < static_cast<int64_t>(expected.size()) ? expected[i] / sum : 0;
        ASSERT_NEAR(found[t * stride + i], x, relative * x) << "position " << t << " place " << i;
      }
    }
  }
}

TEST(AttentionTarget, VersionsThreadsAndCutsAgree) {
  for (const Shape& shape : {Shape{8, 32, 8, 8, 4, 0}, Shape{17, 40, 8, 5, 2, 6},
                             Shape{3, 21, 2, 0, 1, 0}, Shape{4, 128, 64, 8, 2, 9, KvFormat::fp8}}) {
    const int64_t positions = 45;
    const Segment segment(shape, positions, 81);
    const int64_t stride = segment.num_entries(positions - 1) + 1;
    const std::vector<float> expected = targets(segment, Isa::reference, 1, stride, 0, positions);
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2}) {
        for (int64_t cut : {0, 1, 20}) {
          std::vector<float> found = targets(segment, isa, threads, stride, 0, cut);
          const auto rest = targets(segment, isa, threads, stride, cut, positions - cut);
          found.insert(found.end(), rest.begin(), rest.end());
          for (size_t i = 0; i < found.size(); ++i) {
            ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(found[i]))
                << device::isa_name(isa) << " element " << i;
          }
        }
      }
    }
  }
}

// Sinks that take everything leave a target of zeros.
TEST(AttentionTarget, NothingReceived) {
  Segment segment({3, 16, 4, 4, 4, 0}, 9, 82);
  segment.sink = {kInf, 200, 300};
  for (Isa isa : device::machine_isas()) {
    for (float x : targets(segment, isa, 1, 3, 0, 9)) ASSERT_EQ(x, 0);
  }
}

TEST(SparseAttentionBackwardDeathTest, RowsOfARingHaveNoGradient) {
  const Segment segment({2, 16, 4, 4, 0, 0}, 8, 70);
  Gradients g = segment.zeros();
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  SparseAttentionBackwardParams p{segment.forward(4, 4), segment.dout.data(), g.q.data(),
                                  g.recent.data(),       g.entries.data(),    g.sink.data()};
  p.forward.recent.first_position = 4;
  p.forward.recent.ring = {segment.window.block, 8, segment.window.view.layout};
  EXPECT_DEATH(sparse_attention_backward(ctx, p), "ring");
}

}  // namespace
}  // namespace cachalot::ops
