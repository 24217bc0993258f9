// sparse_attention, plain: a block for a head of a row. Scores a thread a key, their sum by one
// thread in the order of the keys, values a thread a channel.
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/attention/sparse_decode_cuda.h"
#include "ops/elementwise/exp.cuh"
#include "ops/on_gpu.h"
#include "ops/quant/row_value.cuh"
#include "tensor/rows_on_device.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxScores = int64_t{1} << 28;  // of a launch

// The keys of a row, as KeyList has them.
struct Keys {
  tensor::RecentRows recent;
  tensor::RowBlocks entries;
  const int32_t* selected;
  int64_t window_begin;
  int64_t num_window;
  int64_t count;

  __device__ Keys(const SparseAttentionParams& p, int64_t row) {
    const int64_t s = p.sequences.sequence_of(row);
    const int64_t position = p.sequences.position(s, row);
    const tensor::LayerRows& rows = p.layer_rows[s];
    recent = tensor::recent_rows(p.sequences, s, rows.window, p.step_rows);
    entries = rows.entries;
    window_begin = max(int64_t{0}, position - p.window + 1);
    num_window = p.window > 0 ? position + 1 - window_begin : 0;
    selected = p.selected == nullptr ? nullptr : p.selected + row * p.topk;
    int64_t num_entries = 0;
    if (p.ratio > 0)
      num_entries = selected != nullptr ? p.num_selected[row] : (position + 1) / p.ratio;
    count = num_window + num_entries;
  }
  __device__ tensor::RowRef row(int64_t i) const {
    if (i < num_window) return recent.row(window_begin + i);
    const int64_t entry = i - num_window;
    return entries.row(selected != nullptr ? selected[entry] : entry);
  }
};

template <tensor::KvFormat kFormat, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    attention_kernel(SparseAttentionParams p, int64_t first_row, int64_t max_keys, float* scratch) {
  const int64_t row = first_row + blockIdx.x;
  const int64_t head = blockIdx.y;
  const int64_t c = p.head_dim;
  const float* q = p.q + (row * p.heads + head) * c;
  float* out = p.out + (row * p.heads + head) * c;
  float* scores = scratch + (int64_t{blockIdx.x} * p.heads + head) * max_keys;
  const Keys keys(p, row);
  const int64_t n = keys.count;
  const auto value = [&](tensor::RowRef key, int64_t i) {
    return kv_value<kFormat>(key, c, p.rope_dim, i);
  };
  if (n == 0) {
    for (int64_t i = threadIdx.x; i < c; i += kThreads) out[i] = 0;
    return;
  }

  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const tensor::RowRef key = keys.row(i);
    float acc = 0;
    if constexpr (kBf16) {
      for (int64_t k = 0; k < c; k += 2) {
        acc =
            k + 1 < c ? tile::fma_ftz(q[k + 1], value(key, k + 1), acc) : tile::fma_ftz(0, 0, acc);
        acc = tile::fma_ftz(q[k], value(key, k), acc);
      }
    } else {
      for (int64_t k = 0; k < c; ++k) acc = fmaf(q[k], value(key, k), acc);
    }
    scores[i] = acc * p.scale;
  }
  __syncthreads();

  __shared__ float largest[kThreads];
  float mine = -INFINITY;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) mine = scores[i] > mine ? scores[i] : mine;
  largest[threadIdx.x] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float other = largest[threadIdx.x + half];
      if (other > largest[threadIdx.x]) largest[threadIdx.x] = other;
    }
    __syncthreads();
  }
  const float max_score = largest[0];
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    scores[i] = exp_f32_device(scores[i] - max_score);
  __syncthreads();
  __shared__ float sum;
  if (threadIdx.x == 0) {
    float z = scores[0];
    for (int64_t i = 1; i < n; ++i) z = z + scores[i];
    sum = z + exp_f32_device(p.sink[head] - max_score);
  }
  __syncthreads();
  if constexpr (kBf16) {
    for (int64_t i = threadIdx.x; i < n; i += kThreads) scores[i] = tile::round_to_bf16(scores[i]);
    __syncthreads();
  }

  for (int64_t k = threadIdx.x; k < c; k += kThreads) {
    float acc = 0;
    if constexpr (kBf16) {
      for (int64_t i = 0; i < n; i += 2) {
        acc = i + 1 < n ? tile::fma_ftz(scores[i + 1], value(keys.row(i + 1), k), acc)
                        : tile::fma_ftz(0, 0, acc);
        acc = tile::fma_ftz(scores[i], value(keys.row(i), k), acc);
      }
    } else {
      for (int64_t i = 0; i < n; ++i) acc = fmaf(scores[i], value(keys.row(i), k), acc);
    }
    const float y = acc / sum;
    out[k] = kBf16 ? tile::round_to_bf16(y) : y;
  }
}

template <tensor::KvFormat kFormat>
void launch(device::ExecContext& ctx, const SparseAttentionParams& p, int64_t max_keys) {
  const int64_t rows = p.sequences.rows();
  const int64_t rows_per_launch = std::max<int64_t>(1, kMaxScores / (p.heads * max_keys));
  const device::ArenaScope scope(*ctx.arena);
  auto* scratch = ctx.arena->allocate<float>(std::min(rows, rows_per_launch) * p.heads * max_keys);
  SparseAttentionParams on_device = p;
  on_device.sequences = tensor::on_device(ctx, p.sequences);
  on_device.layer_rows = ctx.gpu->on_device(p.layer_rows);
  if (p.window > 0) on_device.step_rows = tensor::on_device(ctx, p.step_rows);
  on_device.sink = ctx.gpu->on_device(p.sink);
  for (int64_t row = 0; row < rows; row += rows_per_launch) {
    const dim3 grid(static_cast<unsigned>(std::min(rows_per_launch, rows - row)),
                    static_cast<unsigned>(p.heads));
    device::cuda::launch(
        device::cuda::stream_of(ctx), {grid, kThreads, 0, device::cuda::Edge::full},
        p.bf16_math ? attention_kernel<kFormat, true> : attention_kernel<kFormat, false>, on_device,
        row, max_keys, scratch);
  }
}

// Of any row: from the host's tables alone.
int64_t most_keys(const SparseAttentionParams& p) {
  int64_t most = 1;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    const int64_t end = p.sequences.end_position(s);
    int64_t keys = p.window > 0 ? std::min(p.window, end) : 0;
    if (p.ratio > 0) keys += p.selected != nullptr ? p.topk : end / p.ratio;
    most = std::max(most, keys);
  }
  return most;
}

}  // namespace

void sparse_attention_cuda(device::ExecContext& ctx, const SparseAttentionParams& p) {
  if (sparse_attention_on_tensor_cores(ctx, p)) return;
  const int64_t max_keys = most_keys(p);
  switch (p.format) {
    case tensor::KvFormat::f32: launch<tensor::KvFormat::f32>(ctx, p, max_keys); break;
    case tensor::KvFormat::bf16: launch<tensor::KvFormat::bf16>(ctx, p, max_keys); break;
    case tensor::KvFormat::fp8: launch<tensor::KvFormat::fp8>(ctx, p, max_keys); break;
  }
  if (p.rotate_back.cos != nullptr) rope_cuda(ctx, rotation_back(p));
}

}  // namespace cachalot::ops
