// y[m, n] = sum over k of x[m, k] W[n, k] for bf16 weights that read the same x, all in one launch,
// on the GPU's tensor cores, for any number of rows.
// Source  reference/forward 0.5 (LINB, and LINF where its weight is bf16).
// Shapes  x [m, columns] float, each what bf16 can hold, or in bf16 (x_bf16); columns a multiple of
//         16; a weight [rows, columns] as ops/matmul/streamed_weight.h; y [m, rows] float. x and
//         the weights are 16-byte aligned, a row of x too.
// Numerics  products are exact. The columns / 16 steps of an output are cut into eight runs, run w
//         being steps w * steps / 8 on; a run is one chain of fp32 sums of 16 products in the
//         tensor core (which truncates); the runs' sums are added ascending. So the order depends
//         on columns alone. round_y: then rounded to bf16.
// Errors  shapes are the caller's: CHECK.
// Threads as launches are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "ops/matmul/launch_order.h"

namespace cachalot::ops {

inline constexpr int kMaxBf16Parts = 8;  // of a launch

struct Bf16Part {
  const std::byte* weight;
  int64_t rows;
  float* y;
  int64_t y_stride;
  bool round_y;
};

struct Bf16Products {
  const float* x;
  int64_t m;
  int64_t x_stride;
  int64_t columns;
  std::span<const Bf16Part> parts;
  const uint16_t* x_bf16 = nullptr;  // x in bf16 instead, where bf16_products_take_bf16
};

// Units of 16 rows and tiles of 8 tokens that a block takes; token_tiles 0: up to 8 rows of x,
// which a block reads for itself; units 8: bf16_wide.h. All give the same bits.
struct Bf16Tile {
  int units;
  int token_tiles;
};
Bf16Tile choose_bf16_tile(int64_t m, int64_t columns, int64_t num_units, int64_t num_sms);

// Of memory that the launch needs, 16-byte aligned, for x in the order of the tensor core; may be
// 0.
int64_t bf16_scratch_bytes(const device::cuda::Device& device, const Bf16Products& p);
// Whether x may be in bf16: of more rows than a block reads for itself.
bool bf16_products_take_bf16(const device::cuda::Device& device, const Bf16Products& p);
// order: beside others only where no scratch is needed; makes no x.
void launch_bf16_products(const device::cuda::Device& device, const device::cuda::Stream& stream,
                          const Bf16Products& p, std::byte* scratch, const LaunchOrder& order = {});

}  // namespace cachalot::ops
