// A loss of the model's logits: what TrainingModel (training_model.h) turns into gradients.
#pragma once

#include <cstdint>
#include <span>

#include "autograd/tape.h"
#include "base/status.h"

namespace cachalot::train {

// Sees the logits of the rows with a label, some rows after the other, in their order.
class LogitsLoss {
 public:
  struct Lot {
    int64_t first;  // the lot's first row, counted over the rows with a label of the whole call
    std::span<const int32_t> labels;
    const float* logits;  // [labels.size(), vocab_size]
    int64_t vocab_size;
  };

  virtual ~LogitsLoss() = default;
  // Whether look() is to be called on all lots before add() on the first: for losses whose gradient
  // at one row depends on other rows. The head then runs twice, to the same bits.
  virtual bool looks_first() const { return false; }
  virtual void look(device::ExecContext& ctx, const Lot& lot) { (void)ctx, (void)lot; }
  // Adds the lot's loss; with a tape, writes the whole gradient of its logits.
  virtual void add(autograd::Context ctx, const Lot& lot) = 0;
  // What it could not do, of all lots so far. The gradient is then not that of a loss: no step may
  // follow (Trainer::update takes none).
  virtual Status status() const { return {}; }
};

}  // namespace cachalot::train
