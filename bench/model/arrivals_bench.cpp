#include "model/arrivals_bench.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"

namespace cachalot::bench {
namespace {

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

class Arrivals {
 public:
  explicit Arrivals(const ArrivalsBenchOptions& options) : options_(options) {}

  Result<std::string> run() {
    engine::EngineOptions engine_options;
    engine_options.model.path = options_.model;
    engine_options.model.precision = options_.precision;
    engine_options.model.threads = options_.threads;
    engine_options.max_sequences = options_.sequences + 1;
    engine_options.max_token_gap_seconds = options_.max_token_gap_seconds;
    CACHALOT_ASSIGN_OR_RETURN(engine_, engine::Engine::create(engine_options));

    // Prompts alone; then the sequences alone; then both.
    double alone_s = 0, together_s = 0;
    for (int64_t i = 0; i < options_.prompts; ++i) {
      CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> steps, run_prompt(i));
      for (const double s : steps) alone_s += s;
    }
    for (int64_t i = 0; i < options_.sequences; ++i) {
      engine::Request request = prompt(64, 100 + i);
      request.max_new_tokens = engine_->max_context_tokens() - 64;
      CACHALOT_RETURN_IF_ERROR(submit(std::move(request)));
    }
    std::vector<double> alone, gaps;
    for (int64_t i = 0; i < kStepsAlone; ++i) {
      const double seconds = step();
      if (i >= kStepsAlone / 4) alone.push_back(seconds);
    }
    for (int64_t i = 0; i < options_.prompts; ++i) {
      CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> steps, run_prompt(i));
      for (const double s : steps) together_s += s;
      gaps.insert(gaps.end(), steps.begin(), steps.end());
    }
    if (!failed_.ok()) return failed_;
    const auto tokens = static_cast<double>(options_.prompts * options_.prompt_tokens);
    return fmt::format(
        "{{\"bench\": \"arrivals\", \"threads\": {}, \"sequences\": {}, \"prompt_tokens\": {}, "
        "\"median_step_s\": {:.6f}, \"median_gap_s\": {:.6f}, \"p99_gap_s\": {:.6f}, "
        "\"p99_times_median_step\": {:.3f}, \"prefill_alone_tokens_per_s\": {:.1f}, "
        "\"prefill_tokens_per_s\": {:.1f}, \"prefill_share\": {:.3f}}}",
        engine_->num_threads(), options_.sequences, options_.prompt_tokens, quantile(alone, 0.5),
        quantile(gaps, 0.5), quantile(gaps, 0.99), quantile(gaps, 0.99) / quantile(alone, 0.5),
        tokens / alone_s, tokens / together_s, alone_s / together_s);
  }

 private:
  static constexpr int64_t kStepsAlone = 200;

  engine::Request prompt(int64_t count, int64_t index) const {
    RngStream rng(5, RngPurpose::data, static_cast<uint64_t>(index));
    engine::Request request;
    for (int64_t i = 0; i < count; ++i)
      request.prompt.push_back(static_cast<int32_t>(
          rng.next_u32() % static_cast<uint32_t>(engine_->config().vocab_size)));
    request.sampling.temperature = 0;
    return request;
  }
  Status submit(engine::Request request) {
    request.on_event = [this](const engine::Event& event) {
      if (event.kind == engine::Event::Kind::finished && !*event.result)
        failed_ = event.result->error();
      return true;
    };
    const Result<engine::RequestId> id = engine_->submit(std::move(request));
    last_ = id ? *id : -1;
    return id ? Status() : id.error();
  }
  double clock() const {
    timespec time{};
    clock_gettime(options_.cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    const double seconds =
        static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    return options_.cpu_clock ? seconds / engine_->num_threads() : seconds;
  }
  double step() {
    const double start = clock();
    engine_->step();
    return clock() - start;
  }
  // Seconds of the steps until it is done: in each, every sequence that decodes makes a token.
  Result<std::vector<double>> run_prompt(int64_t index) {
    engine::Request request = prompt(options_.prompt_tokens, index);
    request.max_new_tokens = 0;
    CACHALOT_RETURN_IF_ERROR(submit(std::move(request)));
    std::vector<double> steps;
    while (engine_->phase(last_)) steps.push_back(step());
    return steps;
  }

  const ArrivalsBenchOptions& options_;
  std::unique_ptr<engine::Engine> engine_;
  engine::RequestId last_ = -1;
  Status failed_;
};

}  // namespace

Result<std::string> run_arrivals_bench(const ArrivalsBenchOptions& options) {
  return Arrivals(options).run();
}

}  // namespace cachalot::bench
