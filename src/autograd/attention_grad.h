// Cached rows encoded and attended over, recorded. Source: ops/quant/encode_rows.h,
// ops/attention/sparse_attention.h and its backward. The gradients of rows go to what they were
// encoded from (Tape::add_encoded).
#pragma once

#include "autograd/tape.h"
#include "ops/attention/sparse_attention.h"
#include "ops/indexer/index_loss.h"
#include "ops/quant/encode_rows.h"

namespace cachalot::autograd {

void encode_kv_rows(Context ctx, const ops::EncodeRowsParams& p, tensor::KvFormat format,
                    const tensor::RowBlocks& to);
void encode_kv_entries(Context ctx, const ops::EncodeEntriesParams& p, tensor::KvFormat format);
void encode_index_entries(Context ctx, const ops::EncodeEntriesParams& p,
                          tensor::IndexFormat format);

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p);

// p.dq, p.d_weight and p.d_keys are the tape's, not the caller's; the gradients are written at once
// (an end of the tape).
void index_loss(Context ctx, ops::IndexLossParams p);

}  // namespace cachalot::autograd
