// index_select with the CPU's bits, for any shape: scores of some rows at a time into memory, then
// their best.
#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/block_sum.cuh"
#include "ops/indexer/index_select_cuda.h"
#include "ops/on_gpu.h"
#include "ops/quant/row_codec.cuh"
#include "tensor/rows_on_device.h"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kKeys = 64;  // of a block
constexpr int kScoreThreads = 256;
constexpr int kHeadsAtOnce = 4;  // of a thread
constexpr int kSelectThreads = 1024;
constexpr int64_t kMaxScores = int64_t{1} << 26;

// What both kernels know of their rows: `first` on, scores [rows, stride].
struct Piece {
  IndexSelectParams p;
  int64_t first;
  float* scores;
  int64_t stride;
};

__device__ __forceinline__ int64_t visible_of(const IndexSelectParams& p, int64_t sequence,
                                              int64_t row) {
  return (p.sequences.position(sequence, row) + 1) / p.ratio;
}

// q . key of kHeadsAtOnce heads, each one chain as ops/matmul.h says.
__device__ __forceinline__ void multiply(const float* q, const float* key, int dim, bool bf16_math,
                                         float (&sum)[kHeadsAtOnce]) {
#pragma unroll
  for (int h = 0; h < kHeadsAtOnce; ++h) sum[h] = 0;
  if (!bf16_math) {
    for (int k = 0; k < dim; ++k) {
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) sum[h] = fmaf(q[h * dim + k], key[k], sum[h]);
    }
    return;
  }
  for (int k = 0; k < dim; k += 2) {
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (k + 1 < dim) sum[h] = tile::fma_ftz(q[h * dim + k + 1], key[k + 1], sum[h]);
      sum[h] = tile::fma_ftz(q[h * dim + k], key[k], sum[h]);
    }
  }
}

// A block: 64 keys of one row. Shared memory: q [heads up to a multiple of 4, dim], keys
// [64, dim + 1], products [64, heads + 1].
__global__ void __launch_bounds__(kScoreThreads) score_kernel(const __grid_constant__ Piece piece) {
  extern __shared__ float shared[];
  tile::launch_dependents();
  tile::wait_for_producers();
  const IndexSelectParams& p = piece.p;
  const int64_t row = piece.first + blockIdx.y;
  const int64_t sequence = p.sequences.sequence_of(row);
  const int64_t visible = visible_of(p, sequence, row);
  const int64_t first_key = static_cast<int64_t>(blockIdx.x) * kKeys;
  if (visible <= p.topk || first_key >= visible) return;
  const int heads = static_cast<int>(p.heads), dim = static_cast<int>(p.dim);
  const int all_heads = (heads + kHeadsAtOnce - 1) / kHeadsAtOnce * kHeadsAtOnce;
  float* q = shared;
  float* keys = q + all_heads * dim;
  float* products = keys + kKeys * (dim + 1);
  for (int i = threadIdx.x; i < all_heads * dim; i += kScoreThreads)
    q[i] = i < heads * dim ? p.q[row * heads * dim + i] : 0.0f;
  const tensor::RowBlocks& index_keys = p.layer_rows[sequence].index_keys;
  const bool round_key =
      p.bf16_math && (p.format == tensor::IndexFormat::fp8 || p.format == tensor::IndexFormat::f32);
  for (int i = threadIdx.x; i < kKeys * dim; i += kScoreThreads) {
    const int64_t key = first_key + i / dim;
    float value = 0;
    if (key < visible) value = decode_index_value(p.format, index_keys.row(key), i % dim);
    keys[i / dim * (dim + 1) + i % dim] = round_key ? tile::round_to_bf16(value) : value;
  }
  __syncthreads();
  const int own_key = threadIdx.x % kKeys;
  for (int head = static_cast<int>(threadIdx.x) / kKeys * kHeadsAtOnce; head < heads;
       head += kScoreThreads / kKeys * kHeadsAtOnce) {
    float sum[kHeadsAtOnce];
    multiply(q + head * dim, keys + own_key * (dim + 1), dim, p.bf16_math, sum);
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (head + h < heads) products[own_key * (heads + 1) + head + h] = sum[h];
    }
  }
  __syncthreads();
  if (threadIdx.x >= kKeys || first_key + own_key >= visible) return;
  const float* weight = p.weight + row * heads;
  float sum = 0;
  for (int h = 0; h < heads; ++h) {
    float d = products[own_key * (heads + 1) + h];
    if (p.round_scores) d = tile::round_to_bf16(d);
    d = d > 0 ? d : 0;
    sum = p.round_scores ? sum + tile::round_to_bf16(d * weight[h]) : fmaf(d, weight[h], sum);
  }
  piece.scores[blockIdx.y * piece.stride + first_key + own_key] =
      p.round_scores ? tile::round_to_bf16(sum) : sum;
}

// In the order of the scores; NaN lowest, -0 as 0 (top_k.h).
__device__ __forceinline__ uint32_t key_of(float score) {
  if (score != score) return 0;
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// A block: the best of one row.
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const __grid_constant__ Piece piece) {
  constexpr int kDigits = 256;
  using Sum = BlockSum<kSelectThreads>;
  __shared__ int of_warps[kSelectThreads / 32];
  __shared__ int counts[kDigits];
  __shared__ uint32_t prefix;
  __shared__ int rank;
  tile::launch_dependents();
  tile::wait_for_producers();
  const IndexSelectParams& p = piece.p;
  const int64_t row = piece.first + blockIdx.x;
  const auto visible = static_cast<int>(visible_of(p, p.sequences.sequence_of(row), row));
  const int topk = static_cast<int>(p.topk);
  int32_t* selected = p.selected + row * p.topk;
  const int count = min(visible, topk);
  if (threadIdx.x == 0) p.num_selected[row] = count;
  for (int i = threadIdx.x; i < topk; i += kSelectThreads)
    if (visible <= topk || i >= count) selected[i] = i < count ? i : -1;
  if (visible <= topk) return;

  // The key of the last one taken, eight bits at a time from the top; of the keys that equal it
  // `rank` are taken.
  const float* scores = piece.scores + blockIdx.x * piece.stride;
  if (threadIdx.x == 0) {
    prefix = 0;
    rank = topk;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < kDigits) counts[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < visible; i += kSelectThreads) {
      const uint32_t key = key_of(scores[i]);
      if (shift == 24 || key >> (shift + 8) == prefix)
        atomicAdd(counts + (key >> shift) % kDigits, 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kDigits - 1;
      for (; counts[digit] < rank; --digit) rank -= counts[digit];
      prefix = prefix << 8 | static_cast<uint32_t>(digit);
    }
    __syncthreads();
  }
  const uint32_t last_key = prefix;
  int equal_left = rank;
  int taken = 0;
  for (int begin = 0; begin < visible; begin += kSelectThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const uint32_t key = i < visible ? key_of(scores[i]) : 0;
    const bool equal = i < visible && key == last_key;
    const Sum equals = Sum::of(equal, of_warps);
    const bool take = i < visible && (key > last_key || (equal && equals.before < equal_left));
    const Sum takes = Sum::of(take, of_warps);
    if (take) selected[taken + takes.before] = i;
    equal_left -= min(equal_left, equals.total);
    taken += takes.total;
  }
}

}  // namespace

void index_select_cuda(device::ExecContext& ctx, const IndexSelectParams& params) {
  const int64_t rows = params.sequences.rows();
  if (rows == 0 || index_select_on_tensor_cores(ctx, params)) return;
  int64_t max_visible = 1;
  for (int64_t s = 0; s < params.sequences.count; ++s)
    max_visible = std::max(max_visible, params.sequences.end_position(s) / params.ratio);
  const int64_t all_heads = (params.heads + kHeadsAtOnce - 1) / kHeadsAtOnce * kHeadsAtOnce;
  cuda::LaunchShape score;
  score.block = kScoreThreads;
  score.smem_bytes =
      4 * (all_heads * params.dim + kKeys * (params.dim + 1) + kKeys * (params.heads + 1));
  CACHALOT_CHECK(score.smem_bytes <= cuda::device_of(ctx).smem_per_block_bytes);
  cuda::allow_smem(score_kernel, score.smem_bytes);
  cuda::LaunchShape select;
  select.block = kSelectThreads;

  const bool any_scored = max_visible > params.topk;
  const device::ArenaScope scope(*ctx.arena);
  const int64_t piece_rows =
      any_scored ? std::clamp<int64_t>(kMaxScores / max_visible, 1, std::min<int64_t>(rows, 65535))
                 : rows;
  Piece piece{params, 0, nullptr, max_visible};
  piece.p.sequences = tensor::on_device(ctx, params.sequences);
  piece.p.layer_rows = ctx.gpu->on_device(params.layer_rows);
  if (any_scored) piece.scores = ctx.arena->allocate<float>(piece_rows * max_visible);
  for (; piece.first < rows; piece.first += piece_rows) {
    const auto count = static_cast<unsigned>(std::min(piece_rows, rows - piece.first));
    if (any_scored) {
      score.grid = dim3(static_cast<unsigned>((max_visible + kKeys - 1) / kKeys), count);
      cuda::launch(cuda::stream_of(ctx), score, score_kernel, piece);
    }
    select.grid = dim3(count);
    cuda::launch(cuda::stream_of(ctx), select, select_kernel, piece);
  }
}

}  // namespace cachalot::ops
