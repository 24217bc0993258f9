// The vector work of sparse_attention on one token and some of its keys, one table an instruction
// set.
// Layout  keys are rows of floats, or of bf16 where there is `decode`, found through pointers, in
//         list order. Lane = head in scores and weights: s [n][head_lanes], head_lanes = heads
//         rounded up to `lanes`; what padded lanes hold is not used. Lane = channel in out.
// Numerics  sparse_attention.h's. Calls that cut the keys, heads or channels differently give the
//           same bits; in bf16 math a cut between keys falls on an even number of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/isa.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct AttentionKernels {
  int64_t lanes;
  int64_t channel_lanes;
  int64_t key_value_bytes;

  // A cached row as a key row: head_dim values, zeros up to padded_dim, a multiple of
  // channel_lanes. Null where key rows are floats.
  void (*decode)(tensor::KvFormat format, const std::byte* data, const std::byte* scale,
                 int64_t head_dim, int64_t rope_dim, int64_t padded_dim, std::byte* row);

  // q [heads, dim] transposed for score(): head_lanes * dim floats, dim rounded up to even.
  void (*prepare_q)(const float* q, int64_t heads, int64_t dim, float* prepared);

  // s = (q . key) * scale for n keys; max [head_lanes] becomes the maximum of itself and these
  // scores.
  void (*score)(const float* prepared_q, int64_t head_lanes, int64_t dim,
                const std::byte* const* keys, int64_t n, float scale, bool bf16_math, float* s,
                float* max);

  // s of n keys becomes p = exp(s - max) (rounded to bf16 in bf16 math) for lanes [begin, end),
  // multiples of `lanes`; z [head_lanes] goes on adding them unrounded.
  void (*weigh)(float* s, int64_t head_lanes, int64_t n, int64_t begin, int64_t end,
                const float* max, bool bf16_math, float* z);

  // out[h * out_stride + k] (+)= sum over n keys of p key[k]; heads [head_begin, head_end),
  // channels [begin, end), multiples of `lanes`.
  void (*add_values)(const float* p, int64_t head_lanes, int64_t head_begin, int64_t head_end,
                     const std::byte* const* keys, int64_t n, int64_t begin, int64_t end,
                     bool bf16_math, bool accumulate, float* sums, int64_t sums_stride);

  // out[k] = sums[k] / z, rounded to bf16 in bf16 math, n channels from a multiple of channel_lanes
  // on. out may be sums.
  void (*divide)(const float* sums, float z, int64_t n, bool bf16_math, float* out);
};

// avx2 or above. heads: how many it is for.
const AttentionKernels& attention_kernels(device::Isa isa, bool bf16_math, int64_t heads);
extern const AttentionKernels kAttentionAvx2, kAttentionAvx512;
// bf16 math only; the second one where there are at most eight heads.
extern const AttentionKernels kAttentionAvx512Bf16, kAttentionAvx512Bf16Narrow;

}  // namespace cachalot::ops
