// A trainer's own state in a checkpoint: a JSON object and arrays named "trainer.".
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "base/json.h"
#include "train/checkpoint.h"
#include "train/spike_detector.h"
#include "train/trainer.h"

namespace cachalot::train {

// What arrays() points into. Move-only.
class TrainerState {
 public:
  TrainerState(const Trainer& trainer, const SpikeDetector& detector, int64_t num_rollbacks);
  TrainerState(TrainerState&&) = default;
  const json::object& fields() const { return fields_; }
  std::vector<optim::StateArray> arrays();

 private:
  struct Array {
    std::string name;
    tensor::DType dtype;
    std::vector<int64_t> shape;
    std::vector<std::byte> bytes;
  };
  template <typename T>
  void add(std::string name, tensor::DType dtype, std::vector<int64_t> shape,
           const std::vector<T>& values);
  json::object fields_;
  std::vector<Array> arrays_;
};

// Parameters, optimizer, place in the stream, anticipation and detector from a checkpoint.
// Errors  the checkpoint's (restore()), a field or array that is missing or of another kind, a
//         place that is not of this run.
Status restore_trainer(const Checkpoint& checkpoint, Trainer& trainer, SpikeDetector& detector,
                       int64_t* num_rollbacks);

}  // namespace cachalot::train
