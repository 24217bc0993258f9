// The routed experts on the GPU against double, and their promises about bits.
#include <algorithm>

#include "ops/matmul/streamed_weight.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/expert_many.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/quantised_reference.h"
#include "tests/cuda/silu.h"

namespace cachalot::ops {
namespace {

using testing::Fp4Weight;
using testing::Rng;
using testing::cuda::DeviceBuffer;

struct Expert {
  Fp4Weight gate, up, down;
};

Fp4Weight random_fp4(Rng& rng, int64_t rows, int64_t columns) {
  return {testing::random_bytes(rng, rows * columns / 2, 0, 256),
          testing::random_bytes(rng, rows * columns / 32, 112, 124), rows, columns};
}

struct Batch {
  std::vector<uint16_t> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<uint16_t> shared;  // may be empty
};

class ExpertLayer : public testing::CudaTest {
 protected:
  void make(const ExpertShape& s) {
    shape_ = s;
    Rng rng(3);
    std::vector<std::byte> gate_up, down;
    experts_.clear();
    for (int64_t e = 0; e < s.num_experts; ++e) {
      Expert& x = experts_.emplace_back();
      x.gate = random_fp4(rng, s.moe_intermediate_size, s.hidden_size);
      x.up = random_fp4(rng, s.moe_intermediate_size, s.hidden_size);
      x.down = random_fp4(rng, s.hidden_size, s.moe_intermediate_size);
      const auto a =
          stream_fp4_gate_up(x.gate.codes.data(), x.gate.scales.data(), x.up.codes.data(),
                             x.up.scales.data(), s.moe_intermediate_size, s.hidden_size);
      const auto b = stream_fp4(x.down.codes.data(), x.down.scales.data(), s.hidden_size,
                                s.moe_intermediate_size);
      gate_up.insert(gate_up.end(), a->begin(), a->end());
      down.insert(down.end(), b->begin(), b->end());
    }
    gate_up_ = put(gate_up);
    down_ = put(down);
  }

  Batch random_batch(Rng& rng, int64_t tokens) {
    Batch b;
    b.x = testing::random_bf16(rng, tokens * shape_.hidden_size);
    std::uniform_real_distribution<float> weight(0.05f, 0.6f);
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<int32_t> all(static_cast<size_t>(shape_.num_experts));
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      std::shuffle(all.begin(), all.end(), rng);
      b.ids.insert(b.ids.end(), all.begin(), all.begin() + shape_.k);
      for (int64_t i = 0; i < shape_.k; ++i) b.weights.push_back(weight(rng));
    }
    return b;
  }

  // many_tokens: the plan's.
  std::vector<uint16_t> run(const Batch& b, int64_t many_tokens = 0) {
    const int64_t tokens = static_cast<int64_t>(b.ids.size()) / shape_.k;
    Result<ExpertPlan> plan = make_expert_plan(device_, shape_);
    EXPECT_TRUE(plan.has_value()) << plan.error().message();
    if (!plan) return {};
    plan->many_tokens = many_tokens;
    const int64_t pairs = shape_.max_tokens * shape_.k;
    const bool as_floats = shape_.float_rows;
    const auto put_rows = [&](const std::vector<uint16_t>& rows) {
      return as_floats ? put(testing::floats_of(rows)) : put(rows);
    };
    const DeviceBuffer x = put_rows(b.x), ids = put(b.ids), weights = put(b.weights),
                       shared = put_rows(b.shared);
    const DeviceBuffer num_tiles = room(4), tiles = room(pairs * sizeof(ExpertTile)),
                       tile_pairs = room(pairs * kMaxTileTokens * 4),
                       arrivals = room(8 * kExpertArrivals, 0),
                       h = room(pairs * shape_.moe_intermediate_size * 2),
                       y = room(pairs * shape_.hidden_size * 2),
                       many = room(std::max<int64_t>(expert_many_bytes(shape_), 1)),
                       out = room(tokens * shape_.hidden_size * (as_floats ? 4 : 2));
    ExpertParams p = {};
    p.tokens = tokens;
    p.x = x.data();
    p.ids = ids.as<int32_t>();
    p.weights = weights.as<float>();
    p.gate_up = gate_up_.data();
    p.down = down_.data();
    p.scratch = {num_tiles.as<int32_t>(),  tiles.as<ExpertTile>(),
                 tile_pairs.as<int32_t>(), arrivals.as<unsigned long long>(),
                 h.as<uint16_t>(),         y.as<uint16_t>(),
                 many.as<std::byte>()};
    if (!b.shared.empty()) p.shared = shared.data();
    p.out = out.data();
    launch_expert_layer(*plan, stream_, p);
    h_ = testing::floats_of(get<uint16_t>(h));
    if (!as_floats) return get<uint16_t>(out);
    std::vector<uint16_t> rows;
    for (const float value : get<float>(out)) rows.push_back(numeric::bf16_from_float(value));
    return rows;
  }

  // Of max_tokens tokens, some.
  void expect_tokens_alone(const ExpertShape& shape);
  // tokens_of[e] tokens take expert e.
  void expect_many_as_few(const std::vector<int64_t>& tokens_of, int64_t k, int64_t hidden,
                          int64_t inner);

  ExpertShape shape_;
  std::vector<Expert> experts_;
  DeviceBuffer gate_up_, down_;
  std::vector<float> h_;  // of the last run
};

double clamped_silu(double g, double u, double limit) {
  g = std::min(g, limit);
  u = std::clamp(u, -limit, limit);
  return g / (1 + std::exp(-g)) * u;
}

// The inner activation within its bound; the output within that of its own product over the inner
// activation that was found (a rounding to e4m3 may fall either way near a tie).
TEST_F(ExpertLayer, EqualsTheFormula) {
  struct Case {
    int64_t tokens, experts, k, hidden, inner;
  };
  for (const ExpertForm form : {ExpertForm::official, ExpertForm::official_fp8}) {
    for (const Case& c : std::initializer_list<Case>{{1, 8, 6, 1024, 384},
                                                     {2, 5, 2, 256, 128},
                                                     {4, 9, 3, 384, 256},
                                                     {21, 7, 6, 640, 384},
                                                     {70, 5, 3, 1152, 128},
                                                     {2, 24, 18, 128, 128},
                                                     {40, 3, 2, 128, 2176}}) {
      make({form, c.tokens, c.experts, c.k, c.hidden, c.inner, 10});
      Rng rng(4);
      const Batch b = random_batch(rng, c.tokens);
      const std::vector<float> out = testing::floats_of(run(b));
      ASSERT_EQ(out.size(), static_cast<size_t>(c.tokens * c.hidden));
      const auto x = testing::quantised(testing::floats_of(b.x));
      const bool fp8 = form == ExpertForm::official_fp8;
      const auto bound_of = [&](const testing::Dot& d, int64_t columns) {
        return (fp8 ? testing::wgmma_bound(d, columns, 2) : testing::mma_bound(d, columns, 2)) +
               testing::bf16_bound(d.value);
      };
      std::vector<double> h, h_bound, y(out.size()), y_bound(out.size());
      for (int64_t pair = 0; pair < c.tokens * c.k; ++pair) {
        const Expert& e = experts_[b.ids[pair]];
        for (int64_t i = 0; i < c.inner; ++i) {
          const double* row = x.data() + pair / c.k * c.hidden;
          const testing::Dot g = testing::dot(row, e.gate, i), u = testing::dot(row, e.up, i);
          const double value = b.weights[pair] * clamped_silu(g.value, u.value, 10);
          // |d silu| <= 1.1; |u|, |silu(g)| as clamped.
          const double slope_g = 1.1 * std::min(10.0, std::fabs(u.value) + bound_of(u, c.hidden));
          const double slope_u = std::min(10.0, std::fabs(g.value) + bound_of(g, c.hidden));
          h.push_back(value);
          h_bound.push_back(b.weights[pair] * (slope_g * bound_of(g, c.hidden) +
                                               slope_u * bound_of(u, c.hidden)) +
                            testing::bf16_bound(value) * 1.01 + 1e-7);
        }
        const auto inner = testing::quantised(
            std::vector<float>(h_.begin() + pair * c.inner, h_.begin() + (pair + 1) * c.inner));
        for (int64_t n = 0; n < c.hidden; ++n) {
          const testing::Dot d = testing::dot(inner.data(), e.down, n);
          y[pair / c.k * c.hidden + n] += d.value;
          y_bound[pair / c.k * c.hidden + n] += bound_of(d, c.inner) * 1.01;
        }
      }
      for (size_t i = 0; i < y.size(); ++i) y_bound[i] += testing::bf16_bound(y[i]) * 1.01;
      for (const bool inner : {true, false}) {
        const testing::Difference d =
            inner ? testing::difference(
                        std::vector<float>(h_.begin(), h_.begin() + static_cast<long>(h.size())), h,
                        h_bound)
                  : testing::difference(out, y, y_bound);
        EXPECT_EQ(d.num_nan, 0);
        EXPECT_LT(d.worst_over_bound, 1)
            << (inner ? "inner" : "out") << (fp8 ? " official-fp8" : " official") << " tokens "
            << c.tokens << " hidden " << c.hidden << " inner " << c.inner << ": at " << d.worst_at
            << " found " << (inner ? h_[d.worst_at] : out[d.worst_at]) << ", expected "
            << (inner ? h[d.worst_at] : y[d.worst_at]) << "; relative error " << d.relative;
      }
    }
  }
}

void ExpertLayer::expect_tokens_alone(const ExpertShape& shape) {
  make(shape);
  Rng rng(5);
  const int64_t count = shape.max_tokens;
  const Batch all = random_batch(rng, count);
  const auto expected = run(all);
  ASSERT_EQ(expected, run(all));
  for (const int64_t tokens : {1, 2, 3, 5, 6, 7, 9, 17, 30, 60}) {
    for (int64_t first = 0; first + tokens <= count; first += 19) {
      Batch few;
      few.x.assign(all.x.begin() + first * shape_.hidden_size,
                   all.x.begin() + (first + tokens) * shape_.hidden_size);
      few.ids.assign(all.ids.begin() + first * shape_.k,
                     all.ids.begin() + (first + tokens) * shape_.k);
      few.weights.assign(all.weights.begin() + first * shape_.k,
                         all.weights.begin() + (first + tokens) * shape_.k);
      const auto found = run(few);
      int64_t num_different = 0;
      for (size_t i = 0; i < found.size(); ++i)
        num_different += found[i] != expected[first * shape_.hidden_size + i];
      EXPECT_EQ(num_different, 0) << tokens << " tokens from " << first;
    }
  }
}

TEST_F(ExpertLayer, ATokenDoesNotDependOnTheOthers) {
  for (const ExpertForm form : {ExpertForm::official, ExpertForm::official_fp8})
    expect_tokens_alone({form, 100, 6, 4, 1152, 384, 10});  // most experts take two tiles, or three
}

// tokens_of[e] pairs of expert e, in any order; -1 fills the rest up.
std::vector<int32_t> ids_of(Rng& rng, const std::vector<int64_t>& tokens_of, int64_t k) {
  std::vector<int32_t> ids;
  for (size_t e = 0; e < tokens_of.size(); ++e) ids.insert(ids.end(), tokens_of[e], e);
  while (static_cast<int64_t>(ids.size()) % k != 0) ids.push_back(-1);
  std::shuffle(ids.begin(), ids.end(), rng);
  return ids;
}

// The form for many tokens an expert has the bits of that for few, whatever the experts get.
void ExpertLayer::expect_many_as_few(const std::vector<int64_t>& tokens_of, int64_t k,
                                     int64_t hidden, int64_t inner) {
  Rng rng(7);
  const std::vector<int32_t> ids = ids_of(rng, tokens_of, k);
  const auto tokens = static_cast<int64_t>(ids.size()) / k;
  make({ExpertForm::official_fp8, tokens, static_cast<int64_t>(tokens_of.size()), k, hidden, inner,
        10});
  Batch b = random_batch(rng, tokens);
  b.ids = ids;
  const auto few = run(b);
  const auto few_h = h_;
  const auto many = run(b, 1);
  int64_t num_different = 0;
  for (size_t pair = 0; pair < ids.size(); ++pair) {
    if (ids[pair] < 0) continue;
    for (int64_t i = 0; i < inner; ++i)
      num_different += few_h[pair * inner + i] != h_[pair * inner + i];
  }
  EXPECT_EQ(num_different, 0) << "inner activations, hidden " << hidden;
  num_different = 0;
  for (size_t i = 0; i < few.size(); ++i) num_different += few[i] != many[i];
  EXPECT_EQ(num_different, 0) << "hidden " << hidden << " inner " << inner;
  // Rows of floats, and with what is added last.
  b.shared = testing::random_bf16(rng, tokens * hidden);
  const auto with_shared = run(b);
  EXPECT_TRUE(with_shared == run(b, 1)) << "shared, hidden " << hidden;
  EXPECT_FALSE(with_shared == few);
  shape_.float_rows = true;
  EXPECT_TRUE(with_shared == run(b, 1)) << "rows of floats, hidden " << hidden;
  EXPECT_TRUE(with_shared == run(b)) << "rows of floats, few, hidden " << hidden;
}

TEST_F(ExpertLayer, ManyTokensHaveTheBitsOfFew) {
  const std::vector<int64_t> ragged = {0,   1,   15, 16, 17,  95, 97, 112,
                                       128, 129, 0,  33, 300, 48, 64, 80};
  expect_many_as_few(ragged, 2, 1152, 384);
  expect_many_as_few(ragged, 3, 512, 128);
  expect_many_as_few(ragged, 1, 640, 2176);
  expect_many_as_few({0, 517, 0}, 1, 256, 640);
  expect_many_as_few({80, 96, 112, 64}, 4, 4096, 2048);
}

// As many pairs as a call can have but a few, of more experts than a card has multiprocessors.
TEST_F(ExpertLayer, AsManyPairsAsACallCanHave) {
  Rng rng(9);
  std::vector<int64_t> tokens_of(257);
  for (int64_t pair = 0; pair < kMaxExpertPairs - 30; ++pair) ++tokens_of[rng() % 256];
  expect_many_as_few(tokens_of, 6, 128, 128);
}

// reference/infrastructure 4.4: a card of fewer multiprocessors has other plans.
TEST_F(ExpertLayer, FewerMultiprocessorsChangeNoBit) {
  const testing::cuda::Device whole = device_;
  for (const ExpertForm form : {ExpertForm::official, ExpertForm::official_fp8}) {
    make({form, 100, 6, 4, 1152, 384, 10});
    Rng rng(8);
    for (const int64_t tokens : {1, 9, 100}) {
      const Batch b = random_batch(rng, tokens);
      const auto expected = run(b);
      for (const int num_sms : {1, 7, 66}) {
        device_.num_sms = num_sms;
        EXPECT_TRUE(run(b) == expected) << tokens << " tokens, " << num_sms << " multiprocessors";
      }
      device_ = whole;
    }
  }
}

// Of each kernel: up to two tokens, few an expert, more, and many.
TEST_F(ExpertLayer, SmallCase) {
  for (const ExpertForm form : {ExpertForm::official, ExpertForm::official_fp8})
    expect_tokens_alone({form, 20, 6, 3, 256, 128, 10});
  expect_many_as_few({0, 1, 25, 129}, 3, 256, 128);
}

TEST_F(ExpertLayer, APlanNamesWhatItCannotTake) {
  const ExpertShape good{ExpertForm::official, 3, 4, 2, 256, 128, 10};
  ASSERT_TRUE(make_expert_plan(device_, good).has_value());
  const auto refusal = [&](auto change) {
    ExpertShape shape = good;
    change(shape);
    const Result<ExpertPlan> plan = make_expert_plan(device_, shape);
    return plan ? "none" : plan.error().message();
  };
  EXPECT_EQ(refusal([](ExpertShape& s) { s.num_experts = 513; }),
            "expert layer: expected 1 to 512 experts, found 513");
  EXPECT_EQ(refusal([](ExpertShape& s) { s.k = 0; }),
            "expert layer: expected a pick a token, found 0");
  EXPECT_EQ(refusal([](ExpertShape& s) { s.max_tokens = 12289; }),
            "expert layer: expected 1 to 24576 pairs, found 24578");
  EXPECT_EQ(refusal([](ExpertShape& s) { s.hidden_size = 200; }),
            "expert layer: expected hidden_size in blocks of 128, found 200");
  EXPECT_EQ(refusal([](ExpertShape& s) { s.moe_intermediate_size = 64; }),
            "expert layer: expected moe_intermediate_size in blocks of 128, found 64");
  EXPECT_NE(refusal([](ExpertShape& s) { s.hidden_size = int64_t{1} << 20; }), "none");
}

// What an id outside the experts names takes part in nothing.
TEST_F(ExpertLayer, AnUnknownExpertIsLeftOut) {
  make({ExpertForm::official, 3, 4, 2, 256, 128, 10});
  Rng rng(6);
  Batch b = random_batch(rng, 3);
  b.ids = {1, -1, 2, 4, -1, -1};
  const auto with = run(b);
  b.weights[1] = b.weights[3] = 100;
  EXPECT_EQ(with, run(b));
  for (int64_t i = 2 * 256; i < 3 * 256; ++i) EXPECT_EQ(with[i], 0);
}

// Every value of bf16 that a gate can be.
TEST_F(ExpertLayer, SiluWithoutBranchesHasTheBitsOfADivision) {
  constexpr int64_t kValues = int64_t{1} << 16;
  auto results = room(kValues * 2 * 4);
  testing::launch_silu(stream_, results.as<uint32_t>());
  const auto found = get<uint32_t>(results);
  for (int64_t i = 0; i < kValues; ++i)
    ASSERT_EQ(found[2 * i + 1], found[2 * i]) << "bits of the gate " << i;
}

}  // namespace
}  // namespace cachalot::ops
