#include "ops/elementwise/element_kernel.cuh"
#include "ops/rows/random_bits.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kWordsPerRow = 1024;

struct MakeWord {
  RandomBits p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t i = row * kWordsPerRow + column;
    if (i < p.num_words) reinterpret_cast<uint64_t*>(p.to)[i] = p.word(i);
  }
};

}  // namespace

void random_bits_cuda(device::ExecContext& ctx, const RandomBits& p) {
  launch_elements(ctx, (p.num_words + kWordsPerRow - 1) / kWordsPerRow, kWordsPerRow, MakeWord{p});
}

}  // namespace cachalot::ops
