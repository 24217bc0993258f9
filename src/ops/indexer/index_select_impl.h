// The versions of index_select behind its one entry. Arguments are already checked.
#pragma once

#include "ops/indexer/index_select.h"

namespace cachalot::ops {

// Rows [first, last) of one sequence, which all see more than topk entries.
struct ScoredRows {
  int64_t sequence;
  int64_t first;
  int64_t last;
};

// Entries that are complete at the position of a row of the sequence.
inline int64_t visible_entries(const IndexSelectParams& p, int64_t sequence, int64_t row) {
  return (p.sequences.position(sequence, row) + 1) / p.ratio;
}

// scored: count of them, none empty, in order.
void index_select_ref(device::ExecContext& ctx, const IndexSelectParams& p,
                      const ScoredRows* scored, int64_t count);
void index_select_cpu(device::ExecContext& ctx, const IndexSelectParams& p,
                      const ScoredRows* scored, int64_t count);

// Key e as the products take it: decoded; in bf16 math rounded to bf16, of which fp8 and f32 rows
// hold more.
void index_key(device::Isa isa, const IndexSelectParams& p, int64_t sequence, int64_t e,
               float* key);

}  // namespace cachalot::ops
