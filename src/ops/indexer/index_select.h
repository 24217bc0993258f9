// The lightning indexer: scores every visible compressed entry for a token and keeps the best.
// Source  reference/forward 3.6, 3.4.
//         score(e) = sum_h relu(q_h . key_e) * weight_h;  visible e < floor((position + 1) / ratio)
// Shapes  q [rows, heads, dim]; weight [rows, heads]; layer_rows [sequences], of which index_keys
//         are read, rows of `format`; selected [rows, topk] int32 ascending, unused places -1;
//         num_selected [rows].
// Numerics  q . key: one chain over dim as ops/matmul does it (f32 or bf16 math: q bf16-valued, the
//         key's values rounded to bf16); sum over heads ascending, one fma a term.
//         round_scores (the published code's roundings): bf16 of the dot product, of relu * weight,
//         and of the sum, which is then a plain fp32 addition. Ties go to the lowest entry. Where
//         floor((position + 1) / ratio) <= topk all visible entries are taken unscored. Bits do not
//         depend on the other rows and sequences, the chunk or the threads.
//         tensor_cores: on a GPU, where shapes fit, the sums of index_select_cuda.h instead.
//         q_bf16: q, which is then null, in bf16, where index_select_takes_bf16 says so.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct IndexSelectParams {
  const float* q;
  const float* weight;
  int64_t heads;
  int64_t dim;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  int64_t ratio;
  int64_t topk;
  tensor::IndexFormat format;
  bool bf16_math;
  bool round_scores;
  bool tensor_cores = false;
  int32_t* selected;
  int32_t* num_selected;
  const uint16_t* q_bf16 = nullptr;
};
// Of the other params, of which q, weight and results are not looked at.
bool index_select_takes_bf16(device::ExecContext& ctx, const IndexSelectParams& p);
void index_select(device::ExecContext& ctx, const IndexSelectParams& p);

// Picks made before, in place of index_select's: selected = picks [rows, topk], num_selected the
// places before a row's first -1.
void replay_selection(device::ExecContext& ctx, const int32_t* picks, int64_t rows, int64_t topk,
                      int32_t* selected, int32_t* num_selected);

// The positions of the k largest of n scores, ascending; ties to the lowest position; -inf counts
// as a score, NaN as lowest. Returns min(k, n), written to out.
int64_t top_k_positions(device::Isa isa, const float* scores, int64_t n, int64_t k, int32_t* out);

}  // namespace cachalot::ops
