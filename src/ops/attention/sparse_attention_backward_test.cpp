// sparse_attention_backward: the reference against central differences of an evaluation in double,
// every version against the reference bit for bit, for any thread count.
#include "ops/attention/sparse_attention_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"
#include "ops/attention/attention_sample_testing.h"
#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

// Error bounds of an fp32 evaluation. u = 2^-24; of a token's head with n keys of c channels, with
// S and M the largest scale sum |q key| and scale sum |dout key|: scores are off by at most ds = (c
// + 2) u S, so P by a factor 1 + e, e = 2 ds + (n + 8) u; b is off by (c + 2) u M, B by that and (e
// + (n + 1) u) M; so g, at most 2 P M, is off by P M r, r = 3 e + (2 c + n + 12) u. A chain of m
// terms adds m u of their magnitude. A central difference is off by 1e-10 / 6 of third derivatives,
// and by 1e-11 of the sum.
struct Bounds {
  explicit Bounds(const Evaluation& e)
      : q(e.q.size(), kDifference),
        recent(e.recent.size(), kDifference),
        entries(e.entries.size(), kDifference),
        sink(e.sink.size(), kDifference) {
    const Shape& s = e.sample.shape;
    const auto c = static_cast<double>(s.head_dim);
    const auto terms = static_cast<double>(2 * s.heads * e.sample.num_positions);
    const double scale = 1 / std::sqrt(c);
    for (int64_t t = 0; t < e.sample.num_positions; ++t) {
      const auto keys = e.sample.keys(t);
      const auto n = static_cast<double>(keys.size());
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t at = (t * s.heads + h) * s.head_dim;
        const float* dout = e.sample.dout.data() + at;
        double score = 0;
        double m = 0;
        for (const auto& key : keys) {
          score = std::max(score,
                           scale * Evaluation::magnitude(e.q.data() + at, e.key(key), s.head_dim));
          m = std::max(m, scale * Evaluation::magnitude(dout, e.key(key), s.head_dim));
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

  static constexpr double kU = 0x1p-24;
  static constexpr double kDifference = 1e-8;
  std::vector<double> q, recent, entries, sink;
};

void expect_gradients(const Sample& sample, const Gradients& g) {
  Evaluation e(sample);
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
  ops::expect_same_bits(a.q, b.q, what + ": dq");
  ops::expect_same_bits(a.recent, b.recent, what + ": d_recent");
  ops::expect_same_bits(a.entries, b.entries, what + ": d_entries");
  ops::expect_same_bits(a.sink, b.sink, what + ": d_sink");
}

TEST(SparseAttentionBackward, EqualsCentralDifferences) {
  for (const Shape& shape : {kWindowOnly, kSelected, kAllEntries, kFull}) {
    for (int64_t positions : {1, 13}) {
      const Sample sample(shape, positions, 20 + shape.head_dim);
      expect_gradients(sample, sample.run(Isa::reference, 1));
      if (HasFatalFailure()) return;
    }
  }
}

// The gradient of an encoded row is that of what it holds.
TEST(SparseAttentionBackward, EqualsCentralDifferencesAtDecodedRows) {
  const Sample bf16({2, 8, 2, 3, 2, 2, KvFormat::bf16}, 9, 31);
  expect_gradients(bf16, bf16.run(Isa::reference, 1));
  const Sample fp8({1, 72, 8, 3, 4, 0, KvFormat::fp8}, 6, 32);
  expect_gradients(fp8, fp8.run(Isa::reference, 1));
}

// Every version and thread count gives the reference's bits, onto buffers that already hold
// something.
void check_bits(const Shape& shape, int64_t num_positions) {
  const Sample sample(shape, num_positions, 40 + shape.head_dim);
  Gradients start = sample.zeros();
  RngStream rng(3, RngPurpose::data, 0);
  for (auto* values : {&start.q, &start.recent, &start.entries, &start.sink}) {
    for (float& x : *values) x = static_cast<float>(rng.next_normal());
  }
  Gradients expected = start;
  sample.add(Isa::reference, 1, expected);
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      Gradients found = start;
      sample.add(isa, threads, found);
      expect_same_bits(
          expected, found,
          std::string(device::isa_name(isa)) + ", " + std::to_string(threads) + " threads");
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(SparseAttentionBackward, VersionsAndThreadsAgree) {
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

// Two sequences of one call, an empty one between them: each has the gradients that it has alone,
// and the sinks' are those of one after the other.
TEST(SparseAttentionBackward, SequencesOfOneCallDoNotMeet) {
  for (const Shape& shape : {Shape{9, 32, 8, 7, 3, 0}, Shape{4, 64, 16, 8, 4, 5, KvFormat::bf16},
                             Shape{4, 32, 8, 8, 0, 0}, Shape{4, 32, 8, 0, 1, 0}}) {
    const Sample sample(shape, 31, 55);
    const Twice twice(sample);
    const Gradients alone = sample.run(Isa::reference, 1);
    Gradients expected = {Twice::doubled(alone.q), Twice::doubled(alone.recent),
                          Twice::doubled(alone.entries), sample.zeros().sink};
    for (int i = 0; i < 2; ++i) {
      Gradients one = sample.zeros();
      one.sink = expected.sink;
      sample.add(Isa::reference, 1, one);
      expected.sink = one.sink;
    }
    const std::vector<float> dout = Twice::doubled(sample.dout);
    for (Isa isa : device::machine_isas()) {
      ThreadPool pool(2);
      device::Arena arena;
      device::ExecContext ctx{&pool, &arena, isa};
      Gradients found = {std::vector<float>(expected.q.size()),
                         std::vector<float>(expected.recent.size()),
                         std::vector<float>(expected.entries.size()), sample.zeros().sink};
      sparse_attention_backward(ctx,
                                {twice.forward(), dout.data(), found.q.data(), found.recent.data(),
                                 found.entries.data(), found.sink.data()});
      expect_same_bits(expected, found, std::string(device::isa_name(isa)));
    }
  }
}

// A token without keys has no gradient; sinks that are off, and sinks that leave nothing for keys.
TEST(SparseAttentionBackward, NoKeysAndExtremeSinks) {
  Sample sample({3, 16, 4, 0, 4, 0}, 9, 50);
  sample.sink = {-kInf, 0, 200};
  const Gradients expected = sample.run(Isa::reference, 1);
  for (int64_t i = 0; i < 3 * 3 * 16; ++i) EXPECT_EQ(expected.q[i], 0);
  EXPECT_EQ(expected.sink[0], 0);
  EXPECT_EQ(expected.sink[2], 0);
  EXPECT_NE(expected.sink[1], 0);
  for (Isa isa : device::machine_isas()) {
    expect_same_bits(expected, sample.run(isa, 2), std::string(device::isa_name(isa)));
  }
}

// A selection of all visible entries is no selection: forward and backward.
TEST(SparseAttentionBackward, DenseAndSparseAgreeWhereAllIsSelected) {
  const int64_t positions = 40;
  Sample sparse({8, 32, 8, 8, 4, 10}, positions, 60);  // at most 10 entries are visible
  Sample dense({8, 32, 8, 8, 4, 0}, positions, 60);
  dense.q = sparse.q;
  dense.dout = sparse.dout;
  dense.sink = sparse.sink;
  for (Isa isa : device::machine_isas()) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    std::vector<std::vector<float>> out;
    for (const Sample* sample : {&sparse, &dense}) {
      SparseAttentionParams p = sample->forward();
      p.out = out.emplace_back(sample->q.size()).data();
      sparse_attention(ctx, p);
    }
    for (size_t i = 0; i < out[0].size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(out[0][i]), std::bit_cast<uint32_t>(out[1][i]));
    }
    expect_same_bits(sparse.run(isa, 2), dense.run(isa, 2), "dense and sparse");
  }
}

TEST(SparseAttentionBackwardDeathTest, RowsOfARingHaveNoGradient) {
  const Sample sample({2, 16, 4, 4, 0, 0}, 8, 70);
  Gradients g = sample.zeros();
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  SparseAttentionBackwardParams p{sample.forward(), sample.dout.data(), g.q.data(),
                                  g.recent.data(),  g.entries.data(),   g.sink.data()};
  const int64_t first_row[] = {0, 4}, first_position[] = {4};
  const tensor::LayerRows rows{.window = {sample.window.block, 8, sample.window.view.layout}};
  p.forward.sequences = {1, first_row, first_position};
  p.forward.layer_rows = &rows;
  EXPECT_DEATH(sparse_attention_backward(ctx, p), "ring");
}

}  // namespace
}  // namespace cachalot::ops
