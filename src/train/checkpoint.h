// Checkpoints of a training run: RUN/checkpoints/step-0000001234/, each a directory that is there
// whole or not at all.
// Layout   docs/formats/checkpoint.md. config.json, model.safetensors (the fp32 masters, routing
//          biases and hash tables under public names), tokenizer.json and generation_config.json,
//          where the run has them, make it a model directory
//          that every verb opens; optimizer.safetensors, trainer.json, run.toml and manifest.json
//          (bytes and SHA-256 of every other file) make it a place to go on from.
// Writing  into a directory aside, every file synced, the manifest last, then renamed: a kill at
//          any moment leaves the old state or the new. A save that fails removes its directory and
//          leaves the others as they were.
// Errors   io_error with the path; data_loss where a file is missing, altered or not what the
//          manifest says (expected, found); invalid_argument where a checkpoint is of another model
//          or optimizer (array, expected, found).
// Threads  one owner of a run directory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"
#include "optim/optimizer.h"
#include "train/parameters.h"

namespace cachalot::train {

struct CheckpointContents {
  const formats::ModelConfig& config;
  const ParameterStore& parameters;
  std::vector<optim::StateArray> arrays;  // the optimizer's and the trainer's own; only read
  json::object trainer;
  std::string run_toml;
  std::string tokenizer_json;  // empty: none
  int64_t step;
  std::string config_hash;
  std::string generation_config_json = {};  // empty: none
};

// Replaces a checkpoint of the same step. Removes what killed writes have left.
Status save_checkpoint(const std::string& run_dir, const CheckpointContents& contents);

std::string checkpoint_directory(const std::string& run_dir, int64_t step);
// Steps of the directories that are named as written, ascending; none where there is no such
// directory.
std::vector<int64_t> list_checkpoints(const std::string& run_dir);
// Keeps the newest keep_last, and those whose step is a multiple of keep_every_steps (0: none).
Status prune_checkpoints(const std::string& run_dir, int64_t keep_last, int64_t keep_every_steps);
// Removes all after `step`.
Status drop_checkpoints_after(const std::string& run_dir, int64_t step);
// Renames all after `step` to damaged-step-…: pruning no longer counts them, and they can still be
// looked at.
Status set_aside_checkpoints_after(const std::string& run_dir, int64_t step);

// A checkpoint whose files are those of its manifest, all verified. Move-only.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  int64_t step() const { return step_; }
  const std::string& config_hash() const { return config_hash_; }
  const json::object& trainer() const { return trainer_; }
  // Null where there is none.
  const tensor::TensorView* array(const std::string& name) const { return arrays_.find(name); }

  // Values into parameters and arrays that are there already; names, types and shapes must be
  // equal. Changes nothing on an error. Arrays of the file that `arrays` does not name must begin
  // with "trainer."; tensors that the model does not have are refused.
  Status restore(ParameterStore& parameters, const std::vector<optim::StateArray>& arrays) const;

 private:
  Checkpoint(std::string directory, int64_t step, std::string config_hash, json::object trainer,
             formats::SafetensorsFile arrays)
      : directory_(std::move(directory)),
        step_(step),
        config_hash_(std::move(config_hash)),
        trainer_(std::move(trainer)),
        arrays_(std::move(arrays)) {}
  std::string directory_;
  int64_t step_;
  std::string config_hash_;
  json::object trainer_;
  formats::SafetensorsFile arrays_;
};

// Clears up what killed writes have left. The newest that opens; a damaged one is logged and the
// one before it taken. Nothing where there is none.
// Errors  the newest's, where there are some and none opens.
Result<std::optional<Checkpoint>> open_newest_checkpoint(const std::string& run_dir);

}  // namespace cachalot::train
