// The two forms of sparse decode attention, behind sparse_decode_cuda.h.
#pragma once

#include "ops/attention/sparse_decode_cuda.h"

namespace cachalot::ops::sparse {

void prepare_split();
void prepare_whole();
int64_t split_scratch_bytes(const SparseDecodeParams& p);
void launch_split(const device::cuda::Stream& stream, const SparseDecodeParams& p);
void launch_whole(const device::cuda::Stream& stream, const SparseDecodeParams& p, int num_sms);

}  // namespace cachalot::ops::sparse
