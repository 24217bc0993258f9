// What a training pass asks of the layers beyond their outputs, and what it gets: losses that arise
// inside layers, choices made before, loads and counters.
// Source  reference/training 6.3 (stages, indexer loss), 6.5, 6.6 (balance), 7.1 (stale choices),
//         7.2 (counters).
#pragma once

#include <cstdint>
#include <vector>

#include "model/recompute_plan.h"
#include "ops/moe/swiglu.h"

namespace cachalot::model {

// Choices of every row by layer, as ForwardProbe reports them; an empty list where there is none to
// replay.
struct Choices {
  std::vector<std::vector<int32_t>> experts;   // [rows, num_experts_per_tok], score-routed layers
  std::vector<std::vector<int32_t>> selected;  // [rows, index_topk], unused places -1
};

struct TrainingTerms {
  // CSA attends every visible entry and the indexer selects nothing.
  bool dense_attention = false;
  // Weight of each row's KL between the attention that its entries receive and its indexer's
  // scores; 0: not computed. Over the selected entries, or with dense attention over all visible
  // ones.
  float indexer_loss = 0;
  // Balance loss: alpha of each sequence's, and the weight of a sequence in the sum; alpha 0: not
  // computed.
  float balance_alpha = 0;
  float balance_weight = 0;
  // Not null: these experts and entries instead of those that the model would choose. Expert
  // weights are the present ones.
  const Choices* replay = nullptr;
  RecomputePlan recompute;

  // Results, added to.
  double indexer_kl = 0;    // sum over rows and layers, without the weight
  double balance_loss = 0;  // sum over sequences and layers, alpha times, without the weight
  // by layer, of score-routed experts; sized by the caller to num_all_layers()
  std::vector<std::vector<int64_t>> loads;
  ops::SwigluClampCounts clamped;
};

}  // namespace cachalot::model
