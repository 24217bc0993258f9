#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/hyper/hyper_boundary.h"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "ops/hyper/sinkhorn.cuh"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/first_turn.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kStreams = 4;
constexpr int kMixes = 2 * kStreams + kStreams * kStreams;
constexpr int kSumStride = 32;  // of a slice in memory: the mixes, the sum of squares, nothing more
constexpr int kSlice = 32;      // channels of a block of the first kernel
constexpr int kTokens = 8;      // that it takes at a time
constexpr int kWarps = kStreams * kSlice / 16;
constexpr int kThreads = kWarps * 32;
constexpr int kRowWarps = 16;  // of the second kernel's blocks, a row each
constexpr int kRowThreads = kRowWarps * 32;
constexpr int kRowChannels = kRowThreads * 4;  // that its threads take at a time
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

struct Four {
  float x[4];
};

__device__ __forceinline__ Four load_four(const float* from) {
  const tile::Vector16 v = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  Four four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(v.word[i]);
  return four;
}
__device__ __forceinline__ void store_four(float* to, const Four& v) {
  *reinterpret_cast<float4*>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}

// A pair of weights as three pairs of bf16 that add up to them.
__device__ __forceinline__ void split_pair(float first, float second, uint32_t (&planes)[3]) {
#pragma unroll
  for (uint32_t& plane : planes) {
    plane = tile::pack_bf16(first, second);
    first -= tile::low_bf16(plane);
    second -= tile::high_bf16(plane);
  }
}

// The weights of a warp's 16 channels, a lane's as A of the product: of 16 mixes a tile.
template <int kTiles>
struct Weights {
  uint32_t a[kTiles][3][4];

  // from: of mix 0 of the lane's first channel.
  __device__ __forceinline__ void load(const float* from) {
    const int row = static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float w[2][4];  // [mixes 0 to 7, 8 to 15][channel]
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          w[half][i] = __ldg(from + i * (16 * kTiles) + tile * 16 + half * 8 + row);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t planes[3];
        split_pair(w[j % 2][j / 2 * 2], w[j % 2][j / 2 * 2 + 1], planes);
#pragma unroll
        for (int plane = 0; plane < 3; ++plane) a[tile][plane][j] = planes[plane];
      }
    }
  }
};

__device__ __forceinline__ bool mixes_in(const HyperBoundaryParams& p) {
  return p.y != nullptr || p.sum.picks != nullptr;
}

// Channels [channel, channel + 4) of a sublayer's output.
__device__ __forceinline__ Four load_output(const HyperBoundaryParams& p, int64_t token,
                                            int channel) {
  if (p.y != nullptr) return load_four(p.y + token * p.d + channel);
  const Four shared = load_four(p.sum.shared + token * p.d + channel);
  const int k = static_cast<int>(p.sum.k);
  const uint16_t* const from = p.sum.picks + token * k * p.d + channel;
  Four sum = {};
  constexpr int kBatch = 8;  // loads under way
  for (int first = 0; first < k; first += kBatch) {
    tile::Vector8 v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i < k)
        v[i] = tile::load_shared_state(
            reinterpret_cast<const tile::Vector8*>(from + (first + i) * p.d));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= k) break;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        sum.x[2 * j] += tile::low_bf16(v[i].word[j]);
        sum.x[2 * j + 1] += tile::high_bf16(v[i].word[j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sum.x[i] = tile::round_to_bf16(sum.x[i] + shared.x[i]);
  return sum;
}

// Channels [channel, channel + 4) of stream `stream` after the sublayer's output was mixed in.
__device__ __forceinline__ Four mixed(const HyperBoundaryParams& p, int64_t token, int stream,
                                      int channel) {
  const float* const streams = p.streams + token * kStreams * p.d + channel;
  Four x[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) x[j] = load_four(streams + j * p.d);
  const Four y = load_output(p, token, channel);
  const float post = tile::load_shared_state(p.post + token * kStreams + stream);
  float comb[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
    comb[j] = tile::load_shared_state(p.comb + token * kStreams * kStreams + j * kStreams + stream);
  }
  Four out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float value = post * y.x[i];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j], x[j].x[i], value);
    out.x[i] = tile::round_to_bf16(value);
  }
  return out;
}

// A block: 32 channels of all four streams, a warp 16 of one; of every gridDim.y-th eight tokens.
// Writes X' and the slice's sums. kTakesFirstTurn: see tile/first_turn.cuh; the registers that it
// takes would be missing where there are many rows.
template <int kTiles, bool kTakesFirstTurn>
__global__ void __launch_bounds__(kThreads, 2)
    sums_kernel(const __grid_constant__ HyperBoundaryParams p) {
  static_assert(kWarps == kTokens);
  __shared__ float sums[kWarps][16 * kTiles + 1][kTokens + 1];
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int stream = warp / 2;
  const int channel = static_cast<int>(blockIdx.x) * kSlice + warp % 2 * 16 + lane % 4 * 4;
  tile::launch_dependents();
  // The mapping's weights do not depend on the kernel before.
  Weights<kTiles> w;
  w.load(p.fn + (stream * p.d + channel) * (16 * kTiles));
  bool is_real = !kTakesFirstTurn;
  if (is_real) tile::wait_for_producers();
  int64_t first = blockIdx.y * kTokens;
#pragma unroll 1
  while (true) {
    const int64_t token = min(first + lane / 4, p.rows - 1);
    const bool is_there = is_real && first + lane / 4 < p.rows;
    float* const own = p.streams + (token * kStreams + stream) * p.d + channel;
    const Four x = mixes_in(p) ? mixed(p, token, stream, channel) : load_four(own);
    const uint32_t b0 = tile::pack_bf16(x.x[0], x.x[1]), b1 = tile::pack_bf16(x.x[2], x.x[3]);
    float squares = x.x[0] * x.x[0];
#pragma unroll
    for (int i = 1; i < 4; ++i) squares = fmaf(x.x[i], x.x[i], squares);
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    squares += __shfl_xor_sync(kAllLanes, squares, 2);
    float d[kTiles][4] = {};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int plane = 0; plane < 3; ++plane) {
        const uint32_t(&a)[4] = w.a[tile][plane];
        tile::mma_bf16(d[tile], a[0], a[1], a[2], a[3], b0, b1);
      }
    }
    __syncthreads();  // every warp has read the old streams, and the sums of the tokens before
    if (mixes_in(p) && is_there) store_four(own, x);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[warp][tile * 16 + i / 2 * 8 + lane / 4][lane % 4 * 2 + i % 2] = d[tile][i];
    }
    if (lane % 4 == 0) sums[warp][16 * kTiles][lane / 4] = squares;
    __syncthreads();
    // A warp has a token, a lane a sum; the sum of squares comes after the mixes.
    if (is_real && first + warp < p.rows) {
      const int sum = lane == kMixes ? 16 * kTiles : min(lane, 16 * kTiles - 1);
      float total = sums[0][sum][warp];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) total += sums[w][sum][warp];
      p.partial[((first + warp) * gridDim.x + blockIdx.x) * kSumStride + lane] = total;
    }
    if (is_real) {
      first += gridDim.y * kTokens;
      if (first >= p.rows) break;
    } else {
      tile::wait_for_producers();
      is_real = true;
    }
  }
}

// The same for many rows: a warp has its channels of all four streams, so that each value is read
// once, and of 32 tokens eight.
constexpr int kManyRows = 128;  // from which it is the faster one
constexpr int kManyGroups = kWarps / 2;
constexpr int kManyTokens = kManyGroups * kTokens;

// What becomes of a token's four channels, on its way.
struct Mix {
  Four x[kStreams], y;
  Four post, comb[kStreams];

  __device__ __forceinline__ void load(const HyperBoundaryParams& p, int64_t token, int channel) {
    const float* const streams = p.streams + token * kStreams * p.d + channel;
#pragma unroll
    for (int j = 0; j < kStreams; ++j) x[j] = load_four(streams + j * p.d);
    if (p.y == nullptr) return;
    y = load_four(p.y + token * p.d + channel);
    post = load_four(p.post + token * kStreams);
#pragma unroll
    for (int j = 0; j < kStreams; ++j)
      comb[j] = load_four(p.comb + token * kStreams * kStreams + j * kStreams);
  }
  __device__ __forceinline__ Four mixed(int stream) const {
    Four out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float value = post.x[stream] * y.x[i];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j].x[stream], x[j].x[i], value);
      out.x[i] = tile::round_to_bf16(value);
    }
    return out;
  }
};

template <int kTiles>
__global__ void __launch_bounds__(kThreads, 1)
    many_sums_kernel(const __grid_constant__ HyperBoundaryParams p) {
  __shared__ float sums[kManyGroups][kWarps][16 * kTiles + 1][kTokens + 1];
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int half = warp % 2, group = warp / 2;
  const int channel = static_cast<int>(blockIdx.x) * kSlice + half * 16 + lane % 4 * 4;
  tile::launch_dependents();
  Weights<kTiles> w[kStreams];
#pragma unroll
  for (int stream = 0; stream < kStreams; ++stream)
    w[stream].load(p.fn + (stream * p.d + channel) * (16 * kTiles));
  tile::wait_for_producers();
  const int64_t step = int64_t{gridDim.y} * kManyTokens;
  int64_t first = int64_t{blockIdx.y} * kManyTokens;
  const auto own = [&](int64_t from) { return from + group * kTokens + lane / 4; };
  Mix mix;
  mix.load(p, min(own(first), p.rows - 1), channel);
  for (; first < p.rows; first += step) {
    const int64_t token = own(first);
    Four x[kStreams];
#pragma unroll
    for (int stream = 0; stream < kStreams; ++stream)
      x[stream] = p.y == nullptr ? mix.x[stream] : mix.mixed(stream);
    // Each lane writes what it alone has read.
    if (p.y != nullptr && token < p.rows) {
#pragma unroll
      for (int stream = 0; stream < kStreams; ++stream)
        store_four(p.streams + (token * kStreams + stream) * p.d + channel, x[stream]);
    }
    mix.load(p, min(own(first + step), p.rows - 1), channel);
#pragma unroll
    for (int stream = 0; stream < kStreams; ++stream) {
      const Four& v = x[stream];
      const uint32_t b0 = tile::pack_bf16(v.x[0], v.x[1]), b1 = tile::pack_bf16(v.x[2], v.x[3]);
      float squares = v.x[0] * v.x[0];
#pragma unroll
      for (int i = 1; i < 4; ++i) squares = fmaf(v.x[i], v.x[i], squares);
      squares += __shfl_xor_sync(kAllLanes, squares, 1);
      squares += __shfl_xor_sync(kAllLanes, squares, 2);
      float d[kTiles][4] = {};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int plane = 0; plane < 3; ++plane) {
          const uint32_t(&a)[4] = w[stream].a[tile][plane];
          tile::mma_bf16(d[tile], a[0], a[1], a[2], a[3], b0, b1);
        }
      }
      auto& to = sums[group][stream * 2 + half];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          to[tile * 16 + i / 2 * 8 + lane / 4][lane % 4 * 2 + i % 2] = d[tile][i];
      }
      if (lane % 4 == 0) to[16 * kTiles][lane / 4] = squares;
    }
    __syncthreads();
    // A warp has four tokens, a lane a sum.
    const int sum = lane == kMixes ? 16 * kTiles : min(lane, 16 * kTiles - 1);
#pragma unroll
    for (int i = 0; i < kManyTokens / kWarps; ++i) {
      const int in_group = half * (kTokens / 2) + i;
      const int64_t to = first + group * kTokens + in_group;
      float total = sums[group][0][sum][in_group];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) total += sums[group][w][sum][in_group];
      if (to < p.rows) p.partial[(to * gridDim.x + blockIdx.x) * kSumStride + lane] = total;
    }
    __syncthreads();
  }
}

__device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

__device__ __forceinline__ float sigmoid(float z) {
  return 1.0f / (1.0f + exp_f32_device(0.0f - z));
}

// A block: one row. kVectors: of four channels, a thread. A warp more makes comb, which out does
// not need.
template <int kVectors, bool kHead, bool kTakesFirstTurn>
__global__ void __launch_bounds__(kRowThreads + 32, kTakesFirstTurn || kVectors > 2 ? 1 : 2)
    row_kernel(const __grid_constant__ HyperBoundaryParams p) {
  __shared__ float chains[kRowWarps][kSumStride];
  __shared__ float warp_squares[kRowWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int d = static_cast<int>(p.d);
  const int slices = d / kSlice;
  const int64_t token = blockIdx.x;
  const bool makes_comb = warp == kRowWarps;
  const int first = static_cast<int>(threadIdx.x) * 4;
  tile::launch_dependents();
  // A wide row that takes a first turn barely fits the registers: its weights come late, in the
  // real turn from the L1 cache, and u takes the place of a stream.
  constexpr bool kIsTight = kVectors > 2 && kTakesFirstTurn;
  const auto weights = [&](int at) {
    const tile::Vector16 own =
        tile::load_constant(reinterpret_cast<const tile::Vector16*>(p.norm + at));
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(own.word[i]);
    return four;
  };
  Four g[kVectors];
  float base = 0, scale = 0;
  if (lane < (kHead ? kStreams : kMixes)) {
    base = __ldg(p.base + lane);
    scale = __ldg(p.scale + (lane < kStreams ? 0 : lane < 2 * kStreams ? 1 : 2));
  }
  if (!kIsTight && !makes_comb) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at < d) g[v] = weights(at);
    }
  }
#pragma unroll 1
  for (int turn = kTakesFirstTurn ? 0 : 1; turn < 2; ++turn) {
    const bool is_real = turn == 1;
    if (is_real) {
      if (kTakesFirstTurn) __syncthreads();  // what the first turn left is read
      tile::wait_for_producers();
    }
    Four x[kVectors][kStreams];
    if (!makes_comb) {
      const float* const from = p.partial + token * slices * kSumStride + lane;
      float chain = 0;
#pragma unroll 8
      for (int slice = warp; slice < slices; slice += kRowWarps)
        chain += tile::load_shared_state(from + slice * kSumStride);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int at = first + v * kRowChannels;
        if (at >= d) continue;
#pragma unroll
        for (int j = 0; j < kStreams; ++j)
          x[v][j] = load_four(p.streams + (token * kStreams + j) * p.d + at);
      }
      chains[warp][lane] = chain;
    }
    __syncthreads();
    float mix = chains[0][lane];
#pragma unroll
    for (int w = 1; w < kRowWarps; ++w) mix += chains[w][lane];
    const float mean = __shfl_sync(kAllLanes, mix, kMixes) / static_cast<float>(kStreams * d);
    const float logit = mix * (1.0f / sqrtf(mean + p.rms_norm_eps)) * scale + base;
    if (makes_comb) {
      if (kHead || !is_real) continue;
      // The matrix's logits are the last 16 mixes.
      const float own = __shfl_sync(kAllLanes, logit, (lane + 2 * kStreams) % 32);
      if (p.logits == nullptr) {
        make_comb(own, p.sinkhorn_iters, p.hc_eps, p.comb + token * 16);
      } else if (lane < 16) {
        p.logits[token * 16 + lane] = own;
      }
      continue;
    }
    const float s = sigmoid(logit);
    if (!kHead && is_real && warp == 0 && lane / kStreams == 1)
      p.post[token * kStreams + lane - kStreams] = 2.0f * s;
    float pre[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) pre[j] = __shfl_sync(kAllLanes, s, j) + p.hc_eps;

    // u and its norm.
    Four own[kVectors];
    const auto u = [&](int v) -> Four& { return kIsTight ? x[v][0] : own[v]; };
    float squares = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (first + v * kRowChannels >= d) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = pre[0] * x[v][0].x[i];
#pragma unroll
        for (int j = 1; j < kStreams; ++j) sum = fmaf(pre[j], x[v][j].x[i], sum);
        u(v).x[i] = tile::round_to_bf16(sum);
        squares = fmaf(u(v).x[i], u(v).x[i], squares);
      }
    }
    squares = sum_lanes(squares);
    if (lane == 0) warp_squares[warp] = squares;
    tile::sync_threads<1, kRowThreads>();
    float total = warp_squares[0];
#pragma unroll
    for (int w = 1; w < kRowWarps; ++w) total += warp_squares[w];
    const float factor = 1.0f / sqrtf(total / static_cast<float>(d) + p.rms_norm_eps);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at >= d) continue;
      if (kIsTight) g[v] = weights(at);
      Four out;
#pragma unroll
      for (int i = 0; i < 4; ++i) out.x[i] = tile::round_to_bf16(g[v].x[i] * (u(v).x[i] * factor));
      if (is_real) store_four(p.out + token * p.d + at, out);
    }
  }
}

template <int kVectors, bool kHead, bool kFew>
void launch_row(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.rows));
  shape.block = kRowThreads + 32;
  cuda::launch(stream, shape, row_kernel<kVectors, kHead, kFew>, p);
}

// kFew: rows that take a first turn.
template <bool kHead, bool kFew>
void launch(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  // A block keeps its weights for all the tokens that it takes.
  const bool many = p.rows >= kManyRows;
  const int tokens = many ? kManyTokens : kTokens;
  shape.grid =
      dim3(static_cast<unsigned>(p.d / kSlice),
           static_cast<unsigned>(std::min<int64_t>((p.rows + tokens - 1) / tokens, many ? 1 : 8)));
  shape.block = kThreads;
  constexpr int kTiles = kHead ? 1 : 2;
  cuda::launch(stream, shape, many ? many_sums_kernel<kTiles> : sums_kernel<kTiles, kFew>, p);
  if (p.d <= kRowChannels) return launch_row<1, kHead, kFew>(stream, p);
  if (p.d <= 2 * kRowChannels) return launch_row<2, kHead, kFew>(stream, p);
  launch_row<4, kHead, kFew>(stream, p);
}

}  // namespace

int64_t hyper_boundary_scratch(int64_t rows, int64_t d) { return rows * (d / kSlice) * kSumStride; }

void launch_hyper_boundary(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  const bool few = p.rows <= tile::kFewRows;
  if (p.head) return few ? launch<true, true>(stream, p) : launch<true, false>(stream, p);
  few ? launch<false, true>(stream, p) : launch<false, false>(stream, p);
}

void hyper_boundary_cuda(device::ExecContext& ctx, const HyperBoundaryRows& p) {
  constexpr int64_t kMaxRows = 512;  // whose streams stay in the L2 cache between the kernels
  device::ArenaScope scope(*ctx.arena);
  HyperBoundaryParams piece{};
  piece.d = p.d;
  piece.fn = reinterpret_cast<const float*>(p.fn->bytes().data());
  piece.base = ctx.gpu->on_device(p.base);
  piece.scale = ctx.gpu->on_device(p.scale);
  piece.norm = ctx.gpu->on_device(p.norm);
  piece.partial =
      ctx.arena->allocate<float>(hyper_boundary_scratch(std::min(p.rows, kMaxRows), p.d));
  piece.head = p.post == nullptr;
  if (p.sum != nullptr) piece.sum = *p.sum;
  piece.sinkhorn_iters = p.sinkhorn_iters;
  piece.hc_eps = p.hc_eps;
  piece.rms_norm_eps = p.rms_norm_eps;
  for (int64_t first = 0; first < p.rows; first += kMaxRows) {
    piece.rows = std::min(kMaxRows, p.rows - first);
    piece.streams = p.streams + first * kStreams * p.d;
    piece.y = p.y == nullptr ? nullptr : p.y + first * p.d;
    piece.post = piece.head ? nullptr : p.post + first * kStreams;
    piece.comb = piece.head ? nullptr : p.comb + first * kStreams * kStreams;
    piece.logits = p.logits == nullptr ? nullptr : p.logits + first * kStreams * kStreams;
    piece.out = p.out + first * p.d;
    launch_hyper_boundary(cuda::stream_of(ctx), piece);
  }
}

}  // namespace cachalot::ops
