// The indexer's scores, as its kernel for decode and that for prefill compute them: 64 fp4 keys by
// a warpgroup against the 64 heads of a query. What is done to a key and a query does not depend
// on the others.
#pragma once

#include "ops/indexer/index_select_cuda.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
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

// A query in shared memory: two tiles of 64 of its values. Of a k step of 16 values lane t of a
// quad has those of its quarter of a key, the 32 of one scale: step s, word s / 2 of the quarter,
// pairs 2 (s % 2) and the next of the word's four, pair i being its values i and i + 4. All times
// 2^32 (see KeyWords). By the block's threads.
__device__ __forceinline__ void arrange_query(const uint16_t* q, uint8_t* tiles, int thread,
                                              int threads) {
  constexpr uint32_t kTwoTo32 = 0x4F804F80;
  for (int i = thread; i < kHeads * kDim / 8; i += threads) {
    const int head = i / 16, step = i % 16 / 2, half = i % 2;
    const uint16_t* from = q + head * kDim + step / 2 * 8 + step % 2 * 2 + half;
    tile::Vector16 v;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t low = tile::load_shared_state(from + t * 32);
      const uint32_t high = tile::load_shared_state(from + t * 32 + 4);
      v.word[t] = tile::multiply_bf16(low | high << 16, kTwoTo32);
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

// The keys of a row, one group after the other; the block's number is looked up a group ahead.
class KeyStream {
 public:
  __device__ KeyStream(const IndexParams& p, int64_t row, int visible, int group, int stride)
      : p_(p),
        table_(p.blocks + row * p.table_stride),
        last_(visible - 1),
        stride_(stride),
        group_(group),
        block_(tile::load_shared_state(table_ + first() / rows_per_block())) {}

  // Those of the next group of the stride; keys past the last visible are some other.
  __device__ __forceinline__ KeyCodes load() {
    const int lane = threadIdx.x % 32;
    const int slot = first() % rows_per_block() + lane / 4;
    const auto* data =
        reinterpret_cast<const uint8_t*>(p_.base) + block_ * p_.block_bytes + p_.offset;
    const uint8_t* scales = data + rows_per_block() * 64;
    KeyCodes keys;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = slot + i * 8;
      keys.codes[i] = tile::load_shared_state(
          reinterpret_cast<const tile::Vector16*>(data + row * 64) + lane % 4);
      keys.scales[i] = tile::load_shared_state(reinterpret_cast<const uint32_t*>(scales) + row);
    }
    group_ += stride_;
    block_ = tile::load_shared_state(table_ + first() / rows_per_block());
    return keys;
  }

 private:
  __device__ __forceinline__ int rows_per_block() const {
    return static_cast<int>(p_.rows_per_block);
  }
  __device__ __forceinline__ int first() const {
    const int warp = static_cast<int>(threadIdx.x) % kGroupThreads / 32;
    return min(group_ * kGroup + warp * kWarpKeys, last_ / kWarpKeys * kWarpKeys);
  }

  const IndexParams& p_;
  const int32_t* table_;
  int last_;
  int stride_;
  int group_;
  int block_;
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

// Of the heads 8 n + 2 t and the next, for n = 0 .. 7.
struct HeadWeights {
  uint32_t pair[8];
};

// key . q_h of the group's keys and all heads, in the places of D. By a warpgroup.
__device__ __forceinline__ void multiply(const KeyWords& keys, uint32_t query, float (&d)[32]) {
  tile::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    tile::wgmma_bf16_n64(d, keys.a[step],
                         SwizzledTile::major_k(query + step / 4 * kTileBytes, step % 4),
                         step > 0 ? 1 : 0);
  }
  tile::wgmma_commit();
  tile::wgmma_wait<0>();
}

// The scores of a lane's rows g and g + 8, alike in the four lanes of a quad: the tensor cores sum
// the terms, 16 heads at a time.
__device__ __forceinline__ float2 sum_heads(const float (&d)[32], const HeadWeights& weights) {
  constexpr uint32_t kOnes = 0x3F803F80u;
  float sum[4] = {0, 0, 0, 0};
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t terms[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // in the places of A
      const int n = 2 * step + i / 2, row = i % 2;
      terms[i] = tile::multiply_bf16(
          tile::pack_positive_bf16(d[4 * n + 2 * row], d[4 * n + 2 * row + 1]), weights.pair[n]);
    }
    tile::mma_bf16(sum, terms[0], terms[1], terms[2], terms[3], kOnes, kOnes);
  }
  return {sum[0], sum[2]};
}

}  // namespace cachalot::ops::index
