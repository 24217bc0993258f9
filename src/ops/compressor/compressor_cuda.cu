#include "ops/compressor/compressor.cuh"
#include "ops/compressor/recent.cuh"
#include "ops/elementwise/element_kernel.cuh"
#include "ops/elementwise/entry_places.cuh"
#include "ops/on_gpu.h"
#include "tensor/rows_on_device.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 128;

// A thread: one channel of an entry.
__global__ void __launch_bounds__(kThreads)
    compress_kernel(const __grid_constant__ CompressParams p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t channel = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (channel >= p.width) return;
  const DeviceEntryPlace place = entry_place(p.sequences, p.ratio, blockIdx.x);
  const tensor::RecentRows rows =
      tensor::recent_rows(p.sequences, place.sequence,
                          tensor::ring_of(p.layer_rows[place.sequence], p.tail), p.step_rows);
  const EntrySlots slots(place.entry, p.ratio, p.overlap);
  const int64_t width = (p.overlap ? 2 : 1) * p.width;
  const auto k = [&](int i) {
    const int64_t at = slots.start + i;
    return reinterpret_cast<const float*>(rows.row(at).data) +
           (p.overlap && at >= slots.own ? p.width : 0) + channel;
  };
  p.out[static_cast<int64_t>(blockIdx.x) * p.width + channel] = pooled(
      slots.count, [&](int i) { return k(i)[width]; }, [&](int i) { return *k(i); });
}

struct PositionalBias {
  PositionalBiasParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t s = p.sequences.sequence_of(row);
    const int64_t place = p.sequences.position(s, row) % p.ratio;
    p.rows[(2 * row + 1) * p.columns + column] += p.ape[place * p.columns + column];
  }
};

struct EntryPositions {
  tensor::Sequences sequences;
  int64_t ratio;
  int64_t* positions;
  __device__ void operator()(int64_t, int64_t i) const {
    positions[i] = entry_place(sequences, ratio, i).entry * ratio;
  }
};

// A block: one row of the step.
__global__ void __launch_bounds__(kThreads)
    store_recent_kernel(const __grid_constant__ StoreRecentParams p) {
  tile::launch_dependents();
  store_recent_row<BlockGroup<kThreads>>(p, blockIdx.x);
}

}  // namespace

void compress_cuda(device::ExecContext& ctx, const CompressParams& params) {
  const int64_t num_entries = params.sequences.num_entries(params.ratio);
  if (num_entries == 0) return;
  CompressParams p = params;
  p.sequences = tensor::on_device(ctx, p.sequences);
  p.layer_rows = ctx.gpu->on_device(p.layer_rows);
  p.step_rows = tensor::on_device(ctx, p.step_rows);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(num_entries),
                    static_cast<unsigned>((p.width + kThreads - 1) / kThreads));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, compress_kernel, p);
}

void add_positional_bias_cuda(device::ExecContext& ctx, const PositionalBiasParams& p) {
  PositionalBias add{p};
  add.p.sequences = tensor::on_device(ctx, p.sequences);
  add.p.ape = ctx.gpu->on_device(p.ape);
  launch_elements(ctx, p.sequences.rows(), p.columns, add);
}

void entry_positions_cuda(device::ExecContext& ctx, const tensor::Sequences& sequences,
                          int64_t ratio, int64_t* positions) {
  launch_elements(ctx, 1, sequences.num_entries(ratio),
                  EntryPositions{tensor::on_device(ctx, sequences), ratio, positions});
}

void store_recent_rows_cuda(device::ExecContext& ctx, const StoreRecentParams& params) {
  const int64_t rows = params.sequences.rows();
  if (rows == 0) return;
  StoreRecentParams p = params;
  p.sequences = tensor::on_device(ctx, p.sequences);
  p.layer_rows = ctx.gpu->on_device(p.layer_rows);
  p.step_rows = tensor::on_device(ctx, p.step_rows);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(rows));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, store_recent_kernel, p);
}

}  // namespace cachalot::ops
