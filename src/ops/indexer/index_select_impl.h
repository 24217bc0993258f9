// The versions of index_select behind its one entry, for rows from first_row on, which all see more
// than topk entries. Arguments are already checked.
#pragma once

#include "ops/indexer/index_select.h"

namespace cachalot::ops {

void index_select_ref(device::ExecContext& ctx, const IndexSelectParams& p, int64_t first_row);
void index_select_cpu(device::ExecContext& ctx, const IndexSelectParams& p, int64_t first_row);

// Key e as the products take it: decoded; in bf16 math rounded to bf16, of which fp8 and f32 rows
// hold more.
void index_key(device::Isa isa, const IndexSelectParams& p, int64_t e, float* key);

}  // namespace cachalot::ops
