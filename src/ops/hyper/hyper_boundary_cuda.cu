#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/hyper/boundary_cluster.cuh"
#include "ops/hyper/boundary_many.cuh"
#include "ops/hyper/boundary_parts.cuh"
#include "ops/hyper/hyper_boundary.h"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"
#include "tile/first_turn.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace boundary;
constexpr int kWarps = kProducts;
constexpr int kThreads = kWarps * 32;

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

// Channels [channel, channel + 4) of a sublayer's output.
__device__ __forceinline__ Four load_output(const HyperBoundaryParams& p, int64_t token,
                                            int channel) {
  if (p.y != nullptr) return load_four(p.y + token * p.d + channel);
  if (p.y_bf16 != nullptr) return load_four(p.y_bf16 + token * p.d + channel);
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
  const uint16_t* const streams = p.streams + token * kStreams * p.d + channel;
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
    uint16_t* const own = p.streams + (token * kStreams + stream) * p.d + channel;
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
    if (mixes_in(p) && is_there) store_pairs(own, b0, b1);
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

// A block: one row. kVectors: of four channels, a thread. A warp more makes comb, which out does
// not need. With a first turn out is of floats.
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
  Four g[kVectors];
  MixMap map;
  map.load(p, kHead, lane);
  if (!makes_comb) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at < d) g[v] = norm_weights(p.norm + at);
    }
  }
#pragma unroll 1
  for (int turn = kTakesFirstTurn ? 0 : 1; turn < 2; ++turn) {
    const bool is_real = turn == 1;
    if (is_real) {
      if (kTakesFirstTurn) __syncthreads();  // what the first turn left is read
      tile::wait_for_producers();
    }
    tile::Vector8 x[kVectors][kStreams];
    const auto load_streams = [&] {
      const uint16_t* const from = p.streams + token * kStreams * p.d + first;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (first + v * kRowChannels >= d) continue;
#pragma unroll
        for (int j = 0; j < kStreams; ++j) {
          x[v][j] = tile::load_shared_state(
              reinterpret_cast<const tile::Vector8*>(from + j * p.d + v * kRowChannels));
        }
      }
    };
    if (!makes_comb) {
      // A chain waits for what it adds, so the streams come first where registers allow it.
      if (kTakesFirstTurn) load_streams();
      const float* const from = p.partial + token * slices * kSumStride + lane;
      float chain = 0;
#pragma unroll 8
      for (int slice = warp; slice < slices; slice += kRowWarps)
        chain += tile::load_shared_state(from + slice * kSumStride);
      if (!kTakesFirstTurn) load_streams();
      chains[warp][lane] = chain;
    }
    __syncthreads();
    const float logit = map.logit(chains, lane, d, p.rms_norm_eps);
    if (makes_comb) {
      if (!kHead && is_real) leave_comb(p, token, logit, lane);
      continue;
    }
    const float s = sigmoid(logit);
    if (!kHead && is_real && warp == 0 && lane / kStreams == 1)
      p.post[token * kStreams + lane - kStreams] = 2.0f * s;
    float pre[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) pre[j] = __shfl_sync(kAllLanes, s, j) + p.hc_eps;

    // u and its norm.
    Four u[kVectors];
    float squares = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (first + v * kRowChannels < d) u[v] = collapse(pre, x[v], squares);
    }
    squares = sum_lanes(squares);
    if (lane == 0) warp_squares[warp] = squares;
    tile::sync_threads<1, kRowThreads>();
    const float factor = norm_factor(warp_squares, d, p.rms_norm_eps);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at >= d) continue;
      if constexpr (kTakesFirstTurn) {
        const Four out = normed(g[v], u[v], factor);
        if (is_real) store_four(p.out + token * p.d + at, out);
      } else {
        store_normed(p, token * p.d + at, g[v], u[v], factor);
      }
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

template <bool kHead, bool kFew>
void launch_rows(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  if (p.d <= kRowChannels) return launch_row<1, kHead, kFew>(stream, p);
  if (p.d <= 2 * kRowChannels) return launch_row<2, kHead, kFew>(stream, p);
  launch_row<4, kHead, kFew>(stream, p);
}

// kFew: rows that take a first turn.
template <bool kHead, bool kFew>
void launch(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  constexpr int kTiles = kHead ? 1 : 2;
  shape.grid = dim3(static_cast<unsigned>(p.d / kSlice));
  shape.block = kThreads;
  // A block keeps its weights for all the tokens that it takes.
  shape.grid.y = static_cast<unsigned>(std::min<int64_t>((p.rows + kTokens - 1) / kTokens, 8));
  cuda::launch(stream, shape, sums_kernel<kTiles, kFew>, p);
  launch_rows<kHead, kFew>(stream, p);
}

constexpr int kManyRows = 64;  // from which their own kernels are the faster ones

template <bool kHead>
void launch_many(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  constexpr int kEights = kHead ? 1 : 3;
  constexpr int kFlash = 4096;  // whose addresses are worth their own code
  if (p.d != kFlash) {
    boundary::launch_many_sums<kEights, 0, 8, 4>(stream, p);
    return launch_rows<kHead, false>(stream, p);
  }
  boundary::launch_many_sums<kEights, kFlash, 16, 2>(stream, p);
  boundary::launch_many_rows<2, kHead, kFlash, 2, 2>(stream, p);
}

}  // namespace

int64_t hyper_boundary_scratch(int64_t rows, int64_t d) { return rows * (d / kSlice) * kSumStride; }

void launch_hyper_boundary(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  if (p.rows >= kManyRows) {
    return p.head ? launch_many<true>(stream, p) : launch_many<false>(stream, p);
  }
  const bool few = p.rows <= tile::kFewRows && p.out_bf16 == nullptr;
  if (p.head) return few ? launch<true, true>(stream, p) : launch<true, false>(stream, p);
  few ? launch<false, true>(stream, p) : launch<false, false>(stream, p);
}

void hyper_boundary_cuda(device::ExecContext& ctx, const HyperBoundaryRows& p) {
  device::ArenaScope scope(*ctx.arena);
  HyperBoundaryParams piece{};
  piece.d = p.d;
  piece.fn = reinterpret_cast<const float*>(p.fn->bytes().data());
  piece.base = ctx.gpu->on_device(p.base);
  piece.scale = ctx.gpu->on_device(p.scale);
  piece.norm = ctx.gpu->on_device(p.norm);
  piece.head = p.post == nullptr;
  piece.y_bf16 = p.y_bf16;
  piece.logits = p.logits;
  if (p.sum != nullptr) piece.sum = *p.sum;
  piece.sinkhorn_iters = p.sinkhorn_iters;
  piece.hc_eps = p.hc_eps;
  piece.rms_norm_eps = p.rms_norm_eps;
  const int clusters = cluster::fits(piece, p.rows) ? cluster::num_clusters() : 0;
  piece.lets_next_in = clusters > 0 && p.lets_next_in != nullptr;
  if (p.lets_next_in != nullptr) *p.lets_next_in = piece.lets_next_in;
  constexpr int64_t kMaxRows = 512;  // whose streams stay in the L2 cache between two kernels
  const int64_t of_piece = clusters > 0 ? p.rows : std::min(p.rows, kMaxRows);
  if (clusters == 0)
    piece.partial = ctx.arena->allocate<float>(hyper_boundary_scratch(of_piece, p.d));
  for (int64_t first = 0; first < p.rows; first += of_piece) {
    piece.rows = std::min(of_piece, p.rows - first);
    piece.streams = p.streams + first * kStreams * p.d;
    piece.y = p.y == nullptr ? nullptr : p.y + first * p.d;
    piece.y_bf16 = p.y_bf16 == nullptr ? nullptr : p.y_bf16 + first * p.d;
    piece.post = piece.head ? nullptr : p.post + first * kStreams;
    piece.comb = piece.head ? nullptr : p.comb + first * kStreams * kStreams;
    piece.logits = p.logits == nullptr ? nullptr : p.logits + first * kStreams * kStreams;
    piece.out = p.out == nullptr ? nullptr : p.out + first * p.d;
    piece.out_bf16 = p.out_bf16 == nullptr ? nullptr : p.out_bf16 + first * p.d;
    if (clusters > 0) {
      cluster::launch(cuda::stream_of(ctx), piece, clusters);
    } else {
      launch_hyper_boundary(cuda::stream_of(ctx), piece);
    }
  }
}

}  // namespace cachalot::ops
