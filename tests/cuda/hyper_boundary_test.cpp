// The mHC boundary on the GPU: what it rounds like the CPU has its bits, its sums their bounds.
#include "ops/hyper/hyper_boundary.h"

#include <algorithm>
#include <functional>

#include "numeric/formats.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/matmul/laid_weights.h"
#include "ops/matmul/matmul_test_data.h"
#include "ops/rows/together.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Rng;
using testing::Side;

struct Inputs {
  int64_t tokens, d;
  int64_t mixes;  // 24, or the head's 4
  std::vector<float> streams, y, norm, fn, base, scale, post, comb;
};

struct Outputs {
  std::vector<float> streams, out, post, comb;
};

// In place of y.
struct Sum {
  int64_t k;
  std::vector<uint16_t> picks;
  std::vector<float> shared;
};

Inputs random_inputs(Rng& rng, int64_t tokens, int64_t d, int64_t mixes = 24) {
  Inputs in{tokens, d, mixes, {}, {}, {}, {}, {}, {}, {}, {}};
  in.streams = testing::floats_of(testing::random_bf16(rng, tokens * 4 * d));
  in.y = testing::floats_of(testing::random_bf16(rng, tokens * d));
  in.norm = testing::random_floats(rng, d);
  in.fn = testing::random_floats(rng, mixes * 4 * d, 0.02f);
  in.base = testing::random_floats(rng, mixes);
  in.scale = {0.7f, 1.1f, 0.9f};
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int64_t i = 0; i < tokens * 4; ++i) in.post.push_back(2 * uniform(rng));
  for (int64_t i = 0; i < tokens * 16; ++i) in.comb.push_back(uniform(rng) / 2);
  return in;
}

std::vector<uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(numeric::bf16_from_float(value));
  return bits;
}

Inputs rows_of(const Inputs& in, int64_t first, int64_t tokens) {
  Inputs few = in;
  few.tokens = tokens;
  const auto cut = [&](auto& values, int64_t width) {
    values = {values.begin() + first * width, values.begin() + (first + tokens) * width};
  };
  cut(few.streams, 4 * in.d);
  cut(few.y, in.d);
  cut(few.post, 4);
  cut(few.comb, 16);
  return few;
}

// Given the side, makes what runs right after the boundary, which lets it in or not.
using Follower = std::function<std::function<void(bool lets_in)>(Side&)>;

class HyperBoundary : public testing::GpuTest {
 protected:
  // logits: comb is made of them afterwards. bf16_y, bf16_out: y, out lies in bf16.
  Outputs run(const Inputs& in, bool has_y = true, bool logits = false, const Sum* summed = nullptr,
              bool bf16_y = false, bool bf16_out = false, const Follower& follower = {}) {
    const bool head = in.mixes == 4;
    Side host(nullptr), side(gpu_.get());
    PackedWeight fn =
        PackedWeight::pack(host.ctx, {{tensor::DType::f32,
                                       {in.mixes, 4 * in.d},
                                       reinterpret_cast<const std::byte*>(in.fn.data())},
                                      {},
                                      in.mixes,
                                      4 * in.d,
                                      0,
                                      0})
            .value();
    EXPECT_TRUE(fn.move_to(*gpu_).ok());
    HyperBoundaryRows p{};
    p.rows = in.tokens;
    p.d = in.d;
    p.streams = side.array(bf16_of(in.streams));
    p.y = has_y && !bf16_y ? side.array(in.y) : nullptr;
    p.y_bf16 = has_y && bf16_y ? side.array(bf16_of(in.y)) : nullptr;
    p.fn = &fn;
    p.base = side.constant(in.base).data();
    p.scale = side.constant(in.scale).data();
    p.norm = side.constant(in.norm).data();
    p.post = head ? nullptr : side.array(in.post);
    p.comb = head ? nullptr : side.array(in.comb);
    p.logits = logits ? side.room<float>(in.tokens * 16) : nullptr;
    p.out = bf16_out ? nullptr : side.room<float>(in.tokens * in.d);
    p.out_bf16 = bf16_out ? side.room<uint16_t>(in.tokens * in.d) : nullptr;
    p.sinkhorn_iters = 20;
    p.hc_eps = p.rms_norm_eps = 1e-6f;
    ExpertSum sum{};
    if (summed != nullptr) {
      sum = {side.array(summed->picks), summed->k, side.array(summed->shared)};
      p.sum = &sum;
    }
    bool lets_in = false;
    if (follower) p.lets_next_in = &lets_in;
    const auto follow = follower ? follower(side) : std::function<void(bool)>();
    hyper_boundary(side.ctx, p);
    if (follow) follow(lets_in);
    if (logits) {
      Together together(side.ctx);
      together.add(HyperCombParams{p.logits, p.comb, in.tokens, 20, 1e-6f});
    }
    Outputs out{testing::floats_of(side.read(p.streams, in.tokens * 4 * in.d)),
                bf16_out ? testing::floats_of(side.read(p.out_bf16, in.tokens * in.d))
                         : side.read(p.out, in.tokens * in.d),
                {},
                {}};
    if (head) return out;
    out.post = side.read(p.post, in.tokens * 4);
    out.comb = side.read(p.comb, in.tokens * 16);
    return out;
  }
};

TEST_F(HyperBoundary, EqualsTheFormula) {
  Rng rng(8);
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::Isa::reference};
  struct Case {
    int64_t tokens, d;
    bool has_y;
    int64_t mixes;
  };
  for (const Case& c :
       {Case{1, 256, true, 24}, Case{3, 4096, true, 24}, Case{2, 7168, true, 24},
        Case{19, 512, true, 24}, Case{2, 2304, false, 24}, Case{1, 32, true, 24},
        Case{9, 1024, false, 4}, Case{530, 256, true, 24}, Case{270, 4096, true, 24}}) {
    const Inputs in = random_inputs(rng, c.tokens, c.d, c.mixes);
    const Outputs found = run(in, c.has_y);
    std::vector<float> x = in.streams;
    if (c.has_y) {
      hyper_post(ctx, x.data(), in.y.data(), in.post.data(), in.comb.data(), c.tokens, 4, c.d, true,
                 x.data());
    }
    ASSERT_EQ(found.streams, x) << "d " << c.d;

    const int64_t width = 4 * c.d;
    std::vector<float> mixes(c.tokens * c.mixes), inv_rms(c.tokens), pre(c.tokens * 4),
        post(c.tokens * 4), comb(c.tokens * 16);
    double worst_mix = 0;  // an error of a mix, after the factor
    for (int64_t t = 0; t < c.tokens; ++t) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += double{x[t * width + i]} * x[t * width + i];
      inv_rms[t] = static_cast<float>(1 / std::sqrt(squares / width + 1e-6));
      for (int64_t r = 0; r < c.mixes; ++r) {
        double sum = 0, magnitude = 0;
        for (int64_t i = 0; i < width; ++i) {
          const double term = double{in.fn[r * width + i]} * x[t * width + i];
          sum += term;
          magnitude += std::fabs(term);
        }
        mixes[t * c.mixes + r] = static_cast<float>(sum);
        // Three instructions of 17 addends, each cut to fp32, their weights' parts some 1 % more
        // than a weight; 8 + d / 512 + 16 additions; the factor and its square root.
        worst_mix =
            std::max(worst_mix, inv_rms[t] * (magnitude * (52 * 2 + 24 + c.d / 512.0) * 0x1p-24 +
                                              std::fabs(sum) * 20 * 0x1p-24));
      }
    }
    if (c.mixes == 4) {
      hyper_head_split(ctx, mixes.data(), inv_rms.data(), in.base.data(), in.scale.data(), c.tokens,
                       4, 1e-6f, pre.data());
    } else {
      hyper_split(ctx, {mixes.data(), inv_rms.data(), in.base.data(), in.scale.data(), c.tokens, 4,
                        20, 1e-6f, HyperKind::mhc, pre.data(), post.data(), comb.data()});
    }
    // sigmoid: slope 1/4, doubled. Sinkhorn: entries at most 1; a change of all logits by e changes
    // a softmax by at most e / 2 and a doubly normalised entry by no more than 4 e.
    const double bound = 1.1 * 4 * worst_mix + 40 * 0x1p-24;
    for (size_t i = 0; i < found.post.size(); ++i) EXPECT_NEAR(found.post[i], post[i], bound) << i;
    for (size_t i = 0; i < found.comb.size(); ++i) EXPECT_NEAR(found.comb[i], comb[i], bound) << i;

    for (int64_t t = 0; t < c.tokens; ++t) {
      std::vector<double> u(c.d), u_bound(c.d);
      double squares = 0;
      for (int64_t i = 0; i < c.d; ++i) {
        double magnitude = 0;
        for (int64_t j = 0; j < 4; ++j) {
          u[i] += double{pre[t * 4 + j]} * x[(t * 4 + j) * c.d + i];
          magnitude += std::fabs(x[(t * 4 + j) * c.d + i]);
        }
        u_bound[i] = std::fabs(u[i]) * 0x1p-8 + magnitude * (bound + 4 * 0x1p-24);
        squares += u[i] * u[i];
      }
      const double factor = 1 / std::sqrt(squares / c.d + 1e-6);
      for (int64_t i = 0; i < c.d; ++i) {
        const double g = in.norm[i];
        const double expected = g * u[i] * factor;
        // The norm moves by no more than the roundings of u, 2^-9 each.
        const double limit =
            std::fabs(g) * factor * u_bound[i] + std::fabs(expected) * 0x1p-7 + 1e-6;
        ASSERT_NEAR(found.out[t * c.d + i], expected, limit)
            << "d " << c.d << " token " << t << " channel " << i;
      }
    }
  }
}

TEST_F(HyperBoundary, CombMadeAfterwardsHasTheSameBits) {
  Rng rng(10);
  for (const int64_t tokens : {1, 9, 530}) {
    const Inputs in = random_inputs(rng, tokens, 256);
    const Outputs expected = run(in), found = run(in, true, true);
    EXPECT_EQ(found.comb, expected.comb) << tokens;
    EXPECT_EQ(found.post, expected.post) << tokens;
    EXPECT_EQ(found.out, expected.out) << tokens;
  }
}

TEST_F(HyperBoundary, ASumThatIsLeftToItHasTheBitsOfOneMadeBefore) {
  Rng rng(11);
  constexpr int64_t kWidth = 256;
  for (const int64_t tokens : {1, 9, 16}) {
    for (const int64_t k : {1, 6, 11}) {
      Inputs in = random_inputs(rng, tokens, kWidth);
      const Sum sum{k, testing::random_bf16(rng, tokens * k * kWidth),
                    testing::floats_of(testing::random_bf16(rng, tokens * kWidth))};
      for (int64_t at = 0; at < tokens * kWidth; ++at) {
        float total = 0;
        for (int64_t i = 0; i < k; ++i) {
          const int64_t row = at / kWidth * k + i;
          total += numeric::float_from_bf16(sum.picks[row * kWidth + at % kWidth]);
        }
        total += sum.shared[at];
        in.y[at] = numeric::float_from_bf16(numeric::bf16_from_float(total));
      }
      const Outputs expected = run(in), found = run(in, false, false, &sum);
      EXPECT_EQ(found.streams, expected.streams) << tokens << " of " << k;
      EXPECT_EQ(found.out, expected.out) << tokens << " of " << k;
      EXPECT_EQ(found.comb, expected.comb) << tokens << " of " << k;
    }
  }
}

TEST_F(HyperBoundary, OutputsInBf16HaveTheBitsOfFloats) {
  Rng rng(14);
  for (const int64_t d : {96, 4096, 7168}) {
    for (const int64_t tokens : {1, 13, 37, 70, 301}) {
      const Inputs in = random_inputs(rng, tokens, d);
      const Outputs expected = run(in), found = run(in, true, false, nullptr, true);
      EXPECT_EQ(found.streams, expected.streams) << tokens << " of " << d;
      EXPECT_EQ(found.out, expected.out) << tokens << " of " << d;
      EXPECT_EQ(found.comb, expected.comb) << tokens << " of " << d;
    }
  }
}

// By the kernels of few rows, of many, and after a piece of many; of the head too.
TEST_F(HyperBoundary, AnOutInBf16HasTheBitsOfFloats) {
  Rng rng(16);
  for (const int64_t d : {96, 4096, 7168}) {
    for (const int64_t tokens : {1, 13, 37, 70, 301, 515}) {
      if (tokens == 515 && d != 96) continue;
      const Inputs in = random_inputs(rng, tokens, d);
      const Outputs expected = run(in), found = run(in, true, false, nullptr, true, true);
      EXPECT_EQ(found.out, expected.out) << tokens << " of " << d;
      EXPECT_EQ(found.streams, expected.streams) << tokens << " of " << d;
      EXPECT_EQ(found.post, expected.post) << tokens << " of " << d;
      EXPECT_EQ(found.comb, expected.comb) << tokens << " of " << d;
      const Inputs head = random_inputs(rng, tokens, d, 4);
      EXPECT_EQ(run(head, false, false, nullptr, false, true).out, run(head, false).out)
          << tokens << " of " << d;
    }
  }
}

// Each kernel once.
TEST_F(HyperBoundary, SmallCase) {
  Rng rng(18);
  struct Case {
    int64_t tokens, d;
    bool in_one_kernel;
  };
  for (const Case c : {Case{1, 96, false}, {13, 96, false}, {70, 96, false}, {512, 4096, true}}) {
    const Inputs in = random_inputs(rng, c.tokens, c.d);
    const Outputs expected = run(in), found = run(in, true, c.in_one_kernel, nullptr, true, true);
    EXPECT_EQ(found.out, expected.out) << c.tokens;
    EXPECT_EQ(found.streams, expected.streams) << c.tokens;
    EXPECT_EQ(found.comb, expected.comb) << c.tokens;
    const Inputs head = random_inputs(rng, std::min<int64_t>(c.tokens, 70), 96, 4);
    EXPECT_EQ(run(head, false, false, nullptr, false, true).out, run(head, false).out) << c.tokens;
  }
}

// By clusters of blocks: whole tiles of tokens and not, as many as there are clusters and more.
TEST_F(HyperBoundary, InOneKernelHasTheBitsOfTwo) {
  Rng rng(15);
  for (const int64_t tokens : {512, 527, 1400}) {
    const Inputs in = random_inputs(rng, tokens, 4096);
    const Outputs expected = run(in), found = run(in, true, true, nullptr, true);
    EXPECT_EQ(found.streams, expected.streams) << tokens;
    EXPECT_EQ(found.out, expected.out) << tokens;
    EXPECT_EQ(found.post, expected.post) << tokens;
    EXPECT_EQ(found.comb, expected.comb) << tokens;
    const Outputs again = run(in, true, true, nullptr, true);
    EXPECT_EQ(again.out, found.out) << tokens;
    const Outputs in_bf16 = run(in, true, true, nullptr, true, true);
    EXPECT_EQ(in_bf16.out, expected.out) << tokens;
    EXPECT_EQ(in_bf16.streams, expected.streams) << tokens;
    EXPECT_EQ(in_bf16.post, expected.post) << tokens;
    EXPECT_EQ(in_bf16.comb, expected.comb) << tokens;
  }
}

// Weights are laid beside it, more than there is room for at once, and a product of them follows.
TEST_F(HyperBoundary, WeightsLaidBesideItChangeNoBit) {
  Rng rng(17);
  RngStream values(17, RngPurpose::data, 0);
  constexpr int64_t kRows = 1400, kColumns = 4096, kOutputs = 4096;
  Side host(nullptr);
  const TestWeight weight = make_weight(WeightFormat::fp8, kOutputs, kColumns, values);
  PackedWeight w = PackedWeight::pack(host.ctx, weight.tensor).value();
  ASSERT_TRUE(w.move_to(*gpu_, PackedWeight::OnGpu::streamed).ok());
  const std::vector<float> x = make_bf16_rows(kRows, kColumns, values);
  std::vector<float> y;
  bool has_run_beside = false;
  const auto run_after = [&](bool lays) {
    return [&, lays](Side& side) -> std::function<void(bool)> {
      WeightsToLay to_lay;
      to_lay.add(w);
      auto* const place = side.room<std::byte>(laid_bytes(to_lay));
      MatmulParams p{};
      p.x = side.array(x);
      p.m = kRows;
      p.x_stride = kColumns;
      p.w = &w;
      p.y = side.room<float>(kRows * kOutputs);
      p.y_stride = kOutputs;
      p.math = MatmulMath::bf16;
      p.round_y = true;
      return [&, lays, to_lay, place, p](bool lets_in) mutable {
        LaidWeights laid;
        if (lays) laid = lay_weights(side.ctx, to_lay, place, lets_in);
        has_run_beside = lays && lets_in;
        p.laid = laid.find(w);
        matmul(side.ctx, p);
        y = side.read(p.y, kRows * kOutputs);
      };
    };
  };
  for (const int64_t tokens : {70, 512, 4096}) {
    const Inputs in = random_inputs(rng, tokens, 4096);
    const Outputs expected = run(in, true, true, nullptr, true, true, run_after(false));
    const std::vector<float> expected_y = y;
    for (int round = 0; round < 3; ++round) {
      const Outputs found = run(in, true, true, nullptr, true, true, run_after(true));
      EXPECT_EQ(has_run_beside, tokens >= 512);
      EXPECT_TRUE(y == expected_y) << tokens;
      EXPECT_TRUE(found.streams == expected.streams) << tokens;
      EXPECT_TRUE(found.out == expected.out) << tokens;
      EXPECT_TRUE(found.post == expected.post) << tokens;
      EXPECT_TRUE(found.comb == expected.comb) << tokens;
    }
  }
}

TEST_F(HyperBoundary, ATokenDoesNotDependOnTheOthers) {
  Rng rng(9);
  struct Case {
    int64_t count, d;
    bool has_y;
    int64_t mixes;
  };
  // From 64 tokens on by the kernels for many: of them, tokens that no warp, not all warps, and
  // some warps more than once have; the width of a block, Flash's, which has code of its own, and
  // others.
  for (const Case& c :
       {Case{37, 1024, true, 24}, Case{128, 32, true, 24}, Case{129, 96, true, 24},
        Case{331, 1024, true, 24}, Case{250, 512, false, 24}, Case{140, 256, false, 4},
        Case{150, 4096, true, 24}, Case{300, 4096, false, 24}, Case{131, 4096, false, 4},
        Case{601, 4096, true, 24}}) {
    const Inputs all = random_inputs(rng, c.count, c.d, c.mixes);
    const Outputs expected = run(all, c.has_y);
    const Outputs again = run(all, c.has_y);
    EXPECT_EQ(again.out, expected.out);
    EXPECT_EQ(again.comb, expected.comb);
    for (const int64_t tokens : {1, 2, 5, 17}) {
      for (int64_t first = 0; first + tokens <= c.count; first += c.count / 4) {
        const Outputs found = run(rows_of(all, first, tokens), c.has_y);
        const auto same = [&](const auto& part, const auto& whole, int64_t width) {
          return std::equal(part.begin(), part.end(), whole.begin() + first * width);
        };
        EXPECT_TRUE(same(found.out, expected.out, c.d)) << tokens << " from " << first;
        EXPECT_TRUE(same(found.streams, expected.streams, 4 * c.d)) << tokens << " from " << first;
        EXPECT_TRUE(same(found.post, expected.post, 4)) << tokens << " from " << first;
        EXPECT_TRUE(same(found.comb, expected.comb, 16)) << tokens << " from " << first;
      }
    }
  }
}

TEST_F(HyperBoundary, StreamsOfRowsAreTheirValuesInBf16) {
  Rng rng(12);
  constexpr int64_t kColumns = 96, kStride = 100, kRows = 37;
  const std::vector<float> from = testing::floats_of(testing::random_bf16(rng, kRows * kStride));
  const std::vector<int64_t> chosen = {5, 0, 36, 5, 17};
  for (const bool by_index : {false, true}) {
    for (const int64_t copies : {1, 4}) {
      Side side(gpu_.get());
      const int64_t rows = by_index ? static_cast<int64_t>(chosen.size()) : kRows;
      auto* to = side.room<uint16_t>(rows * copies * kColumns);
      boundary_streams(side.ctx,
                       {side.array(from), kStride, by_index ? side.table(chosen) : nullptr, rows,
                        kColumns, copies, to});
      const std::vector<float> found = testing::floats_of(side.read(to, rows * copies * kColumns));
      for (int64_t i = 0; i < rows * copies * kColumns; ++i) {
        const int64_t row = i / (copies * kColumns);
        ASSERT_EQ(found[i], from[(by_index ? chosen[row] : row) * kStride + i % kColumns]) << i;
      }
    }
  }
}

TEST_F(HyperBoundary, LastStreamsHaveTheBitsOfThePlainOp) {
  Rng rng(13);
  Side host(nullptr);
  for (const int64_t d : {32, 4096, 7168}) {
    for (const int64_t tokens : {1, 7, 70}) {
      const Inputs in = random_inputs(rng, tokens, d);
      std::vector<float> expected = in.streams;
      hyper_post(host.ctx, expected.data(), in.y.data(), in.post.data(), in.comb.data(), tokens, 4,
                 d, true, expected.data());
      Side side(gpu_.get());
      auto* out = side.room<float>(tokens * 4 * d);
      last_streams(side.ctx, {side.array(bf16_of(in.streams)), side.array(in.y),
                              side.array(in.post), side.array(in.comb), tokens, d, out});
      EXPECT_EQ(side.read(out, tokens * 4 * d), expected) << tokens << " of " << d;
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
