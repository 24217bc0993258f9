// What every verb that samples from a model takes on its command line, and the model, tokenizer and
// engine it opens with that.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace cachalot::apps {

struct RunOptions {
  std::string model;            // a checkpoint directory
  std::string tokenizer;        // empty: tokenizer.json of the model's directory
  bool random_weights = false;  // made up: of the model, only the configuration and the tokenizer
  std::string precision = "auto";
  std::string device = "cpu";
  int threads = 0;
  int64_t chunk = 512;       // tokens of a prompt that run at once
  double max_token_gap = 0;  // seconds; 0: the engine's default
  int64_t context = 0;       // 0: the model's
  double cache_gb = 4.0;
  std::string prefix_dir;       // where prompts are kept for later starts; empty: in memory alone
  double prefix_gb = 16.0;      // the most that it holds
  double prefix_host_gb = 4.0;  // of host memory, for what has left a GPU's
  std::string prefix_states = "periodic";  // full, periodic or zero: cache/state_policy.h
  int64_t prefix_period = cache::StatePolicy().period_tokens;
  int64_t drafts = 0;
  int64_t max_sequences = engine::EngineOptions().max_sequences;  // at a time
  bool greedy = false;
  // Not given: what the model's generation_config.json says, else the engine's default.
  std::optional<double> temperature;
  std::optional<int32_t> top_k;
  std::optional<double> top_p;
  std::optional<double> repetition_penalty;
  engine::SamplingParams sampling;      // the others
  std::vector<std::string> logit_bias;  // "ID=VALUE"
  std::optional<uint64_t> seed;
};

void add_run_options(CLI::App* command, RunOptions* options);

// The sampling parameters: those given over those of the model's generation_config.json (do_sample
// = false is greedy), bias, seed (seed_otherwise where none is given) and greedy filled in; ranges
// are the engine's to check.
Result<engine::SamplingParams> sampling_params(const RunOptions& options, uint64_t seed_otherwise);

// How a conversation is led where the command line does not say: max_new_tokens, cachalot.effort
// and cachalot.plain_text of the model's generation_config.json.
struct ChatDefaults {
  std::string effort = "high";
  int64_t max_tokens = 0;      // of an answer; 0: what the context leaves
  bool is_plain_text = false;  // it has seen no conversation: it continues texts
};
Result<ChatDefaults> chat_defaults(const std::string& model);

// "official" for a quantised checkpoint, "exact" for an F32 one, "bf16" for the rest.
Result<std::string> natural_precision(const std::string& model);

struct Session {
  std::unique_ptr<engine::Engine> engine;
  // null where the model has none and none was demanded
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::vector<int32_t> stop_tokens;  // what ends a text: the model's, and the tokenizer's own end
  std::string precision;
  double load_seconds = 0;
};
Result<Session> open_session(const RunOptions& options, bool needs_tokenizer);

// `path`: a tokenizer.json, or a directory that holds one.
Result<text::Tokenizer> open_tokenizer(const std::string& path);

// Tokens at the start that both have.
size_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b);

}  // namespace cachalot::apps
