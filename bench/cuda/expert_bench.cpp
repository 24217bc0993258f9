// The whole expert layer with FP4 weights: dispatch, gate and up, down, sum; new routing in each
// call.
#include <algorithm>
#include <cstdio>
#include <random>
#include <set>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/matmul/streamed_weight.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/expert_many.h"
#include "tests/cuda/quantised_reference.h"

namespace cachalot::bench {
namespace {

struct Model {
  const char* name;
  int64_t experts, hidden, inner;
  std::vector<int64_t> batches;
};

testing::Fp4Weight random_fp4(std::mt19937& rng, int64_t rows, int64_t columns) {
  testing::Fp4Weight w{{}, {}, rows, columns};
  w.codes.resize(static_cast<size_t>(rows * columns / 2));
  for (uint8_t& code : w.codes) code = static_cast<uint8_t>(rng());
  w.scales.resize(static_cast<size_t>(rows * columns / 32));
  for (uint8_t& scale : w.scales) scale = static_cast<uint8_t>(116 + rng() % 5);
  return w;
}

double silu(double g) { return g / (1 + std::exp(-g)); }

}  // namespace

void bench_experts(Harness& h) {
  constexpr int64_t kPicks = 6;
  constexpr float kLimit = 10;
  for (const Model& m : {Model{"Flash", 256, 4096, 2048, {1, 2, 4, 16, 64, 512, 1024, 4096}},
                         Model{"Pro", 384, 7168, 3072, {1, 4, 16, 64, 512, 4096}}}) {
    std::mt19937 rng(9);
    const testing::Fp4Weight gate = random_fp4(rng, m.inner, m.hidden),
                             up = random_fp4(rng, m.inner, m.hidden),
                             down = random_fp4(rng, m.hidden, m.inner);
    const auto gate_up_bytes =
        ops::stream_fp4_gate_up(gate.codes.data(), gate.scales.data(), up.codes.data(),
                                up.scales.data(), m.inner, m.hidden);
    const auto down_bytes =
        ops::stream_fp4(down.codes.data(), down.scales.data(), m.hidden, m.inner);
    const cuda::DeviceBuffer gate_up = h.repeat(*gate_up_bytes, m.experts);
    const cuda::DeviceBuffer down_buffer = h.repeat(*down_bytes, m.experts);
    const double expert_bytes = static_cast<double>((*gate_up_bytes).size() + (*down_bytes).size());

    for (const int64_t tokens : m.batches) {
      const int calls = tokens <= 4 ? 24 : tokens <= 64 ? 8 : 3;
      const int64_t pairs = tokens * kPicks;
      std::normal_distribution<float> normal;
      std::vector<uint16_t> x(static_cast<size_t>(tokens * m.hidden));
      for (uint16_t& value : x) value = numeric::bf16_from_float(normal(rng));
      std::vector<int32_t> ids;
      std::vector<float> weights;
      double touched = 0;
      for (int call = 0; call < calls; ++call) {
        std::set<int32_t> distinct;
        for (int64_t t = 0; t < tokens; ++t) {
          std::set<int32_t> own;
          while (own.size() < kPicks) own.insert(static_cast<int32_t>(rng() % m.experts));
          for (const int32_t id : own) {
            ids.push_back(id);
            weights.push_back(0.1f + 0.05f * static_cast<float>(rng() % 8));
            distinct.insert(id);
          }
        }
        touched += static_cast<double>(distinct.size()) / calls;
      }
      const cuda::DeviceBuffer x_buffer = h.put(x), ids_buffer = h.put(ids),
                               weights_buffer = h.put(weights);
      const cuda::DeviceBuffer num_tiles = h.room(4),
                               tiles =
                                   h.room(pairs * static_cast<int64_t>(sizeof(ops::ExpertTile))),
                               tile_pairs = h.room(pairs * ops::kMaxTileTokens * 4),
                               arrivals = h.put(std::vector<uint64_t>(ops::kExpertArrivals)),
                               inner = h.room(pairs * m.inner * 2),
                               y = h.room(pairs * m.hidden * 2),
                               out = h.room(tokens * m.hidden * 2);
      const auto many = h.room(ops::expert_many_bytes(
          {ops::ExpertForm::official_fp8, tokens, m.experts, kPicks, m.hidden, m.inner, kLimit}));
      for (const ops::ExpertForm form :
           {ops::ExpertForm::official_fp8, ops::ExpertForm::official}) {
        if (form == ops::ExpertForm::official && tokens > 512) continue;
        const auto plan = ops::make_expert_plan(
            h.device(), {form, tokens, m.experts, kPicks, m.hidden, m.inner, kLimit});
        CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
        const auto call = [&](int i) {
          ops::ExpertParams p = {};
          p.tokens = tokens;
          p.x = x_buffer.as<uint16_t>();
          p.ids = ids_buffer.as<int32_t>() + i * pairs;
          p.weights = weights_buffer.as<float>() + i * pairs;
          p.gate_up = gate_up.data();
          p.down = down_buffer.data();
          p.scratch = {num_tiles.as<int32_t>(),  tiles.as<ops::ExpertTile>(),
                       tile_pairs.as<int32_t>(), arrivals.as<unsigned long long>(),
                       inner.as<uint16_t>(),     y.as<uint16_t>(),
                       many.as<std::byte>()};
          p.out = out.as<uint16_t>();
          ops::launch_expert_layer(*plan, h.stream(), p);
        };
        call(0);
        // Check: the last token's inner activations of one pick, and its output from them.
        const int64_t token = tokens - 1;
        const std::vector<uint16_t> found_h = h.get<uint16_t>(inner);
        const std::vector<uint16_t> found = h.get<uint16_t>(out);
        std::vector<float> row(static_cast<size_t>(m.hidden));
        for (int64_t k = 0; k < m.hidden; ++k)
          row[k] = numeric::float_from_bf16(x[token * m.hidden + k]);
        const auto xq = testing::quantised(row);
        double error = 0, norm = 0;
        const int64_t pair = token * kPicks + 3;
        for (int64_t i = 0; i < m.inner; i += 37) {
          const double g = std::min<double>(testing::dot(xq.data(), gate, i).value, kLimit);
          const double u =
              std::clamp<double>(testing::dot(xq.data(), up, i).value, -kLimit, kLimit);
          const double expected = weights[pair] * silu(g) * u;
          error += std::pow(numeric::float_from_bf16(found_h[pair * m.inner + i]) - expected, 2);
          norm += expected * expected;
        }
        double worst = std::sqrt(error / norm);
        error = norm = 0;
        std::vector<std::vector<double>> hq;
        for (int64_t i = 0; i < kPicks; ++i) {
          std::vector<float> values(static_cast<size_t>(m.inner));
          for (int64_t k = 0; k < m.inner; ++k)
            values[k] = numeric::float_from_bf16(found_h[(token * kPicks + i) * m.inner + k]);
          hq.push_back(testing::quantised(values));
        }
        for (int64_t n = 0; n < m.hidden; n += 61) {
          double expected = 0;
          for (const auto& values : hq) expected += testing::dot(values.data(), down, n).value;
          error += std::pow(numeric::float_from_bf16(found[token * m.hidden + n]) - expected, 2);
          norm += expected * expected;
        }
        worst = std::max(worst, std::sqrt(error / norm));
        const bool is_fp8 = form == ops::ExpertForm::official_fp8;
        h.report({is_fp8 ? "expert layer, official-fp8" : "expert layer, official",
                  m.name + tokens_of(tokens), h.time(calls, call),
                  touched * expert_bytes + static_cast<double>(tokens * m.hidden * 4),
                  6.0 * static_cast<double>(pairs * m.hidden * m.inner),
                  is_fp8 ? Cores::e4m3 : Cores::bf16, worst, 8e-3});
      }
    }
  }
}

}  // namespace cachalot::bench
