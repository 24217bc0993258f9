// Gradients of compress, and of the positional bias that its S rows hold.
// Source  reference/forward 3.3; reference/infrastructure 5.3.
//         Per channel of an entry, with p_j = exp(S_j - m) / sum and c = the entry:
//         dK_j += p_j dc;  dS_j += p_j ((K_j - c) dc);  d_ape[position mod r] += dS of the position
// Shapes  forward: compress's inputs; `out` is not read. d_out [entries of all sequences, h];
//         d_rows [rows, 2 * z*h]: dK, then dS. Every sequence starts at position 0 (training): no
//         ring. Outputs overlap nothing.
// Numerics  fp32; one fma an element. A position's halves belong to one entry each, so nothing is
//         summed over entries: cuts, threads and instruction sets change no bit. d_ape is a chain
//         of additions over rows ascending from what it holds.
#pragma once

#include "ops/compressor/compressor.h"

namespace cachalot::ops {

struct CompressBackwardParams {
  CompressParams forward;
  const float* d_out;
  float* d_rows;
};
void compress_backward(device::ExecContext& ctx, const CompressBackwardParams& p);

// d_ape [ratio, columns] += the dS half of d_rows [rows, 2 * columns].
struct CompressBiasBackwardParams {
  const float* d_rows;
  tensor::Sequences sequences;
  int64_t ratio;
  int64_t columns;  // z*h
  float* d_ape;
};
void compress_bias_backward(device::ExecContext& ctx, const CompressBiasBackwardParams& p);

}  // namespace cachalot::ops
