// The mHC boundary's kernels of many rows (hyper_boundary_cuda.h): the same sums in the same order
// as those of few.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/cuda/launch.cuh"
#include "ops/hyper/boundary_parts.cuh"
#include "tile/order.cuh"

namespace cachalot::ops::boundary {

constexpr int kPieces = kSlice / 8;   // of 16 bytes, of a slice of a stream
constexpr int kYPieces = kSlice / 4;  // and of y
constexpr int kGroups = 2;            // of eight tokens: rows of a product
constexpr int kTileTokens = kGroups * kTokens;

// kWidth: d where it is known when compiled, so that addresses are constants; or 0.
template <int kWidth>
__device__ __forceinline__ int width_of(const HyperBoundaryParams& p) {
  return kWidth != 0 ? kWidth : static_cast<int>(p.d);
}

// What a warp needs of eight tokens.
struct SumStage {
  tile::Vector16 rows[kStreams + 1][kTokens][kPieces];  // the streams', and y of bf16
  tile::Vector16 y[kTokens][kYPieces];                  // of floats
  tile::Vector16 mix[kTokens][1 + kStreams];            // post, comb

  // Where a piece of a token's row lies: halves of four tokens are in different banks; and of
  // its y of floats: four pieces each of two tokens are.
  static __device__ __forceinline__ int place(int token, int piece) {
    return piece ^ token / 2 % 2 * (kPieces / 2);
  }
  static __device__ __forceinline__ int y_place(int token, int piece) {
    return piece ^ token % 2 * (kYPieces / 2);
  }

  // On their way until the copies' group is waited for; from `first` on, those past the last as the
  // last.
  template <int kWidth>
  __device__ __forceinline__ void start(const HyperBoundaryParams& p, int first) {
    const int lane = threadIdx.x % 32;
    const auto copy = [](tile::Vector16& to, const auto* from) {
      tile::start_copy(&to, reinterpret_cast<const tile::Vector16*>(from));
    };
    const int last = static_cast<int>(p.rows) - 1, d = width_of<kWidth>(p);
    const int channel = static_cast<int>(blockIdx.x) * kSlice;
    {
      static_assert(kTokens * kPieces == 32);
      const int token = lane / kPieces, piece = lane % kPieces;
      const int64_t own = int64_t{min(first + token, last)} * d;
      const int at = place(token, piece);
      const uint16_t* const from = p.streams + channel + piece * 8 + own * kStreams;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) copy(rows[j][token][at], from + j * d);
      if (p.y_bf16 != nullptr)
        copy(rows[kStreams][token][at], p.y_bf16 + channel + piece * 8 + own);
    }
    if (!mixes_in(p)) return;
    if (p.y != nullptr) {
#pragma unroll
      for (int i = 0; i < kTokens * kYPieces / 32; ++i) {
        const int token = i * (32 / kYPieces) + lane / kYPieces, piece = lane % kYPieces;
        copy(y[token][y_place(token, piece)],
             p.y + channel + piece * 4 + int64_t{min(first + token, last)} * d);
      }
    }
    // A row of comb a lane, and post.
    const int64_t row = min(first + lane / kStreams, last);
    copy(mix[lane / kStreams][1 + lane % kStreams],
         p.comb + (row * kStreams + lane % kStreams) * 4);
    if (lane < kTokens) copy(mix[lane][0], p.post + int64_t{min(first + lane, last)} * kStreams);
  }

  // Four of a token's channels, of which a slice has eight times four.
  __device__ __forceinline__ Four row(int r, int token, int four) const {
    const tile::Vector16& piece = rows[r][token][place(token, four / 2)];
    return floats(reinterpret_cast<const tile::Vector8*>(&piece)[four % 2]);
  }
  __device__ __forceinline__ Four output(const HyperBoundaryParams& p, int token, int four) const {
    if (p.y_bf16 != nullptr) return row(kStreams, token, four);
    return floats(y[token][y_place(token, four)]);
  }
};

// A lane's values of a token: of its four channels of each product's 16.
struct TokenPairs {
  uint32_t pair[kProducts][2];
  float squares;  // the sum over all products

  // X' of token `own` of the stage. to: its lane's place in memory, where it is to be written.
  __device__ __forceinline__ void mix(const HyperBoundaryParams& p, const SumStage& stage, int own,
                                      uint16_t* to, int d, bool writes) {
    const int lane = threadIdx.x % 32;
    Four post, comb[kStreams];
    if (mixes_in(p)) {
      post = floats(stage.mix[own][0]);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) comb[j] = floats(stage.mix[own][1 + j]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int four = half * 4 + lane % 4;
      Four x[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) x[j] = stage.row(j, own, four);
      if (mixes_in(p)) {
        const Four y = stage.output(p, own, four);
        Four out[kStreams];
#pragma unroll
        for (int stream = 0; stream < kStreams; ++stream) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float value = post.x[stream] * y.x[i];
#pragma unroll
            for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j].x[stream], x[j].x[i], value);
            out[stream].x[i] = value;
          }
        }
#pragma unroll
        for (int stream = 0; stream < kStreams; ++stream) x[stream] = out[stream];
      }
#pragma unroll
      for (int stream = 0; stream < kStreams; ++stream) {
        uint32_t(&own_pair)[2] = pair[stream * 2 + half];
#pragma unroll
        for (int i = 0; i < 2; ++i)
          own_pair[i] = tile::pack_bf16(x[stream].x[2 * i], x[stream].x[2 * i + 1]);
        if (writes) store_pairs(to + stream * d + half * 16, own_pair[0], own_pair[1]);
      }
    }
#pragma unroll
    for (int product = 0; product < kProducts; ++product) {
      const Four v = floats(tile::Vector8{pair[product][0], pair[product][1]});
      float sum = v.x[0] * v.x[0];
#pragma unroll
      for (int i = 1; i < 4; ++i) sum = fmaf(v.x[i], v.x[i], sum);
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      squares = product == 0 ? sum : squares + sum;
    }
  }
};

// Of kEights times eight mixes: of few rows' kernels three make two tiles, one makes one, the rest
// being zeros. kStages: of a warp, on their way or read.
template <int kEights, int kSumWarps, int kStages>
struct SumSmem {
  // A lane's as B, of an even product and of the next.
  tile::Vector16 weights[kProducts / 2][kEights][kPlanes][32];
  SumStage stages[kSumWarps][kStages];

  // By all threads of the sums, before a barrier.
  __device__ __forceinline__ void load_weights(const HyperBoundaryParams& p, int warp) {
    constexpr int kStride = kEights == 1 ? 16 : 32;
    if (warp >= kProducts) return;
    const int lane = threadIdx.x % 32;
    const int64_t channel =
        static_cast<int64_t>(blockIdx.x) * kSlice + warp % 2 * 16 + lane % 4 * 4;
    const float* const from = p.fn + (warp / 2 * p.d + channel) * kStride + lane / 4;
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight) {
      float w[4];  // of the lane's channels
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = __ldg(from + i * kStride + eight * 8);
      uint32_t first[kPlanes], second[kPlanes];
      split_pair(w[0], w[1], first);
      split_pair(w[2], w[3], second);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        uint32_t* const to = weights[warp / 2][eight][plane][lane].word + warp % 2 * 2;
        *reinterpret_cast<uint2*>(to) = make_uint2(first[plane], second[plane]);
      }
    }
  }

  // X' and the sums of a slice, by a warp of kSumWarps: every such tile of 16 tokens.
  template <int kWidth>
  __device__ __forceinline__ void add_slice(const HyperBoundaryParams& p, int warp) {
    const int lane = threadIdx.x % 32;
    const int rows = static_cast<int>(p.rows), d = width_of<kWidth>(p);
    const int slices = d / kSlice;
    uint16_t* const streams = p.streams + static_cast<int>(blockIdx.x) * kSlice + lane % 4 * 4;
    float* const partial = p.partial + static_cast<int>(blockIdx.x) * kSumStride + lane % 4 * 2;
    SumStage* const ring = stages[warp];
    // The first token of the warp's part `part` of eight.
    const auto token_of = [&](int part) {
      return (warp + part / kGroups * kSumWarps) * kTileTokens + part % kGroups * kTokens;
    };
    int next = 0;  // part to be copied
    const auto start_next = [&](SumStage& to) {
      if (const int first = token_of(next); first < rows) to.template start<kWidth>(p, first);
      tile::end_copy_group();
      ++next;
    };
#pragma unroll
    for (int i = 0; i < kStages; ++i) start_next(ring[i]);
    int at = 0;
#pragma unroll 1
    for (int tile = warp; tile * kTileTokens < rows; tile += kSumWarps) {
      TokenPairs tokens[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        SumStage& stage = ring[kStages == kGroups ? g : at];
        tile::wait_copy_groups<kStages - 1>();
        __syncwarp();
        const int token = tile * kTileTokens + g * kTokens + lane / 4;
        uint16_t* const to = streams + int64_t{token} * (kStreams * d);
        tokens[g].mix(p, stage, lane / 4, to, d, mixes_in(p) && token < rows);
        __syncwarp();  // the stage is read
        start_next(stage);
        if (++at == kStages) at = 0;
      }
      float total[kEights][4];
      multiply_slice(weights, tokens, total);
      // The mixes, then the sum of squares and zeros.
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int token = tile * kTileTokens + g * kTokens + lane / 4;
        float* const to = partial + int64_t{token} * (slices * kSumStride);
#pragma unroll
        for (int eight = 0; eight < kSumStride / 8; ++eight) {
          float2 two = make_float2(0, 0);
          if (eight < kEights)
            two = make_float2(total[eight % kEights][2 * g], total[eight % kEights][2 * g + 1]);
          if (eight == kMixes / 8 && lane % 4 == 0) two.x = tokens[g].squares;
          if (token < rows) *reinterpret_cast<float2*>(to + eight * 8) = two;
        }
      }
    }
  }
};

template <int kEights, int kWidth, int kSumWarps, int kStages>
__global__ void __launch_bounds__(kSumWarps * 32, 1)
    many_sums_kernel(const __grid_constant__ HyperBoundaryParams p) {
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& s = *reinterpret_cast<SumSmem<kEights, kSumWarps, kStages>*>(bytes);
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  tile::launch_dependents();
  s.load_weights(p, warp);
  __syncthreads();
  tile::wait_for_producers();
  s.template add_slice<kWidth>(p, warp);
}

// Rows one after the other, whose streams and slices' sums are on their way while others are
// collapsed. kVectors: of four channels, a thread.
template <int kVectors, int kStages>
struct RowSmem {
  static constexpr int kChain = kRowChannels * kVectors / kSlice / kRowWarps;  // slices of a warp
  struct Stage {
    tile::Vector8 streams[kVectors][kStreams][kRowThreads];
    tile::Vector16 partial[kRowWarps][kChain][kSumStride / 4];
  };
  Stage stages[kStages];
  float chains[2][kRowWarps][kSumStride];  // of a row and of the next
  float squares[kRowWarps];
  // The chains' ends of phases: all have written them; the warp beside has read them.
  tile::Mbarrier written[2], read[2];

  // By one thread, before the block's barrier.
  __device__ __forceinline__ void init() {
    for (int i = 0; i < 2; ++i) {
      written[i].init(kRowThreads);
      read[i].init(32);
    }
    tile::Mbarrier::publish_inits();
  }

  static __device__ __forceinline__ void copy(void* to, const void* from) {
    tile::start_copy(to, static_cast<const tile::Vector16*>(from));
  }

  template <int kWidth>
  static __device__ __forceinline__ void start(const HyperBoundaryParams& p, int64_t token,
                                               Stage& to, int thread) {
    const int d = width_of<kWidth>(p), slices = d / kSlice;
    const int warp = thread / 32, lane = thread % 32;
    const float* const from = p.partial + (token * slices + warp) * kSumStride + lane % 8 * 4;
#pragma unroll
    for (int four = 0; four < kChain; four += 4) {
      const int i = four + lane / 8;
      if (kWidth == kRowChannels * kVectors || warp + i * kRowWarps < slices)
        copy(&to.partial[warp][i][lane % 8], from + i * kRowWarps * kSumStride);
    }
    // A warp's channels, of two streams at a time: a lane has those of two threads.
    const int pair = warp * 32 + lane % 16 * 2;
    const uint16_t* const streams = p.streams + token * (kStreams * d) + pair * 4;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (kWidth != kRowChannels * kVectors && pair * 4 + v * kRowChannels >= d) continue;
#pragma unroll
      for (int two = 0; two < kStreams; two += 2) {
        const int j = two + lane / 16;
        copy(&to.streams[v][j][pair], streams + j * d + v * kRowChannels);
      }
    }
  }

  // By 16 warps.
  template <bool kHead, int kWidth>
  __device__ __forceinline__ void collapse_rows(const HyperBoundaryParams& p, int thread) {
    constexpr bool kFull = kWidth == kRowChannels * kVectors;  // no thread without channels
    const int rows = static_cast<int>(p.rows), d = width_of<kWidth>(p);
    const int slices = d / kSlice, step = static_cast<int>(gridDim.x);
    const int warp = thread / 32, lane = thread % 32;
    int next = static_cast<int>(blockIdx.x);
    const auto start_next = [&](Stage& to) {
      if (next < rows) start<kWidth>(p, next, to, thread);
      tile::end_copy_group();
      next += step;
    };
    MixMap map;
    map.load(p, kHead, lane);
    for (int i = 0; i < kStages; ++i) start_next(stages[i]);
    int at = 0, parity = 0;
    uint32_t phase = 0;  // of the chains of this parity
#pragma unroll 1
    for (int64_t token = blockIdx.x; token < rows; token += step) {
      Stage& stage = stages[kStages == 1 ? 0 : at];
      tile::wait_copy_groups<kStages - 1>();
      __syncwarp();
      float chain = 0;
#pragma unroll
      for (int i = 0; i < kChain; ++i) {
        if (kFull || warp + i * kRowWarps < slices)
          chain += reinterpret_cast<const float*>(stage.partial[warp][i])[lane];
      }
      // Those of two rows before: the others have read them when they arrived for the row between.
      if (!kHead && token >= blockIdx.x + 2 * step) read[parity].wait(phase ^ 1);
      chains[parity][warp][lane] = chain;
      written[parity].arrive();
      written[parity].wait(phase);
      const float s = sigmoid(map.logit(chains[parity], lane, d, p.rms_norm_eps));
      if (!kHead && warp == 0 && lane / kStreams == 1)
        p.post[token * kStreams + lane - kStreams] = 2.0f * s;
      float pre[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) pre[j] = __shfl_sync(kAllLanes, s, j) + p.hc_eps;
      Four u[kVectors];
      float own = 0;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (!kFull && thread * 4 + v * kRowChannels >= d) continue;
        tile::Vector8 x[kStreams];
#pragma unroll
        for (int j = 0; j < kStreams; ++j) x[j] = stage.streams[v][j][thread];
        u[v] = collapse(pre, x, own);
      }
      __syncwarp();  // the warp's part of the stage is read
      start_next(stage);
      Four g[kVectors];  // on their way while the squares are added
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int channel = thread * 4 + v * kRowChannels;
        if (kFull || channel < d) g[v] = norm_weights(p.norm + channel);
      }
      own = sum_lanes(own);
      if (lane == 0) squares[warp] = own;
      tile::sync_threads<1, kRowThreads>();
      const float factor = norm_factor(squares, d, p.rms_norm_eps);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int channel = thread * 4 + v * kRowChannels;
        if (!kFull && channel >= d) continue;
        store_normed(p, token * d + channel, g[v], u[v], factor);
      }
      if (++at == kStages) at = 0;
      phase ^= parity;
      parity ^= 1;
    }
  }

  // By one warp beside them.
  template <bool kHead, int kWidth>
  __device__ __forceinline__ void leave_combs(const HyperBoundaryParams& p) {
    if (kHead) return;
    const int lane = threadIdx.x % 32;
    MixMap map;
    map.load(p, kHead, lane);
    int parity = 0;
    uint32_t phase = 0;
    for (int64_t token = blockIdx.x; token < p.rows; token += gridDim.x) {
      written[parity].wait(phase);
      const float logit = map.logit(chains[parity], lane, width_of<kWidth>(p), p.rms_norm_eps);
      read[parity].arrive();
      leave_comb(p, token, logit, lane);
      phase ^= parity;
      parity ^= 1;
    }
  }
};

template <int kVectors, bool kHead, int kWidth, int kStages, int kBlocks>
__global__ void __launch_bounds__(kRowThreads + 32, kBlocks)
    many_rows_kernel(const __grid_constant__ HyperBoundaryParams p) {
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& s = *reinterpret_cast<RowSmem<kVectors, kStages>*>(bytes);
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  tile::launch_dependents();
  if (threadIdx.x == 0) s.init();
  __syncthreads();
  tile::wait_for_producers();
  if (warp == kRowWarps) return s.template leave_combs<kHead, kWidth>(p);
  s.template collapse_rows<kHead, kWidth>(p, static_cast<int>(threadIdx.x));
}

template <int kEights, int kWidth, int kSumWarps, int kStages>
void launch_many_sums(const device::cuda::Stream& stream, const HyperBoundaryParams& p) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.d / kSlice));
  shape.block = kSumWarps * 32;
  shape.smem_bytes = sizeof(SumSmem<kEights, kSumWarps, kStages>);
  const auto kernel = many_sums_kernel<kEights, kWidth, kSumWarps, kStages>;
  device::cuda::allow_smem(kernel, shape.smem_bytes);
  device::cuda::launch(stream, shape, kernel, p);
}

// Nearly the multiprocessors, and a divisor of most numbers of rows.
constexpr int kRowBlocks = 128;

template <int kVectors, bool kHead, int kWidth, int kStages, int kBlocks>
void launch_many_rows(const device::cuda::Stream& stream, const HyperBoundaryParams& p) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min<int64_t>(p.rows, kRowBlocks * kBlocks)));
  shape.block = kRowThreads + 32;
  shape.smem_bytes = sizeof(RowSmem<kVectors, kStages>);
  const auto kernel = many_rows_kernel<kVectors, kHead, kWidth, kStages, kBlocks>;
  device::cuda::allow_smem(kernel, shape.smem_bytes);
  device::cuda::launch(stream, shape, kernel, p);
}

}  // namespace cachalot::ops::boundary
