// The parts of sparse decode attention that both of its forms are made of: 64 keys of a row to
// shared memory, their scores, their weights, the running sum's exponents, the finished row. What a
// part does to a value does not depend on the form (reference/infrastructure 5.1).
#pragma once

#include "ops/attention/sparse_decode_cuda.h"
#include "ops/rows/row_of.cuh"
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

// A row's keys: those of its window, the first of them in a ring and the others among the step's
// rows, then its entries.
struct RowKeys {
  int total;
  int position;
  int window;
  int first_of_step;  // the key
  int step_row;       // of key 0, were it one of the step's
  int slot;           // of key 0 in the ring
  int ring_rows;
  int block_rows;
  float blocks_per_row;  // 1 / block_rows
  const uint8_t* ring;
  const std::byte* const* table;
  const int32_t* selected;  // null: entry i is i

  // By a warp.
  static __device__ __forceinline__ int count(const SparseDecodeParams& p, int row) {
    return count(p, row, RowOf(p.sequences, row).position);
  }
  __device__ __forceinline__ RowKeys(const SparseDecodeParams& p, int row) {
    const RowOf of(p.sequences, row);
    total = count(p, row, of.position);
    set_places(p, row, of);
  }
  // All but the total, of what the host makes alone: no kernel need have ended.
  static __device__ __forceinline__ RowKeys before_total(const SparseDecodeParams& p, int row) {
    RowKeys keys;
    keys.set_places(p, row, RowOf(p.sequences, row));
    return keys;
  }
  __device__ __forceinline__ void find_total(const SparseDecodeParams& p, int row) {
    total = count(p, row, position);
  }

  // Three steps from a key to its bytes, the first two of which each load what the next needs. No
  // step chooses between what it loads and something else: it would wait.
  __device__ __forceinline__ int pick(const SparseDecodeParams& p, int key) const {
    // Of no entry: anything.
    const auto* const from = selected == nullptr ? reinterpret_cast<const int32_t*>(p.step_rows)
                                                 : selected + max(0, min(key, total - 1) - window);
    return tile::load_shared_state(from);
  }
  struct Place {
    bool is_entry;
    const uint8_t* entries;  // the entry's block
    const uint8_t* block;    // of no entry; null: no such key
    int slot;
    int rows;  // of the block
  };
  __device__ __forceinline__ Place place(const SparseDecodeParams& p, int key, int picked) const {
    Place place = {key >= window && key < total, nullptr, nullptr, 0, 0};
    if (total > window) {
      const int entry = !place.is_entry ? 0 : selected == nullptr ? key - window : picked;
      const int index = block_of(entry);
      place.entries = reinterpret_cast<const uint8_t*>(table[index]);
      place.slot = entry - index * block_rows;
      place.rows = block_rows;
    }
    if (key >= window) return place;
    const bool of_step = key >= first_of_step;
    const int in_ring = slot + key;
    place.block = of_step ? reinterpret_cast<const uint8_t*>(p.step_rows) : ring;
    place.slot = of_step ? step_row + key : in_ring < ring_rows ? in_ring : in_ring - ring_rows;
    place.rows = of_step ? static_cast<int>(p.rows) : ring_rows;
    return place;
  }
  // Of the table, that which holds an entry.
  __device__ __forceinline__ int block_of(int entry) const {
    // Off by one at most: entries are below 2^22.
    int index = static_cast<int>(static_cast<float>(entry) * blocks_per_row);
    if (index * block_rows > entry) --index;
    if ((index + 1) * block_rows <= entry) ++index;
    return index;
  }
  struct Source {
    const uint8_t* data;  // null: no such key
    int scales;           // bytes from data
  };
  static __device__ __forceinline__ Source source(const Place& place) {
    const uint8_t* const block = place.is_entry ? place.entries : place.block;
    if (block == nullptr) return {nullptr, 0};
    return {block + static_cast<int64_t>(place.slot) * kDataBytes,
            (place.rows - place.slot) * kDataBytes + place.slot * kScaleBytes};
  }

 private:
  RowKeys() = default;
  __device__ __forceinline__ void set_places(const SparseDecodeParams& p, int row,
                                             const RowOf& of) {
    const tensor::LayerRows& rows = p.layer_rows[of.sequence];
    position = of.position;
    window = window_keys(p, of.position);
    const int begin = of.position - window + 1;
    first_of_step = of.first_position - begin;
    step_row = of.first_row - first_of_step;
    ring_rows = static_cast<int>(rows.window.capacity);
    slot = begin % max(1, ring_rows);
    ring = reinterpret_cast<const uint8_t*>(rows.window.base);
    block_rows = max(1, static_cast<int>(rows.entries.rows_per_block));
    blocks_per_row = 1.0f / static_cast<float>(block_rows);
    table = rows.entries.blocks;
    selected = p.selected == nullptr ? nullptr : p.selected + row * p.topk;
  }
  static __device__ __forceinline__ int window_keys(const SparseDecodeParams& p, int position) {
    return min(static_cast<int>(p.window), position + 1);
  }
  static __device__ __forceinline__ int count(const SparseDecodeParams& p, int row, int position) {
    int entries = 0;
    if (p.ratio > 0) {
      entries = p.selected != nullptr ? tile::load_shared_state(p.num_selected + row)
                                      : (position + 1) / static_cast<int>(p.ratio);
    }
    return window_keys(p, position) + entries;
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

// A group's queries to tiles; thread `thread` of kThreads does its share, kAtOnce loads at a time:
// between load and store others may be under way.
template <int kThreads, int kAtOnce = 16>
struct Queries {
  static constexpr int kPieces = kHeads * (kDim / 4) / kThreads;  // of a thread, four values each
  static_assert(kPieces % kAtOnce == 0);
  tile::Vector16 pieces[kAtOnce];

  __device__ __forceinline__ void load(const float* q, int first, int thread) {
    const auto* from = reinterpret_cast<const tile::Vector16*>(q) + first * kThreads + thread;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) pieces[i] = tile::load_shared_state(from + i * kThreads);
  }
  __device__ __forceinline__ void store(uint8_t* tiles, int first, int thread) const {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = (first + i) * kThreads + thread;
      const int head = at / (kDim / 4), piece = at % (kDim / 4) / 2;
      const auto word = [&](int j) {
        return tile::pack_bf16(tile::bits_to_float(pieces[i].word[j]),
                               tile::bits_to_float(pieces[i].word[j + 1]));
      };
      *reinterpret_cast<tile::Vector8*>(tiles + piece / 8 * kTileBytes +
                                        SwizzledTile::offset(head, piece % 8) + at % 2 * 8) =
          tile::Vector8{{word(0), word(2)}};
    }
  }
};
template <int kThreads>
__device__ __forceinline__ void store_queries(const float* q, uint8_t* tiles, int thread) {
  using Own = Queries<kThreads>;
#pragma unroll 1
  for (int first = 0; first < Own::kPieces; first += 16) {
    Own own;
    own.load(q, first, thread);
    own.store(tiles, first, thread);
  }
}

// --- Weights.

// q . k of 64 heads and 64 keys, in the places of D (tile/mma.cuh): the sums over half of the
// dimensions, the second's on top of the first's. Under way until wgmma_wait. By a warpgroup.
template <int kHalf>
__device__ __forceinline__ void start_scores(const uint8_t* q, const uint8_t* keys,
                                             float (&d)[32]) {
  constexpr int kSteps = kDim / 16 / 2;
  const uint32_t a = tile::smem_address(q), b = tile::smem_address(keys);
  tile::wgmma_fence();
#pragma unroll
  for (int i = kHalf * kSteps; i < (kHalf + 1) * kSteps; ++i) {
    tile::wgmma_bf16_n64(d, SwizzledTile::major_k(a, i / 4 * (kTileBytes / 32) + i % 4),
                         SwizzledTile::major_k(b, i / 4 * (kTileBytes / 32) + i % 4),
                         i > 0 ? 1 : 0);
  }
  tile::wgmma_commit();
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

// The angles of a row's result where it is rotated back: its last tile.
struct BackRotation {
  const float* cos = nullptr;
  const float* sin = nullptr;

  __device__ __forceinline__ BackRotation(const RopeTable& table, int64_t row) {
    if (table.cos == nullptr) return;
    cos = table.cos + row * (kTileDims / 2);
    sin = table.sin + row * (kTileDims / 2);
  }
};

// Values 8 n + 2 t and the next of 64 of one of a thread's two heads, scaled, rounded, and rotated
// if this is the last tile.
__device__ __forceinline__ uint32_t finished_pair(const float* d, const float (&inverse)[2],
                                                  int head, int n, bool is_last,
                                                  const BackRotation& back) {
  uint32_t pair =
      tile::pack_bf16(d[4 * n + 2 * head] * inverse[head], d[4 * n + 2 * head + 1] * inverse[head]);
  if (is_last && back.cos != nullptr) {
    const int at = 4 * n + static_cast<int>(threadIdx.x) % 4;
    const float c = __ldg(back.cos + at), s = -__ldg(back.sin + at);
    const float x0 = tile::low_bf16(pair), x1 = tile::high_bf16(pair);
    pair = tile::pack_bf16(fmaf(x0, c, -(x1 * s)), fmaf(x0, s, x1 * c));
  }
  return pair;
}

// 64 values of a thread's two heads; out: of the thread's first head.
__device__ __forceinline__ void finish_tile(const float* d, const float (&inverse)[2], bool is_last,
                                            const BackRotation& back, float* out) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int head = 0; head < 2; ++head) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const uint32_t pair = finished_pair(d, inverse, head, n, is_last, back);
      *reinterpret_cast<float2*>(out + head * 8 * kDim + 8 * n + 2 * t) =
          float2{tile::low_bf16(pair), tile::high_bf16(pair)};
    }
  }
}

// The same in bf16. Four lanes exchange theirs, so that each has eight values in a row.
__device__ __forceinline__ void finish_tile(const float* d, const float (&inverse)[2], bool is_last,
                                            const BackRotation& back, uint16_t* out) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int head = 0; head < 2; ++head) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t own[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        own[i] = finished_pair(d, inverse, head, 4 * half + i, is_last, back);
#pragma unroll
      for (int distance = 1; distance <= 2; distance *= 2) {
        const bool upper = (t & distance) != 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if ((i & distance) != 0) continue;
          uint32_t& low = own[i];
          uint32_t& high = own[i + distance];
          const uint32_t other = __shfl_xor_sync(kAllLanes, upper ? low : high, distance);
          (upper ? low : high) = other;
        }
      }
      *reinterpret_cast<uint4*>(out + head * 8 * kDim + 32 * half + 8 * t) =
          make_uint4(own[0], own[1], own[2], own[3]);
    }
  }
}

// The head in its group, of whose rows (it and the one 8 further) a thread of a warpgroup has
// values.
__device__ __forceinline__ int own_head() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}

}  // namespace cachalot::ops::sparse
