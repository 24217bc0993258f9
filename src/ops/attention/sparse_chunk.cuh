// The parts of sparse decode attention that both of its forms are made of: 64 keys of a row to
// shared memory, their scores, their weights, the running sum's exponents, the finished row. What a
// part does to a value does not depend on the form (reference/infrastructure 5.1).
#pragma once

#include "ops/attention/sparse_decode_cuda.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::ops::sparse {

using tile::SwizzledTile;
constexpr int kDim = 512;
constexpr int kCodes = 448;
constexpr int kDataBytes = kCodes + (kDim - kCodes) * 2;
constexpr int kScaleBytes = 8;
constexpr int kChunk = static_cast<int>(kDecodeChunk);
constexpr int kHeads = 64;  // of a group
constexpr int kTileDims = 64;
constexpr int kTiles = kDim / kTileDims;
constexpr int kTileBytes = kChunk * SwizzledTile::kRowBytes;
constexpr int kOperandBytes = kTiles * kTileBytes;  // queries of a group; keys of a chunk
constexpr float kLog2E = 0x1.715476p+0f;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;
static_assert(kHeads == kChunk);

// --- Keys.

__device__ __forceinline__ int num_chunks(int keys) { return (keys + kChunk - 1) / kChunk; }

// A row's keys: those of its window, then its entries.
struct RowKeys {
  int total;
  int window;
  int first_slot;         // of the window, in the ring
  uint64_t inverse_rows;  // 2^40 / rows of a block, rounded up
  const uint8_t* ring;
  const int32_t* table;
  const int32_t* selected;  // null: entry i is i

  static __device__ int count(const SparseDecodeParams& p, int row) {
    const int position = tile::load_shared_state(p.position + row);
    const int entries =
        p.num_selected == nullptr ? 0 : tile::load_shared_state(p.num_selected + row);
    return min(static_cast<int>(p.window), position + 1) + entries;
  }
  __device__ RowKeys(const SparseDecodeParams& p, int row) : total(count(p, row)) {
    const int position = tile::load_shared_state(p.position + row);
    window = min(static_cast<int>(p.window), position + 1);
    first_slot = (position - (window - 1)) % max(1, static_cast<int>(p.window_capacity));
    inverse_rows = (uint64_t{1} << 40) / max(1u, static_cast<uint32_t>(p.rows_per_block)) + 1;
    ring = window == 0 ? nullptr
                       : reinterpret_cast<const uint8_t*>(p.window_base) +
                             tile::load_shared_state(p.ring + row) * p.ring_bytes;
    table = p.blocks + row * p.table_stride;
    selected = p.selected == nullptr ? nullptr : p.selected + row * p.topk;
  }

  // Three steps from a key to its bytes, the first two of which each load what the next needs.
  __device__ __forceinline__ int pick(int key) const {
    if (key < window || key >= total) return 0;
    return selected == nullptr ? key - window : tile::load_shared_state(selected + key - window);
  }
  struct Place {
    int slot;   // below 0: no such key
    int block;  // below 0: the ring
  };
  __device__ __forceinline__ Place place(const SparseDecodeParams& p, int key, int picked) const {
    if (key >= total) return {-1, -1};
    if (key < window) {
      const int capacity = static_cast<int>(p.window_capacity), slot = first_slot + key;
      return {slot < capacity ? slot : slot - capacity, -1};
    }
    // Exact: entries are below 2^26, rows at most 2^14.
    const int index = static_cast<int>(static_cast<uint32_t>(picked) * inverse_rows >> 40);
    return {picked - index * static_cast<int>(p.rows_per_block),
            tile::load_shared_state(table + index)};
  }
  struct Source {
    const uint8_t* data;  // null: no such key
    int scales;           // bytes from data
  };
  __device__ __forceinline__ Source source(const SparseDecodeParams& p, Place place) const {
    if (place.slot < 0) return {nullptr, 0};
    const uint8_t* block = ring;
    int rows = static_cast<int>(p.window_capacity);
    if (place.block >= 0) {
      block = reinterpret_cast<const uint8_t*>(p.entries) + place.block * p.block_bytes + p.offset;
      rows = static_cast<int>(p.rows_per_block);
    }
    return {block + static_cast<int64_t>(place.slot) * kDataBytes,
            (rows - place.slot) * kDataBytes + place.slot * kScaleBytes};
  }
};

// A key is expanded by four lanes, each with a quarter of every 64 bytes.
constexpr int kCodePieces = kCodes / 64;
constexpr int kPieces = kDataBytes / 64;

__device__ __forceinline__ const tile::Vector16* piece_of(const RowKeys::Source& from, int i) {
  return reinterpret_cast<const tile::Vector16*>(from.data) + 4 * i + threadIdx.x % 4;
}
__device__ __forceinline__ tile::Vector16 load_piece(const RowKeys::Source& from, int i) {
  return from.data == nullptr ? tile::Vector16{} : tile::load_shared_state(piece_of(from, i));
}
__device__ __forceinline__ tile::Vector8 load_scales(const RowKeys::Source& from) {
  if (from.data == nullptr) return tile::Vector8{};
  return tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(from.data + from.scales));
}
// 16 codes to the two places of 16 bytes from 2 `quarter` of a tile's row, as bf16.
__device__ __forceinline__ void store_codes(uint8_t* to, int row, int quarter,
                                            const tile::Vector16& codes, uint32_t scale) {
  const uint32_t factor = tile::e8m0_factor_of_bf16(scale);
  tile::Vector16 values[2];
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    uint32_t pairs[2];
    tile::e4m3_to_bf16(codes.word[word], pairs[0], pairs[1]);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      values[word / 2].word[word % 2 * 2 + j] = tile::multiply_bf16(pairs[j], factor);
    }
  }
  *reinterpret_cast<tile::Vector16*>(to + SwizzledTile::offset(row, 2 * quarter)) = values[0];
  *reinterpret_cast<tile::Vector16*>(to + SwizzledTile::offset(row, 2 * quarter + 1)) = values[1];
}
// A lane's piece i of a key to row `row` of a chunk's tiles.
__device__ __forceinline__ void store_piece(uint8_t* tiles, int row, int i,
                                            const tile::Vector16& piece,
                                            const tile::Vector8& scales) {
  const int quarter = threadIdx.x % 4;
  if (i < kCodePieces) {
    store_codes(tiles + i * kTileBytes, row, quarter, piece,
                scales.word[i / 4] >> (i % 4 * 8) & 255);
  } else {
    *reinterpret_cast<tile::Vector16*>(tiles + (kTiles - 1) * kTileBytes +
                                       SwizzledTile::offset(row, (i - kCodePieces) * 4 + quarter)) =
        piece;
  }
}

// A group's queries to tiles, under way until wait_copies; thread `thread` of `threads` does its
// share.
__device__ __forceinline__ void start_queries(const uint16_t* q, uint8_t* tiles, int thread,
                                              int threads) {
  for (int i = thread; i < kHeads * (kDim / 8); i += threads) {
    const int head = i / (kDim / 8), piece = i % (kDim / 8);
    tile::start_copy(tiles + piece / 8 * kTileBytes + SwizzledTile::offset(head, piece % 8),
                     reinterpret_cast<const tile::Vector16*>(q + head * kDim) + piece);
  }
}

// --- Weights.

// q . k of 64 heads and 64 keys, in the places of D (tile/mma.cuh). By a warpgroup.
__device__ __forceinline__ void scores(const uint8_t* q, const uint8_t* keys, float (&d)[32]) {
  const uint32_t a = tile::smem_address(q), b = tile::smem_address(keys);
  tile::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    tile::wgmma_bf16_n64(d, SwizzledTile::major_k(a, i / 4 * (kTileBytes / 32) + i % 4),
                         SwizzledTile::major_k(b, i / 4 * (kTileBytes / 32) + i % 4),
                         i > 0 ? 1 : 0);
  }
  tile::wgmma_commit();
  tile::wgmma_wait<0>();
}

// Of a thread's two rows (heads g and g + 8 of its warp's 16): weights as pairs in the places of A,
// 2^exponent times which are exp(scores); their sums over the chunk.
struct ChunkWeights {
  uint32_t pair[16];
  int exponent[2];
  float sum[2];
};
__device__ __forceinline__ ChunkWeights weigh(float (&d)[32], int count, float scale_log2e) {
  const int t = threadIdx.x % 4;
  if (count < kChunk) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + 2 * t + i % 2 >= count) d[i] = __uint_as_float(0xFF800000u);
    }
  }
  ChunkWeights w;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float max = d[2 * row];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      max = fmaxf(max, fmaxf(d[4 * n + 2 * row], d[4 * n + 2 * row + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
    constexpr float kFar = 0x1p28f;
    const float exponent = fminf(fmaxf(ceilf(max * scale_log2e), -kFar), kFar);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float p0 = tile::approximate_exp2(fmaf(d[4 * n + 2 * row], scale_log2e, -exponent));
      const float p1 = tile::approximate_exp2(fmaf(d[4 * n + 2 * row + 1], scale_log2e, -exponent));
      const uint32_t pair = tile::pack_bf16(p0, p1);
      sum += tile::low_bf16(pair);
      sum += tile::high_bf16(pair);
      w.pair[n / 2 * 4 + n % 2 * 2 + row] = pair;
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    w.exponent[row] = static_cast<int>(exponent);
    w.sum[row] = sum;
  }
  return w;
}

// --- The running sum of one head: 2^exponent times `sum`, and values that are kept elsewhere.
struct RunningHead {
  static constexpr int kNothing = -(1 << 29);
  int exponent = kNothing;
  float sum = 0;

  struct Factors {
    float old;        // for the values so far
    uint32_t weight;  // for the chunk's weights, twice in bf16
  };
  __device__ __forceinline__ Factors add(int chunk_exponent, float chunk_sum) {
    const int larger = max(exponent, chunk_exponent);
    const float old = tile::pow2(exponent - larger);
    sum = fmaf(sum, old, chunk_sum * tile::pow2(chunk_exponent - larger));
    const Factors factors{old, tile::pow2_bf16(chunk_exponent - larger)};
    exponent = larger;
    return factors;
  }
  // 1 / (sum + exp(sink)), for the values.
  __device__ __forceinline__ float finish(float sink) const {
    return 1 / (sum + tile::approximate_exp2(fmaf(sink, kLog2E, -static_cast<float>(exponent))));
  }
};

__device__ __forceinline__ void scale_weights(uint32_t (&pair)[16],
                                              const RunningHead::Factors (&factors)[2]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) pair[i] = tile::multiply_bf16(pair[i], factors[i % 2].weight);
}
template <int kValues>
__device__ __forceinline__ void scale_values(float (&d)[kValues],
                                             const RunningHead::Factors (&factors)[2]) {
  if (!__any_sync(kAllLanes, factors[0].old != 1 || factors[1].old != 1)) return;
#pragma unroll
  for (int i = 0; i < kValues; ++i) d[i] *= factors[i / 2 % 2].old;
}

// --- The finished row.

// Four words a lane of a quad, word i of lane t being the t-th of run i: lane t gets run t.
__device__ __forceinline__ tile::Vector16 gather_run(const uint32_t (&w)[4]) {
  const bool odd = threadIdx.x % 2 != 0, upper = threadIdx.x / 2 % 2 != 0;
  const uint32_t x = __shfl_xor_sync(kAllLanes, odd ? w[0] : w[1], 1);
  const uint32_t y = __shfl_xor_sync(kAllLanes, odd ? w[2] : w[3], 1);
  const uint32_t p0 = odd ? x : w[0], p1 = odd ? w[1] : x;
  const uint32_t q0 = odd ? y : w[2], q1 = odd ? w[3] : y;
  const uint32_t u = __shfl_xor_sync(kAllLanes, upper ? p0 : q0, 2);
  const uint32_t v = __shfl_xor_sync(kAllLanes, upper ? p1 : q1, 2);
  return upper ? tile::Vector16{{u, v, q0, q1}} : tile::Vector16{{p0, p1, u, v}};
}

// What rotates the last 64 values back: the cosine and sine of a lane's pairs, 4 n + t.
struct Rotation {
  tile::Vector8 pair[8];
  __device__ __forceinline__ Rotation(const SparseDecodeParams& p, int row) {
    const auto* from = reinterpret_cast<const tile::Vector8*>(p.rotation) + row * 32;
#pragma unroll
    for (int n = 0; n < 8; ++n)
      pair[n] = tile::load_shared_state(from + 4 * n + static_cast<int>(threadIdx.x) % 4);
  }
  __device__ __forceinline__ uint32_t back(int n, uint32_t values) const {
    const float c = tile::bits_to_float(pair[n].word[0]);
    const float sine = -tile::bits_to_float(pair[n].word[1]);
    const float x = tile::low_bf16(values), y = tile::high_bf16(values);
    return tile::pack_bf16(x * c - y * sine, x * sine + y * c);
  }
};

// 64 values of a thread's two heads: scaled, rounded, rotated back where `rotation` is given; out:
// of the thread's first head.
__device__ __forceinline__ void finish_tile(const float* d, const float (&inverse)[2],
                                            const Rotation* rotation, uint16_t* out) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int n = half * 4 + i;
        words[i] = tile::pack_bf16(d[4 * n + 2 * head] * inverse[head],
                                   d[4 * n + 2 * head + 1] * inverse[head]);
        if (rotation != nullptr) words[i] = rotation->back(n, words[i]);
      }
      *reinterpret_cast<tile::Vector16*>(out + head * 8 * kDim + (half * 4 + t) * 8) =
          gather_run(words);
    }
  }
}

// The head in its group, of whose rows (it and the one 8 further) a thread of a warpgroup has
// values.
__device__ __forceinline__ int own_head() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}

}  // namespace cachalot::ops::sparse
