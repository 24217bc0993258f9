// Embedding rows: table rows decoded to fp32.
// Source  reference/forward 6.
// Shapes  table [vocab_size, d], F32, F16 or BF16, any alignment; ids [rows], already checked; out
//         [rows, d].
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/tensor_view.h"

namespace cachalot::ops {

void embed(device::ExecContext& ctx, const tensor::TensorView& table, const int32_t* ids,
           int64_t rows, float* out);

// d_table[ids[t], :] += d_out[t, :] over t ascending, so each table row sums its tokens in the
// order of a sort by id, then row (reference/infrastructure 5.4): rows in one call or several, and
// any thread count, give the same bits.
// Shapes  d_out [rows, d]; d_table [vocab_size, d] fp32; ids outside [0, vocab_size) are a caller
//         bug (CHECK).
void embed_backward(device::ExecContext& ctx, const int32_t* ids, const float* d_out, int64_t rows,
                    int64_t vocab_size, int64_t d, float* d_table);

}  // namespace cachalot::ops
