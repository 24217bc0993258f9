#include "server/small_server.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "base/test_data.h"
#include "engine/model_cache_layout.h"
#include "model/random_weights.h"
#include "text/tokenizer.h"

namespace cachalot::server::testing {
namespace {

constexpr std::string_view kModel = R"({{"model_type": "deepseek_v4", "vocab_size": 2048,
 "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8, "q_lora_rank": 16, "o_groups": 2,
 "o_lora_rank": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
 "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 8, "index_n_heads": 2,
 "index_head_dim": 16, "index_topk": 3, "hc_mult": 2, "hc_sinkhorn_iters": 4, "hc_eps": 1e-6,
 "swiglu_limit": 10.0, "rope_theta": 10000, "compress_rope_theta": 160000,
 "rope_scaling": {{"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
 "beta_fast": 32, "beta_slow": 1}}, "compress_ratios": [0, 4, 8, 4, 0],
 "num_nextn_predict_layers": 1, "max_position_embeddings": {}, "rms_norm_eps": 1e-6,
 "torch_dtype": "float32"}})";

struct Owned {
  text::Tokenizer tokenizer;
  std::unique_ptr<api::ServedModel> model;
};

Result<ServedEngine> open(const SmallServerOptions& options) {
  if (options.before_load) options.before_load();
  auto config =
      formats::parse_config(fmt::format(kModel, options.context_tokens), "small model").value();
  auto source = std::make_unique<model::RandomWeights>(config, 1);
  engine::ModelOptions model_options;
  model_options.precision = "exact";
  model_options.threads = 1;
  CACHALOT_ASSIGN_OR_RETURN(auto loaded, engine::LoadedModel::create(
                                             std::move(config), std::move(source), model_options));
  engine::EngineOptions engine_options;
  engine_options.max_sequences = options.max_sequences;
  engine_options.max_requests = options.max_requests;
  engine_options.cache_block_tokens = 8;
  engine_options.prefill_chunk_tokens = 64;
  engine_options.prefix_cache.emplace();
  engine_options.cache_bytes = int64_t{128} << 20;
  CACHALOT_ASSIGN_OR_RETURN(auto engine, engine::Engine::create(std::move(loaded), engine_options));
  CACHALOT_ASSIGN_OR_RETURN(text::Tokenizer tokenizer,
                            text::Tokenizer::load(test_data("tokenizer/peer-tokenizer.json")));
  auto owned = std::make_shared<Owned>(Owned{std::move(tokenizer), nullptr});
  api::ServedModelOptions served;
  served.name = "small";
  served.context_tokens = engine->max_context_tokens();
  served.vocab_size = engine->config().vocab_size;
  served.stop_tokens = {1};
  CACHALOT_ASSIGN_OR_RETURN(owned->model, api::ServedModel::create(served, owned->tokenizer));
  return ServedEngine{std::move(engine),
                      std::shared_ptr<const api::ServedModel>(owned, owned->model.get())};
}

}  // namespace

SmallServer::SmallServer(SmallServerOptions options) {
  const bool waits = options.waits;
  server_ = Server::listen(std::move(options.server)).value();
  thread_ = std::thread([this, options = std::move(options)] {
    status_ = server_->run([&] { return open(options); }, [] {}, false);
    has_ended_ = true;
  });
  if (waits) wait_until_ready();
}

SmallServer::~SmallServer() {
  if (thread_.joinable()) (void)stop();
}

Status SmallServer::stop() {
  server_->stop();
  thread_.join();
  return status_;
}

bool SmallServer::ends_within(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!has_ended_ && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return has_ended_;
}

void SmallServer::wait_until_ready() const {
  for (int i = 0; i < 4000; ++i) {
    if (get(port(), "/health").status == 200) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL() << "the server has not become ready";
}

double SmallServer::metric(std::string_view name) const {
  const Response page = get(port(), "/metrics");
  const std::string line = fmt::format("\n{} ", name);
  const size_t at = page.body.find(line);
  return at == std::string::npos ? -1 : std::atof(page.body.c_str() + at + line.size());
}

bool SmallServer::comes_to(std::string_view name, double value, double seconds) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    if (metric(name) == value) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::string completion(int64_t prompt_tokens, int64_t max_tokens, std::string_view more) {
  std::string ids;
  for (int64_t i = 0; i < prompt_tokens; ++i)
    ids += fmt::format("{}{}", i == 0 ? "" : ",", 10 + (i * 37 + i * i) % 2000);
  return fmt::format(R"({{"prompt":[{}],"max_tokens":{},"temperature":0,"ignore_eos":true{}{}}})",
                     ids, max_tokens, more.empty() ? "" : ",", more);
}

}  // namespace cachalot::server::testing
