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
using Query = tile::CoreMatrices<kHeads>;
constexpr int kQueryBytes = kDim / 32 * Query::kStepBytes;
constexpr int kFar = 120;  // of powers of two
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// A bf16 score as a number of 16 bits in its order; NaN is 0, and -0 is 0.
__device__ __forceinline__ uint32_t ordered_key(float score) {
  const uint32_t bits = tile::bf16_bits(score + 0.0f);
  if (score != score) return 0;
  return (bits & 0x8000u) != 0 ? ~bits & 0xFFFFu : bits | 0x8000u;
}

// --- Queries.

// Of the heads 8 n + 2 t and the next, for n = 0 .. 7, as bf16.
struct HeadWeights {
  uint32_t pair[8];
};

// A query in shared memory as codes of e4m3, each head's times the power of two that brings its
// largest value's exponent to 8; and the heads' weights, lanes t of a quad after each other, times
// that power's inverse. Of a k step of 32 values lane t of a quad has those of its quarter of a
// key, the 32 of one scale: step s its word s, the first and the second four of its values. By
// kQueryThreads threads.
constexpr int kQueryThreads = kHeads * 8;
__device__ __forceinline__ void arrange_query(const IndexParams& p, int64_t row, uint8_t* codes,
                                              HeadWeights* weights, int thread) {
  const int head = thread / 8, step = thread % 8 / 2, half = thread % 2;
  const int64_t first = row * (kHeads * kDim) + head * kDim + step * 8 + half * 4;
  tile::Vector16 v[4];
  if (p.q_bf16 != nullptr) {
    tile::Vector8 pairs[4];
#pragma unroll
    for (int t = 0; t < 4; ++t)
      pairs[t] = tile::load_shared_state(
          reinterpret_cast<const tile::Vector8*>(p.q_bf16 + first + t * 32));
#pragma unroll
    for (int t = 0; t < 4; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = pairs[t].word[i / 2];
        v[t].word[i] = i % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u;
      }
    }
  } else {
#pragma unroll
    for (int t = 0; t < 4; ++t)
      v[t] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(p.q + first + t * 32));
  }
  uint32_t largest = 0;  // of the head, as a float's bits
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = max(largest, v[t].word[i] & 0x7FFFFFFFu);
  }
#pragma unroll
  for (int lanes = 1; lanes < 8; lanes *= 2)
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
  const int exponent = min(max(8 + 127 - static_cast<int>(largest >> 23), -kFar), kFar);
  const float factor = tile::pow2(exponent);
  tile::Vector16 packed;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = tile::bits_to_float(v[t].word[i]) * factor;
    packed.word[t] = tile::pack_e4m3(x[0], x[1], x[2], x[3]);
  }
  *reinterpret_cast<tile::Vector16*>(codes + Query::offset(head, step * 32 + half * 16)) = packed;
  if (thread % 8 != 0) return;
  auto* const pairs = reinterpret_cast<uint16_t*>(weights[head % 8 / 2].pair + head / 8);
  const float weight = tile::load_shared_state(p.weight + row * kHeads + head);
  pairs[head % 2] = tile::bf16_bits(weight * tile::pow2(-exponent));
}

// --- Keys.

// A warp's 16 keys of a group: of rows g and g + 8 the lane's quarter.
struct KeyCodes {
  tile::Vector16 codes[2];
  uint32_t scales[2];
};

// Where a sequence's keys lie, every `stride`-th group of them. A warp's share of a group is 16
// rows of one block; of a group past the last visible key it is some other.
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

// The same as codes of e4m3 of the values relative to the key's largest scale, times 2^6, in the
// places of A, of 4 k steps; a scale below 2^-11 of the largest counts as zero. And what a key's
// products with the codes are to be multiplied by.
struct KeyWords {
  uint32_t a[4][4];
  float factor[2];

  __device__ __forceinline__ explicit KeyWords(const KeyCodes& keys) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const uint32_t scales = keys.scales[row];
      const uint32_t pairs = __vmaxu2(scales & 0x00FF00FFu, scales >> 8 & 0x00FF00FFu);
      const uint32_t largest = max(pairs & 0xFFFFu, pairs >> 16);
      factor[row] = tile::e8m0_to_float(largest) * 0x1p-6f;
      const tile::E2m1Codes table(largest - (scales >> (threadIdx.x % 4 * 8) & 255));
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        a[word][row] = table.of_low(keys.codes[row].word[word]);
        a[word][2 + row] = table.of_low(keys.codes[row].word[word] >> 16);
      }
    }
  }
};

// --- Scores.

// key . q_h of the group's keys and all heads, in the places of D; under way until wgmma_wait, and
// the registers of keys until read_by_wgmma. By a warpgroup.
__device__ __forceinline__ void start_products(const KeyWords& keys, uint32_t query,
                                               float (&d)[32]) {
  const uint64_t codes = Query::descriptor(query);
  tile::wgmma_fence();
#pragma unroll
  for (int step = 0; step < kDim / 32; ++step) {
    tile::WgmmaE4m3<kHeads>::multiply(
        d, keys.a[step], Query::advance(codes, step * Query::kStepBytes), step > 0 ? 1 : 0);
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
// of ones, which all get the same. Under way until wgmma_wait, and the terms' registers until
// read_by_wgmma.
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

// After the wait: until here A (KeyWords, Terms) keeps its registers.
template <typename A>
__device__ __forceinline__ void read_by_wgmma(const A& operand) {
#pragma unroll
  for (const auto& step : operand.a) tile::wgmma_read(step);
}

}  // namespace cachalot::ops::index
