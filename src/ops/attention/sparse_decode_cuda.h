// Attention over fp8 rows on the GPU, for decode and for prefill: each row (a token) over its own
// window and its own compressed entries, then the inverse rotation.
// Source  ops/attention/sparse_attention.h; reference/forward 3.7, 3.8, 3.10; reference/
//         infrastructure 5.1.
// Shapes  q, out [rows, heads, 512] bf16, heads a multiple of 64, 16-byte aligned; position [rows]
//         int32; sink [heads]; rotation [rows, 32, 2] fp32: cos and sin at the position.
//         window rows: the ring of a row starts at window + ring[row] * ring_bytes and holds
//         window_capacity rows of 576 data bytes, then their 8 scale bytes each; position p lies in
//         slot p mod capacity. Rows of one sequence have one ring: it then holds the window of the
//         first and all up to the last.
//         entries: block i of a row's table starts at entries + blocks[row * table_stride + i] *
//         block_bytes + offset and holds rows_per_block rows likewise. selected [rows, topk]
//         ascending; num_selected [rows]; selected null: entries 0 .. num_selected - 1.
// Numerics  keys in the order of sparse_attention, in chunks of 64. Of a chunk: s, fp32 sums of
//         bf16 products; E = ceil(max(s) c), c = scale * log2 e; p = bf16(exp2(s c - E)), exp2 by
//         the chip; z the sum of p. Chunks are taken ascending: with E' = max(E so far, E) the
//         values so far and Z times 2^(E so far - E'), then the values plus p 2^(E - E') times the
//         keys and Z plus z 2^(E - E'). Then out = bf16(values * (1 / (Z + exp2(sink log2 e -
//         E)))), the last 64 rotated back, bf16. Bits depend on the row alone, whichever form ran.
//         A scale of a key's codes above 2^7 counts as 2^7.
// Special a row with no key gives 0.
// Errors  check_sparse_decode: invalid_argument.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"

namespace cachalot::ops {

inline constexpr int64_t kDecodeChunk = 64;

struct SparseDecodeParams {
  int64_t rows;
  int64_t heads;
  const uint16_t* q;
  const int32_t* position;
  const float* sink;
  const float* rotation;
  float scale;
  int64_t window;  // 0: no window part
  const std::byte* window_base;
  const int32_t* ring;
  int64_t ring_bytes;
  int64_t window_capacity;
  const std::byte* entries;
  const int32_t* blocks;
  int64_t table_stride;
  int64_t block_bytes;
  int64_t offset;
  int64_t rows_per_block;
  const int32_t* selected;
  const int32_t* num_selected;  // null: no entries
  int64_t topk;                 // most entries of a row
  std::byte* scratch;           // SparseForm::split only
  uint16_t* out;
};

inline int64_t sparse_decode_chunks(const SparseDecodeParams& p) {
  return (p.window + p.topk + kDecodeChunk - 1) / kDecodeChunk;
}
// Once for the process and device, before the first launch.
void prepare_sparse_decode();
Status check_sparse_decode(const SparseDecodeParams& params);
int64_t sparse_decode_scratch_bytes(const SparseDecodeParams& params);

// split: two kernels, a row spread over many blocks. whole: one kernel, a block for 64 heads of a
// row, then the next.
enum class SparseForm { split, whole };
// The one that is faster for so many rows.
SparseForm sparse_decode_form(const device::cuda::Device& device, const SparseDecodeParams& params);
void launch_sparse_decode(const device::cuda::Device& device, const device::cuda::Stream& stream,
                          SparseForm form, const SparseDecodeParams& params);

}  // namespace cachalot::ops
