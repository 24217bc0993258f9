#include "apps/run_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>

#include "apps/model_argument.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/config.h"
#include "formats/generation_config.h"
#include "formats/json_fields.h"
#include "formats/weight_source.h"
#include "text/chat_literals.h"

namespace cachalot::apps {
namespace {

constexpr int64_t kMaxDrafts = 16;

// Of the configuration that lies at options.path, every matrix stored as the official checkpoints
// store theirs.
Result<std::unique_ptr<engine::LoadedModel>> random_model(const engine::ModelOptions& options) {
  constexpr uint64_t kSeed = 1;
  CACHALOT_ASSIGN_OR_RETURN(formats::ModelConfig config, formats::load_config(options.path));
  config.quantization_config = {.present = true};
  config.expert_dtype = formats::ExpertDType::fp4;
  CACHALOT_RETURN_IF_ERROR(formats::validate_config(config, options.path));
  return engine::LoadedModel::random(std::move(config), kSeed, options);
}

std::string generation_config_path(const std::string& model) {
  return model + "/generation_config.json";
}

// Empty where there is no such file.
Result<json::object> generation_config(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return json::object();
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, path));
  if (!value.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", path, json_kind_name(value)));
  }
  return value.get_object();
}

Status read_generation_config(const std::string& model, engine::SamplingParams& params) {
  const std::string path = generation_config_path(model);
  CACHALOT_ASSIGN_OR_RETURN(const json::object object, generation_config(path));
  formats::JsonFields fields(object, path);
  bool samples = true;
  fields.boolean("do_sample", &samples);
  fields.real("temperature", &params.temperature, 0, 1e6);
  fields.real("top_p", &params.top_p, 1e-9, 1);
  fields.real("repetition_penalty", &params.repetition_penalty, 1e-9, 1e6);
  int64_t top_k = params.top_k;
  fields.integer("top_k", &top_k, 0, std::numeric_limits<int32_t>::max());
  params.top_k = static_cast<int32_t>(top_k);
  if (!samples) params.temperature = 0;
  return fields.status();
}

Status add_bias(const std::string& text, engine::SamplingParams& params) {
  const auto wrong = [&] {
    return invalid_argument(fmt::format(
        "--logit-bias: expected ID=VALUE, as in 42=-1.5 or 42=-inf, found \"{}\"", text));
  };
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return wrong();
  int32_t id = 0;
  const auto parsed_id = std::from_chars(text.data(), text.data() + equals, id);
  if (parsed_id.ec != std::errc() || parsed_id.ptr != text.data() + equals) return wrong();
  double value = 0;
  const char* end = text.data() + text.size();
  const auto parsed_value = std::from_chars(text.data() + equals + 1, end, value);
  if (parsed_value.ec != std::errc() || parsed_value.ptr != end) return wrong();
  params.logit_bias[id] = value;
  return {};
}

cache::StatePolicy state_policy(const RunOptions& options) {
  cache::StatePolicy policy;
  policy.period_tokens = options.prefix_period;
  if (options.prefix_states == "full") policy.strategy = cache::StateStrategy::full;
  if (options.prefix_states == "zero") policy.strategy = cache::StateStrategy::zero;
  return policy;
}

}  // namespace

void add_run_options(CLI::App* command, RunOptions* options) {
  add_model_option(command, "model", &options->model, "model directory, or a run of train")
      ->required();
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.json (default: the model's)");

  constexpr const char* kModel = "Model";
  command
      ->add_flag(
          "--random-weights", options->random_weights,
          "weights are made up, in the official FP8 and FP4 layout; the model directory needs "
          "a config.json and a tokenizer alone")
      ->group(kModel);
  command
      ->add_option(
          "--precision", options->precision,
          "exact, bf16, official or, with cuda, official-fp8 (auto: what the checkpoint was made "
          "for)")
      ->check(CLI::IsMember({"auto", "exact", "bf16", "official", "official-fp8"}))
      ->group(kModel);
  command->add_option("--device", options->device, "cpu, cuda or cuda:N")->group(kModel);
  command->add_option("--threads", options->threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024))
      ->group(kModel);
  command->add_option("--chunk", options->chunk, "tokens of a prompt that run at once")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kModel);
  command
      ->add_option("--max-token-gap", options->max_token_gap,
                   "most seconds between two tokens while other prompts run (0: a few steps)")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kModel);
  command->add_option("--context", options->context, "most tokens of a sequence (0: the model's)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(kModel);
  command->add_option("--cache-gb", options->cache_gb, "memory for the cache, GiB")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kModel);
  command
      ->add_option("--prefix-dir", options->prefix_dir,
                   "folder that keeps what prompts have in common for later starts")
      ->group(kModel);
  command->add_option("--prefix-gb", options->prefix_gb, "the most that it holds, GiB")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kModel);
  command
      ->add_option("--prefix-host-gb", options->prefix_host_gb,
                   "with cuda: host memory for what the GPU's has no more room for, GiB")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kModel);
  command
      ->add_option("--prefix-states", options->prefix_states,
                   "where states are kept beside what prompts have in common: full (every block), "
                   "periodic (and at the ends of prompts and answers) or zero (nowhere: they are "
                   "made again)")
      ->check(CLI::IsMember({"full", "periodic", "zero"}))
      ->group(kModel);
  command->add_option("--prefix-period", options->prefix_period, "tokens of the period")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(kModel);
  command
      ->add_option("--drafts", options->drafts,
                   "tokens that the MTP block drafts a step; the text stays the same")
      ->check(CLI::Range(int64_t{0}, kMaxDrafts))
      ->group(kModel);

  constexpr const char* kSampling = "Sampling";
  engine::SamplingParams& sampling = options->sampling;
  command->add_flag("--greedy", options->greedy, "always the most probable token")
      ->group(kSampling);
  command
      ->add_option("--temperature", options->temperature,
                   "0 is greedy (default: the model's generation_config.json, else 1)")
      ->group(kSampling);
  command->add_option("--top-k", options->top_k, "0: all (default likewise, 0)")->group(kSampling);
  command->add_option("--top-p", options->top_p, "in (0, 1] (default likewise, 1)")
      ->group(kSampling);
  command->add_option("--min-p", sampling.min_p, "in [0, 1]")->group(kSampling);
  command
      ->add_option("--repetition-penalty", options->repetition_penalty,
                   "1: none (default likewise, 1)")
      ->group(kSampling);
  command->add_option("--frequency-penalty", sampling.frequency_penalty, "0: none")
      ->group(kSampling);
  command->add_option("--presence-penalty", sampling.presence_penalty, "0: none")->group(kSampling);
  command->add_option("--logit-bias", options->logit_bias, "ID=VALUE; -inf bans a token")
      ->group(kSampling);
  command->add_option("--seed", options->seed, "of the random numbers")->group(kSampling);
}

Result<engine::SamplingParams> sampling_params(const RunOptions& options, uint64_t seed_otherwise) {
  engine::SamplingParams params = options.sampling;
  CACHALOT_RETURN_IF_ERROR(read_generation_config(options.model, params));
  if (options.temperature) params.temperature = *options.temperature;
  if (options.top_k) params.top_k = *options.top_k;
  if (options.top_p) params.top_p = *options.top_p;
  if (options.repetition_penalty) params.repetition_penalty = *options.repetition_penalty;
  for (const std::string& bias : options.logit_bias)
    CACHALOT_RETURN_IF_ERROR(add_bias(bias, params));
  params.seed = options.seed.value_or(seed_otherwise);
  if (options.greedy) params.temperature = 0;
  return params;
}

Result<ChatDefaults> chat_defaults(const std::string& model) {
  const std::string path = generation_config_path(model);
  CACHALOT_ASSIGN_OR_RETURN(const json::object object, generation_config(path));
  ChatDefaults defaults;
  formats::JsonFields fields(object, path);
  fields.integer("max_new_tokens", &defaults.max_tokens, 0, std::numeric_limits<int64_t>::max());
  if (const json::object* own = fields.object("cachalot")) {
    formats::JsonFields inner(*own, path, "cachalot.");
    inner.text("effort", &defaults.effort);
    inner.boolean("plain_text", &defaults.is_plain_text);
    fields.add_errors(inner);
  }
  CACHALOT_RETURN_IF_ERROR(fields.status());
  return defaults;
}

Result<std::string> natural_precision(const std::string& model) {
  CACHALOT_RETURN_IF_ERROR(check_model_path(model));
  CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source, formats::WeightSource::open(model));
  const formats::ModelConfig& config = source.config();
  if (config.quantization_config.present || config.expert_dtype != formats::ExpertDType::none)
    return std::string("official");
  const auto embedding = source.raw("embed.weight");
  return std::string(embedding && embedding->view.dtype == tensor::DType::f32 ? "exact" : "bf16");
}

Result<text::Tokenizer> open_tokenizer(const std::string& path) {
  std::error_code error;
  const bool is_directory = std::filesystem::is_directory(path, error);
  return text::Tokenizer::load(is_directory ? path + "/tokenizer.json" : path);
}

Result<Session> open_session(const RunOptions& options, bool needs_tokenizer) {
  const auto start = std::chrono::steady_clock::now();
  Session session;
  if (!options.random_weights) CACHALOT_RETURN_IF_ERROR(check_model_path(options.model));
  session.precision = options.precision;
  if (session.precision == "auto" && options.random_weights) {
    session.precision = "official";
  } else if (session.precision == "auto") {
    CACHALOT_ASSIGN_OR_RETURN(session.precision, natural_precision(options.model));
  }
  const std::string tokenizer_path =
      options.tokenizer.empty() ? options.model + "/tokenizer.json" : options.tokenizer;
  std::error_code error;
  if (needs_tokenizer || !options.tokenizer.empty() ||
      std::filesystem::exists(tokenizer_path, error)) {
    CACHALOT_ASSIGN_OR_RETURN(text::Tokenizer tokenizer, open_tokenizer(tokenizer_path));
    session.tokenizer = std::make_unique<text::Tokenizer>(std::move(tokenizer));
  }
  engine::EngineOptions engine_options;
  engine_options.model = {options.model, session.precision, options.device, options.threads};
  engine_options.max_context_tokens = options.context;
  engine_options.cache_bytes = static_cast<int64_t>(options.cache_gb * (int64_t{1} << 30));
  engine_options.prefill_chunk_tokens = options.chunk;
  engine_options.max_token_gap_seconds = options.max_token_gap;
  engine_options.max_drafts = kMaxDrafts;
  engine_options.max_sequences = options.max_sequences;
  cache::PrefixCacheOptions& prefix = engine_options.prefix_cache.emplace();
  prefix.states = state_policy(options);
  prefix.directory = options.prefix_dir;
  prefix.max_host_bytes = static_cast<int64_t>(options.prefix_host_gb * (int64_t{1} << 30));
  prefix.max_disk_bytes = static_cast<int64_t>(options.prefix_gb * (int64_t{1} << 30));
  if (options.random_weights) {
    CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::LoadedModel> model,
                              random_model(engine_options.model));
    CACHALOT_ASSIGN_OR_RETURN(session.engine,
                              engine::Engine::create(std::move(model), engine_options));
  } else {
    CACHALOT_ASSIGN_OR_RETURN(session.engine, engine::Engine::create(engine_options));
  }
  CACHALOT_ASSIGN_OR_RETURN(session.stop_tokens,
                            formats::end_tokens(options.model, session.engine->config()));
  if (session.tokenizer != nullptr) {
    const std::optional<int32_t> end = session.tokenizer->token_id(text::kEos);
    if (end) session.stop_tokens.push_back(*end);
  }
  session.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return session;
}

size_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t shorter = std::min(a.size(), b.size());
  return static_cast<size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(shorter), b.begin()).first -
      a.begin());
}

}  // namespace cachalot::apps
