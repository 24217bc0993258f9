#include "ops/elementwise/element_kernel.cuh"
#include "ops/on_gpu.h"
#include "ops/rope/rope.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

struct Rotate {
  RopeParams p;
  // column: of the pairs of all heads.
  __device__ void operator()(int64_t row, int64_t column) const {
    const auto pairs = static_cast<uint32_t>(p.rope_dim / 2);
    const uint32_t head = static_cast<uint32_t>(column) / pairs;
    const uint32_t pair = static_cast<uint32_t>(column) % pairs;
    float* x = p.x + row * p.row_stride + (head + 1) * p.head_dim - p.rope_dim + 2 * pair;
    const float c = p.table.cos[row * pairs + pair];
    const float sine = p.table.sin[row * pairs + pair];
    const float s = p.inverse ? -sine : sine;
    const float x0 = x[0], x1 = x[1];
    const float even = fmaf(x0, c, -(x1 * s));
    const float odd = fmaf(x0, s, x1 * c);
    x[0] = p.round_x ? tile::round_to_bf16(even) : even;
    x[1] = p.round_x ? tile::round_to_bf16(odd) : odd;
  }
};

struct MakeTable {
  const float* frequencies;
  const int64_t* positions;
  int64_t width;
  float* cos;
  float* sin;
  __device__ void operator()(int64_t row, int64_t i) const {
    const float angle = static_cast<float>(positions[row]) * frequencies[i];
    double s, c;
    sincos(static_cast<double>(angle), &s, &c);
    cos[row * width + i] = static_cast<float>(c);
    sin[row * width + i] = static_cast<float>(s);
  }
};

}  // namespace

RopeTable rope_table_cuda(device::ExecContext& ctx, const std::vector<float>& frequencies,
                          const int64_t* positions, int64_t n) {
  const auto width = static_cast<int64_t>(frequencies.size());
  float* cos = ctx.arena->allocate<float>(n * width);
  float* sin = ctx.arena->allocate<float>(n * width);
  launch_elements(ctx, n, width,
                  MakeTable{ctx.gpu->on_device(frequencies.data()), positions, width, cos, sin});
  return {cos, sin};
}

void rope_cuda(device::ExecContext& ctx, const RopeParams& p) {
  launch_elements(ctx, p.rows, p.heads * (p.rope_dim / 2), Rotate{p});
}

}  // namespace cachalot::ops
