#include "ops/elementwise/element_kernel.cuh"
#include "ops/moe/swiglu.cuh"
#include "ops/on_gpu.h"
#include "tile/copy.cuh"

namespace cachalot::ops {
namespace {

// An element: eight columns. Gates that bf16 holds need no branch each.
struct Bf16Swiglu {
  Bf16SwigluParams p;
  __device__ void operator()(int64_t row, int64_t eight) const {
    const int64_t from = row * p.stride + eight * 8;
    const tile::Vector16 gates =
        tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(p.gate + from));
    const tile::Vector16 ups =
        tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(p.up + from));
    float g[8], u[8];
    bool ordinary = true;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      g[i] = i % 2 == 0 ? tile::low_bf16(gates.word[i / 2]) : tile::high_bf16(gates.word[i / 2]);
      u[i] = i % 2 == 0 ? tile::low_bf16(ups.word[i / 2]) : tile::high_bf16(ups.word[i / 2]);
      clamp_swiglu(g[i], u[i], p.limit);
      ordinary &= is_ordinary_gate(g[i]);
    }
    if (ordinary) {
#pragma unroll
      for (float& each : g) each = silu_of_ordinary(each);
    } else {
#pragma unroll
      for (float& each : g) each = silu(each);
    }
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[i] = tile::pack_bf16(g[2 * i] * u[2 * i], g[2 * i + 1] * u[2 * i + 1]);
    *reinterpret_cast<uint4*>(p.h + row * p.columns + eight * 8) =
        make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
};

struct Combine {
  MoeCombineParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    float sum = 0;
    for (int64_t j = 0; j < p.k; ++j)
      sum += p.y[static_cast<int64_t>(p.slots[row * p.k + j]) * p.columns + column];
    if (p.shared != nullptr) sum += p.shared[row * p.columns + column];
    p.out[row * p.columns + column] = p.round_out ? tile::round_to_bf16(sum) : sum;
  }
};

}  // namespace

void swiglu_cuda(device::ExecContext& ctx, const SwigluParams& p) {
  CACHALOT_CHECK(p.clamped == nullptr);  // counts are training's, which runs on the CPU
  launch_elements(ctx, p.rows, p.columns, Swiglu{p});
}

void swiglu_bf16_cuda(device::ExecContext& ctx, const Bf16SwigluParams& p) {
  launch_elements(ctx, p.rows, p.columns / 8, Bf16Swiglu{p});
}

void moe_combine_cuda(device::ExecContext& ctx, const MoeCombineParams& p) {
  launch_elements(ctx, p.rows, p.columns, Combine{p});
}

}  // namespace cachalot::ops
