// The most memory that the activations of one training pass take, from shapes alone (`cachalot
// train --dry-run`).
// Source  reference/infrastructure 7.2, 7.4. The arrays are those of model/ and their lifetimes
//         those of autograd/tape.h; training_model.h says in which order the main model, the MTP
//         block and the lots of logits run.
// Terms   kept: arrays that stay from forward to the end of backward. Made again: the streams of a
//         block of sublayers and one sublayer's arrays, as the plan names them. Gradients: of the
//         sublayer where they are the most. Logits: of one lot, with their gradients. With the
//         indexer's and the balance loss.
// Numerics  from 0.1 % under to 2 % over the measured peaks of the test's runs, after which its
//         bounds were set, but for arrays so small that rounding to pages shows
//         (tests/train/training_memory_test.cpp); scratch of single ops, encoded KV rows and
//         choices of experts and entries are left out. In double: the largest models times the
//         longest sequences pass 2^63.
#pragma once

#include "formats/config.h"
#include "model/recompute_plan.h"
#include "train/training_precision.h"

namespace cachalot::train {

struct PassMemory {  // bytes, at the moment when they are the most in all
  double kept = 0;
  double made_again = 0;
  double gradients = 0;
  double logits = 0;

  double total() const { return kept + made_again + gradients + logits; }
};

// `positions` of a micro-batch, each with a target; with the loss of the MTP block where there is
// one.
PassMemory pass_memory(const formats::ModelConfig& config, const TrainingPrecision& precision,
                       const model::RecomputePlan& plan, int64_t positions);

}  // namespace cachalot::train
