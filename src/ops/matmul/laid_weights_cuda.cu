#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/dense_bulk_prepare.cuh"
#include "ops/matmul/laid_weights.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace dense_bulk;
using OnGpu = PackedWeight::OnGpu;

struct Part {
  const uint8_t* weight;
  uint8_t* codes;
  float* scales;
  int rows;
  int blocks;  // of 128 inputs
  int first;   // block of threads
  bool wide;
};
struct LayParams {
  Part parts[kMaxLaidWeights];
  int num_parts;
  bool runs_beside;
};

// A block of threads as lay_weight_kernel's. Those that find no room beside the kernel before
// follow it. Beside it only the last one waits, for the order of what comes after: if all did, few
// of them would run meanwhile.
__global__ void __launch_bounds__(256) lay_weights_kernel(const __grid_constant__ LayParams p) {
  tile::launch_dependents();
  if (!p.runs_beside) tile::wait_for_producers();
  const int at = static_cast<int>(blockIdx.x);
  int i = 0;
  while (i + 1 < p.num_parts && at >= p.parts[i + 1].first) ++i;
  const Part& part = p.parts[i];
  const int tile = (at - part.first) / part.blocks, block = (at - part.first) % part.blocks;
  const LaidBlock to = {part.codes, part.scales, part.rows, part.blocks, tile, tile, block};
  part.wide ? lay_block<true>(part.weight, to) : lay_block<false>(part.weight, to);
  if (p.runs_beside && blockIdx.x + 1 == gridDim.x) tile::wait_for_producers();
}

bool is_wide(const PackedWeight& w) { return w.on_gpu() != OnGpu::streamed; }
int64_t blocks_of(const PackedWeight& w) {
  return (w.rows() + kOutputs - 1) / kOutputs * (w.columns() / 128);
}
int64_t code_bytes(const PackedWeight& w) {
  return blocks_of(w) * pieces_of_block(is_wide(w)) * kWeightPiece;
}
int64_t all_code_bytes(const WeightsToLay& weights) {
  int64_t bytes = 0;
  for (const PackedWeight* w : weights.all()) bytes += code_bytes(*w);
  return bytes;
}

}  // namespace

int64_t laid_bytes(const WeightsToLay& weights) {
  int64_t bytes = all_code_bytes(weights);
  for (const PackedWeight* w : weights.all())
    bytes += blocks_of(*w) * static_cast<int64_t>(sizeof(float));
  return bytes;
}

LaidWeights lay_weights(device::ExecContext& ctx, const WeightsToLay& weights, std::byte* place,
                        bool runs_beside) {
  LaidWeights laid;
  if (weights.count == 0) return laid;
  CACHALOT_CHECK(ctx.gpu != nullptr && reinterpret_cast<uintptr_t>(place) % 16 == 0);
  LayParams p{};
  p.runs_beside = runs_beside;
  std::byte* codes = place;
  auto* scales = reinterpret_cast<float*>(place + all_code_bytes(weights));
  int64_t blocks = 0;
  for (const PackedWeight* w : weights.all()) {
    CACHALOT_CHECK(w->format() == WeightFormat::fp8 && w->on_gpu() != OnGpu::panels &&
                   w->columns() % 128 == 0);
    p.parts[p.num_parts++] = {reinterpret_cast<const uint8_t*>(w->streamed_bytes()),
                              reinterpret_cast<uint8_t*>(codes),
                              scales,
                              static_cast<int>(w->rows()),
                              static_cast<int>(w->columns() / 128),
                              static_cast<int>(blocks),
                              is_wide(*w)};
    laid.weights[static_cast<size_t>(laid.count++)] = {w, codes, scales};
    codes += code_bytes(*w);
    scales += blocks_of(*w);
    blocks += blocks_of(*w);
  }
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = 256;
  cuda::launch(cuda::stream_of(ctx), shape, lay_weights_kernel, p);
  return laid;
}

}  // namespace cachalot::ops
