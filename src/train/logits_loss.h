// A loss of the model's logits: what TrainingModel (training_model.h) turns into gradients.
#pragma once

#include <algorithm>
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
  // For losses whose gradient at one row depends on other rows: look() sees all rows of a span
  // before add() sees its first. The same logits serve both where a span fits into a lot; of longer
  // ones the head runs twice, to the same bits. Where no gradient is asked for, such a loss looks
  // and adds nothing.
  virtual bool looks_first() const { return false; }
  // Behind the last row of the span that begins with this row.
  virtual int64_t span_end(int64_t first) const { return first + 1; }
  virtual void look(device::ExecContext& ctx, const Lot& lot) { (void)ctx, (void)lot; }
  // Adds the lot's loss; with a tape, writes the whole gradient of its logits.
  virtual void add(autograd::Context ctx, const Lot& lot) = 0;

  // Behind the rows that go together from this one on, a span's first: as many as a lot has, less
  // a span that would not be whole; or one span that is longer.
  int64_t lots_end(int64_t first, int64_t lot_rows, int64_t num_rows) const {
    if (!looks_first()) return std::min(first + lot_rows, num_rows);
    int64_t end = span_end(first);
    for (int64_t next; end < num_rows && (next = span_end(end)) <= first + lot_rows;) end = next;
    return end;
  }
  // What it could not do, of all lots so far. The gradient is then not that of a loss: no step may
  // follow (Trainer::update takes none).
  virtual Status status() const { return {}; }
};

}  // namespace cachalot::train
