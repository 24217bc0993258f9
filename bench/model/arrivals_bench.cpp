#include "model/arrivals_bench.h"

#include <fmt/format.h>

#include <memory>
#include <numeric>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "model/engine_clock.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kFirstTokens = 64;  // of the sequences that decode
constexpr int64_t kStepsAlone = 100;

double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

// One engine, its steps on the clock.
class TimedEngine {
 public:
  static Result<TimedEngine> create(const ArrivalsBenchOptions& options) {
    engine::EngineOptions engine_options;
    engine_options.model.path = options.model;
    engine_options.model.precision = options.precision;
    engine_options.model.threads = options.threads;
    engine_options.max_sequences = options.sequences + 1;
    engine_options.max_token_gap_seconds = options.max_token_gap_seconds;
    engine_options.clock = clock_of(options.cpu_clock);
    CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::Engine> engine,
                              engine::Engine::create(engine_options));
    return TimedEngine(std::move(engine), options.cpu_clock ? cpu_seconds : engine::steady_seconds);
  }

  engine::Engine& engine() { return *engine_; }
  double step() {
    const double start = clock_();
    engine_->step();
    return clock_() - start;
  }
  // Random ids, numbered.
  Status submit(int64_t prompt_tokens, int64_t index, int64_t max_new_tokens) {
    RngStream rng(5, RngPurpose::data, static_cast<uint64_t>(index));
    engine::Request request;
    for (int64_t i = 0; i < prompt_tokens; ++i)
      request.prompt.push_back(static_cast<int32_t>(
          rng.next_u32() % static_cast<uint32_t>(engine_->config().vocab_size)));
    request.sampling.temperature = 0;
    request.max_new_tokens = max_new_tokens;
    CACHALOT_ASSIGN_OR_RETURN(last_, engine_->submit(std::move(request)));
    return {};
  }
  // Seconds of the steps until a prompt is done: in each, every sequence that decodes makes a
  // token.
  Result<std::vector<double>> run_prompt(int64_t prompt_tokens, int64_t index) {
    CACHALOT_RETURN_IF_ERROR(submit(prompt_tokens, index, 0));
    std::vector<double> steps;
    while (engine_->phase(last_)) steps.push_back(step());
    return steps;
  }

 private:
  TimedEngine(std::unique_ptr<engine::Engine> engine, Clock clock)
      : engine_(std::move(engine)), clock_(clock) {}

  std::unique_ptr<engine::Engine> engine_;
  Clock clock_;
  engine::RequestId last_ = -1;
};

}  // namespace

// In turn, so that what else the machine does meets all of them: the sequences alone, a prompt
// beside them, a prompt alone (in an engine of its own).
Result<std::string> run_arrivals_bench(const ArrivalsBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(TimedEngine idle, TimedEngine::create(options));
  CACHALOT_ASSIGN_OR_RETURN(TimedEngine busy, TimedEngine::create(options));
  const int64_t room = busy.engine().max_context_tokens() - kFirstTokens;
  for (int64_t i = 0; i < options.sequences; ++i)
    CACHALOT_RETURN_IF_ERROR(busy.submit(kFirstTokens, 1000 + i, room));
  for (int64_t i = 0; i < kStepsAlone; ++i) busy.step();  // warm-up
  std::vector<double> alone, gaps, shares;
  double prompt_alone_s = 0, prompt_beside_s = 0;
  for (int64_t i = 0; i < options.prompts; ++i) {
    for (int64_t s = 0; s < kStepsAlone; ++s) alone.push_back(busy.step());
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> beside,
                              busy.run_prompt(options.prompt_tokens, i));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> by_itself,
                              idle.run_prompt(options.prompt_tokens, i));
    const double beside_s = std::accumulate(beside.begin(), beside.end(), 0.0);
    const double alone_s = std::accumulate(by_itself.begin(), by_itself.end(), 0.0);
    gaps.insert(gaps.end(), beside.begin(), beside.end());
    shares.push_back(alone_s / beside_s);
    prompt_alone_s += alone_s;
    prompt_beside_s += beside_s;
  }
  const auto tokens = static_cast<double>(options.prompts * options.prompt_tokens);
  return fmt::format(
      "{{\"bench\": \"arrivals\", \"threads\": {}, \"sequences\": {}, \"prompt_tokens\": {}, "
      "\"median_step_s\": {:.6f}, \"p99_step_s\": {:.6f}, \"median_gap_s\": {:.6f}, "
      "\"p99_gap_s\": {:.6f}, \"p99_times_median_step\": {:.3f}, "
      "\"prefill_alone_tokens_per_s\": {:.1f}, \"prefill_tokens_per_s\": {:.1f}, "
      "\"prefill_share\": {:.3f}}}",
      busy.engine().num_threads(), options.sequences, options.prompt_tokens, median(alone),
      quantile(alone, 0.99), median(gaps), quantile(gaps, 0.99),
      quantile(gaps, 0.99) / median(alone), tokens / prompt_alone_s, tokens / prompt_beside_s,
      median(shares));
}

}  // namespace cachalot::bench
