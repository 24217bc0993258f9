// The plain ops of the forward on the GPU: the bits of the CPU's reference, over odd shapes and
// values.
#include <algorithm>
#include <limits>
#include <random>

#include "numeric/formats.h"
#include "ops/embed/embed.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/moe/dispatch.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"
#include "ops/quant/act_quant.h"
#include "ops/rope/rope.h"
#include "ops/rows/rows.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Side;
using PlainOps = testing::GpuTest;
using Rng = std::mt19937;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> floats(Rng& rng, int64_t count, float size = 1) {
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

// Over many magnitudes, with zeros, ties of the formats and the largest and smallest numbers.
std::vector<float> wild(Rng& rng, int64_t count, bool with_nan = true) {
  std::vector<float> values = floats(rng, count);
  std::uniform_int_distribution<int> pick(0, 40), exponent(-40, 40);
  for (float& value : values) {
    switch (pick(rng)) {
      case 0: value = 0; break;
      case 1: value = -0.0f; break;
      case 2: value = std::ldexp(value, exponent(rng)); break;
      case 3: value = std::ldexp(1.0f, exponent(rng)); break;
      case 4: value = 1e-42f; break;
      case 5: value = with_nan ? kNan : 1; break;
      case 6: value = std::round(8 * value) / 16; break;
      default: break;
    }
  }
  for (float& value : values) value = numeric::round_to_bf16(value);
  return values;
}

std::string name(const char* op, std::initializer_list<int64_t> sizes) {
  std::string text = op;
  for (const int64_t size : sizes) text += " " + std::to_string(size);
  return text;
}

TEST_F(PlainOps, MoveAndAddRows) {
  Rng rng(1);
  for (const int64_t rows : {1, 3, 67}) {
    for (const int64_t columns : {1, 5, 33, 257, 1030}) {
      const int64_t stride = columns + 3, copies = 3;
      const std::vector<float> x = wild(rng, rows * stride);
      const std::vector<float> y = wild(rng, rows * stride * copies);
      compare(name("scale", {rows, columns}), [&](Side& side) {
        float* values = side.array(x);
        scale(side.ctx, values, rows * columns, 0.3f);
        return side.read(values, rows * stride);
      });
      compare(name("copy_rows", {rows, columns}), [&](Side& side) {
        auto* to = side.room<float>(rows * stride * copies);
        copy_rows(side.ctx, {side.array(x), stride, rows, columns, to, stride * copies, copies});
        return side.read(to, rows * stride * copies);
      });
      for (const bool round : {false, true}) {
        compare(name("add_rows", {rows, columns, round}), [&](Side& side) {
          float* to = side.array(y);
          add_rows(side.ctx, {to, stride * copies, rows, columns, side.array(x), stride, copies},
                   round);
          return side.read(to, rows * stride * copies);
        });
      }
      std::vector<int64_t> picks;
      std::vector<int32_t> places;
      for (int64_t i = 0; i < rows; ++i) {
        picks.push_back((i * 5 + 2) % rows);
        places.push_back(static_cast<int32_t>(rows - 1 - i));
      }
      compare(name("gather_rows", {rows, columns}), [&](Side& side) {
        auto* to = side.room<float>(rows * stride);
        gather_rows<int64_t>(side.ctx,
                             {side.array(x), stride, side.table(picks), rows, columns, to, stride});
        return side.read(to, rows * stride);
      });
      compare(name("scatter_rows", {rows, columns}), [&](Side& side) {
        auto* to = side.room<float>(rows * stride);
        scatter_rows<int32_t>(
            side.ctx, {side.array(x), stride, side.array(places), rows, columns, to, stride});
        return side.read(to, rows * stride);
      });
    }
  }
}

TEST_F(PlainOps, EmbedTokens) {
  Rng rng(2);
  constexpr int64_t kVocab = 19;
  for (const int64_t d : {1, 30, 257}) {
    for (const tensor::DType type : {tensor::DType::f32, tensor::DType::f16, tensor::DType::bf16}) {
      std::vector<std::byte> table(static_cast<size_t>(kVocab * d * tensor::dtype_bytes(type)));
      std::uniform_int_distribution<int> byte(0, 255);
      for (std::byte& b : table) b = static_cast<std::byte>(byte(rng));
      const std::vector<int32_t> ids = {0, 18, 7, 7, 3};
      compare(name("embed", {d, static_cast<int64_t>(type)}), [&](Side& side) {
        const tensor::TensorView view{type, {kVocab, d}, side.table(table)};
        auto* out = side.room<float>(5 * d);
        embed(side.ctx, view, side.table(ids), 5, out);
        return side.read(out, 5 * d);
      });
    }
  }
}

TEST_F(PlainOps, NormRows) {
  Rng rng(3);
  for (const int64_t columns :
       {1, 15, 16, 17, 33, 128, 512, 1024, 1536, 4096, 4097, 8192, 8193, 16384, 20011}) {
    for (const int64_t rows : {1, 2, 17}) {
      const int64_t stride = columns + 5;
      std::vector<float> x = floats(rng, rows * stride);
      x[0] = 1e-30f;
      const std::vector<float> g = floats(rng, columns);
      for (const bool round : {false, true}) {
        for (const bool weighted : {false, true}) {
          compare(name("rms_norm", {rows, columns, round, weighted}), [&](Side& side) {
            float* values = side.array(x);
            // In place, and into an array of its own.
            float* y = weighted ? side.room<float>(rows * columns) : values;
            const int64_t y_stride = weighted ? columns : stride;
            rms_norm(side.ctx, {values, stride, weighted ? side.table(g) : nullptr, y, y_stride,
                                rows, columns, 1e-6f, round});
            return side.read(y, rows * y_stride);
          });
        }
      }
      std::vector<float> rounded = x;
      for (float& value : rounded) value = numeric::round_to_bf16(value);
      compare(name("rms_norm_bf16_steps", {rows, columns}), [&](Side& side) {
        float* values = side.array(rounded);
        rms_norm_bf16_steps(side.ctx,
                            {values, stride, nullptr, values, stride, rows, columns, 1e-6f, true});
        return side.read(values, rows * stride);
      });
      compare(name("hyper_inv_rms", {rows, columns}), [&](Side& side) {
        auto* factors = side.room<float>(rows);
        hyper_inv_rms(side.ctx, side.array(x), rows, columns, 1e-6f, factors);
        return side.read(factors, rows);
      });
    }
  }
}

TEST_F(PlainOps, Rotate) {
  Rng rng(4);
  struct Case {
    int64_t rows, heads, head_dim, rope_dim;
  };
  for (const Case& c :
       {Case{1, 1, 2, 2}, Case{5, 3, 10, 6}, Case{33, 64, 512, 64}, Case{7, 2, 128, 128}}) {
    const int64_t stride = c.heads * c.head_dim + 2;
    const std::vector<float> x = floats(rng, c.rows * stride);
    const int64_t pairs = c.rows * c.rope_dim / 2;
    const std::vector<float> frequencies = rope_frequencies(c.rope_dim, 10000, {});
    std::vector<int64_t> positions;
    for (int64_t i = 0; i < c.rows; ++i) positions.push_back(i * i * 997 % 1048576);
    compare(name("rope_table", {c.rows, c.rope_dim}), [&](Side& side) {
      const RopeTable table =
          rope_table(side.ctx, side.constant(frequencies), side.array(positions), c.rows);
      std::vector<float> all = side.read(table.cos, pairs);
      const std::vector<float> sin = side.read(table.sin, pairs);
      all.insert(all.end(), sin.begin(), sin.end());
      return all;
    });
    const std::vector<float> cos = floats(rng, pairs), sin = floats(rng, pairs);
    for (const bool inverse : {false, true}) {
      for (const bool round : {false, true}) {
        compare(name("rope", {c.rows, c.heads, inverse, round}), [&](Side& side) {
          float* values = side.array(x);
          rope(side.ctx, {values,
                          c.rows,
                          stride,
                          c.heads,
                          c.head_dim,
                          c.rope_dim,
                          {side.array(cos), side.array(sin)},
                          inverse,
                          round});
          return side.read(values, c.rows * stride);
        });
      }
    }
  }
}

TEST_F(PlainOps, Quantise) {
  Rng rng(5);
  for (const int64_t columns : {1, 32, 63, 64, 130, 448, 4096}) {
    for (const int64_t rows : {1, 5, 66}) {
      const int64_t stride = columns + 2;
      std::vector<float> x = wild(rng, rows * stride);
      x[0] = kInfinity;
      if (rows > 1) {  // below the floors of the scales
        for (int64_t i = 0; i < columns; ++i)
          x[stride + i] = numeric::round_to_bf16(std::ldexp(x[stride + i], -20));
      }
      const auto in_place = [&](const char* op, const auto& body) {
        compare(name(op, {rows, columns}), [&](Side& side) {
          float* values = side.array(x);
          body(side.ctx, RowsParams{values, rows, columns, stride});
          return side.read(values, rows * stride);
        });
      };
      for (const int64_t block : {64, 128}) {
        in_place("simulate_fp8", [&](device::ExecContext& ctx, const RowsParams& p) {
          simulate_fp8(ctx, p, block);
        });
      }
      compare(name("simulate_fp8 from", {rows, columns}), [&](Side& side) {
        auto* to = side.room<float>(rows * columns);
        simulate_fp8(side.ctx, {to, rows, columns, columns, side.array(x), stride}, 128);
        return side.read(to, rows * columns);
      });
      if (columns % 32 == 0) in_place("simulate_fp4", simulate_fp4);
      in_place("round_bf16", round_bf16);
    }
  }
  for (int64_t columns = 1; columns <= 1024; columns *= 2) {
    const std::vector<float> x = floats(rng, 3 * (columns + 1));
    for (const bool round : {false, true}) {
      compare(name("hadamard", {columns, round}), [&](Side& side) {
        float* values = side.array(x);
        hadamard(side.ctx, {values, 3, columns, columns + 1}, round);
        return side.read(values, 3 * (columns + 1));
      });
    }
  }
}

TEST_F(PlainOps, MixStreams) {
  Rng rng(6);
  for (int64_t n = 1; n <= 8; ++n) {
    const int64_t width = 2 * n + n * n;
    for (const int64_t rows : {1, 3, 35}) {
      const std::vector<float> mixes = floats(rng, rows * width, 3);
      const std::vector<float> inv_rms = floats(rng, rows), base = floats(rng, width);
      const std::vector<float> factors = {0.7f, 1.1f, 0.9f};
      for (const HyperKind kind : {HyperKind::mhc, HyperKind::unconstrained}) {
        compare(name("hyper_split", {n, rows, kind == HyperKind::mhc}), [&](Side& side) {
          auto* maps = side.room<float>(rows * width);
          const HyperSplitParams p{side.array(mixes),
                                   side.array(inv_rms),
                                   side.table(base),
                                   side.table(factors),
                                   rows,
                                   n,
                                   20,
                                   1e-6f,
                                   kind,
                                   maps,
                                   maps + rows * n,
                                   maps + 2 * rows * n};
          hyper_split(side.ctx, p);
          return side.read(maps, rows * width);
        });
      }
      compare(name("hyper_head_split", {n, rows}), [&](Side& side) {
        auto* pre = side.room<float>(rows * n);
        hyper_head_split(side.ctx, side.array(mixes), side.array(inv_rms), side.table(base),
                         side.table(factors), rows, n, 1e-6f, pre);
        return side.read(pre, rows * n);
      });
      for (const int64_t d : {1, 37, 1025}) {
        const std::vector<float> streams = floats(rng, rows * n * d), y = floats(rng, rows * d);
        const std::vector<float> post = floats(rng, rows * n), comb = floats(rng, rows * n * n);
        for (const bool round : {false, true}) {
          compare(name("hyper_pre", {n, rows, d, round}), [&](Side& side) {
            auto* u = side.room<float>(rows * d);
            hyper_pre(side.ctx, side.array(streams), side.array(post), rows, n, d, round, u);
            return side.read(u, rows * d);
          });
          compare(name("hyper_post", {n, rows, d, round}), [&](Side& side) {
            float* x = side.array(streams);
            hyper_post(side.ctx, x, side.array(y), side.array(post), side.array(comb), rows, n, d,
                       round, x);
            return side.read(x, rows * n * d);
          });
        }
      }
    }
  }
}

TEST_F(PlainOps, Route) {
  Rng rng(7);
  for (const int64_t experts : {1, 6, 33, 256, 384, 700}) {
    for (const int64_t k : {1, 3, 6, 8}) {
      if (k > experts) continue;
      for (const int64_t rows : {1, 9, 200}) {
        std::vector<float> logits = floats(rng, rows * experts, 4), bias = floats(rng, experts);
        // Ties, numbers that are none, and a row with too few others.
        for (size_t i = 0; i < logits.size(); i += 3) logits[i] = std::round(logits[i]);
        for (size_t i = 0; i < logits.size(); i += 11) logits[i] = kNan;
        for (size_t i = 0; i < logits.size(); i += 7) logits[i] = -kInfinity;
        for (int64_t e = 0; e + 1 < experts; ++e) logits[e] = e % 2 == 0 ? kNan : -kInfinity;
        std::vector<int32_t> fixed;
        for (int64_t i = 0; i < rows * k; ++i)
          fixed.push_back(static_cast<int32_t>((i % k * 5 + i * 3) % experts));
        enum Form { plain, biased, given };
        for (const Form form : {plain, biased, given}) {
          const auto run = [&](Side& side, auto result) {
            auto* ids = side.room<int32_t>(rows * k);
            auto* weights = side.room<float>(rows * k);
            RouterParams p{};
            p.logits = side.array(logits);
            p.rows = rows;
            p.n_routed_experts = experts;
            p.num_experts_per_tok = k;
            if (form == biased) p.bias = side.table(bias);
            if (form == given) p.fixed_ids = side.array(fixed);
            p.routed_scaling_factor = 1.5f;
            p.ids = ids;
            p.weights = weights;
            route(side.ctx, p);
            return result(side, ids, weights);
          };
          compare(name("route: ids", {experts, k, rows, form}), [&](Side& side) {
            return run(side, [&](Side& s, int32_t* ids, float*) { return s.read(ids, rows * k); });
          });
          compare(name("route: weights", {experts, k, rows, form}), [&](Side& side) {
            return run(side, [&](Side& s, int32_t*, float* w) { return s.read(w, rows * k); });
          });
        }
      }
    }
  }
}

TEST_F(PlainOps, Dispatch) {
  Rng rng(8);
  for (const int64_t experts : {1, 5, 256}) {
    for (const int64_t rows : {0, 1, 7, 1000}) {
      for (const int64_t k : {1, 6}) {
        std::uniform_int_distribution<int32_t> pick(0, static_cast<int32_t>(experts) - 1);
        std::vector<int32_t> ids(static_cast<size_t>(rows * k));
        for (int32_t& id : ids) id = pick(rng);
        compare(name("dispatch", {experts, rows, k}), [&](Side& side) {
          auto* first = side.room<int64_t>(experts + 1);
          auto* tokens = side.room<int32_t>(rows * k);
          auto* pairs = side.room<int32_t>(rows * k);
          dispatch(side.ctx, {side.array(ids), rows, k, experts, first, tokens, pairs});
          std::vector<int64_t> all = side.read(first, experts + 1);
          for (const int32_t token : side.read(tokens, rows * k)) all.push_back(token);
          for (const int32_t pair : side.read(pairs, rows * k)) all.push_back(pair);
          return all;
        });
        const std::vector<int32_t> table(ids);
        if (rows == 0) continue;
        std::vector<int32_t> tokens;
        for (int64_t i = 0; i < 50; ++i) tokens.push_back(static_cast<int32_t>(i * 13 % rows));
        compare(name("hash_expert_ids", {rows, k}), [&](Side& side) {
          auto* out = side.room<int32_t>(50 * k);
          hash_expert_ids(side.ctx, side.table(table), side.table(tokens), 50, k, out);
          return side.read(out, 50 * k);
        });
      }
    }
  }
}

TEST_F(PlainOps, ActivateAndCombine) {
  Rng rng(9);
  for (const int64_t rows : {1, 3, 70}) {
    for (const int64_t columns : {1, 31, 2048, 2051}) {
      std::vector<float> gate = wild(rng, rows * columns), up = wild(rng, rows * columns);
      for (float& value : gate) value *= 20;
      gate[0] = 1000;
      const std::vector<float> weight = floats(rng, rows);
      for (const float limit : {0.0f, 10.0f}) {
        for (const bool weighted : {false, true}) {
          for (const bool round : {false, true}) {
            compare(name("swiglu", {rows, columns, weighted, round}), [&](Side& side) {
              float* h = side.array(gate);
              swiglu(side.ctx, {h, side.array(up), weighted ? side.array(weight) : nullptr, rows,
                                columns, limit, round, h});
              return side.read(h, rows * columns);
            });
          }
        }
      }
      constexpr int64_t kPicks = 6;
      const std::vector<float> y = floats(rng, (rows + 2) * columns);
      std::vector<int32_t> slots;
      for (int64_t i = 0; i < rows * kPicks; ++i)
        slots.push_back(static_cast<int32_t>(i * 7 % (rows + 2)));
      for (const bool shared : {false, true}) {
        compare(name("moe_combine", {rows, columns, shared}), [&](Side& side) {
          float* out = side.array(gate);
          moe_combine(side.ctx, {side.array(y), side.array(slots), shared ? out : nullptr, rows,
                                 kPicks, columns, true, out});
          return side.read(out, rows * columns);
        });
      }
    }
  }
}

TEST_F(PlainOps, ActivateInBf16) {
  Rng rng(10);
  constexpr int64_t kRows = 37, kColumns = 2048;
  std::vector<uint16_t> both;  // gate, then up, of each row
  for (const float value : wild(rng, kRows * 2 * kColumns))
    both.push_back(numeric::bf16_from_float(value * 20));
  const auto column_of = [](int64_t i) { return i % (2 * kColumns); };
  std::vector<float> gate, up;
  for (int64_t i = 0; i < kRows * 2 * kColumns; ++i)
    (column_of(i) < kColumns ? gate : up).push_back(numeric::float_from_bf16(both[i]));
  for (const float limit : {0.0f, 10.0f}) {
    Side side(gpu_.get());
    float* const h = side.array(gate);
    swiglu(side.ctx, {h, side.array(up), nullptr, kRows, kColumns, limit, true, h});
    const uint16_t* const from = side.array(both);
    auto* const to = side.room<uint16_t>(kRows * kColumns);
    swiglu_bf16(side.ctx, {from, from + kColumns, 2 * kColumns, kRows, kColumns, limit, to});
    std::vector<float> found;
    for (const uint16_t bits : side.read(to, kRows * kColumns))
      found.push_back(numeric::float_from_bf16(bits));
    testing::expect_same(found, side.read(h, kRows * kColumns), "swiglu in bf16");
  }
}

}  // namespace
}  // namespace cachalot::ops
