// Where the rows of x and h lie for the experts' products of many tokens (expert_many_cuda.cu): the
// slots of tiles of tokens, and the kernels that find them and bring quantised rows there. Internal
// to ops/moe.
// Layout    struct Tile, Place and Scratch.
// Numerics  quantised as ACT8 (ops/quant/act8.cuh).
// Errors    none: make_expert_plan has checked what is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ops/matmul/streamed_fp4.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/pair_ranks.cuh"
#include "ops/quant/act8_run.cuh"
#include "tile/copy.cuh"
#include "tile/e2m1.cuh"
#include "tile/order.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::ops::many_experts {

inline constexpr int kTileTokens = 128;  // at most
inline constexpr int kColumnStep = 16;   // a tile has a multiple of so many columns

// Some tokens of one expert: its slots are columns of the products.
struct alignas(16) Tile {
  int32_t expert;
  int32_t num_tokens;
  int32_t first_slot;
  int32_t columns;  // >= num_tokens
};
// Where a pair's row lies among the activations of its tile.
struct alignas(8) Place {
  int32_t first_slot;  // the tile's; -1: nowhere, the expert is unknown
  uint16_t columns;    // the tile's
  uint16_t column;
};
// A tile's activations: blocks of 128 inputs, each the codes of all columns, of which a column is a
// row of a SwizzledTile, and their scales; the next one begins with a line of memory.
__host__ __device__ constexpr int data_bytes(int columns) { return columns * (128 + 4); }
__host__ __device__ constexpr int block_bytes(int columns) {
  return (data_bytes(columns) + tile::kLineBytes - 1) / tile::kLineBytes * tile::kLineBytes;
}
inline constexpr int kSlotBytes = block_bytes(kColumnStep) / kColumnStep;  // of a block, at most
__device__ __forceinline__ int64_t tile_offset(int first_slot, int blocks) {
  return int64_t{first_slot} * kSlotBytes * blocks;
}

// Device memory of a call.
struct Scratch {
  int32_t* num_tiles;
  int32_t* taken_items;  // [2]: of the two products, by blocks after their first
  Tile* tiles;
  int32_t* slot_pairs;
  float* slot_weights;  // those of the pairs
  Place* places;        // [pair]
  uint8_t* x;
  uint8_t* h;
};

struct Sizes {
  int64_t pairs, tiles, slots;

  explicit Sizes(const ExpertShape& s)
      : pairs(s.max_tokens * s.k),
        tiles(pairs / kTileTokens + std::min(s.num_experts, pairs)),
        slots(pairs + kColumnStep * tiles) {}
};

// Cuts `from`, which may be null; returns how much that takes.
inline int64_t cut(const ExpertShape& s, std::byte* from, Scratch& scratch) {
  const Sizes sizes(s);
  int64_t at = 0;
  const auto take = [&](auto*& pointer, int64_t count) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(from + at);
    at += (count * static_cast<int64_t>(sizeof(*pointer)) + 127) / 128 * 128;
  };
  take(scratch.num_tiles, 1);
  take(scratch.taken_items, 2);
  take(scratch.tiles, sizes.tiles);
  take(scratch.slot_pairs, sizes.slots);
  take(scratch.slot_weights, sizes.slots);
  take(scratch.places, sizes.pairs);
  take(scratch.x, sizes.slots * kSlotBytes * (s.hidden_size / 128));
  take(scratch.h, sizes.slots * kSlotBytes * (s.moe_intermediate_size / 128));
  return at;
}

// --- Tiles. An expert's tokens are shared by its tiles alike. Every block counts all pairs; then
// it finds the slots of some experts' pairs, in their order.

inline constexpr int kTilesThreads = 1024;
inline constexpr int kTilesWarps = kTilesThreads / 32;
inline constexpr int kThreadPairs = kMaxExpertPairs / kTilesThreads;
static_assert(kMaxExpertPairs % kTilesThreads == 0);

__device__ __forceinline__ int round_up_to_columns(int tokens) {
  return (tokens + kColumnStep - 1) / kColumnStep * kColumnStep;
}

// How an expert's tokens are cut.
struct Cut {
  int tiles;
  int share;  // of a tile, the last one's may be less

  __device__ __forceinline__ explicit Cut(int tokens)
      : tiles((tokens + kTileTokens - 1) / kTileTokens),
        share(tiles == 0 ? 1 : (tokens + tiles - 1) / tiles) {}
};

static __global__ void __launch_bounds__(kTilesThreads, 1)
    tiles_kernel(const int32_t* ids, int num_pairs, int num_experts, Scratch s) {
  __shared__ int counts[PairRanks::kMaxExperts];
  __shared__ int first_slots[PairRanks::kMaxExperts];
  __shared__ int sums[2][PairRanks::kMaxExperts / 32];
  __shared__ int warp_counts[2][kTilesWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = tile::uniform(thread / 32);
  if (thread < PairRanks::kMaxExperts) counts[thread] = 0;
  tile::wait_for_producers();
  tile::launch_dependents();
  __syncthreads();

  // A warp has a run of the pairs, 32 at a time.
  const int run = (num_pairs + kTilesThreads - 1) / kTilesThreads;
  const auto pair_of = [&](int i) { return (warp * run + i) * 32 + lane; };
  int own[kThreadPairs];
#pragma unroll
  for (int i = 0; i < kThreadPairs; ++i) {
    own[i] = i < run && pair_of(i) < num_pairs ? tile::load_shared_state(ids + pair_of(i)) : -1;
  }
#pragma unroll
  for (int i = 0; i < kThreadPairs; ++i) {
    if (own[i] >= 0 && own[i] < num_experts) {
      atomicAdd(&counts[own[i]], 1);
    } else if (blockIdx.x == 0 && i < run && pair_of(i) < num_pairs) {
      s.places[pair_of(i)] = {-1, 0, 0};
    }
  }
  __syncthreads();

  // Thread e has expert e.
  const int tokens = thread < PairRanks::kMaxExperts ? counts[thread] : 0;
  const Cut cut(tokens);
  const int columns = round_up_to_columns(cut.share);
  const int first_tile = sum_before(cut.tiles, sums[0]);
  const int first = sum_before(cut.tiles * columns, sums[1]);
  if (thread < PairRanks::kMaxExperts) {
    first_slots[thread] = first;
    if (thread % static_cast<int>(gridDim.x) == static_cast<int>(blockIdx.x)) {
      for (int i = 0; i < cut.tiles; ++i) {
        s.tiles[first_tile + i] = {thread, min(cut.share, tokens - i * cut.share),
                                   first + i * columns, columns};
      }
    }
    if (blockIdx.x == 0 && thread == PairRanks::kMaxExperts - 1) {
      *s.num_tiles = first_tile + cut.tiles;
      s.taken_items[0] = s.taken_items[1] = 0;
    }
  }
  __syncthreads();

  int turn = 0;
  for (int e = static_cast<int>(blockIdx.x); e < num_experts; e += static_cast<int>(gridDim.x)) {
    const int of_expert = counts[e];
    if (of_expert == 0) continue;
    int of_thread = 0;
#pragma unroll
    for (int i = 0; i < kThreadPairs; ++i) of_thread += own[i] == e ? 1 : 0;
    const int of_warp = __reduce_add_sync(0xFFFFFFFFu, of_thread);
    if (lane == 0) warp_counts[turn][warp] = of_warp;
    __syncthreads();  // who writes these counts again has passed the next one
    int rank = __reduce_add_sync(0xFFFFFFFFu, lane < warp ? warp_counts[turn][lane] : 0);
    turn ^= 1;
    if (of_warp == 0) continue;
    const int share = Cut(of_expert).share;
    const int own_columns = round_up_to_columns(share);
#pragma unroll
    for (int i = 0; i < kThreadPairs; ++i) {
      const unsigned same = __ballot_sync(0xFFFFFFFFu, own[i] == e);
      if (same == 0) continue;
      if (own[i] == e) {
        const int place = rank + __popc(same & ((1u << lane) - 1));
        const int first_slot = first_slots[e] + place / share * own_columns;
        const int column = place % share;
        s.slot_pairs[first_slot + column] = pair_of(i);
        s.places[pair_of(i)] = {first_slot, static_cast<uint16_t>(own_columns),
                                static_cast<uint16_t>(column)};
      }
      rank += __popc(same);
    }
  }
}

// --- Activations.

__device__ __forceinline__ Tile load_tile(const Tile* from) {
  const tile::Vector16 v = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  return {static_cast<int32_t>(v.word[0]), static_cast<int32_t>(v.word[1]),
          static_cast<int32_t>(v.word[2]), static_cast<int32_t>(v.word[3])};
}
// What lane `lane` has of a Place.
__device__ __forceinline__ Place place_of_lane(const tile::Vector8& own, int lane) {
  const uint32_t columns = __shfl_sync(0xFFFFFFFFu, own.word[1], lane);
  return {static_cast<int32_t>(__shfl_sync(0xFFFFFFFFu, own.word[0], lane)),
          static_cast<uint16_t>(columns), static_cast<uint16_t>(columns >> 16)};
}

inline constexpr int kQuantiseThreads = 256;
// Of a row, a warp's to quantise.
template <typename T>
inline constexpr int kWarpRuns = 16 / static_cast<int>(sizeof(T));

// A warp quantises some runs of 128 values of a row of x and writes them at the places of the row's
// pairs, and the pairs' weights, which may be null. After the rows follow the tiles: their columns
// past the last token are zeros.
template <typename T>
__global__ void __launch_bounds__(kQuantiseThreads, 4)
    quantise_kernel(const T* x, const float* weights, int rows, int pairs_per_row, int blocks,
                    Scratch s, uint8_t* to) {
  constexpr int kRuns = kWarpRuns<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int item = tile::uniform(static_cast<int>(blockIdx.x) * (kQuantiseThreads / 32) +
                                 static_cast<int>(threadIdx.x) / 32);
  const int parts = (blocks + kRuns - 1) / kRuns;
  const int row = item / parts;
  const int first = (item - row * parts) * kRuns;
  tile::wait_for_producers();
  tile::launch_dependents();

  Act8Four q[kRuns] = {};
  const int at = StreamedFp4::place(lane * 4);  // of the lane's codes
  const auto store = [&](int first_slot, int columns, int column) {
    uint8_t* const block = to + tile_offset(first_slot, blocks) + first * block_bytes(columns);
    uint8_t* codes = block + tile::SwizzledTile::offset(column, at / 16) + at % 16;
    float scale = 0;
#pragma unroll
    for (int i = 0; i < kRuns; ++i, codes += block_bytes(columns)) {
      if (first + i < blocks) *reinterpret_cast<uint32_t*>(codes) = q[i].codes;
      if (lane == i) scale = q[i].scale * tile::kE2m1TableInE4m3;
    }
    if (lane < kRuns && first + lane < blocks) {
      *reinterpret_cast<float*>(block + lane * block_bytes(columns) + columns * 128 +
                                scale_place(column) * 4) = scale;
    }
  };

  if (row >= rows) {
    if (row - rows >= tile::load_shared_state(s.num_tiles)) return;
    const Tile own = load_tile(s.tiles + row - rows);
    for (int column = own.num_tokens; column < own.columns; ++column)
      store(own.first_slot, own.columns, column);
    return;
  }
  FourValues<T> v[kRuns] = {};
#pragma unroll
  for (int i = 0; i < kRuns; ++i) {
    if (first + i < blocks) v[i].load(x + (int64_t{row} * blocks + first + i) * 128 + lane * 4);
  }
  for (int from = 0; from < pairs_per_row; from += 32) {
    const int pairs = min(32, pairs_per_row - from);
    tile::Vector8 own = {};
    float weight = 0;
    if (lane < pairs) {
      const int pair = row * pairs_per_row + from + lane;
      own = tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(s.places + pair));
      if (weights != nullptr && first == 0) weight = tile::load_shared_state(weights + pair);
    }
    if (from == 0) {
#pragma unroll
      for (int i = 0; i < kRuns; ++i) q[i] = quantise_act8(v[i]);
    }
    for (int i = 0; i < pairs; ++i) {
      const Place place = place_of_lane(own, i);
      if (place.first_slot < 0) continue;
      store(place.first_slot, place.columns, place.column);
      if (weights != nullptr && first == 0 && lane == i)
        s.slot_weights[place.first_slot + place.column] = weight;
    }
  }
}

}  // namespace cachalot::ops::many_experts
