#include "ops/elementwise/element_kernel.cuh"
#include "ops/matmul/pack_on_gpu.h"

namespace cachalot::ops {
namespace {

// As many words as a row of the launch has columns.
constexpr int64_t kWordsPerRow = 1024;

struct WriteWord {
  PackPanels p;
  int64_t num_words;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t word = row * kWordsPerRow + column;
    if (word < num_words) p.write(word);
  }
};

}  // namespace

void pack_panels_cuda(device::ExecContext& ctx, const PackPanels& p) {
  const int64_t num_words = p.num_words();
  launch_elements(ctx, (num_words + kWordsPerRow - 1) / kWordsPerRow, kWordsPerRow,
                  WriteWord{p, num_words});
}

}  // namespace cachalot::ops
