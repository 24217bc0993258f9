// The rows of the routed experts' products: pairs (row, choice) in order of expert, then row, then
// choice; and the expert ids of hash layers.
// Source  reference/forward 4.1, 4.3.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct DispatchParams {
  const int32_t* ids;  // [rows, k], in [0, n_routed_experts)
  int64_t rows;
  int64_t num_experts_per_tok;  // k
  int64_t n_routed_experts;
  int64_t* first_pair;      // [n_routed_experts + 1]: by expert, and the end
  int32_t* token_of_pair;   // [rows * k]
  int32_t* pair_of_choice;  // [rows, k]
};
void dispatch(device::ExecContext& ctx, const DispatchParams& p);

// ids [rows, k] = the rows of table [vocab_size, k] for the tokens [rows].
void hash_expert_ids(device::ExecContext& ctx, const int32_t* table, const int32_t* tokens,
                     int64_t rows, int64_t k, int32_t* ids);

}  // namespace cachalot::ops
