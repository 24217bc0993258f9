// A model of a few thousand weights with every kind of layer and an MTP block, made up, for tests
// of what the engine does with many requests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/model_cache_layout.h"
#include "model/random_weights.h"

namespace cachalot::engine::testing {

// So few words that the MTP block is sometimes right.
inline constexpr std::string_view kSmallModel = R"({"model_type": "deepseek_v4", "vocab_size": 12,
 "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8, "q_lora_rank": 16, "o_groups": 2,
 "o_lora_rank": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
 "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 8, "index_n_heads": 2,
 "index_head_dim": 16, "index_topk": 3, "hc_mult": 2, "hc_sinkhorn_iters": 4, "hc_eps": 1e-6,
 "swiglu_limit": 10.0, "rope_theta": 10000, "compress_rope_theta": 160000,
 "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
 "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 8, 4, 0],
 "num_nextn_predict_layers": 1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
 "torch_dtype": "float32"})";

struct SmallEngine {
  int threads = 1;
  int64_t max_sequences = 8;
  int64_t num_blocks = 64;  // of 8 positions
  int64_t chunk_tokens = 16;
  uint64_t weights = 1;
  std::optional<cache::PrefixCacheOptions> prefix_cache = {};
  std::string device = "cpu";
  std::optional<bool> goes_on = {};

  std::unique_ptr<LoadedModel> model() const {
    auto config = formats::parse_config(kSmallModel, "small model").value();
    auto source = std::make_unique<model::RandomWeights>(config, weights);
    ModelOptions options;
    options.precision = "exact";
    options.threads = threads;
    options.device = device;
    return LoadedModel::create(std::move(config), std::move(source), options).value();
  }
  EngineOptions options(const LoadedModel& model) const {
    EngineOptions options;
    options.max_sequences = max_sequences;
    options.cache_block_tokens = 8;
    options.prefill_chunk_tokens = chunk_tokens;
    options.prefix_cache = prefix_cache;
    options.goes_on = goes_on;
    const auto layout =
        model_cache_layout(model.transformer().config(), model.transformer().precision(),
                           {options.cache_block_tokens})
            .value();
    options.cache_bytes = max_sequences * layout.state_bytes() + num_blocks * layout.block_bytes();
    return options;
  }
  std::unique_ptr<Engine> make() const {
    auto loaded = model();
    const EngineOptions options = this->options(*loaded);
    return Engine::create(std::move(loaded), options).value();
  }
};

inline std::vector<int32_t> random_ids(int64_t count, uint64_t index) {
  RngStream rng(23, RngPurpose::data, index);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.next_u32() % 12);
  return ids;
}

inline Request request(std::vector<int32_t> prompt, int64_t max_new_tokens, uint64_t seed) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.sampling.temperature = 0.9;
  request.sampling.seed = seed;
  return request;
}

// Runs the requests at once; the answers' results, by request and answer.
inline std::vector<Result<Completion>> run_all(Engine& engine, std::vector<Request> requests) {
  std::map<std::pair<RequestId, int64_t>, Result<Completion>> results;
  for (Request& one : requests) {
    one.on_event = [&results](const Event& event) {
      if (event.kind == Event::Kind::finished)
        results.emplace(std::pair(event.request, event.answer), *event.result);
      return true;
    };
    EXPECT_TRUE(engine.submit(std::move(one)).has_value());
  }
  while (engine.step()) {
  }
  std::vector<Result<Completion>> out;
  for (auto& [key, result] : results) out.push_back(std::move(result));
  return out;
}

inline Completion alone(const SmallEngine& small, Request request) {
  request.num_drafts = 0;
  auto engine = small.make();
  const SequenceId id = engine->open().value();
  return engine->generate(id, std::move(request)).value();
}

inline void expect_same(const Completion& found, const Completion& expected) {
  EXPECT_EQ(found.ids, expected.ids);
  EXPECT_EQ(found.logprobs, expected.logprobs);
  EXPECT_EQ(found.finish, expected.finish);
}

}  // namespace cachalot::engine::testing
