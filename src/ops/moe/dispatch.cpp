#include "ops/moe/dispatch.h"

#include <algorithm>

#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

// One thread: a count and a step for each pair, beside the products of its expert.
void dispatch(device::ExecContext& ctx, const DispatchParams& p) {
  if (ctx.gpu != nullptr) return dispatch_cuda(ctx, p);
  const int64_t k = p.num_experts_per_tok;
  const int64_t num_pairs = p.rows * k;
  const device::ArenaScope scope(*ctx.arena);
  auto* next = ctx.arena->allocate<int64_t>(p.n_routed_experts);
  std::fill_n(p.first_pair, p.n_routed_experts + 1, int64_t{0});
  for (int64_t i = 0; i < num_pairs; ++i) ++p.first_pair[p.ids[i] + 1];
  for (int64_t e = 0; e < p.n_routed_experts; ++e) {
    next[e] = p.first_pair[e];
    p.first_pair[e + 1] += p.first_pair[e];
  }
  for (int64_t i = 0; i < num_pairs; ++i) {
    const int64_t pair = next[p.ids[i]]++;
    p.token_of_pair[pair] = static_cast<int32_t>(i / k);
    p.pair_of_choice[i] = static_cast<int32_t>(pair);
  }
}

void hash_expert_ids(device::ExecContext& ctx, const int32_t* table, const int32_t* tokens,
                     int64_t rows, int64_t k, int32_t* ids) {
  if (ctx.gpu != nullptr) return hash_expert_ids_cuda(ctx, table, tokens, rows, k, ids);
  for_row_blocks(ctx, rows, k, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      std::copy_n(table + tokens[row] * k, k, ids + row * k);
  });
}

}  // namespace cachalot::ops
