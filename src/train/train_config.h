// What a training run is, from its TOML files: docs/training-keys.md lists every key. Each key has
// a default but where to write, what to read and how much; unknown keys are errors that name the
// closest known one.
// Source  reference/training 3, 5, 6, 7; where the report is silent the defaults are its suggested
//         ones.
// Errors  invalid_argument: file and line (or the assignment), key, what was expected, what was
//         found; of all keys at once, a line each. Those of [model] too, but where a file gives the
//         model: model_config() tells them then.
// Threads  pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/config.h"
#include "model/recompute_plan.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/config_tree.h"
#include "train/initialize.h"
#include "train/spike_detector.h"

namespace cachalot::train {

struct DataEntry {
  std::string name;
  std::string path;
  std::string format = "auto";  // data/open_dataset.h
  double weight = 1;            // not of validation sets
};

struct TrainConfig {
  uint64_t seed = 0;
  std::string run_dir;

  // [model]: a preset, a config.json or a checkpoint directory to start from, then fields of
  // config.json over it.
  struct Model {
    std::string preset;
    std::string config;
    std::string init_from;
    json::object fields;
  } model;
  InitConfig init;  // its seed is the run's
  std::string tokenizer;

  std::vector<DataEntry> data;
  std::vector<DataEntry> validation;
  struct Loader {
    int64_t window_packs = 1024;
    bool shuffle = true;
    double fim_rate = 0;
    int64_t fim_keep_first = 0;
    int64_t fim_keep_last = 0;
  } loader;
  struct Evaluate {
    int64_t every_steps = 0;  // 0: at the end only
    int64_t max_tokens = 1 << 20;
    int64_t sample_tokens = 48;  // of the text shown at each evaluation; 0: none
  } evaluate;

  optim::TrainingSchedule schedule;
  std::string learning_rate_course =
      "constant";  // or "budget": decay over the suggested parts of the budget
  int64_t micro_batch_tokens = 4096;

  struct Recompute {  // model/recompute_plan.h
    std::string tensors = "none";
    int64_t block_sublayers = 0;
    int64_t logit_rows = 0;
  } recompute;

  struct Losses {
    double balance_alpha = 1e-4;
    double bias_update_rate = 0.001;
    double indexer = 1;
  } losses;
  std::string optimizer_kind = "muon";  // or "adamw", for the matrices too
  optim::OptimizerConfig optimizer;

  std::string precision = "fp32";  // or bf16, fp8: training_precision.h
  bool qat = false;                // of fp8: routed experts by way of FP4

  struct Anticipation {
    bool enabled = false;
    int64_t delta_steps = 4;
    int64_t rollback_margin_steps = 10;
    int64_t hold_steps = 1000;
    SpikeConfig detector;
  } anticipation;

  struct Checkpoint {
    int64_t every_steps = 1000;
    int64_t keep_last = 3;
    int64_t keep_every_steps = 0;  // 0: none but the last ones
  } checkpoint;
  struct Log {
    int64_t every_steps = 10;
    int64_t update_rms_every_steps = 0;  // 0: never
    int64_t spectrum_every_steps = 0;    // likewise
    bool tensorboard = true;
    double peak_gflops = 0;  // of the machine, for shares of it; 0: measured at the start
  } log;

  Origins origins;  // of the keys that are given, for errors
};

// Files from left to right, then assignments "a.b=c". Checks each value's range and the schedule.
Result<TrainConfig> read_train_config(std::span<const std::string> files,
                                      std::span<const std::string> assignments);
// Corpora::not_read: of a run that trains on something else, which needs neither data nor a budget.
enum class Corpora { read, not_read };
Result<TrainConfig> train_config_from(const ConfigTree& tree, Corpora corpora = Corpora::read);

// Every key with its value, in a fixed order; reading it gives the same configuration.
std::string resolved_toml(const TrainConfig& config);
// SHA-256 of resolved_toml without run_dir and recompute: equal for runs that must give equal bits.
std::string config_hash(const TrainConfig& config);

// What differs of that from the resolved_toml of another run, as config_differences().
Result<std::vector<std::string>> differences_from(const TrainConfig& config,
                                                  std::string_view resolved_toml);
// What is worth saying before a run starts: schedules that its budget does not hold.
std::vector<std::string> budget_notes(const TrainConfig& config);

// The model that [model] describes, checked.
// Errors  of all fields at once; an unknown preset, a config.json that is not there.
Result<formats::ModelConfig> model_config(const TrainConfig& config);

// What [recompute] names.
// Errors  invalid_argument: a name that is none.
Result<model::RecomputePlan> recompute_plan(const TrainConfig& config);

// The optimizer's grouping options with the model's shapes.
optim::GroupingOptions grouping_of(const TrainConfig& config, const formats::ModelConfig& model);

}  // namespace cachalot::train
