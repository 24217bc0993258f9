#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/packed_product.cuh"
#include "ops/moe/expert_products.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

constexpr int kLanes = static_cast<int>(PackedWeight::kPanelWidth);

struct Pairs {
  const float* x;
  int64_t x_stride;
  const int32_t* x_rows;
  const int64_t* first_pair;
  int64_t num_pairs;
  int64_t num_experts;
  const std::byte* const* data;  // of the weights, by expert
  float* y;
  int64_t y_stride;
  bool round_y;
};

// A block takes a panel and a pair.
template <WeightFormat kFormat, bool kBf16>
__global__ void __launch_bounds__(kLanes) expert_kernel(packed::Weight w, Pairs p) {
  const int64_t row = int64_t{blockIdx.y} * kLanes + threadIdx.x;
  if (row >= w.rows) return;
  const int64_t pair = blockIdx.x;
  int64_t expert = 0, last = p.num_experts;  // the last one that does not begin after the pair
  while (last - expert > 1) {
    const int64_t middle = (expert + last) / 2;
    (p.first_pair[middle] <= pair ? expert : last) = middle;
  }
  w.data = p.data[expert];
  const float* x[1] = {p.x + (p.x_rows != nullptr ? p.x_rows[pair] : pair) * p.x_stride};
  float y[1];
  packed::outputs<kFormat, kBf16, 1>(w, row, x, 0, y);
  p.y[pair * p.y_stride + row] = p.round_y ? tile::round_to_bf16(y[0]) : y[0];
}

}  // namespace

void expert_products_cuda(device::ExecContext& ctx, const ExpertProductsParams& p) {
  for (int i = 0; i < p.num_parts; ++i) {
    const ExpertProductsParams::Part& part = p.parts[i];
    const PackedWeight& first = part.weights[0];
    const std::byte** data = ctx.table<const std::byte*>(p.num_experts);
    for (int64_t e = 0; e < p.num_experts; ++e) {
      CACHALOT_DCHECK(part.weights[e].format() == first.format());
      data[e] = part.weights[e].bytes().data();
    }
    const Pairs pairs{p.x,
                      p.x_stride,
                      p.x_rows,
                      p.first_pair,
                      p.num_pairs,
                      p.num_experts,
                      ctx.gpu->on_device(data),
                      part.y,
                      part.y_stride,
                      p.round_y};
    const packed::Weight w = packed::weight_of(first);
    const dim3 grid(static_cast<unsigned>(p.num_pairs),
                    static_cast<unsigned>((w.rows + kLanes - 1) / kLanes));
    packed::with_format(first.format(), p.math, [&]<WeightFormat kFormat, bool kBf16>() {
      device::cuda::launch(device::cuda::stream_of(ctx),
                           {grid, kLanes, 0, device::cuda::Edge::full},
                           expert_kernel<kFormat, kBf16>, w, pairs);
    });
  }
}

}  // namespace cachalot::ops
