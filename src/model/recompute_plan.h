// Which tensors of a training pass are given back after their last forward use and made again in
// backward (autograd/tape.h), and how much of the logits is in memory at once. None of it changes a
// bit of losses and gradients.
// Source  reference/infrastructure 7.2, 7.4; reference/training 10 (recompute).
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace cachalot::model {

// What a plan can name. One line of model code for each (Step::recompute).
enum class Recomputed : uint32_t {
  streams = 1,   // those between sublayers, but for the first of every block of sublayers
  mixed = 2,     // a sublayer's input mixed from the streams
  input = 4,     // its norm, which the sublayer reads
  maps = 8,      // the weights of the mixing: pre, post, comb
  norms = 16,    // the normed low-rank query, the normed and rotated key-value rows
  queries = 32,  // normed and rotated; the products before them stay
  swiglu = 64,   // the experts' activations; gate and up stay
};

struct RecomputePlan {
  uint32_t tensors = 0;         // Recomputed, or-ed
  int64_t block_sublayers = 0;  // L_r; 0: optimal_block_sublayers()
  int64_t logit_rows = 0;       // of logits in memory at once; 0: as many as take 16 MiB

  bool has(Recomputed tensor) const { return (tensors & static_cast<uint32_t>(tensor)) != 0; }

  // Names of Recomputed, "mhc" (streams, mixed, input), "all" or "none", separated by commas.
  // Errors  invalid_argument: a name that is none of these.
  static Result<RecomputePlan> parse(std::string_view names);
  int64_t rows_of_logits(int64_t vocab_size) const;
};

// The L_r of the least nC ceil(L / L_r) + (n + 2)C L_r, near sqrt(nL / (n + 2)); L counts
// sublayers.
int64_t optimal_block_sublayers(int64_t num_streams, int64_t num_sublayers);

}  // namespace cachalot::model
