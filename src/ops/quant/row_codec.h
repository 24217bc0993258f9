// Cached rows to and from floats. Encoding a row whose values were snapped (simulate_fp8 on the
// non-rotary part, simulate_fp4) is lossless; encoding other values rounds as the quantisers do.
// Source  reference/forward 3.10 (584-, 68- and 132-byte rows), 0.4.
// Layout  fp8 KV: e4m3 codes of the first head_dim - rope_dim values, then the rotary part as bf16;
//         scales e8m0 per 64, padding bytes zero. fp4 index: value 2i in the low nibble of byte i;
//         scales e8m0 per 32. fp8 index: e4m3 codes; scale fp32 = max(amax, 1e-4) / 448 (not a
//         power of two; amax at most the largest float).
// Numerics  decode is exact for every format but fp8 index (one fp32 product). Implementations
//         agree bit for bit.
#pragma once

#include <cstdint>

#include "device/isa.h"
#include "tensor/rows.h"

namespace cachalot::ops {

void encode_kv_row(tensor::KvFormat format, const float* x, int64_t head_dim, int64_t rope_dim,
                   tensor::RowRef row);
void decode_kv_row(device::Isa isa, tensor::KvFormat format, tensor::RowRef row, int64_t head_dim,
                   int64_t rope_dim, float* x);
void encode_index_row(tensor::IndexFormat format, const float* x, int64_t index_head_dim,
                      tensor::RowRef row);
void decode_index_row(device::Isa isa, tensor::IndexFormat format, tensor::RowRef row,
                      int64_t index_head_dim, float* x);

}  // namespace cachalot::ops
