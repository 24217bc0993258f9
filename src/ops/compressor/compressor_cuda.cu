#include "ops/compressor/compressor.h"
#include "ops/elementwise/element_kernel.cuh"
#include "ops/elementwise/entry_places.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/on_gpu.h"
#include "tensor/rows_on_device.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 128;

// The slots of an entry for one channel: K at a position, and S.
class Slots {
 public:
  __device__ Slots(const CompressParams& p, const DeviceEntryPlace& place, int64_t channel)
      : rows_(tensor::recent_rows(p.sequences, place.sequence,
                                  tensor::ring_of(p.layer_rows[place.sequence], p.tail),
                                  p.step_rows)),
        own_(place.entry * p.ratio),
        row_width_((p.overlap ? 2 : 1) * p.width),
        own_offset_((p.overlap ? p.width : 0) + channel),
        channel_(channel) {}

  __device__ const float* k(int64_t position) const {
    return reinterpret_cast<const float*>(rows_.row(position).data) +
           (position >= own_ ? own_offset_ : channel_);
  }
  __device__ float s(int64_t position) const { return k(position)[row_width_]; }

 private:
  tensor::RecentRows rows_;
  int64_t own_;
  int64_t row_width_;
  int64_t own_offset_;
  int64_t channel_;
};

// A thread: one channel of an entry.
__global__ void __launch_bounds__(kThreads)
    compress_kernel(const __grid_constant__ CompressParams p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t channel = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (channel >= p.width) return;
  const DeviceEntryPlace place = entry_place(p.sequences, p.ratio, blockIdx.x);
  const Slots slots(p, place, channel);
  const int64_t own = place.entry * p.ratio;
  const int64_t start = p.overlap ? max(int64_t{0}, own - p.ratio) : own;
  const int64_t end = own + p.ratio;
  float largest = __uint_as_float(0xFF800000u);
#pragma unroll 4
  for (int64_t at = start; at < end; ++at) {
    const float s = slots.s(at);
    largest = s > largest ? s : largest;
  }
  float sum = 0, weighted = 0;
#pragma unroll 4
  for (int64_t at = start; at < end; ++at) {
    const float weight = exp_f32_device(slots.s(at) - largest);
    sum += weight;
    weighted = fmaf(weight, *slots.k(at), weighted);
  }
  p.out[static_cast<int64_t>(blockIdx.x) * p.width + channel] = weighted / sum;
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

// Units from one place to another by kOf of the block's threads, eight of a thread under way at
// once.
template <int kOf, typename T>
__device__ __forceinline__ void copy_units(T* to, const T* from, int64_t count, int thread) {
  constexpr int kBatch = 8;
  for (int64_t first = thread; first < count; first += kBatch * kOf) {
    T v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kOf < count) v[i] = from[first + i * kOf];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kOf < count) to[first + i * kOf] = v[i];
  }
}
template <int kOf>
__device__ __forceinline__ void copy_bytes(std::byte* to, const std::byte* from, int64_t n,
                                           int thread) {
  const uintptr_t places = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) |
                           static_cast<uintptr_t>(n);
  if (places % 16 == 0) {
    copy_units<kOf>(reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), n / 16,
                    thread);
  } else if (places % 4 == 0) {
    copy_units<kOf>(reinterpret_cast<uint32_t*>(to), reinterpret_cast<const uint32_t*>(from), n / 4,
                    thread);
  } else {
    copy_units<kOf>(to, from, n, thread);
  }
}

// A block: one row of the step.
__global__ void __launch_bounds__(kThreads)
    store_recent_kernel(const __grid_constant__ StoreRecentParams p) {
  tile::launch_dependents();
  // Where rows lie is the host's, and known before the kernels before have ended.
  const int64_t row = blockIdx.x;
  const int64_t s = p.sequences.sequence_of(row);
  const tensor::RowRing ring = tensor::ring_of(p.layer_rows[s], p.kind);
  const int64_t first_row = p.sequences.first_row[s], end_row = p.sequences.first_row[s + 1];
  const int64_t position = p.sequences.first_position[s] + row - first_row;
  const tensor::RowRef from = p.step_rows.row(row);
  tile::wait_for_producers();
  if (ring.base == nullptr || row < end_row - ring.capacity) return;
  const tensor::RowRef to = ring.row(position);
  constexpr int kOfScales = 32;  // threads
  const int thread = static_cast<int>(threadIdx.x) - kOfScales;
  if (thread >= 0) {
    copy_bytes<kThreads - kOfScales>(to.data, from.data, ring.layout.data_bytes, thread);
  } else {
    copy_bytes<kOfScales>(to.scale, from.scale, ring.layout.scale_bytes, thread + kOfScales);
  }
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
