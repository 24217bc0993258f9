// The definition of one entry's channels and of their gradients.
#include <cmath>
#include <limits>

#include "ops/compressor/compressor_impl.h"
#include "ops/elementwise/exp.h"

namespace cachalot::ops {

namespace {

struct Pooled {
  float max;
  float sum;
  float entry;
};

Pooled pool(const CompressSlots& slots, int64_t i) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < slots.num_slots; ++j) max = slots.s[j][i] > max ? slots.s[j][i] : max;
  float sum = 0;
  float weighted = 0;
  for (int64_t j = 0; j < slots.num_slots; ++j) {
    const float p = exp_f32(slots.s[j][i] - max);
    sum += p;
    weighted = std::fma(p, slots.k[j][i], weighted);
  }
  return {max, sum, weighted / sum};
}

}  // namespace

void compress_channels_ref(const CompressSlots& slots, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; ++i) out[i] = pool(slots, i).entry;
}

void compress_gradients_ref(const CompressSlots& slots, const CompressSlotGradients& gradients,
                            const float* d_out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Pooled pooled = pool(slots, i);
    for (int64_t j = 0; j < slots.num_slots; ++j) {
      const float p = exp_f32(slots.s[j][i] - pooled.max) / pooled.sum;
      const float ds = (slots.k[j][i] - pooled.entry) * d_out[i];
      gradients.k[j][i] = std::fma(p, d_out[i], gradients.k[j][i]);
      gradients.s[j][i] = std::fma(p, ds, gradients.s[j][i]);
    }
  }
}

}  // namespace cachalot::ops
