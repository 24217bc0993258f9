// index_loss: the reference against central differences of an evaluation in double; every version
// and thread count against the reference bit for bit; descent along its gradients.
#include "ops/indexer/index_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "ops/elementwise/kernel_test.h"
#include "ops/indexer/index_select.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using device::Isa;
using tensor::IndexFormat;

struct Shape {
  int64_t heads;
  int64_t dim;
  int64_t ratio;
  int64_t topk;  // 0: all visible entries
  IndexFormat format = IndexFormat::f32;
};

struct Gradients {
  double loss = 0;
  std::vector<float> q, weight, keys;
};

class Problem {
 public:
  Problem(const Shape& shape, int64_t num_positions, uint64_t seed)
      : shape(shape),
        num_positions(num_positions),
        num_entries(num_positions / shape.ratio),
        stride(std::max<int64_t>(1, num_entries) + 2),
        rng_(seed, RngPurpose::data, 4) {
    q = normals(num_positions * shape.heads * shape.dim);
    weight = normals(num_positions * shape.heads);
    keys = normals(num_entries * shape.dim);
    encode();
    if (shape.topk > 0) {
      selected.assign(num_positions * shape.topk, -1);
      num_selected.resize(num_positions);
      for (int64_t t = 0; t < num_positions; ++t) select(t);
    }
    target.resize(num_positions * stride, 7);  // what no entry has is not read
    for (int64_t t = 0; t < num_positions; ++t) {
      const auto n = static_cast<int64_t>(list(t).size());
      float* row = target.data() + t * stride;
      float sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += row[i] = std::fabs(normals(1)[0]) + 0.01f;
      for (int64_t i = 0; i < n; ++i) row[i] /= sum;
    }
  }

  // The key rows hold `keys`, which become what the format keeps of them.
  void encode() {
    const tensor::RowLayout layout = tensor::index_row_layout(shape.format, shape.dim);
    bytes_.resize(std::max<int64_t>(1, num_entries) * layout.row_bytes());
    block_ = bytes_.data();
    const tensor::RowBlocks view{&block_, std::max<int64_t>(1, num_entries), layout};
    layer_rows_.index_keys = view;
    for (int64_t e = 0; e < num_entries; ++e) {
      float* key = keys.data() + e * shape.dim;
      encode_index_row(shape.format, key, shape.dim, view.row(e));
      decode_index_row(Isa::reference, shape.format, view.row(e), shape.dim, key);
    }
  }

  std::vector<int32_t> list(int64_t t) const {
    if (shape.topk > 0) {
      const auto first = selected.begin() + t * shape.topk;
      return {first, first + num_selected[t]};
    }
    std::vector<int32_t> all((t + 1) / shape.ratio);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  Gradients zeros() const {
    return {0, std::vector<float>(q.size()), std::vector<float>(weight.size()),
            std::vector<float>(keys.size())};
  }

  IndexLossParams params(Gradients& g) const {
    IndexLossParams p{};
    p.q = q.data();
    p.weight = weight.data();
    p.heads = shape.heads;
    p.dim = shape.dim;
    p.sequences = {1, first_row_, &first_position_};
    p.layer_rows = &layer_rows_;
    p.ratio = shape.ratio;
    p.format = shape.format;
    if (shape.topk > 0) {
      p.selected = selected.data();
      p.num_selected = num_selected.data();
      p.topk = shape.topk;
    }
    p.target = target.data();
    p.target_stride = stride;
    p.loss = &g.loss;
    p.d_loss = kLossGradient;
    p.dq = g.q.data();
    p.d_weight = g.weight.data();
    p.d_keys = g.keys.data();
    return p;
  }

  void add(Isa isa, int num_threads, Gradients& g) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    index_loss(ctx, params(g));
  }

  Gradients run(Isa isa, int num_threads) const {
    Gradients g = zeros();
    add(isa, num_threads, g);
    return g;
  }

  std::vector<float> normals(int64_t n) {
    std::vector<float> values(n);
    for (float& x : values) x = static_cast<float>(rng_.next_normal());
    return values;
  }

  static constexpr float kLossGradient = 0.75f;
  const Shape shape;
  const int64_t num_positions;
  const int64_t num_entries;
  const int64_t stride;
  std::vector<float> q, weight, keys, target;
  std::vector<int32_t> selected, num_selected;

 private:
  void select(int64_t t) {
    std::vector<int32_t> all((t + 1) / shape.ratio);
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng_.next_u32() % i]);
    all.resize(std::min<size_t>(all.size(), shape.topk));
    std::sort(all.begin(), all.end());
    std::copy(all.begin(), all.end(), selected.begin() + t * shape.topk);
    num_selected[t] = static_cast<int32_t>(all.size());
  }

  RngStream rng_;
  std::vector<std::byte> bytes_;
  std::byte* block_ = nullptr;
  tensor::LayerRows layer_rows_;
  int64_t first_row_[2] = {0, num_positions};
  int64_t first_position_ = 0;
};

// The loss in double, on values of its own that a test may move.
struct Evaluation {
  explicit Evaluation(const Problem& problem)
      : problem(problem),
        q(problem.q.begin(), problem.q.end()),
        weight(problem.weight.begin(), problem.weight.end()),
        keys(problem.keys.begin(), problem.keys.end()) {}

  double dot(int64_t head, int64_t e, bool magnitudes = false) const {
    const int64_t c = problem.shape.dim;
    double sum = 0;
    for (int64_t k = 0; k < c; ++k) {
      const double x = q[head * c + k] * keys[e * c + k];
      sum += magnitudes ? std::fabs(x) : x;
    }
    return sum;
  }

  // softmax(I) of a token, and the logarithms.
  std::vector<double> probabilities(int64_t t, std::vector<double>* logs) const {
    const int64_t heads = problem.shape.heads;
    std::vector<double> scores;
    for (int32_t e : problem.list(t)) {
      double score = 0;
      for (int64_t h = t * heads; h < (t + 1) * heads; ++h) {
        score += std::max(0.0, dot(h, e)) * weight[h];
      }
      scores.push_back(score);
    }
    double z = 0;
    for (double x : scores) z += std::exp(x);
    *logs = scores;
    for (double& x : *logs) x -= std::log(z);
    for (double& x : scores) x = std::exp(x) / z;
    return scores;
  }

  double loss() const {
    double sum = 0;
    for (int64_t t = 0; t < problem.num_positions; ++t) {
      std::vector<double> logs;
      probabilities(t, &logs);
      for (size_t i = 0; i < logs.size(); ++i) {
        const double p = problem.target[t * problem.stride + i];
        if (p > 0) sum += p * (std::log(p) - logs[i]);
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
    return (above - below) / (2 * kStep) * Problem::kLossGradient;
  }

  const Problem& problem;
  std::vector<double> q, weight, keys;
};

// Error bounds of an fp32 evaluation, u = 2^-24, c channels, H heads, n entries of a token: a dot
// product is off by (c + 1) u D, D = sum |q key|; a score by eI = sum over heads |w| (c + H + 2) u
// D; pi by a factor of 2 eI + (n + 10) u, so dI by pi times that and 2 u (pi + target). Chains of m
// terms add m u of their magnitude, dI being at most pi + target. A central difference of step 1e-5
// is off by less than 1e-8 (of values below some tens, no dot product that close to zero).
struct Bounds {
  explicit Bounds(const Evaluation& e)
      : q(e.q.size(), 1e-8), weight(e.weight.size(), 1e-8), keys(e.keys.size(), 1e-8) {
    constexpr double kU = 0x1p-24;
    const Problem& p = e.problem;
    const Shape& s = p.shape;
    const auto c = static_cast<double>(s.dim);
    const auto heads = static_cast<double>(s.heads);
    const double terms = heads * static_cast<double>(p.num_positions);
    for (int64_t t = 0; t < p.num_positions; ++t) {
      const auto list = p.list(t);
      const auto n = static_cast<double>(list.size());
      std::vector<double> logs;
      const std::vector<double> pi = e.probabilities(t, &logs);
      double score = 0;
      for (int32_t entry : list) {
        double sum = 0;
        for (int64_t h = t * s.heads; h < (t + 1) * s.heads; ++h) {
          sum += std::fabs(e.weight[h]) * (c + heads + 2) * kU * e.dot(h, entry, true);
        }
        score = std::max(score, sum);
      }
      loss += 2 * score + (n + 10) * kU;
      for (size_t i = 0; i < list.size(); ++i) {
        const double magnitude = pi[i] + p.target[t * p.stride + i];
        const double error = pi[i] * (2 * score + (n + 10) * kU) + 2 * kU * magnitude;
        for (int64_t h = t * s.heads; h < (t + 1) * s.heads; ++h) {
          const double d = e.dot(h, list[i], true);
          weight[h] += (error + (n + c + 2) * kU * magnitude) * d;
          for (int64_t k = 0; k < s.dim; ++k) {
            const double w = std::fabs(e.weight[h]);
            q[h * s.dim + k] +=
                (error + (n + 3) * kU * magnitude) * w * std::fabs(e.keys[list[i] * s.dim + k]);
            keys[list[i] * s.dim + k] +=
                (error + (terms + 3) * kU * magnitude) * w * std::fabs(e.q[h * s.dim + k]);
          }
        }
      }
    }
  }
  double loss = 1e-12;
  std::vector<double> q, weight, keys;
};

TEST(IndexLoss, EqualsCentralDifferences) {
  for (const Shape& shape : {Shape{2, 5, 2, 0}, Shape{3, 8, 1, 3}, Shape{1, 3, 4, 2},
                             Shape{2, 32, 2, 3, IndexFormat::fp4}}) {
    for (int64_t positions : {1, 4, 11}) {
      const Problem problem(shape, positions, 30 + shape.dim);
      const Gradients g = problem.run(Isa::reference, 1);
      Evaluation e(problem);
      const Bounds bounds(e);
      EXPECT_NEAR(g.loss, e.loss(), bounds.loss);
      const auto compare = [&](const char* name, const std::vector<float>& found,
                               std::vector<double>& values, const std::vector<double>& bound) {
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_NEAR(found[i], e.difference(values[i]), bound[i]) << name << " element " << i;
        }
      };
      compare("dq", g.q, e.q, bounds.q);
      compare("d_weight", g.weight, e.weight, bounds.weight);
      compare("d_keys", g.keys, e.keys, bounds.keys);
      if (HasFatalFailure()) return;
    }
  }
}

void expect_same_bits(const Gradients& a, const Gradients& b, const std::string& what) {
  EXPECT_EQ(std::bit_cast<uint64_t>(a.loss), std::bit_cast<uint64_t>(b.loss)) << what;
  ops::expect_same_bits(a.q, b.q, what + ": dq");
  ops::expect_same_bits(a.weight, b.weight, what + ": d_weight");
  ops::expect_same_bits(a.keys, b.keys, what + ": d_keys");
}

// Onto buffers that already hold something.
void check_bits(const Shape& shape, int64_t num_positions) {
  Problem problem(shape, num_positions, 50 + shape.dim);
  Gradients start;
  start.loss = 3;
  start.q = problem.normals(static_cast<int64_t>(problem.q.size()));
  start.weight = problem.normals(static_cast<int64_t>(problem.weight.size()));
  start.keys = problem.normals(static_cast<int64_t>(problem.keys.size()));
  Gradients expected = start;
  problem.add(Isa::reference, 1, expected);
  for (Isa isa : device::machine_isas()) {
    for (int threads : {1, 2, 5}) {
      Gradients found = start;
      problem.add(isa, threads, found);
      expect_same_bits(
          expected, found,
          std::string(device::isa_name(isa)) + ", " + std::to_string(threads) + " threads");
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(IndexLoss, VersionsAndThreadsAgree) {
  check_bits({8, 32, 4, 0}, 90);
  check_bits({16, 64, 4, 6, IndexFormat::fp4}, 61);
  check_bits({64, 128, 4, 5, IndexFormat::fp8}, 45);
  check_bits({4, 32, 2, 7, IndexFormat::bf16}, 50);
}

// Odd widths; one row; more keys and channels than a task has, and more coefficients than a block
// (2^21: 48 an entry, 300 tokens of 1 to 300).
TEST(IndexLoss, OddShapes) {
  check_bits({3, 21, 2, 0}, 33);
  check_bits({1, 5, 1, 3}, 20);
  check_bits({17, 9, 3, 4}, 25);
  check_bits({4, 16, 1, 0}, 1);
  check_bits({3, 70, 1, 20}, 150);
  check_bits({41, 4, 1, 0}, 300);
}

// A selection of all visible entries is no selection.
TEST(IndexLoss, DenseAndSparseAgreeWhereAllIsSelected) {
  const Problem sparse({8, 32, 4, 10}, 40, 60);  // at most 10 entries are visible
  Problem dense({8, 32, 4, 0}, 40, 60);
  dense.q = sparse.q;
  dense.weight = sparse.weight;
  dense.keys = sparse.keys;
  dense.encode();
  dense.target = sparse.target;
  for (Isa isa : device::machine_isas()) {
    expect_same_bits(sparse.run(isa, 2), dense.run(isa, 2), "dense and sparse");
  }
}

TEST(IndexLoss, NothingToLearn) {
  Problem problem({8, 32, 4, 0}, 12, 70);
  // No entry is visible, then one, whose share is 1 whatever its score, then nothing was received.
  std::fill(problem.target.begin() + 7 * problem.stride, problem.target.end(), 0.0f);
  for (Isa isa : device::machine_isas()) {
    Gradients g = problem.zeros();
    ThreadPool pool(1);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    index_loss(ctx, problem.params(g));
    EXPECT_EQ(g.loss, 0);
    for (const auto* values : {&g.q, &g.weight, &g.keys}) {
      for (float x : *values) ASSERT_EQ(x, 0);
    }
  }
}

// Two sequences of one call, an empty one between them: the loss goes on from one to the next, the
// gradients are those that each has alone.
TEST(IndexLoss, SequencesOfOneCallDoNotMeet) {
  for (const Shape& shape : {Shape{8, 32, 4, 0}, Shape{16, 64, 4, 6, IndexFormat::fp4}}) {
    const Problem problem(shape, 45, 75);
    const Gradients alone = problem.run(Isa::reference, 1);
    Gradients next;
    next = problem.zeros();
    next.loss = alone.loss;
    problem.add(Isa::reference, 1, next);
    const auto doubled = [](auto values) {
      const auto once = values;
      values.insert(values.end(), once.begin(), once.end());
      return values;
    };
    const Gradients expected = {next.loss, doubled(alone.q), doubled(alone.weight),
                                doubled(alone.keys)};
    const auto q = doubled(problem.q), weight = doubled(problem.weight),
               target = doubled(problem.target);
    const auto selected = doubled(problem.selected), num_selected = doubled(problem.num_selected);
    const int64_t first_row[] = {0, 45, 45, 90}, first_position[] = {0, 0, 0};
    for (Isa isa : device::machine_isas()) {
      ThreadPool pool(2);
      device::Arena arena;
      device::ExecContext ctx{&pool, &arena, isa};
      Gradients found = {0, std::vector<float>(q.size()), std::vector<float>(weight.size()),
                         std::vector<float>(expected.keys.size())};
      IndexLossParams p = problem.params(found);
      const std::vector<tensor::LayerRows> layer_rows(3, p.layer_rows[0]);
      p.q = q.data();
      p.weight = weight.data();
      p.target = target.data();
      p.sequences = {3, first_row, first_position};
      p.layer_rows = layer_rows.data();
      if (shape.topk > 0) {
        p.selected = selected.data();
        p.num_selected = num_selected.data();
      }
      index_loss(ctx, p);
      expect_same_bits(expected, found, std::string(device::isa_name(isa)));
    }
  }
}

TEST(IndexLoss, TheLossAlone) {
  const Problem problem({8, 32, 4, 0}, 30, 80);
  for (Isa isa : device::machine_isas()) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    Gradients g = problem.zeros();
    IndexLossParams p = problem.params(g);
    p.dq = p.d_weight = p.d_keys = nullptr;
    index_loss(ctx, p);
    EXPECT_EQ(g.loss, problem.run(isa, 1).loss);
  }
}

// Mean share of a token's k largest targets among the k entries that the indexer takes, over tokens
// that see more than k.
double recall(const Problem& problem, const Gradients& g, int64_t k) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  std::vector<int32_t> picked(problem.num_positions * k);
  std::vector<int32_t> num_picked(problem.num_positions);
  Gradients unused = g;
  const IndexLossParams p = problem.params(unused);
  index_select(ctx, {p.q, p.weight, p.heads, p.dim, p.sequences, p.layer_rows, p.ratio, k, p.format,
                     false, false, false, picked.data(), num_picked.data()});
  int64_t found = 0;
  int64_t all = 0;
  for (int64_t t = (k + 1) * p.ratio - 1; t < problem.num_positions; ++t) {
    std::vector<int32_t> best(k);
    top_k_positions(ctx.isa, problem.target.data() + t * problem.stride, (t + 1) / p.ratio, k,
                    best.data());
    for (int32_t e : best) found += std::count(&picked[t * k], &picked[t * k] + k, e);
    all += k;
  }
  return static_cast<double>(found) / static_cast<double>(all);
}

// Descent along the gradients lowers the divergence, and the indexer comes to pick what receives
// the attention.
TEST(IndexLoss, DescentLowersTheLossAndRaisesTheRecall) {
  Problem problem({8, 32, 1, 0}, 24, 90);
  const Isa isa = device::machine_isa();
  Gradients g = problem.run(isa, 2);
  const double first_loss = g.loss;
  const double first_recall = recall(problem, g, 4);
  double last = first_loss;
  for (int step = 0; step < 60; ++step) {
    const auto descend = [](std::vector<float>& x, const std::vector<float>& dx) {
      for (size_t i = 0; i < x.size(); ++i) x[i] -= 0.02f * dx[i];
    };
    descend(problem.q, g.q);
    descend(problem.weight, g.weight);
    descend(problem.keys, g.keys);
    problem.encode();
    g = problem.run(isa, 2);
    EXPECT_LT(g.loss, last) << "step " << step;
    last = g.loss;
  }
  EXPECT_LT(last, first_loss / 10);
  EXPECT_GT(recall(problem, g, 4), first_recall + 0.3);
}

}  // namespace
}  // namespace cachalot::ops
