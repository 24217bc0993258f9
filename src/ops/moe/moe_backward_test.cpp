#include <algorithm>

#include "ops/elementwise/gradient_test.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"

namespace cachalot::ops {
namespace {

double score(double z) { return std::sqrt(z > 20 ? z : std::log1p(std::exp(z))); }

struct RouterCase {
  int64_t rows = 7, num_experts = 9, k = 3;
  float factor = 2.5f;
  std::vector<float> logits, d_weights, d_scores;

  RouterCase()
      : d_weights(random_values(rows * k, 122)), d_scores(random_values(rows * num_experts, 123)) {
    logits = random_values(rows * num_experts, 121);
    for (int64_t e = 0; e < num_experts; ++e) {
      logits[1 * num_experts + e] *= 12;    // softplus bends and, above 20, does not
      logits[2 * num_experts + e] -= 30;    // scores near exp(z / 2)
      logits[3 * num_experts + e] -= 95;    // and down to the floor of the renormalisation
      logits[4 * num_experts + e] = 21.5f;  // all straight, all equal
    }
  }
};

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights, scores;
};

Routed run_route(device::ExecContext& ctx, const RouterCase& c, const std::vector<float>& logits,
                 const float* bias, const int32_t* fixed_ids) {
  Routed r{std::vector<int32_t>(c.rows * c.k), std::vector<float>(c.rows * c.k),
           std::vector<float>(c.rows * c.num_experts)};
  route(ctx, {logits.data(), c.rows, c.num_experts, c.k, bias, fixed_ids, c.factor, r.ids.data(),
              r.weights.data(), r.scores.data()});
  return r;
}

TEST(RouteBackward, IsTheGradientOfTheWeightsAndTheScores) {
  const RouterCase c;
  TestContext ctx(device::machine_isa(), 2);
  const std::vector<float> bias = random_values(c.num_experts, 124);
  const Routed r = run_route(ctx, c, c.logits, bias.data(), nullptr);
  for (bool with_scores : {false, true}) {
    const std::vector<float> before = random_values(c.rows * c.num_experts, 125);
    std::vector<float> found = before;
    route_backward(
        ctx, {c.logits.data(), r.scores.data(), r.ids.data(), c.rows, c.num_experts, c.k, c.factor,
              c.d_weights.data(), with_scores ? c.d_scores.data() : nullptr, found.data()});
    for (int64_t row = 0; row < c.rows; ++row) {
      const int32_t* ids = r.ids.data() + row * c.k;
      const auto slice = [&](const std::vector<float>& x) {
        return std::vector<float>(x.begin() + row * c.num_experts,
                                  x.begin() + (row + 1) * c.num_experts);
      };
      const Doubles z = widened(slice(c.logits));
      const auto total_of = [&](const Doubles& v) {
        double total = 1e-20;
        for (int64_t i = 0; i < c.k; ++i) total += score(v[ids[i]]);
        return total;
      };
      const Doubles gradient = central_differences(z, [&](const Doubles& v) {
        double sum = 0;
        for (int64_t i = 0; i < c.k; ++i) {
          sum += c.d_weights[row * c.k + i] * score(v[ids[i]]) / total_of(v) * c.factor;
        }
        for (int64_t e = 0; with_scores && e < c.num_experts; ++e) {
          sum += c.d_scores[row * c.num_experts + e] * score(v[e]);
        }
        return sum;
      });
      // a is rounded to fp32, in all of S, dot and the slope, and the result is: 5 roundings of
      // terms whose sizes are factor * |d_weight| * slope / S, where slope <= max(a, 1) / 2, and
      // |d_score| / 2. In row 3 the floor 1e-20 is of S's size, so that the scores do not cancel; 2
      // S > 1e-20 still bounds slope / S by 1.
      const double slope_over_sum = std::min(1.0, 0.5 / total_of(z));
      const double tolerance =
          5 * 0x1p-24 *
          (2 * c.factor * largest(c.d_weights) * slope_over_sum + largest(c.d_scores));
      expect_added(slice(before), slice(found), gradient, tolerance, "row " + std::to_string(row));
      if (with_scores) continue;
      for (int64_t e = 0; e < c.num_experts; ++e) {
        if (std::find(ids, ids + c.k, e) != ids + c.k) continue;
        EXPECT_EQ(found[row * c.num_experts + e], before[row * c.num_experts + e]) << "not chosen";
      }
    }
  }
}

TEST(RouteBackward, BitsDoNotDependOnThreadsOrCuts) {
  const RouterCase c;
  TestContext reference(device::Isa::reference);
  const Routed r = run_route(reference, c, c.logits, nullptr, nullptr);
  const auto backward = [&](device::ExecContext& ctx, int64_t cut) {
    std::vector<float> d_logits = random_values(c.rows * c.num_experts, 126);
    for (int64_t row = 0; row < c.rows; row += cut) {
      const int64_t at = row * c.num_experts;
      route_backward(
          ctx, {c.logits.data() + at, r.scores.data() + at, r.ids.data() + row * c.k,
                std::min(cut, c.rows - row), c.num_experts, c.k, c.factor,
                c.d_weights.data() + row * c.k, c.d_scores.data() + at, d_logits.data() + at});
    }
    return d_logits;
  };
  const std::vector<float> expected = backward(reference, c.rows);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    for (int64_t cut : {c.rows, int64_t{1}, int64_t{4}}) {
      expect_same_values(expected, backward(ctx, cut), name);
    }
  });
}

// Scores of zero have no slope, and nothing is divided by them.
TEST(RouteBackward, VanishedScoresHaveNoGradient) {
  const std::vector<float> logits = {-3000.0f, -3000.0f, -2000.0f}, d_weights = {1.0f, 2.0f};
  TestContext ctx(device::Isa::reference);
  RouterCase c;
  c.rows = 1, c.num_experts = 3, c.k = 2;
  const Routed r = run_route(ctx, c, logits, nullptr, nullptr);
  std::vector<float> d_logits(3, 0.5f);
  route_backward(ctx, {logits.data(), r.scores.data(), r.ids.data(), 1, 3, 2, 1.0f,
                       d_weights.data(), nullptr, d_logits.data()});
  EXPECT_EQ(d_logits, (std::vector<float>(3, 0.5f)));
}

// Route replay and anticipatory routing: a scored layer takes ids that were chosen before. The same
// logits give the same bits; other logits other weights, of the same ids, and never a trace of the
// bias.
TEST(RouteReplay, FixedIdsOfAScoredLayerKeepTheChoiceAndTakeThePresentScores) {
  const RouterCase c;
  TestContext ctx(device::machine_isa(), 2);
  const std::vector<float> bias = random_values(c.num_experts, 127, 3.0);
  const Routed chosen = run_route(ctx, c, c.logits, bias.data(), nullptr);
  EXPECT_NE(chosen.ids, run_route(ctx, c, c.logits, nullptr, nullptr).ids);  // the bias matters
  std::vector<int32_t> stored = chosen.ids;
  for (int64_t row = 0; row < c.rows; ++row) {
    std::reverse(stored.begin() + row * c.k, stored.begin() + (row + 1) * c.k);  // any order
  }
  for (const float* replay_bias : {bias.data(), static_cast<const float*>(nullptr)}) {
    const Routed replayed = run_route(ctx, c, c.logits, replay_bias, stored.data());
    EXPECT_EQ(replayed.ids, chosen.ids);
    expect_same_values(chosen.weights, replayed.weights, "weights");
    expect_same_values(chosen.scores, replayed.scores, "scores");
  }
  const std::vector<float> later = random_values(c.rows * c.num_experts, 128);
  const Routed replayed = run_route(ctx, c, later, bias.data(), stored.data());
  EXPECT_EQ(replayed.ids, chosen.ids);
  for (int64_t row = 0; row < c.rows; ++row) {
    double total = 0;
    for (int64_t i = 0; i < c.k; ++i) {
      total += score(later[row * c.num_experts + chosen.ids[row * c.k + i]]);
    }
    for (int64_t i = 0; i < c.k; ++i) {
      const double a = score(later[row * c.num_experts + chosen.ids[row * c.k + i]]);
      EXPECT_NEAR(replayed.weights[row * c.k + i], a / total * c.factor,
                  (c.k + 4) * 0x1p-24 * c.factor);
    }
  }
}

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

// reference/forward 4.2 in double.
double activation(double g, double u, double limit) {
  if (limit > 0) {
    g = std::min(g, limit);
    u = std::max(-limit, std::min(u, limit));
  }
  return g * sigmoid(g) * u;
}

struct SwigluCase {
  int64_t rows, columns;
  bool weighted;
  float limit;
  std::vector<float> gate, up, weight, d_h;
  SwigluCase(int64_t num_rows, int64_t num_columns, bool with_weight, float clamp_limit)
      : rows(num_rows),
        columns(num_columns),
        weighted(with_weight),
        limit(clamp_limit),
        gate(random_values(rows * columns, 131, 2.0)),
        up(random_values(rows * columns, 132, 2.0)),
        weight(random_values(rows, 133)),
        d_h(random_values(rows * columns, 134)) {}
};

struct SwigluGradients {
  std::vector<float> gate, up, weight;
  explicit SwigluGradients(const SwigluCase& c)
      : gate(random_values(c.rows * c.columns, 135)),
        up(random_values(c.rows * c.columns, 136)),
        weight(random_values(c.rows, 137)) {}
};

void run_swiglu_backward(device::ExecContext& ctx, const SwigluCase& c, int64_t first_row,
                         int64_t last_row, SwigluGradients& out) {
  const int64_t at = first_row * c.columns;
  swiglu_backward(ctx, {c.gate.data() + at, c.up.data() + at,
                        c.weighted ? c.weight.data() + first_row : nullptr, c.d_h.data() + at,
                        last_row - first_row, c.columns, c.limit, out.gate.data() + at,
                        out.up.data() + at, c.weighted ? out.weight.data() + first_row : nullptr});
}

TEST(SwigluBackward, IsTheGradient) {
  for (int64_t columns : {1, 15, 16, 17, 40}) {
    for (float limit : {0.0f, 1.5f}) {
      const SwigluCase c(3, columns, columns % 2 != 0, limit);
      const SwigluGradients before(c);
      SwigluGradients found = before;
      TestContext ctx(device::machine_isa(), 2);
      run_swiglu_backward(ctx, c, 0, c.rows, found);
      const auto product = [&](const Doubles& g, const Doubles& u, const Doubles& w) {
        double sum = 0;
        for (size_t i = 0; i < g.size(); ++i) {
          const double weight = c.weighted ? w[i / static_cast<size_t>(columns)] : 1.0;
          sum += c.d_h[i] * weight * activation(g[i], u[i], limit);
        }
        return sum;
      };
      const Doubles g = widened(c.gate), u = widened(c.up), w = widened(c.weight);
      // An element is ten roundings of a product no larger than this; the weight's is a sum of
      // them.
      const double size = largest(c.d_h) * std::max(1.0, largest(c.weight)) *
                          std::max(1.0, largest(c.gate)) * std::max(1.0, largest(c.up));
      const double tolerance = 10 * 0x1p-24 * size;
      const std::string what = std::to_string(columns) + " columns, limit " + std::to_string(limit);
      expect_added(before.gate, found.gate,
                   central_differences(g, [&](const Doubles& v) { return product(v, u, w); }),
                   tolerance, "gate, " + what);
      expect_added(before.up, found.up,
                   central_differences(u, [&](const Doubles& v) { return product(g, v, w); }),
                   tolerance, "up, " + what);
      if (!c.weighted) continue;
      expect_added(before.weight, found.weight,
                   central_differences(w, [&](const Doubles& v) { return product(g, u, v); }),
                   tolerance * static_cast<double>(columns), "weight, " + what);
    }
  }
}

TEST(SwigluBackward, EveryVersionHasTheReferenceBits) {
  for (int64_t columns : {1, 2, 15, 16, 17, 31, 33, 100, 2048}) {
    SwigluCase c(columns == 100 ? 70 : 3, columns, columns % 2 == 0,
                 columns % 3 == 0 ? 0.0f : 2.0f);
    c.gate[0] = kNan, c.up[c.up.size() / 2] = kNan;
    c.gate.back() = -kInf, c.up[1 % c.up.size()] = -kInf, c.gate[c.gate.size() / 3] = kInf;
    TestContext reference(device::Isa::reference);
    SwigluGradients expected(c);
    run_swiglu_backward(reference, c, 0, c.rows, expected);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      for (int64_t cut : {c.rows, int64_t{1}}) {
        SwigluGradients found(c);
        for (int64_t row = 0; row < c.rows; row += cut) {
          run_swiglu_backward(ctx, c, row, row + cut, found);
        }
        expect_same_values(expected.gate, found.gate, "gate, " + name);
        expect_same_values(expected.up, found.up, "up, " + name);
        expect_same_values(expected.weight, found.weight, "weight, " + name);
      }
    });
  }
}

// Values at, just below and just above the limit, and far beyond it, each gate with each up.
struct EdgeGrid {
  std::vector<float> gate, up;
  EdgeGrid() {
    std::vector<float> edges = {0.0f, 1.0f, -1.0f, 1000.0f, -1000.0f, -30.0f};
    for (float edge : {10.0f, -10.0f}) {
      for (float toward : {-kInf, kInf}) edges.push_back(std::nextafter(edge, toward));
      edges.push_back(edge);
    }
    for (float g : edges) {
      for (float u : edges) gate.push_back(g), up.push_back(u);
    }
  }
};

TEST(SwigluClamp, ForwardAndBackwardAroundTheLimit) {
  const EdgeGrid grid;
  const auto columns = static_cast<int64_t>(grid.gate.size());
  const std::vector<float> d_h(grid.gate.size(), 1.0f);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> h(grid.gate.size()), d_gate(h.size(), 0.0f), d_up(h.size(), 0.0f);
    swiglu(ctx, {grid.gate.data(), grid.up.data(), nullptr, 1, columns, 10.0f, false, h.data()});
    swiglu_backward(ctx, {grid.gate.data(), grid.up.data(), nullptr, d_h.data(), 1, columns, 10.0f,
                          d_gate.data(), d_up.data(), nullptr});
    for (size_t i = 0; i < h.size(); ++i) {
      const double g = grid.gate[i], u = grid.up[i];
      const double clamped_g = std::min(g, 10.0), clamped_u = std::clamp(u, -10.0, 10.0);
      const double s = sigmoid(clamped_g);
      const std::string where = name + ", gate " + std::to_string(g) + ", up " + std::to_string(u);
      // A handful of roundings each; exp(88.72...) and more is infinity, where what is left is
      // below 1e-35. In the gate's gradient 1 - s is absolutely, not relatively, exact: 2^-24 times
      // g u s.
      const double h_expected = clamped_g * s * clamped_u;
      EXPECT_NEAR(h[i], h_expected, 4 * 0x1p-23 * std::fabs(h_expected) + 1e-35) << where;
      const double gate_expected = g > 10 ? 0 : clamped_u * s * (1 + clamped_g * (1 - s));
      EXPECT_NEAR(d_gate[i], gate_expected,
                  0x1p-23 * std::fabs(clamped_u * s) * (4 + 2 * std::fabs(clamped_g)) + 1e-35)
          << where;
      const double up_expected = u > 10 || u < -10 ? 0 : clamped_g * s;
      EXPECT_NEAR(d_up[i], up_expected, 4 * 0x1p-23 * std::fabs(up_expected) + 1e-35) << where;
      // Exactly zero where the clamp changed the value, and only there: at the limit it does not,
      // and the gate has no lower one.
      if (g > 10) {
        EXPECT_EQ(d_gate[i], 0.0f) << where;
      }
      if (u > 10 || u < -10) {
        EXPECT_EQ(d_up[i], 0.0f) << where;
      }
      if (g <= 10 && g > -40 && u != 0) {
        EXPECT_NE(d_gate[i], 0.0f) << where;
      }
      if (u <= 10 && u >= -10 && g > -40 && g != 0) {
        EXPECT_NE(d_up[i], 0.0f) << where;
      }
    }
  });
}

TEST(SwigluClamp, CountersAreExact) {
  // More than one tile and row; the grid's edges and NaN lie among random values.
  const int64_t rows = 5, columns = 7001;
  std::vector<float> gate = random_values(rows * columns, 141, 5.0);
  std::vector<float> up = random_values(rows * columns, 142, 5.0);
  const EdgeGrid grid;
  std::copy(grid.gate.begin(), grid.gate.end(), gate.begin() + 6990);
  std::copy(grid.up.begin(), grid.up.end(), up.begin() + 6990);
  gate[3] = kNan, up[4] = kNan, gate[5] = kInf, up[6] = -kInf, up[7] = kInf;
  SwigluClampCounts expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    if (gate[i] > 10) ++expected.gate_above;
    if (up[i] > 10) ++expected.up_above;
    if (up[i] < -10) ++expected.up_below;
  }
  EXPECT_GT(expected.gate_above, 100);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> h = gate;
    SwigluClampCounts found{1, 20, 300};
    swiglu(ctx, {h.data(), up.data(), nullptr, rows, columns, 10.0f, false, h.data(), &found});
    EXPECT_EQ(found.gate_above, expected.gate_above + 1) << name;
    EXPECT_EQ(found.up_above, expected.up_above + 20) << name;
    EXPECT_EQ(found.up_below, expected.up_below + 300) << name;
    swiglu(ctx, {gate.data(), up.data(), nullptr, rows, columns, 0.0f, false, h.data(), &found});
    EXPECT_EQ(found.gate_above, expected.gate_above + 1) << "without a limit nothing is clamped";
  });
}

TEST(MoeCombineBackward, GivesEveryPairAndTheSharedExpertTheTokensGradient) {
  for (int64_t columns : {1, 17, 5000}) {
    const int64_t rows = 5, k = 3;
    const std::vector<float> d_out = random_values(rows * columns, 151);
    const std::vector<float> y_before = random_values(rows * k * columns, 152);
    const std::vector<float> shared_before = random_values(rows * columns, 153);
    std::vector<int32_t> slots;
    for (int64_t i = 0; i < rows * k; ++i)
      slots.push_back(static_cast<int32_t>(i * 7 % (rows * k)));
    std::vector<float> y_expected = y_before, shared_expected = shared_before;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < columns; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          y_expected[slots[row * k + j] * columns + i] += d_out[row * columns + i];
        }
        shared_expected[row * columns + i] += d_out[row * columns + i];
      }
    }
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> y = y_before, shared = shared_before;
      moe_combine_backward(ctx,
                           {d_out.data(), slots.data(), rows, k, columns, y.data(), shared.data()});
      expect_same_values(y_expected, y, "pairs, " + name);
      expect_same_values(shared_expected, shared, "shared, " + name);
      y = y_before;
      moe_combine_backward(ctx, {d_out.data(), slots.data(), rows, k, columns, y.data(), nullptr});
      expect_same_values(y_expected, y, "pairs alone, " + name);
    });
  }
}

// The gradients of a token's pairs, added to what its row holds: moe_combine with out = shared.
TEST(MoeCombine, AddsToItsSharedOperandInPlace) {
  const int64_t rows = 4, k = 2, columns = 35;
  const std::vector<float> y = random_values(rows * k * columns, 154);
  const std::vector<float> shared = random_values(rows * columns, 155);
  const std::vector<int32_t> slots = {3, 0, 1, 7, 2, 6, 5, 4};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> apart(shared.size()), in_place = shared;
    moe_combine(ctx,
                {y.data(), slots.data(), shared.data(), rows, k, columns, false, apart.data()});
    moe_combine(
        ctx, {y.data(), slots.data(), in_place.data(), rows, k, columns, false, in_place.data()});
    expect_same_values(apart, in_place, name);
  });
}

}  // namespace
}  // namespace cachalot::ops
