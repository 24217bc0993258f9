// Attention over fp8 rows on the GPU's tensor cores, for decode and for prefill: each row (a token)
// over its own window and its own compressed entries.
// Source  ops/attention/sparse_attention.h; reference/forward 3.7, 3.10; reference/infrastructure
//         5.1.
// Shapes  sparse_attention's, all pointers of device memory: q, out [rows, heads, 512] with values
//         of bf16, heads a multiple of 64, 16-byte aligned; the table of raw queries 8-byte
//         aligned; sink [heads]; window >= 1. Rows of KvFormat::fp8, 448 + 64: step_rows is one
//         block of `rows` rows; blocks of entries hold at most 16384. max_entries: at least those
//         of each row.
// Numerics  keys in the order of sparse_attention, in chunks of 64. Of a chunk: s, fp32 sums of
//         bf16 products; E = ceil(max(s) c), c = scale * log2 e; p = bf16(exp2(s c - E)), exp2 by
//         the chip; z the sum of p. Chunks are taken ascending: with E' = max(E so far, E) the
//         values so far and Z times 2^(E so far - E'), then the values plus p 2^(E - E') times the
//         keys and Z plus z 2^(E - E'). Then out = bf16(values * (1 / (Z + exp2(sink log2 e -
//         E)))). Bits depend on the row alone, whichever form ran. A scale of a key's codes above
//         2^7 counts as 2^7.
// Errors  check_sparse_decode: invalid_argument.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "ops/attention/sparse_attention.h"

namespace cachalot::ops {

inline constexpr int64_t kDecodeChunk = 64;

struct SparseDecodeParams {
  int64_t rows;
  int64_t heads;
  const float* q;
  const float* sink;
  float scale;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  const std::byte* step_rows;
  int64_t window;
  int64_t ratio;            // 0: no entries
  const int32_t* selected;  // null: all entries
  const int32_t* num_selected;
  int64_t topk;
  int64_t max_entries;
  std::byte* scratch;  // SparseForm::split only
  float* out;
  RopeTable rotate_back;  // or null
  // SparseForm::whole: the same in bf16 instead of q and out.
  const uint16_t* q_bf16 = nullptr;
  uint16_t* out_bf16 = nullptr;
  RawQueries raw = {};  // q_bf16
};

inline int64_t sparse_decode_chunks(const SparseDecodeParams& p) {
  return (p.window + p.max_entries + kDecodeChunk - 1) / kDecodeChunk;
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

// sparse_attention where `tensor_cores` asks for it and shapes fit, which the number of rows does
// not change. False: nothing was launched.
bool sparse_attention_on_tensor_cores(device::ExecContext& ctx, const SparseAttentionParams& p);

}  // namespace cachalot::ops
