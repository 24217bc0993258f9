// The indexer's scores, as its kernel for decode and that for prefill compute them: 64 fp4 keys by
// a warpgroup against the 64 heads of a query. What is done to a key and a query does not depend
// on the others.
#pragma once

#include "ops/indexer/index_select_cuda.h"
#include "ops/rows/row_of.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::ops::index {

using tile::SwizzledTile;
constexpr int kHeads = 64;
constexpr int kDim = 128;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kGroup = 64;          // keys that it scores at a time
constexpr int kWarpKeys = kGroup / 4;
constexpr int kTileBytes = kHeads * SwizzledTile::kRowBytes;
constexpr int kQueryBytes = 2 * kTileBytes;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// A bf16 score as a number of 16 bits in its order; NaN is 0, and -0 is 0.
__device__ __forceinline__ uint32_t ordered_key(float score) {
  const uint32_t bits = tile::bf16_bits(score + 0.0f);
  if (score != score) return 0;
  return (bits & 0x8000u) != 0 ? ~bits & 0xFFFFu : bits | 0x8000u;
}

// --- Queries.

// A query in shared memory, as bf16: two tiles of 64 of its values. Of a k step of 16 values lane t
// of a quad has those of its quarter of a key, the 32 of one scale: step s, word s / 2 of the
// quarter, pairs 2 (s % 2) and the next of the word's four, pair i being its values i and i + 4. All
// times 2^32 (see KeyWords). By the block's threads.
__device__ __forceinline__ void arrange_query(const float* q, uint8_t* tiles, int thread,
                                              int threads) {
  constexpr float kTwoTo32 = 0x1p32f;
  for (int i = thread; i < kHeads * kDim / 8; i += threads) {
    const int head = i / 16, step = i % 16 / 2, half = i % 2;
    const float* from = q + head * kDim + step / 2 * 8 + step % 2 * 2 + half;
    tile::Vector16 v;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      v.word[t] = tile::pack_bf16(tile::load_shared_state(from + t * 32) * kTwoTo32,
                                  tile::load_shared_state(from + t * 32 + 4) * kTwoTo32);
    }
    *reinterpret_cast<tile::Vector16*>(tiles + step / 4 * kTileBytes +
                                       SwizzledTile::offset(head, step % 4 * 2 + half)) = v;
  }
}

// --- Keys.

// A warp's 16 keys of a group: of rows g and g + 8 the lane's quarter.
struct KeyCodes {
  tile::Vector16 codes[2];
  uint32_t scales[2];
};

// Where a sequence's keys lie, every `stride`-th group of them. A warp's share of a group is 16 rows
// of one block; of a group past the last visible key it is some other.
class KeyPlaces {
 public:
  __device__ KeyPlaces(const tensor::RowBlocks& keys, int visible, int group, int stride)
      : table_(keys.blocks),
        rows_per_block_(static_cast<int>(keys.rows_per_block)),
        last_((visible - 1) / rows_per_block_),
        step_blocks_(stride * kGroup / rows_per_block_),
        step_rows_(stride * kGroup % rows_per_block_) {
    const int warp = static_cast<int>(threadIdx.x) % kGroupThreads / 32;
    const int key = group * kGroup + warp * kWarpKeys;
    index_ = key / rows_per_block_;
    slot_ = key % rows_per_block_;
  }

  struct Place {
    const std::byte* block;
    int slot;
  };
  // Of the next group; what it loads is needed by source().
  __device__ __forceinline__ Place next() {
    const Place place{table_[min(index_, last_)], slot_};
    index_ += step_blocks_;
    slot_ += step_rows_;
    if (slot_ >= rows_per_block_) {
      slot_ -= rows_per_block_;
      ++index_;
    }
    return place;
  }
  struct Source {
    const uint8_t* codes;
    const uint8_t* scales;
  };
  __device__ __forceinline__ Source source(Place place) const {
    const auto* data = reinterpret_cast<const uint8_t*>(place.block);
    return {data + place.slot * 64, data + rows_per_block_ * 64 + place.slot * 4};
  }

 private:
  const std::byte* const* table_;
  int rows_per_block_;
  int last_;
  int step_blocks_;
  int step_rows_;
  int index_;
  int slot_;
};

// The same as bf16, in the places of A, of 8 k steps.
struct KeyWords {
  uint32_t a[8][4];

  __device__ __forceinline__ explicit KeyWords(const KeyCodes& keys) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const uint32_t scale = scale_pair(keys.scales[row] >> (threadIdx.x % 4 * 8) & 255);
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        uint32_t pairs[4];
        decode(keys.codes[row].word[word], scale, pairs);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[2 * word + i / 2][i % 2 * 2 + row] = pairs[i];
      }
    }
  }

 private:
  // Eight fp4 values (value i in bits 4 i), times `scale`: pairs (i, i + 4).
  static __device__ __forceinline__ void decode(uint32_t word, uint32_t scale,
                                                uint32_t (&pairs)[4]) {
    constexpr uint32_t kSign = 0x80008000u, kRest = 0x01C001C0u;
    pairs[0] = ((word << 12) & kSign) | ((word << 6) & kRest);
    pairs[1] = ((word << 8) & kSign) | ((word << 2) & kRest);
    pairs[2] = ((word << 4) & kSign) | ((word >> 2) & kRest);
    pairs[3] = (word & kSign) | ((word >> 6) & kRest);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = tile::multiply_bf16(pairs[i], scale);
  }
  // Such a pair is 2^-126 of the codes' values; q is taken times 2^32, so that the factor that is
  // left fits bf16 for every scale up to 2^33.
  static __device__ __forceinline__ uint32_t scale_pair(uint32_t e8m0) {
    return (min(e8m0, 160u) + 94) * 0x00800080u;
  }
};

// --- Scores.

// As bf16, of the heads 8 n + 2 t and the next, for n = 0 .. 7.
struct HeadWeights {
  uint32_t pair[8];
};
__device__ __forceinline__ uint32_t load_weights(const float* weights, int n, int t) {
  const auto pair =
      tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(weights + 8 * n + 2 * t));
  return tile::pack_bf16(tile::bits_to_float(pair.word[0]), tile::bits_to_float(pair.word[1]));
}

// key . q_h of the group's keys and all heads, in the places of D; under way until wgmma_wait. By a
// warpgroup.
__device__ __forceinline__ void start_products(const KeyWords& keys, uint32_t query,
                                               float (&d)[32]) {
  tile::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    tile::wgmma_bf16_n64(d, keys.a[step],
                         SwizzledTile::major_k(query + step / 4 * kTileBytes, step % 4),
                         step > 0 ? 1 : 0);
  }
  tile::wgmma_commit();
}

// relu(key . q_h) * weight of the heads, as bf16 in the places of A.
struct Terms {
  uint32_t a[kHeads / 16][4];

  __device__ __forceinline__ Terms(const float (&d)[32], const HeadWeights& weights) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        a[n / 2][n % 2 * 2 + row] = tile::multiply_bf16(
            tile::pack_positive_bf16(d[4 * n + 2 * row], d[4 * n + 2 * row + 1]), weights.pair[n]);
      }
    }
  }
};

// Their sums, which are the scores of the lane's rows g and g + 8: the product with eight columns
// of ones, which all get the same. Under way until wgmma_wait.
struct Scores {
  float d[4];
  __device__ __forceinline__ float of_row(int i) const { return d[2 * i]; }
};
constexpr int kOnesBytes = SwizzledTile::kGroupBytes;
__device__ __forceinline__ void fill_ones(uint8_t* ones, int thread, int threads) {
  for (int i = thread; i < kOnesBytes / 4; i += threads)
    reinterpret_cast<uint32_t*>(ones)[i] = 0x3F803F80u;
}
__device__ __forceinline__ void start_sums(const Terms& terms, uint32_t ones, Scores& scores) {
  tile::wgmma_fence();
#pragma unroll
  for (int step = 0; step < kHeads / 16; ++step) {
    tile::wgmma_bf16_n8(scores.d, terms.a[step], SwizzledTile::major_k(ones, step),
                        step > 0 ? 1 : 0);
  }
  tile::wgmma_commit();
}

}  // namespace cachalot::ops::index
