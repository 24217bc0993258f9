#include "ops/elementwise/element_kernel.cuh"
#include "ops/matmul/stream_panels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

struct MoveItem {
  StreamPanels p;
  __device__ void operator()(int64_t input, int64_t row) const { p.move(input * p.rows + row); }
};

}  // namespace

void stream_panels_cuda(device::ExecContext& ctx, const StreamPanels& p) {
  launch_elements(ctx, p.num_items() / p.rows, p.rows, MoveItem{p});
}

}  // namespace cachalot::ops
