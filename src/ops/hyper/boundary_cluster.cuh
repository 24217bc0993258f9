// The mHC boundary of very many rows in one kernel (hyper_boundary_cuda.h): the same sums in the
// same order as in two. A cluster of 16 blocks has 16 tokens at a time, whose streams are read once
// and stay in shared memory. Block r has chain r: the slices r, r + 16, ..., with their weights. Of
// token r it makes the mixes, and the norm's factor.
// Warps   mix: X' of a slice each, over its streams, and its sums
//         rows: the chain's sums to the token's block; u, X' to memory, u's squares to that block;
//         out
//         one for the token's mixes, one for its factor; loaders of tiles, two of which lie there
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/cuda/launch.cuh"
#include "ops/hyper/boundary_parts.cuh"
#include "tile/cluster.cuh"
#include "tile/order.cuh"
#include "tile/send.cuh"

namespace cachalot::ops::boundary::cluster {

constexpr int kWidth = 4096;                     // d
constexpr int kBlocks = kRowWarps;               // of a cluster, and tokens of a tile
constexpr int kOwn = kWidth / kSlice / kBlocks;  // slices of a block
constexpr int kVectors = kWidth / kRowChannels;  // of four channels, of a chain of squares
constexpr int kEights = kMixes / 8;              // of mixes
constexpr int kMixWarps = kOwn;                  // a slice each
constexpr int kTokenWarps = kBlocks / 2;         // two tokens each
constexpr int kLoadWarps = kBlocks / kTokens;    // eight tokens each
constexpr int kOtherWarps = 2 + kLoadWarps;      // a warpgroup
constexpr int kThreads = (kMixWarps + kTokenWarps + kOtherWarps) * 32;
constexpr int kMixRegisters = 136, kTokenRegisters = 80, kOtherRegisters = 48;  // 96 on average
constexpr int kStreamBytes = kBlocks * kSlice * 2;                 // of a slice in a tile
constexpr int kSliceBytes = kStreams * kStreamBytes + kSlice * 2;  // the next in other banks
constexpr int kOwnSums = kMixes + 1;  // the mixes and the sum of squares
constexpr int kSumsStride = kOwnSums + 1;
static_assert(kWidth == kVectors * kRowChannels && kVectors == 2 && kOwn % kVectors == 0);

struct Smem {
  tile::Vector16 weights[kOwn][kProducts / 2][kEights][kPlanes][32];  // as SumSmem's
  uint8_t tiles[2][kOwn * kSliceBytes];
  float sums[kOwn][kBlocks][kSumsStride];
  // Of the block's own token of a tile, from all blocks.
  float squares[kRowWarps][32];  // of u: by the warps and lanes that a row's block would have
  float mixes[kBlocks][kOwnSums];
  // Of all tokens, from their blocks.
  float pre[kBlocks][kStreams];
  float factor[kBlocks];
  tile::Mbarrier full[2], empty[2];  // tiles
  tile::Mbarrier sums_full, sums_empty, mixes_full, pre_full, squares_full, factor_full;
};
constexpr uint32_t kSquareBytes = sizeof(Smem::squares), kMixBytes = sizeof(Smem::mixes),
                   kPreBytes = sizeof(Smem::pre), kFactorBytes = sizeof(Smem::factor);

// Where 16 bytes of a token's channels of a stream lie in a slice: as in a SumStage.
__device__ __forceinline__ int place(int token, int piece) {
  return token * (kSlice * 2) + (piece ^ token / 2 % 2 * 2) * 16;
}
// And four channels.
__device__ __forceinline__ int place_of_four(int token, int four) {
  return place(token, four / 2) + four % 2 * 8;
}

// The tiles of a cluster.
struct Turns {
  int rows, tiles, tile, step;
  int turn = 0;

  __device__ __forceinline__ explicit Turns(const HyperBoundaryParams& p)
      : rows(static_cast<int>(p.rows)),
        tiles((rows + kBlocks - 1) / kBlocks),
        tile(static_cast<int>(blockIdx.x) / kBlocks),
        step(static_cast<int>(gridDim.x) / kBlocks) {}
  __device__ __forceinline__ bool is_there() const { return tile < tiles; }
  __device__ __forceinline__ bool has_next() const { return tile + step < tiles; }
  __device__ __forceinline__ void advance() {
    tile += step;
    ++turn;
  }
  __device__ __forceinline__ int row(int token) const { return tile * kBlocks + token; }
  // One past the last is the last.
  __device__ __forceinline__ int known_row(int token) const { return min(row(token), rows - 1); }
  __device__ __forceinline__ int buffer() const { return turn % 2; }
  __device__ __forceinline__ uint32_t parity() const { return turn % 2; }  // of each turn's
  __device__ __forceinline__ uint32_t parity_of_buffer() const { return turn / 2 % 2; }
};

// By all warps.
__device__ __forceinline__ void load_weights(Smem& s, const HyperBoundaryParams& p, int rank,
                                             int warp) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int i = warp; i < kOwn * kProducts; i += kThreads / 32) {
    const int own = i / kProducts, product = i % kProducts;
    const int channel = (rank + own * kBlocks) * kSlice + product % 2 * 16 + lane % 4 * 4;
    const float* const from = p.fn + (product / 2 * kWidth + channel) * 32 + lane / 4;
    float w[kEights][4];  // of the lane's channels
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight) {
#pragma unroll
      for (int j = 0; j < 4; ++j) w[eight][j] = __ldg(from + j * 32 + eight * 8);
    }
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight) {
      uint32_t first[kPlanes], second[kPlanes];
      split_pair(w[eight][0], w[eight][1], first);
      split_pair(w[eight][2], w[eight][3], second);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        uint32_t* const to = s.weights[own][product / 2][eight][plane][lane].word + product % 2 * 2;
        *reinterpret_cast<uint2*>(to) = make_uint2(first[plane], second[plane]);
      }
    }
  }
}

// --- Mix warps.

// A lane's values of a token, as TokenPairs.
struct Pairs {
  uint32_t pair[kProducts][2];
  float squares;
};

struct Maps {
  Four post, comb[kStreams];
  __device__ __forceinline__ void load(const HyperBoundaryParams& p, int row) {
    const auto four = [](const float* from) {
      const float4 v = *reinterpret_cast<const float4*>(from);
      return Four{v.x, v.y, v.z, v.w};
    };
    post = four(p.post + row * kStreams);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) comb[j] = four(p.comb + (row * kStreams + j) * kStreams);
  }
};

// Of a lane's eight channels of a token of a slice: X' over the streams.
__device__ __forceinline__ void mix(Pairs& own, const Maps& maps, const tile::Vector8 (&y)[2],
                                    uint8_t* slice, int token) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint8_t* const at = slice + place_of_four(token, half * 4 + lane % 4);
    Four x[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j)
      x[j] = floats(*reinterpret_cast<const tile::Vector8*>(at + j * kStreamBytes));
    const Four output = floats(y[half]);
#pragma unroll
    for (int stream = 0; stream < kStreams; ++stream) {
      float out[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value = maps.post.x[stream] * output.x[i];
#pragma unroll
        for (int j = 0; j < kStreams; ++j) value = fmaf(maps.comb[j].x[stream], x[j].x[i], value);
        out[i] = value;
      }
      // By two stores: one would want the pairs in neighbouring registers, where the products,
      // which take those of two tokens in turns, do not have them: a fifth more instructions.
      auto* const to = reinterpret_cast<volatile uint32_t*>(at + stream * kStreamBytes);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t& pair = own.pair[stream * 2 + half][i];
        pair = tile::pack_bf16(out[2 * i], out[2 * i + 1]);
        to[i] = pair;
      }
    }
  }
#pragma unroll
  for (int product = 0; product < kProducts; ++product) {
    const Four v = floats(tile::Vector8{own.pair[product][0], own.pair[product][1]});
    float sum = v.x[0] * v.x[0];
#pragma unroll
    for (int i = 1; i < 4; ++i) sum = fmaf(v.x[i], v.x[i], sum);
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    own.squares = product == 0 ? sum : own.squares + sum;
  }
}

__device__ __forceinline__ void run_mix_warp(Smem& s, const HyperBoundaryParams& p, int rank,
                                             int own) {
  const int lane = threadIdx.x % 32;
  const uint16_t* const outputs = p.y_bf16 + (rank + own * kBlocks) * kSlice + lane % 4 * 4;
  Turns turns(p);
  tile::Vector8 y[2][2];  // of the tokens lane / 4 and 8 further on; of both halves
  const auto load_outputs = [&] {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const auto row = int64_t{turns.known_row(g * kTokens + lane / 4)};
#pragma unroll
      for (int half = 0; half < 2; ++half)
        y[g][half] = tile::load_shared_state(
            reinterpret_cast<const tile::Vector8*>(outputs + row * kWidth + half * 16));
    }
  };
  if (turns.is_there()) load_outputs();
#pragma unroll 1
  while (turns.is_there()) {
    uint8_t* const slice = s.tiles[turns.buffer()] + own * kSliceBytes;
    Pairs tokens[2];
    Maps maps;
    maps.load(p, turns.known_row(lane / 4));
    s.full[turns.buffer()].wait(turns.parity_of_buffer());
    mix(tokens[0], maps, y[0], slice, lane / 4);
    maps.load(p, turns.known_row(kTokens + lane / 4));
    mix(tokens[1], maps, y[1], slice, kTokens + lane / 4);
    const uint32_t parity = turns.parity();
    const bool is_first = turns.turn == 0;
    turns.advance();
    if (turns.is_there()) load_outputs();  // on their way while this tile is multiplied
    float total[kEights][4];
    multiply_slice(s.weights[own], tokens, total);
    if (!is_first) s.sums_empty.wait(parity ^ 1);
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      float* const to = s.sums[own][g * kTokens + lane / 4];
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        *reinterpret_cast<float2*>(to + eight * 8 + lane % 4 * 2) =
            make_float2(total[eight][2 * g], total[eight][2 * g + 1]);
      }
      if (lane % 4 == 0) to[kMixes] = tokens[g].squares;
    }
    s.sums_full.arrive();
  }
}

// --- Token warps: of tokens `warp` and eight further on.

__device__ __forceinline__ int token_of(int warp, int n) { return warp + n * kTokenWarps; }

// The chain's sums, ascending, to the blocks of the tokens.
__device__ __forceinline__ void send_chains(Smem& s, int rank, int warp, uint32_t parity) {
  const int lane = threadIdx.x % 32;
  s.sums_full.wait(parity);
  float chain[2] = {0, 0};
  if (lane < kOwnSums) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) chain[n] += s.sums[i][token_of(warp, n)][lane];
    }
  }
  s.sums_empty.arrive();
  __syncwarp();  // all lanes have read the tile's pre: with the sums of the next comes another
  if (lane >= kOwnSums) return;
#pragma unroll
  for (int n = 0; n < 2; ++n)
    tile::send(&s.mixes[rank][lane], chain[n], s.mixes_full, token_of(warp, n));
}

// A lane: four channels, and those half a row further on.
__device__ __forceinline__ void run_token_warp(Smem& s, const HyperBoundaryParams& p, int rank,
                                               int warp) {
  const int lane = threadIdx.x % 32, own = lane / 8, four = lane % 8;
  const int channel = (rank + own * kBlocks) * kSlice + four * 4;
  float* const squares_to =  // of the thread of a row's block that has these channels
      &s.squares[rank / 4 + own * 4][rank % 4 * 8 + four];
  Four g[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) g[v] = norm_weights(p.norm + channel + v * kRowChannels);
  Turns turns(p);
  if (turns.is_there()) send_chains(s, rank, warp, turns.parity());
#pragma unroll 1
  for (; turns.is_there(); turns.advance()) {
    s.pre_full.wait(turns.parity());
    if (warp == 0 && lane == 0) s.pre_full.arrive_expecting(kPreBytes);
    Four u[2][kVectors];
    float squares[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int token = token_of(warp, n), row = turns.row(token);
      float pre[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) pre[j] = s.pre[token][j];
      uint16_t* const to = p.streams + int64_t{row} * (kStreams * kWidth) + channel;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const uint8_t* const from = s.tiles[turns.buffer()] +
                                    (own + v * (kOwn / kVectors)) * kSliceBytes +
                                    place_of_four(token, four);
        tile::Vector8 x[kStreams];
#pragma unroll
        for (int j = 0; j < kStreams; ++j)
          x[j] = *reinterpret_cast<const tile::Vector8*>(from + j * kStreamBytes);
        u[n][v] = collapse(pre, x, squares[n]);
        if (row >= turns.rows) continue;
#pragma unroll
        for (int j = 0; j < kStreams; ++j)
          store_pairs(to + v * kRowChannels + j * kWidth, x[j].word[0], x[j].word[1]);
      }
    }
    s.empty[turns.buffer()].arrive();
#pragma unroll
    for (int n = 0; n < 2; ++n)
      tile::send(squares_to, squares[n], s.squares_full, token_of(warp, n));
    // The next tile's sums, while the factors are on their way.
    if (turns.has_next()) send_chains(s, rank, warp, turns.parity() ^ 1);
    s.factor_full.wait(turns.parity());
    if (warp == 0 && lane == 0) s.factor_full.arrive_expecting(kFactorBytes);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int token = token_of(warp, n), row = turns.row(token);
      const float factor = s.factor[token];
      if (row >= turns.rows) continue;
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        store_normed(p, int64_t{row} * kWidth + channel + v * kRowChannels, g[v], u[n][v], factor);
    }
    __syncwarp();  // all lanes have read the factors: with the next squares come others
  }
}

// --- Of the block's own token, a warp each.

__device__ __forceinline__ void run_mixer(Smem& s, const HyperBoundaryParams& p, int rank) {
  const int lane = threadIdx.x % 32;
  MixMap map;
  map.load(p, false, lane);
#pragma unroll 1
  for (Turns turns(p); turns.is_there(); turns.advance()) {
    s.mixes_full.wait(turns.parity());
    if (lane == 0) s.mixes_full.arrive_expecting(kMixBytes);
    float mix = 0;
    if (lane < kOwnSums) {
      mix = s.mixes[0][lane];
#pragma unroll
      for (int chain = 1; chain < kBlocks; ++chain) mix += s.mixes[chain][lane];
    }
    const float logit = map.logit_of(mix, kWidth, p.rms_norm_eps);
    const float z = sigmoid(logit);
    const int first = lane % 2 * 2;
    const float pre = __shfl_sync(kAllLanes, z, first) + p.hc_eps;
    const float next = __shfl_sync(kAllLanes, z, first + 1) + p.hc_eps;
    tile::send_two(&s.pre[rank][first], pre, next, s.pre_full, lane / 2);
    const float comb = __shfl_sync(kAllLanes, logit, (lane + 2 * kStreams) % 32);
    const int row = turns.row(rank);
    if (row >= turns.rows) continue;
    if (lane / kStreams == 1) p.post[row * kStreams + lane - kStreams] = 2.0f * z;
    if (lane < 16) p.logits[row * 16 + lane] = comb;
  }
}

__device__ __forceinline__ void run_normer(Smem& s, const HyperBoundaryParams& p, int rank) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (Turns turns(p); turns.is_there(); turns.advance()) {
    s.squares_full.wait(turns.parity());
    if (lane == 0) s.squares_full.arrive_expecting(kSquareBytes);
    float squares[kRowWarps];
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) squares[w] = sum_lanes(s.squares[w][lane]);
    const float factor = norm_factor(squares, kWidth, p.rms_norm_eps);
    if (lane < kBlocks) tile::send(&s.factor[rank], factor, s.factor_full, lane);
    __syncwarp();
  }
}

// --- Loaders: of eight tokens of each tile.

__device__ __forceinline__ void run_loader(Smem& s, const HyperBoundaryParams& p, int rank,
                                           int eight) {
  const int lane = threadIdx.x % 32, token = eight * kTokens + lane / 4, piece = lane % 4;
  const uint16_t* const streams = p.streams + rank * kSlice + piece * 8;
#pragma unroll 1
  for (Turns turns(p); turns.is_there(); turns.advance()) {
    if (turns.turn >= 2) s.empty[turns.buffer()].wait(turns.parity_of_buffer() ^ 1);
    const uint16_t* const from = streams + int64_t{turns.known_row(token)} * (kStreams * kWidth);
    uint8_t* const to = s.tiles[turns.buffer()] + place(token, piece);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        tile::start_copy(
            to + i * kSliceBytes + j * kStreamBytes,
            reinterpret_cast<const tile::Vector16*>(from + j * kWidth + i * (kBlocks * kSlice)));
      }
    }
    tile::arrive_after_copies(s.full[turns.buffer()]);
  }
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    cluster_kernel(const __grid_constant__ HyperBoundaryParams p) {
  extern __shared__ __align__(128) uint8_t bytes[];
  Smem& s = *reinterpret_cast<Smem*>(bytes);
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int rank = tile::rank_in_cluster();
  if (!p.lets_next_in) tile::launch_dependents();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      s.full[i].init(kLoadWarps * 32);
      s.empty[i].init(kTokenWarps * 32);
    }
    s.sums_full.init(kMixWarps * 32);
    s.sums_empty.init(kTokenWarps * 32);
    const auto expect = [](tile::Mbarrier& barrier, uint32_t num_bytes) {
      barrier.init(1);
      barrier.arrive_expecting(num_bytes);
    };
    expect(s.mixes_full, kMixBytes);
    expect(s.pre_full, kPreBytes);
    expect(s.squares_full, kSquareBytes);
    expect(s.factor_full, kFactorBytes);
    tile::Mbarrier::publish_inits();
  }
  load_weights(s, p, rank, warp);
  __syncthreads();
  tile::arrive_in_cluster();
  tile::wait_for_producers();
  if (p.lets_next_in) tile::launch_dependents();
  tile::wait_in_cluster();
  if (warp < kMixWarps) {
    tile::grow_registers<kMixRegisters>();
    run_mix_warp(s, p, rank, warp);
  } else if (warp < kMixWarps + kTokenWarps) {
    tile::shrink_registers<kTokenRegisters>();
    run_token_warp(s, p, rank, warp - kMixWarps);
  } else {
    tile::shrink_registers<kOtherRegisters>();
    const int other = warp - (kMixWarps + kTokenWarps);
    if (other == 0) {
      run_mixer(s, p, rank);
    } else if (other == 1) {
      run_normer(s, p, rank);
    } else {
      run_loader(s, p, rank, other - 2);
    }
  }
  // Each has waited for all that is sent to it; nobody ends before the others have.
  __syncwarp();
  tile::arrive_in_cluster();
  tile::wait_in_cluster();
}

// How many clusters a device runs at once; 0: it has none of this size.
inline int num_clusters() {
  CACHALOT_CUDA_CHECK(
      cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  device::cuda::allow_smem(cluster_kernel, sizeof(Smem));
  cudaLaunchAttribute size;
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Smem);
  config.attrs = &size;
  config.numAttrs = 1;
  int count = 0;
  CACHALOT_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&count, cluster_kernel, &config));
  return count;
}

constexpr int64_t kLeastRows = 512;  // 32 tiles

// comb is left as logits, y lies in bf16.
inline bool fits(const HyperBoundaryParams& p, int64_t rows) {
  return p.d == kWidth && rows >= kLeastRows && !p.head && p.y_bf16 != nullptr &&
         p.logits != nullptr;
}

inline void launch(const device::cuda::Stream& stream, const HyperBoundaryParams& p, int clusters) {
  device::cuda::LaunchShape shape;
  const int64_t tiles = (p.rows + kBlocks - 1) / kBlocks;
  shape.grid = dim3(static_cast<unsigned>(std::min<int64_t>(clusters, tiles) * kBlocks));
  shape.block = kThreads;
  shape.smem_bytes = sizeof(Smem);
  device::cuda::launch(stream, shape, cluster_kernel, p);
}

}  // namespace cachalot::ops::boundary::cluster
