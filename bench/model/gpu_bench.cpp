#include "model/gpu_bench.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"
#include "cuda/matrix_rate.h"
#include "cuda/read_rate.h"
#include "formats/accounting.h"
#include "formats/presets.h"
#include "model/step_cost.h"

namespace cachalot::bench {
namespace {

constexpr int kPromptRuns = 5;
// How long products run for their rates.
constexpr double kHeldSeconds = 0.5, kShortSeconds = 0.02;

struct Limits {
  double bytes_per_s;
  MatrixRates flops;  // held as long as a prompt takes
  MatrixRates short_flops;
};

formats::ModelConfig first_layers(int64_t layers) {
  formats::ModelConfig config = formats::flash_config();
  config.num_hidden_layers = std::clamp<int64_t>(layers, 1, config.num_hidden_layers);
  config.num_nextn_predict_layers = 0;
  config.num_hash_layers = std::min(config.num_hash_layers, config.num_hidden_layers);
  config.compress_ratios.resize(static_cast<size_t>(config.num_hidden_layers));
  return config;
}

// Runs steps until all requests have ended; fn(seconds of the step, tokens that it gave).
template <typename Fn>
Status run_requests(engine::Engine& engine, std::vector<engine::Request> requests, const Fn& fn) {
  size_t num_finished = 0;
  int64_t num_tokens = 0;
  Status failed;
  const size_t count = requests.size();
  for (engine::Request& request : requests) {
    request.on_event = [&](const engine::Event& event) {
      num_tokens += event.kind == engine::Event::Kind::token ? 1 : 0;
      if (event.kind != engine::Event::Kind::finished) return true;
      ++num_finished;
      if (!*event.result) failed = event.result->error();
      return true;
    };
    const Result<engine::RequestId> submitted = engine.submit(std::move(request));
    if (!submitted) return submitted.error();
  }
  while (num_finished < count) {
    const int64_t before = num_tokens;
    const Clock::time_point start = Clock::now();
    engine.step();
    fn(seconds_since(start), num_tokens - before);
  }
  return failed;
}

engine::Request request_for(engine::SequenceId sequence, int64_t new_tokens, uint64_t seed) {
  engine::Request request;
  request.sequence = sequence;
  request.sampling.temperature = 1;  // so that answers differ
  request.sampling.seed = seed;
  request.max_new_tokens = new_tokens;
  return request;
}

// Seconds that the products of a prompt take at the rates of the tensor cores that the level runs
// them on. The head runs for one token.
double prompt_limit_s(const engine::Engine& engine, int64_t tokens, const Limits& limits) {
  constexpr int kSamples = 64;
  const formats::ModelConfig& c = engine.config();
  const formats::ParameterCount parameters =
      formats::count_parameters(c, formats::tensor_inventory(c));
  const auto n = static_cast<double>(tokens);
  double attention = 0;
  for (int i = 0; i < kSamples; ++i)
    attention += step_cost(engine, n * (i + 0.5) / kSamples).attention.flops / kSamples;
  const auto quantised = static_cast<double>(parameters.active_quantised);
  const auto wide =
      static_cast<double>(parameters.active_wide - parameters.of(formats::Component::head));
  const double fast = engine.precision().fp8_cores ? limits.flops.e4m3 : limits.flops.bf16;
  return n * (2 * quantised / fast + (2 * wide + attention) / limits.flops.bf16);
}

// What a run prints of a prompt or of a kind of step, as JSON and as a row of the table.
class Report {
 public:
  Report(const GpuBenchOptions& options, const engine::Engine& engine, const Limits& limits)
      : options_(options), engine_(engine), limits_(limits) {}

  Status add_prompt(int64_t tokens, const std::vector<double>& runs) {
    const double seconds = median(runs);
    const double share = prompt_limit_s(engine_, tokens, limits_) / seconds;
    CACHALOT_RETURN_IF_ERROR(check_share("bench gpu: prompt", share));
    const double rate = static_cast<double>(tokens) / seconds;
    add(prompts_, fmt::format("{{\"tokens\": {}, \"median_s\": {:.4f}, \"min_s\": {:.4f}, "
                              "\"runs\": {}, \"tokens_per_s\": {:.1f}, "
                              "\"share_of_limit\": {:.4f}}}",
                              tokens, seconds, std::ranges::min(runs), runs.size(), rate, share));
    add_row(fmt::format("prompt of {} | - | {:.0f} | {:.0f} | - | {:.1f} %", tokens, 1e3 * seconds,
                        rate, 100 * share));
    return {};
  }
  Status add_decode(int64_t context, int64_t sequences, const std::vector<double>& steps) {
    if (steps.empty()) return invalid_argument("decode tokens: expected more, found no step");
    const double step = median(steps);
    const double bytes = bytes_of(step_cost(engine_, static_cast<double>(context), sequences));
    const double share = bytes / limits_.bytes_per_s / step;
    CACHALOT_RETURN_IF_ERROR(check_share("bench gpu: decode", share));
    const double rate = static_cast<double>(sequences) / step;
    add(decode_, fmt::format("{{\"context\": {}, \"sequences\": {}, \"tokens_per_s\": {:.2f}, "
                             "\"median_s\": {:.6f}, \"min_s\": {:.6f}, \"steps\": {}, "
                             "\"bytes\": {:.4g}, \"share_of_limit\": {:.4f}}}",
                             context, sequences, rate, step, std::ranges::min(steps), steps.size(),
                             bytes, share));
    add_row(fmt::format("decode at {} | {} | {:.2f} | {:.1f} | {:.2f} | {:.1f} %", context,
                        sequences, 1e3 * step, rate, bytes / 1e9, 100 * share));
    return {};
  }
  GpuBenchReport text(double load_s) const {
    const std::string date = fmt::format("{:%Y-%m-%d}", fmt::localtime(std::time(nullptr)));
    const int64_t layers = engine_.config().num_hidden_layers;
    const auto weight_bytes = static_cast<double>(engine_.weights().num_bytes());
    return {
        fmt::format("{{\"bench\": \"gpu\", \"commit\": \"{}\", \"date\": \"{}\", "
                    "\"precision\": \"{}\", \"layers\": {}, \"weight_bytes\": {:.0f}, "
                    "\"load_s\": {:.2f}, \"cache_bytes\": {}, \"scratch_bytes\": {}, "
                    "\"read_gb_per_s\": {:.1f}, \"bf16_tflops\": {:.1f}, "
                    "\"e4m3_tflops\": {:.1f}, \"short_bf16_tflops\": {:.1f}, "
                    "\"short_e4m3_tflops\": {:.1f}, \"prompts\": [{}], \"decode\": [{}]}}",
                    options_.commit, date, options_.precision, layers, weight_bytes, load_s,
                    engine_.cache_reserved_bytes(), engine_.scratch_bytes(),
                    limits_.bytes_per_s / 1e9, limits_.flops.bf16 / 1e12, limits_.flops.e4m3 / 1e12,
                    limits_.short_flops.bf16 / 1e12, limits_.short_flops.e4m3 / 1e12, prompts_,
                    decode_),
        fmt::format(
            "Commit {}, {}: {} layers, {:.1f} GB of weights made in {:.1f} s; limits {:.0f} "
            "GB/s, {:.0f} (bf16) and {:.0f} TFLOP/s (e4m3) held for {} s, {:.0f} and {:.0f} for "
            "{} s.\n\n"
            "| level | layers | what | batch | ms | tokens/s | GB | share of the limit |\n"
            "|---|---|---|---|---|---|---|---|\n{}",
            options_.commit, date, layers, weight_bytes / 1e9, load_s, limits_.bytes_per_s / 1e9,
            limits_.flops.bf16 / 1e12, limits_.flops.e4m3 / 1e12, kHeldSeconds,
            limits_.short_flops.bf16 / 1e12, limits_.short_flops.e4m3 / 1e12, kShortSeconds,
            table_)};
  }

 private:
  static void add(std::string& list, const std::string& entry) {
    log_info(entry);
    list += (list.empty() ? "" : ", ") + entry;
  }
  void add_row(const std::string& cells) {
    table_ += fmt::format("| `{}` | {} | {} |\n", options_.precision,
                          engine_.config().num_hidden_layers, cells);
  }

  const GpuBenchOptions& options_;
  const engine::Engine& engine_;
  const Limits& limits_;
  std::string prompts_, decode_, table_;
};

// Seconds until the first token of the prompt, which goes into a new sequence.
Result<double> prompt_seconds(engine::Engine& engine, int64_t tokens,
                              engine::SequenceId* sequence) {
  CACHALOT_ASSIGN_OR_RETURN(*sequence, engine.open());
  std::vector<engine::Request> requests;
  requests.push_back(request_for(*sequence, 1, 0));
  requests[0].prompt = random_prompt(tokens, engine.config().vocab_size);
  double seconds = 0;
  CACHALOT_RETURN_IF_ERROR(
      run_requests(engine, std::move(requests), [&](double taken, int64_t) { seconds += taken; }));
  return seconds;
}

// Seconds of the steps in which `count` sequences decode.
Result<std::vector<double>> step_seconds(engine::Engine& engine, engine::SequenceId from,
                                         int64_t context, int64_t count, int64_t new_tokens) {
  std::vector<engine::SequenceId> sequences;
  std::vector<engine::Request> requests;
  for (int64_t i = 0; i < count; ++i) {
    CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId id, engine.open_repeated(from, context));
    sequences.push_back(id);
    requests.push_back(request_for(id, new_tokens, static_cast<uint64_t>(i)));
  }
  std::vector<double> seconds;
  CACHALOT_RETURN_IF_ERROR(
      run_requests(engine, std::move(requests), [&](double taken, int64_t tokens) {
        if (tokens == count) seconds.push_back(taken);
      }));
  for (const engine::SequenceId id : sequences) engine.close(id);
  return seconds;
}

}  // namespace

Result<GpuBenchReport> run_gpu_bench(const GpuBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const double read_rate, gpu_read_rate(0));
  CACHALOT_ASSIGN_OR_RETURN(const MatrixRates short_rates, gpu_matrix_rates(0, kShortSeconds));
  CACHALOT_ASSIGN_OR_RETURN(const MatrixRates held_rates, gpu_matrix_rates(0, kHeldSeconds));
  const Limits limits{read_rate, held_rates, short_rates};
  engine::EngineOptions engine_options;
  engine_options.model.precision = options.precision;
  engine_options.model.device = options.device;
  engine_options.model.threads = options.threads;
  engine_options.max_context_tokens =
      std::max(std::ranges::max(options.prompts), std::ranges::max(options.contexts)) +
      options.decode_tokens + 64;
  engine_options.prefill_chunk_tokens = options.chunk_tokens;
  engine_options.cache_bytes = 0;  // what is used is taken
  engine_options.max_sequences = std::ranges::max(options.sequences) + 2;
  engine_options.max_token_gap_seconds = 100;
  const Clock::time_point start = Clock::now();
  CACHALOT_ASSIGN_OR_RETURN(
      std::unique_ptr<engine::LoadedModel> model,
      engine::LoadedModel::random(first_layers(options.layers), 1, engine_options.model));
  if (model->context().gpu != nullptr) model->context().gpu->synchronize();
  const double load_s = seconds_since(start);
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                            engine::Engine::create(std::move(model), engine_options));
  log_info(fmt::format("{} layers made in {:.1f} s", options.layers, load_s));
  Report report(options, *engine, limits);
  // What one step needs is there from the first one on.
  engine::SequenceId first = 0;
  CACHALOT_ASSIGN_OR_RETURN([[maybe_unused]] const double warm_s,
                            prompt_seconds(*engine, 64, &first));
  for (const int64_t tokens : options.prompts) {
    std::vector<double> runs;
    for (int run = -1; run < kPromptRuns; ++run) {  // the first one loads its kernels
      engine::SequenceId sequence = 0;
      CACHALOT_ASSIGN_OR_RETURN(const double seconds, prompt_seconds(*engine, tokens, &sequence));
      if (run >= 0) runs.push_back(seconds);
      const bool is_kept = tokens == options.prompts[0] && run == kPromptRuns - 1;
      engine->close(is_kept ? first : sequence);
      if (is_kept) first = sequence;
    }
    CACHALOT_RETURN_IF_ERROR(report.add_prompt(tokens, runs));
  }
  for (const int64_t context : options.contexts) {
    for (const int64_t count : options.sequences) {
      CACHALOT_ASSIGN_OR_RETURN(
          const std::vector<double> steps,
          step_seconds(*engine, first, context, count, options.decode_tokens));
      CACHALOT_RETURN_IF_ERROR(report.add_decode(context, count, steps));
    }
  }
  return report.text(load_s);
}

}  // namespace cachalot::bench
