#include "model/model_bench.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/log.h"
#include "device/machine_limits.h"
#include "engine/engine.h"
#include "engine/model_cache_layout.h"
#include "formats/accounting.h"
#include "model/random_weights.h"
#include "model/step_cost.h"

namespace cachalot::bench {
namespace {

// Flash's widths; four layers (window, CSA, HCA, CSA), 40 experts, 16,384 words.
constexpr std::string_view kFlashSlice =
    R"({"model_type": "deepseek_v4", "vocab_size": 16384, "hidden_size": 4096,
 "moe_intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
 "qk_rope_head_dim": 64, "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "n_routed_experts": 40, "n_shared_experts": 1,
 "num_experts_per_tok": 6, "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 128, "index_n_heads": 64,
 "index_head_dim": 128, "index_topk": 512, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "swiglu_limit": 10.0,
 "rope_theta": 10000, "compress_rope_theta": 160000, "rope_scaling": {"type": "yarn", "factor": 16,
 "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 128, 4],
 "num_nextn_predict_layers": 0, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
 "expert_dtype": "fp4", "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
 "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})";

// Every layer kind at the smallest widths the formats allow, for a million tokens on a small
// machine.
constexpr std::string_view kSmall =
    R"({"model_type": "deepseek_v4", "vocab_size": 512, "hidden_size": 128,
 "moe_intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
 "qk_rope_head_dim": 64, "q_lora_rank": 128, "o_groups": 2, "o_lora_rank": 128, "n_routed_experts": 4, "n_shared_experts": 1,
 "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 128, "index_n_heads": 2,
 "index_head_dim": 64, "index_topk": 64, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "swiglu_limit": 10.0,
 "rope_theta": 10000, "compress_rope_theta": 160000, "rope_scaling": {"type": "yarn", "factor": 16,
 "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 128],
 "num_nextn_predict_layers": 0, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
 "expert_dtype": "fp4", "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
 "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})";

Result<formats::ModelConfig> config_of(const std::string& path, std::string_view fallback) {
  return path.empty() ? formats::parse_config(fallback, "built-in config")
                      : formats::load_config(path);
}

struct Machine {
  device::Isa isa;
  double flops, f32_flops, bytes_per_s;
};

// Of a step that reads so many bytes: a step's weights and rows stay in caches where the next one
// finds them there.
Machine measure(int threads, const std::string& precision, double step_bytes) {
  ThreadPool pool(threads);
  const device::Isa isa =
      device::chosen_isa().has_value() ? *device::chosen_isa() : device::machine_isa();
  const double f32_flops = device::measure_f32_peak(pool, isa);
  return {isa, precision == "exact" ? f32_flops : device::measure_bf16_peak(pool, isa), f32_flops,
          device::measure_read_bandwidth(
              pool, std::min(device::kUncachedBytes, static_cast<int64_t>(step_bytes)))};
}

Result<std::unique_ptr<engine::Engine>> random_engine(const formats::ModelConfig& config,
                                                      engine::EngineOptions options) {
  CACHALOT_ASSIGN_OR_RETURN(
      std::unique_ptr<engine::LoadedModel> model,
      engine::LoadedModel::create(config, std::make_unique<model::RandomWeights>(config, 1),
                                  options.model));
  return engine::Engine::create(std::move(model), options);
}

// The wall clock, or the process's time over its threads.
double step_clock(const engine::Engine& engine, bool cpu_clock) {
  timespec time{};
  clock_gettime(cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  const double seconds =
      static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  return cpu_clock ? seconds / engine.num_threads() : seconds;
}

// Seconds of each decode step, the sampling of a token included.
Result<std::vector<double>> decode_seconds(engine::Engine& engine, engine::SequenceId sequence,
                                           int64_t tokens, bool cpu_clock = false) {
  engine::Request request;
  request.sampling.temperature = 0;
  request.max_new_tokens = tokens + 1;
  std::vector<double> seconds;
  double last = step_clock(engine, cpu_clock);
  request.on_event = [&](const engine::Event& event) {
    if (event.kind != engine::Event::Kind::token) return true;
    const double now = step_clock(engine, cpu_clock);
    seconds.push_back(now - last);
    last = now;
    return true;
  };
  auto completion = engine.generate(sequence, std::move(request));
  if (!completion) return completion.error();
  seconds.erase(seconds.begin());  // the first holds what was left of the prompt
  return seconds;
}

double peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

// The better of two measurements, of which one was made before the work and one after it: what a
// neighbour takes from one of them would make a share too large.
Machine better_of(const Machine& a, const Machine& b) {
  return {a.isa, std::max(a.flops, b.flops), std::max(a.f32_flops, b.f32_flops),
          std::max(a.bytes_per_s, b.bytes_per_s)};
}

double limit_seconds(const OpCost& cost, const Machine& machine) {
  return std::max(cost.flops / (cost.in_f32 ? machine.f32_flops : machine.flops),
                  cost.bytes / machine.bytes_per_s);
}

double limit_seconds(const StepCost& cost, const Machine& machine) {
  double seconds = limit_seconds(cost.attention, machine);
  for (const OpCost& product : cost.products) seconds += limit_seconds(product, machine);
  return seconds;
}

// Seconds of the steps in which all of `sequences` decode, greedily.
Result<std::vector<double>> batch_seconds(engine::Engine& engine, int64_t sequences,
                                          const BatchBenchOptions& options) {
  int64_t tokens = 0, finished = 0;
  Status failed;
  for (int64_t i = 0; i < sequences; ++i) {
    engine::Request request;
    request.prompt = random_prompt(options.prompt_tokens, engine.config().vocab_size);
    std::rotate(request.prompt.begin(), request.prompt.begin() + i % options.prompt_tokens,
                request.prompt.end());
    request.sampling.temperature = 0;
    request.max_new_tokens = options.decode_tokens;
    request.on_event = [&](const engine::Event& event) {
      tokens += event.kind == engine::Event::Kind::token ? 1 : 0;
      if (event.kind != engine::Event::Kind::finished) return true;
      ++finished;
      if (!*event.result) failed = event.result->error();
      return true;
    };
    const Result<engine::RequestId> submitted = engine.submit(std::move(request));
    if (!submitted) return submitted.error();
  }
  std::vector<double> seconds;
  while (finished < sequences) {
    const int64_t before = tokens, prompts = engine.counts().rows;
    const double start = step_clock(engine, options.cpu_clock);
    engine.step();
    const double taken = step_clock(engine, options.cpu_clock) - start;
    if (tokens - before == sequences && engine.counts().rows - prompts == sequences)
      seconds.push_back(taken);
  }
  if (!failed.ok()) return failed;
  if (seconds.empty()) {
    return invalid_argument(
        fmt::format("bench batch: expected steps in which all of {} sequences decode, found none: "
                    "the first end before the last begin; give more --decode-tokens",
                    sequences));
  }
  return seconds;
}

}  // namespace

Result<std::string> run_batch_bench(const BatchBenchOptions& options) {
  engine::EngineOptions engine_options;
  engine_options.model.path = options.model;
  engine_options.model.precision = options.precision;
  engine_options.model.threads = options.threads;
  engine_options.cache_bytes = int64_t{2} << 30;
  engine_options.max_sequences = std::ranges::max(options.sequences);
  std::unique_ptr<engine::Engine> engine;
  if (options.model.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config, config_of("", kFlashSlice));
    CACHALOT_ASSIGN_OR_RETURN(engine, random_engine(config, engine_options));
  } else {
    CACHALOT_ASSIGN_OR_RETURN(engine, engine::Engine::create(engine_options));
  }
  const double context =
      static_cast<double>(options.prompt_tokens) + static_cast<double>(options.decode_tokens) / 2;
  // Of some number of sequences, over all rounds. What memory gives moves within minutes: a step
  // stands beside the limit that was measured around its round.
  struct Steps {
    std::vector<double> seconds, limits, times_limit;  // limits: one a round
    Machine machine;                                   // of the last round
  };
  std::vector<Steps> all(options.sequences.size());
  for (int64_t round = 0; round < options.rounds; ++round) {
    for (size_t i = 0; i < all.size(); ++i) {
      const StepCost cost = step_cost(*engine, context, options.sequences[i]);
      const Machine before = measure(options.threads, options.precision, bytes_of(cost));
      CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> steps,
                                batch_seconds(*engine, options.sequences[i], options));
      Steps& of = all[i];
      of.machine = better_of(before, measure(options.threads, options.precision, bytes_of(cost)));
      of.limits.push_back(limit_seconds(cost, of.machine));
      for (const double step : steps) {
        of.seconds.push_back(step);
        of.times_limit.push_back(step / of.limits.back());
      }
    }
  }
  std::string rows;
  for (size_t i = 0; i < all.size(); ++i) {
    const Steps& of = all[i];
    const double step = median(of.seconds), times_limit = median(of.times_limit);
    // Limits are by the wall clock: on a machine that others use they come out too low.
    if (!options.cpu_clock) CACHALOT_RETURN_IF_ERROR(check_share("bench batch", 1 / times_limit));
    rows += fmt::format(
        "{}{{\"sequences\": {}, \"tokens_per_s\": {:.2f}, \"median_s\": {:.6f}, \"min_s\": "
        "{:.6f}, \"steps\": {}, \"peak_gflops\": {:.1f}, \"f32_gflops\": {:.1f}, "
        "\"read_gb_per_s\": {:.2f}, \"limit_s\": {:.6f}, \"times_limit\": {:.3f}}}",
        i > 0 ? ", " : "", options.sequences[i], static_cast<double>(options.sequences[i]) / step,
        step, *std::min_element(of.seconds.begin(), of.seconds.end()), of.seconds.size(),
        of.machine.flops / 1e9, of.machine.f32_flops / 1e9, of.machine.bytes_per_s / 1e9,
        median(of.limits), times_limit);
  }
  return fmt::format(
      "{{\"bench\": \"batch\", \"isa\": \"{}\", \"threads\": {}, \"precision\": \"{}\", "
      "\"batch\": [{}]}}",
      device::isa_name(all[0].machine.isa), engine->num_threads(), options.precision, rows);
}

Result<std::string> run_model_bench(const ModelBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            config_of(options.config_path, kFlashSlice));
  engine::EngineOptions engine_options;
  engine_options.model.precision = options.precision;
  engine_options.model.threads = options.threads;
  engine_options.prefill_chunk_tokens = options.prompt_tokens;
  engine_options.cache_bytes = int64_t{1} << 30;
  engine_options.max_sequences = 2;
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                            random_engine(config, engine_options));
  const StepCost step = step_cost(*engine, static_cast<double>(options.prompt_tokens));
  const Machine before = measure(options.threads, options.precision, bytes_of(step));

  const std::vector<int32_t> prompt = random_prompt(options.prompt_tokens + 1, config.vocab_size);
  std::vector<double> prefill;
  engine::SequenceId sequence = 0;
  for (int run = 0; run < 3; ++run) {
    if (run > 0) engine->close(sequence);
    CACHALOT_ASSIGN_OR_RETURN(sequence, engine->open());
    engine::Request request;
    request.prompt = prompt;
    request.max_new_tokens = 0;
    CACHALOT_ASSIGN_OR_RETURN(const engine::Completion done, engine->generate(sequence, request));
    prefill.push_back(done.prefill_seconds);
  }
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> decode,
                            decode_seconds(*engine, sequence, options.decode_tokens));
  const Machine machine =
      better_of(before, measure(options.threads, options.precision, bytes_of(step)));

  const StepCost middle = step_cost(*engine, static_cast<double>(options.prompt_tokens) / 2);
  const double prefill_flops = flops_of(middle) * static_cast<double>(options.prompt_tokens);
  const double decode_limit = limit_seconds(step, machine);
  const double prefill_share = prefill_flops / median(prefill) / machine.flops;
  const double decode_share = decode_limit / median(decode);
  CACHALOT_RETURN_IF_ERROR(check_share("bench model: prefill", prefill_share));
  CACHALOT_RETURN_IF_ERROR(check_share("bench model: decode", decode_share));
  return fmt::format(
      "{{\"bench\": \"model\", \"isa\": \"{}\", \"threads\": {}, \"precision\": \"{}\", "
      "\"weight_bytes\": {}, "
      "\"peak_gflops\": {:.1f}, \"read_gb_per_s\": {:.2f}, "
      "\"prefill\": {{\"tokens\": {}, \"median_s\": {:.4f}, \"tokens_per_s\": {:.2f}, \"flops\": "
      "{:.4g}, \"share_of_peak\": {:.3f}}}, "
      "\"decode\": {{\"context\": {}, \"median_s\": {:.5f}, \"min_s\": {:.5f}, \"tokens_per_s\": "
      "{:.2f}, \"bytes\": {:.4g}, "
      "\"flops\": {:.4g}, \"share_of_limit\": {:.3f}}}}}",
      device::isa_name(machine.isa), engine->num_threads(), options.precision,
      engine->weights().num_bytes(), machine.flops / 1e9, machine.bytes_per_s / 1e9,
      options.prompt_tokens, median(prefill),
      static_cast<double>(options.prompt_tokens) / median(prefill), prefill_flops, prefill_share,
      options.prompt_tokens, median(decode), *std::min_element(decode.begin(), decode.end()),
      1.0 / median(decode), bytes_of(step), flops_of(step), decode_share);
}

Result<std::string> run_context_bench(const ContextBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            config_of(options.config_path, kSmall));
  engine::EngineOptions engine_options;
  engine_options.model.precision = options.precision;
  engine_options.model.threads = options.threads;
  engine_options.prefill_chunk_tokens = options.chunk_tokens;
  engine_options.max_context_tokens = options.context_tokens + 2 * options.decode_tokens + 64;
  engine_options.max_sequences = 2;
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                            random_engine(config, engine_options));
  const cache::CacheLayout& layout = engine->cache_layout();

  struct Point {
    int64_t tokens;
    double prefill_s, decode_s, cost_s;
  };
  std::vector<Point> points;
  device::Isa isa{};
  for (const int64_t tokens : {options.short_tokens, options.context_tokens}) {
    CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId sequence, engine->open());
    const std::vector<int32_t> prompt = random_prompt(tokens, config.vocab_size);
    engine::Request request;
    request.prompt = prompt;
    request.max_new_tokens = 0;
    int64_t reported = 0;
    const Clock::time_point start = Clock::now();
    request.on_event = [&](const engine::Event& event) {
      if (event.done_tokens >= reported + tokens / 16 && tokens > options.short_tokens) {
        reported = event.done_tokens;
        log_info(fmt::format("prefill {} of {} tokens, {:.0f} s", reported, tokens,
                             seconds_since(start)));
      }
      return true;
    };
    auto done = engine->generate(sequence, std::move(request));
    if (!done) return done.error();
    CACHALOT_ASSIGN_OR_RETURN(
        const std::vector<double> decode,
        decode_seconds(*engine, sequence, options.decode_tokens, options.cpu_clock));
    const StepCost cost = step_cost(*engine, static_cast<double>(tokens));
    const Machine machine = measure(options.threads, options.precision, bytes_of(cost));
    isa = machine.isa;
    points.push_back({tokens, done->prefill_seconds, median(decode), limit_seconds(cost, machine)});
    engine->close(sequence);
  }
  const double padded = static_cast<double>(layout.num_blocks(options.context_tokens)) *
                        static_cast<double>(layout.block_bytes());
  const double by_formula =
      formats::kv_bytes_per_token(config, engine->precision().kv, engine->precision().index);
  return fmt::format(
      "{{\"bench\": \"context\", \"isa\": \"{}\", \"threads\": {}, \"precision\": \"{}\", "
      "\"context\": {}, "
      "\"cache_bytes_per_token\": {}, \"formula_bytes_per_token\": {}, \"with_padding\": {:.4f}, "
      "\"state_bytes\": {}, "
      "\"peak_memory_bytes\": {:.0f}, \"prefill_s\": {:.2f}, \"prefill_tokens_per_s\": {:.1f}, "
      "\"decode_s\": {:.6f}, \"short_context\": {}, \"short_decode_s\": {:.6f}, \"decode_ratio\": "
      "{:.3f}, "
      "\"limit_s\": {:.6f}, \"short_limit_s\": {:.6f}, \"predicted_ratio\": {:.3f}}}",
      device::isa_name(isa), engine->num_threads(), options.precision, options.context_tokens,
      layout.bytes_per_token(), by_formula, padded / static_cast<double>(options.context_tokens),
      layout.state_bytes(), peak_memory_bytes(), points[1].prefill_s,
      static_cast<double>(options.context_tokens) / points[1].prefill_s, points[1].decode_s,
      options.short_tokens, points[0].decode_s, points[1].decode_s / points[0].decode_s,
      points[1].cost_s, points[0].cost_s, points[1].cost_s / points[0].cost_s);
}

}  // namespace cachalot::bench
