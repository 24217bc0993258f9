#include "train/preset_schedule.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace cachalot::train {
namespace {

struct Fit {
  std::string_view preset;
  int64_t sequence_length;
  int64_t least_batch_tokens;
  int64_t batch_tokens;  // of a whole budget
  double peak;           // at that batch
  double init_std;
  int64_t least_budget;
  int64_t most_budget;
};
// A budget's most is what nano was trained on, and the same tokens a parameter for mini.
constexpr Fit kFits[] = {
    {"nano", 1024, 4096, 16384, 0.006, 0.02, 1'000'000, 8'192'000},
    {"mini", 2048, 32768, 262144, 0.003, 0.012, 8'000'000, 160'000'000},
};

constexpr int64_t kPasses = 4;
constexpr int64_t kMostPasses = 20;  // a text that is read more often is learnt by heart
constexpr int64_t kSteps = 500;      // of a run, where the batch has room for it
constexpr int64_t kMostWarmup = 50;

const Fit* fit_of(std::string_view preset) {
  for (const Fit& fit : kFits) {
    if (fit.preset == preset) return &fit;
  }
  return nullptr;
}

}  // namespace

int64_t suggested_budget(std::string_view preset, int64_t corpus_tokens) {
  const Fit* fit = fit_of(preset);
  if (fit == nullptr) return 0;
  // Beyond this any number of passes is within all limits, and no product overflows.
  const int64_t tokens = std::clamp<int64_t>(corpus_tokens, 1, fit->most_budget);
  return std::min(kMostPasses * tokens,
                  std::clamp(kPasses * tokens, fit->least_budget, fit->most_budget));
}

void fit_to_preset(std::string_view preset, int64_t total_tokens, int64_t batch_tokens,
                   TrainConfig* config) {
  const Fit* fit = fit_of(preset);
  if (fit == nullptr) return;
  // A power of two of tokens, so that it holds whole sequences.
  const auto fitting = static_cast<int64_t>(
      std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(total_tokens / kSteps, 1))));
  const int64_t batch = batch_tokens > 0
                            ? batch_tokens
                            : std::clamp(fitting, fit->least_batch_tokens, fit->batch_tokens);
  const int64_t steps = std::max<int64_t>(1, total_tokens / batch);
  config->init.std = fit->init_std;
  config->learning_rate_course = "budget";
  optim::TrainingSchedule& schedule = config->schedule;
  // Noise of the gradient falls with the root of the batch, and the step with it.
  schedule.learning_rate.peak =
      fit->peak *
      std::sqrt(std::min(1.0, static_cast<double>(batch) / static_cast<double>(fit->batch_tokens)));
  schedule.learning_rate.warmup_steps = std::min(kMostWarmup, steps / 10);
  schedule.sequence = {{0, fit->sequence_length}};
  schedule.batch.first_batch_tokens = batch;
  schedule.batch.batch_tokens = batch;
  config->micro_batch_tokens = 8 * fit->sequence_length;
  schedule.attention.dense_tokens = total_tokens / 100 * 12;
  schedule.attention.indexer_warmup_tokens = total_tokens / 100 * 4;
  schedule.attention.indexer_warmup_learning_rate = 0.004;
  config->evaluate.every_steps = std::max<int64_t>(1, steps / 5);
  config->evaluate.max_tokens = 128 * fit->sequence_length;
  config->checkpoint.every_steps = std::max<int64_t>(1, steps / 10);
  config->checkpoint.keep_last = 2;
}

}  // namespace cachalot::train
