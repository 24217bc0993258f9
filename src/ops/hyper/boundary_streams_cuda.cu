#include "ops/elementwise/element_kernel.cuh"
#include "ops/hyper/boundary_parts.cuh"
#include "ops/hyper/hyper_boundary.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

using namespace boundary;

// An element: four columns.
struct ToBf16 {
  BoundaryStreams p;
  __device__ void operator()(int64_t row, int64_t four) const {
    const int64_t from = p.index == nullptr ? row : p.index[row];
    const Four x = load_four(p.from + from * p.from_stride + four * 4);
    const uint32_t low = tile::pack_bf16(x.x[0], x.x[1]), high = tile::pack_bf16(x.x[2], x.x[3]);
    uint16_t* const to = p.to + row * p.copies * p.columns + four * 4;
    for (int64_t j = 0; j < p.copies; ++j) store_pairs(to + j * p.columns, low, high);
  }
};

// Likewise.
struct Last {
  LastStreams p;
  __device__ void operator()(int64_t row, int64_t four) const {
    const int64_t at = row * kStreams * p.d + four * 4;
    const Four y = load_four(p.y + row * p.d + four * 4);
    const Four post = load_four(p.post + row * kStreams);
    Four x[kStreams], comb[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      x[j] = load_four(p.streams + at + j * p.d);
      comb[j] = load_four(p.comb + (row * kStreams + j) * kStreams);
    }
#pragma unroll
    for (int stream = 0; stream < kStreams; ++stream) {
      Four out;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value = post.x[stream] * y.x[i];
#pragma unroll
        for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j].x[stream], x[j].x[i], value);
        out.x[i] = tile::round_to_bf16(value);
      }
      store_four(p.out + at + stream * p.d, out);
    }
  }
};

}  // namespace

void boundary_streams_cuda(device::ExecContext& ctx, const BoundaryStreams& p) {
  ToBf16 to_bf16{p};
  if (p.index != nullptr) to_bf16.p.index = ctx.gpu->on_device(p.index);
  launch_elements(ctx, p.rows, p.columns / 4, to_bf16);
}

void last_streams_cuda(device::ExecContext& ctx, const LastStreams& p) {
  launch_elements(ctx, p.rows, p.d / 4, Last{p});
}

}  // namespace cachalot::ops
