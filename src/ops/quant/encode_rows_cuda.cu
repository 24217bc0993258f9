#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/entry_places.cuh"
#include "ops/on_gpu.h"
#include "ops/quant/encode_rows.h"
#include "ops/quant/row_codec.cuh"
#include "tensor/rows_on_device.h"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Which piece of which row a warp has; row is past the last one where there is none.
struct Piece {
  int64_t row;
  int64_t piece;
};
__device__ __forceinline__ Piece piece_of(int64_t pieces) {
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  return {task / pieces, task % pieces};
}

__global__ void __launch_bounds__(kThreads)
    encode_rows_kernel(const __grid_constant__ EncodeRowsParams p, tensor::KvFormat format,
                       const __grid_constant__ tensor::RowBlocks to, int64_t pieces) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const Piece at = piece_of(pieces);
  if (at.row >= p.rows) return;
  encode_kv_piece(format, p.x + at.row * p.stride, p.dim, p.rope_dim, at.piece, to.row(at.row));
}

template <typename Format>
__global__ void __launch_bounds__(kThreads)
    encode_entries_kernel(const __grid_constant__ EncodeEntriesParams p, Format format,
                          int64_t num_entries, int64_t pieces) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const Piece at = piece_of(pieces);
  if (at.row >= num_entries) return;
  const DeviceEntryPlace place = entry_place(p.sequences, p.ratio, at.row);
  const tensor::LayerRows& rows = p.layer_rows[place.sequence];
  const float* x = p.x + at.row * p.stride;
  if constexpr (std::is_same_v<Format, tensor::KvFormat>) {
    encode_kv_piece(format, x, p.dim, p.rope_dim, at.piece, rows.entries.row(place.entry));
  } else {
    encode_index_piece(format, x, p.dim, at.piece, rows.index_keys.row(place.entry));
  }
}

cuda::LaunchShape shape_of(int64_t num_pieces) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((num_pieces + kWarps - 1) / kWarps));
  shape.block = kThreads;
  return shape;
}

template <typename Format>
void encode_entries(device::ExecContext& ctx, EncodeEntriesParams p, Format format,
                    int64_t pieces) {
  const int64_t num_entries = p.sequences.num_entries(p.ratio);
  if (num_entries == 0) return;
  p.sequences = tensor::on_device(ctx, p.sequences);
  p.layer_rows = ctx.gpu->on_device(p.layer_rows);
  cuda::launch(cuda::stream_of(ctx), shape_of(num_entries * pieces), encode_entries_kernel<Format>,
               p, format, num_entries, pieces);
}

}  // namespace

void encode_kv_rows_cuda(device::ExecContext& ctx, const EncodeRowsParams& p,
                         tensor::KvFormat format, const tensor::RowBlocks& to) {
  if (p.rows == 0) return;
  const int64_t pieces = kv_row_pieces(format, p.dim, p.rope_dim);
  cuda::launch(cuda::stream_of(ctx), shape_of(p.rows * pieces), encode_rows_kernel, p, format,
               tensor::on_device(ctx, to), pieces);
}

void encode_kv_entries_cuda(device::ExecContext& ctx, const EncodeEntriesParams& p,
                            tensor::KvFormat format) {
  encode_entries(ctx, p, format, kv_row_pieces(format, p.dim, p.rope_dim));
}

void encode_index_entries_cuda(device::ExecContext& ctx, const EncodeEntriesParams& p,
                               tensor::IndexFormat format) {
  encode_entries(ctx, p, format, index_row_pieces(format, p.dim));
}

}  // namespace cachalot::ops
