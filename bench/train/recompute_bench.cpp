// recompute_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]
// What recompute costs and saves: a training pass (forward, backward, no optimizer) of the nano
// model over one sequence of 1,024 tokens, its time and the peak of activations and their gradients
// under several plans, as ratios to nothing recomputed in the same run. Plans take turns, so that a
// machine's mood meets all of them.
// Source  reference/infrastructure 7.4, 7.2 (C4).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench_run.h"
#include "formats/presets.h"
#include "train/initialize.h"
#include "train/training_model.h"

namespace {

using cachalot::bench::BenchOptions;
using cachalot::model::RecomputePlan;

constexpr int64_t kTokens = 1024;

struct Case {
  const char* plan;
  int64_t block;  // 0: the formula's best
  std::vector<double> seconds = {};
  cachalot::autograd::TapeMemory memory = {};
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

void print(const BenchOptions& options, const Case& c, const Case& base) {
  const double time_ratio = c.median() / base.median();
  const double peak = static_cast<double>(c.memory.measured_peak);
  const double peak_ratio = peak / static_cast<double>(base.memory.measured_peak);
  if (options.json) {
    fmt::print(
        "{{\"plan\":\"{}\",\"block\":{},\"threads\":{},\"median_s\":{:.6f},\"time_ratio\":{:.4f},"
        "\"peak_bytes\":{},\"planned_bytes\":{},\"peak_ratio\":{:.4f},\"replayed\":{}}}\n",
        c.plan, c.block, options.num_threads, c.median(), time_ratio, c.memory.measured_peak,
        c.memory.planned_peak, peak_ratio, c.memory.num_replayed);
    return;
  }
  fmt::print(
      "{:<20} block {:>2} {:>9.1f} ms ({:.3f}) peak {:>7.1f} MB, planned {:>7.1f} ({:.3f}), {} of "
      "{} "
      "ops again\n",
      c.plan, c.block, c.median() * 1e3, time_ratio, peak * 1e-6,
      static_cast<double>(c.memory.planned_peak) * 1e-6, peak_ratio, c.memory.num_replayed,
      c.memory.num_ops);
}

}  // namespace

int main(int argc, char** argv) {
  BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    if (cachalot::bench::take_option(argv[i], options)) continue;
    fmt::print(stderr,
               "recompute_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]\n");
    return 1;
  }
  cachalot::ThreadPool pool(options.num_threads);
  cachalot::device::Arena arena;
  cachalot::device::ExecContext ctx{&pool, &arena, options.isa};
  const cachalot::formats::ModelConfig config = cachalot::formats::nano_config();
  cachalot::train::ParameterStore parameters = cachalot::train::initial_parameters(config, {});
  const auto model = cachalot::train::TrainingModel::create(
                         ctx, config, parameters, cachalot::train::TrainingPrecision::fp32())
                         .value();
  std::vector<int32_t> tokens;
  cachalot::RngStream rng(1, cachalot::RngPurpose::data, 0);
  for (int64_t i = 0; i < kTokens; ++i) {
    tokens.push_back(
        static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(config.vocab_size)));
  }
  std::vector<int32_t> labels(tokens.begin() + 1, tokens.end());
  labels.push_back(-1);
  const cachalot::train::Sample sample{tokens, labels};

  std::vector<Case> cases = {{"none", 0}, {"mhc", 0}, {"mhc", 1}, {"mhc,maps", 0}, {"all", 0}};
  BenchOptions once = options;
  once.seconds = 0;
  const int rounds = std::max(1, static_cast<int>(std::lround(options.seconds)));
  for (int round = 0; round < rounds; ++round) {
    for (Case& c : cases) {
      cachalot::model::TrainingTerms terms;
      terms.recompute = RecomputePlan::parse(c.plan).value();
      terms.recompute.block_sublayers = c.block;
      const auto t = measure(once, [&] {
        model->add_gradients(ctx, {&sample, 1}, {1.0f / (kTokens - 1), 0}, &terms);
      });
      c.seconds.push_back(t.median);
      c.memory = model->memory();
    }
  }
  for (const Case& c : cases) print(options, c, cases[0]);
}
