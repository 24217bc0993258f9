// Attention of each token over its window and its compressed entries; one shared KV head, key =
// value, one sink logit a head.
// Source  reference/forward 3.4, 3.7.
//         out[t,h] = sum_i p_i key_i / Z,  s_i = (q . key_i) * scale,  p_i = exp(s_i - max s),
//         Z = sum p_i + exp(sink_h - max s)
// Keys    in this order: window positions max(0, t - window + 1) .. t ascending, then the selected
//         entries ascending (CSA) or all entries e < floor((t + 1) / ratio) (HCA; selected null).
//         window = 0: no window part (full attention over entries of ratio 1). ratio = 0: no
//         entries.
// Shapes  q, out [rows, heads, head_dim] contiguous, of all sequences; layer_rows [sequences]; sink
//         [heads]; selected [rows, topk], num_selected [rows]. out must not overlap q.
// Numerics  scores and values: chains as ops/matmul (f32, or bf16 math with q, keys and p
//         bf16-valued); Z sums unrounded p, one fp32 chain in key order starting with the first
//         key, the sink's term last; out = (chain) / Z, one rounding to bf16 where bf16_math. exp
//         is ops/elementwise/exp.h. Bits do not depend on other rows and sequences, chunking,
//         block sizes or threads.
//         rotate_back: then rope() with these tables, inverse, rounded where bf16_math.
//         q_bf16, out_bf16: the same in bf16 instead of q and out, where
//         sparse_attention_takes_bf16. q_bf16 may be raw: head_rows (ops/rope/head_rows.h) of it,
//         with the norm in steps of bf16 and the rotation, is then what counts.
//         tensor_cores: on a GPU, where shapes fit, those of sparse_decode_cuda.h instead.
// Special sink -inf is no sink; a token with no key and sink -inf gives 0.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "ops/rope/rope.h"
#include "tensor/rows.h"

namespace cachalot::ops {

// What queries are still to get: the norm of each head and the rotation. null: nothing.
struct RawQueries {
  RopeTable table = {};  // of every row
  float eps = 0;
};

struct SparseAttentionParams {
  const float* q;
  int64_t heads;
  int64_t head_dim;
  int64_t rope_dim;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;  // window and entries
  tensor::RowBlocks step_rows;          // window rows of the step's own positions
  float scale;
  const float* sink;
  int64_t window;
  int64_t ratio;
  const int32_t* selected;  // CSA, else null
  const int32_t* num_selected;
  int64_t topk;
  tensor::KvFormat format;  // of window rows and entries
  bool bf16_math;
  bool tensor_cores = false;
  float* out;
  RopeTable rotate_back = {};  // of every row; null: out stays as it is
  const uint16_t* q_bf16 = nullptr;
  uint16_t* out_bf16 = nullptr;
  RawQueries raw = {};  // of q_bf16 alone
};
// Whether it runs on tensor cores, of whose forms that for many rows takes bf16.
bool sparse_attention_takes_bf16(const device::ExecContext& ctx, const SparseAttentionParams& p);
void sparse_attention(device::ExecContext& ctx, const SparseAttentionParams& p);

// rotate_back as an op of its own.
inline RopeParams rotation_back(const SparseAttentionParams& p) {
  return {p.out,      p.sequences.rows(), p.heads * p.head_dim, p.heads,
          p.head_dim, p.rope_dim,         p.rotate_back,        true,
          p.bf16_math};
}

}  // namespace cachalot::ops
