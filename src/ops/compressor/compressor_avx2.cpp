#include "ops/attention/vector_avx2.h"
//
#include "ops/compressor/compressor_body.h"

namespace cachalot::ops {

void compress_channels_avx2(const CompressSlots& slots, int64_t begin, int64_t end, float* out) {
  compress_channels(slots, begin, end, out);
}

void compress_gradients_avx2(const CompressSlots& slots, const CompressSlotGradients& gradients,
                             const float* d_out, int64_t begin, int64_t end) {
  compress_gradients(slots, gradients, d_out, begin, end);
}

}  // namespace cachalot::ops
