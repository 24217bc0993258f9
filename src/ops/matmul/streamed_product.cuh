// The inner part of the small products with fp8 weights on the GPU: 8 warps take the 128-input
// blocks of a unit of 16 output rows from a ring that a ninth fills, for up to kMaxTokens tokens.
//
// The order of sums, the same for every number of tokens and every grid:
//   block     128 inputs in the tensor core, from zero
//   chain w   blocks w, w + 8, w + 16, ...: fma(block, scale, chain)
//   sum       chains 0 .. 7, ascending
// so it depends on K alone.
//
// Forms  wgmma_e4m3: codes of e4m3 on both sides; the tensor core's sums over 128 inputs are
//          truncated, relative error below 2^-11 of the sum of magnitudes (2e-4 measured).
//        mma_f16: the same codes, exact in f16, fp32 sums.
//        mma_bf16: activations stay bf16 as they are; weights exact in bf16, scaled as above.
#pragma once

#include <type_traits>

#include "ops/quant/act8.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
#include "tile/once.cuh"

namespace cachalot::ops {

enum class ProductForm { wgmma_e4m3, mma_f16, mma_bf16 };

namespace streamed {

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumers = kConsumerWarps * 32;
inline constexpr int kThreads = kConsumers + 32;  // the last warp's first lane fills the ring
inline constexpr int kMaxStages = 12;
inline constexpr int kMaxTokens = 16;
using Ring = tile::BulkRing<kMaxStages>;
using Producer = tile::OnceProducer<kMaxStages>;
using Consumer = tile::BulkConsumer<kMaxStages>;

__device__ __forceinline__ void sync_consumers() { tile::sync_threads<1, kConsumers>(); }

inline constexpr int kStageBlocks = 8;
__host__ __device__ constexpr int stage_bytes(int blocks) {
  return (blocks * (2048 + 4) + 15) / 16 * 16;
}

// A unit's stages into the ring. By the producing lane.
__device__ __forceinline__ void put_unit(Producer& producer, const uint8_t* unit, int num_blocks) {
  for (int first = 0; first < num_blocks; first += kStageBlocks) {
    const int bytes = stage_bytes(min(kStageBlocks, num_blocks - first));
    producer.put(unit, static_cast<uint32_t>(bytes));
    unit += bytes;
  }
}

// --- Activations of a few tokens in shared memory. Blocks are filled up with zeros to eights, so
// that the eight warps always have one each.

__host__ __device__ constexpr int whole_octets(int blocks) { return (blocks + 7) / 8 * 8; }

// Bytes for `tokens` tokens of `blocks` blocks, whatever the code that takes them is compiled for.
__host__ __device__ constexpr int64_t activation_bytes(ProductForm form, int tokens, int blocks) {
  const int64_t padded = whole_octets(blocks);
  if (form == ProductForm::wgmma_e4m3) {
    const int columns = tokens <= 2 ? 2 : tokens <= 4 ? 4 : tokens <= 8 ? 8 : 16;
    return padded * 128 * columns + padded * columns * 4;
  }
  return tokens * (padded * 256 + 32) + padded * (tokens <= 8 ? 8 : 16) * 4;
}

// wgmma: 4 warps share B but not their K. A 128-input block q belongs to warp q % 8; token m of it
// is column m / 2 * 8 + q % 4 * 2 + m % 2 of the matrix of its warpgroup, so that a lane's column
// pair t belongs to warp t.
template <int kTokens>
struct SegmentColumns {
  static constexpr int kColumns = 4 * kTokens;
  using B = tile::CoreMatrices<kColumns>;
  static constexpr int kGroupBytes = 4 * B::kStepBytes;  // four blocks, one of each warp
  static __device__ __forceinline__ int group_offset(int block) { return block / 4 * kGroupBytes; }
  static __device__ __forceinline__ int offset(int block, int token, int k) {
    const int column = token / 2 * 8 + block % 4 * 2 + token % 2;
    return group_offset(block) + k / 32 * B::kStepBytes + B::offset(column, k % 32);
  }
};

template <ProductForm kForm, int kTokens>
class Activations {
 public:
  static constexpr bool kWgmma = kForm == ProductForm::wgmma_e4m3;

  __device__ Activations(uint8_t* smem, int tokens, int blocks)
      : values_(smem),
        tokens_(tokens),
        blocks_(blocks),
        row_bytes_(whole_octets(blocks) * 256 + 32) {
    const int padded = whole_octets(blocks);
    scales_ =
        reinterpret_cast<float*>(smem + (kWgmma ? padded * 128 * kTokens : tokens * row_bytes_));
    if constexpr (kWgmma) {
      first_ = SegmentColumns<kTokens>::B::descriptor(tile::smem_address(smem));
    }
  }

  // Reads rows of bf16, or of float that bf16 can hold (row(m) for m < present, by whole warps;
  // 16-byte aligned), quantises them as ACT8 with runs of 128, or keeps them; other tokens are
  // zeros. By num_warps warps, the caller being number `warp`; sync_consumers before use.
  template <typename Row>
  __device__ __forceinline__ void load(const Row& row, int present, int warp, int num_warps) {
    using T = std::remove_cvref_t<decltype(*row(0))>;
    constexpr int kBatch = 4;  // loads under way; half a warp has a block, a lane eight values
    const int half = static_cast<int>(threadIdx.x) % 32 / 16;
    const int k = static_cast<int>(threadIdx.x) % 16 * 8;
    const int pairs = whole_octets(blocks_) / 2;
    int token = 0;
    int pair = warp;
    const auto settle = [&] {
      while (pair >= pairs && token < tokens_) {
        pair -= pairs;
        ++token;
      }
    };
    settle();
    while (token < tokens_) {
      EightValues<T> v[kBatch];
      int tokens[kBatch], blocks[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        tokens[i] = token;
        blocks[i] = 2 * pair + half;
        v[i] = {};
        const T* from = row(min(token, present - 1));
        if (token < present && blocks[i] < blocks_) v[i].load(from + blocks[i] * 128 + k);
        pair += num_warps;
        settle();
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (tokens[i] < tokens_) store(v[i].bf16(), tokens[i], blocks[i], k);
      }
    }
    if constexpr (kWgmma) tile::publish_to_async();
  }

  // B of the block's warpgroup.
  __device__ __forceinline__ uint64_t descriptor(int block) const {
    using Columns = SegmentColumns<kTokens>;
    return Columns::B::advance(first_, Columns::group_offset(block));
  }
  // Four consecutive 16-bit values (as load orders them) of token `token` from k on.
  __device__ __forceinline__ uint2 quad(int block, int token, int k) const {
    return *reinterpret_cast<const uint2*>(values_ + token * row_bytes_ + block * 256 + k * 2);
  }
  __device__ __forceinline__ float scale(int block, int token) const {
    return scales_[block * kTokens + token];
  }
  __device__ __forceinline__ int tokens() const { return tokens_; }
  __device__ __forceinline__ int num_bytes() const {
    const int padded = whole_octets(blocks_);
    return (kWgmma ? padded * 128 * kTokens : tokens_ * row_bytes_) + padded * kTokens * 4;
  }

 private:
  __device__ __forceinline__ void store(const tile::Vector16& v, int token, int block, int k) {
    uint8_t* const row16 = values_ + token * row_bytes_ + block * 256 + k * 2;
    if constexpr (kForm == ProductForm::mma_bf16) {
      *reinterpret_cast<tile::Vector16*>(row16) = v;
    } else {
      const Act8 q = quantise_act8(v);
      if constexpr (kWgmma) {
        *reinterpret_cast<uint2*>(values_ + SegmentColumns<kTokens>::offset(block, token, k)) =
            make_uint2(q.codes[0], q.codes[1]);
      } else {
        tile::Vector16 values;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          tile::e4m3_to_f16(q.codes[i], values.word[2 * i], values.word[2 * i + 1]);
        }
        *reinterpret_cast<tile::Vector16*>(row16) = values;
      }
      if (k == 0) scales_[block * kTokens + token] = q.scale;
    }
  }

  uint8_t* values_;
  float* scales_;
  int tokens_;
  int blocks_;
  uint64_t first_ = 0;  // wgmma: the descriptor of block 0
  int row_bytes_;  // of a 16-bit form; 32 bytes over, so that eight rows lie in different banks
};

// --- The sums of one warp over its blocks of a unit.

// A warp's share of a stage, in registers: the stage is free again before the arithmetic begins.
struct Share {
  uint4 codes[4];  // [32 inputs]
  float scale;

  __device__ __forceinline__ Share(const uint8_t* stage, int in_stage) {
    const int warp = threadIdx.x / 32;
    scale = 0;
#pragma unroll
    for (int s = 0; s < 4; ++s) codes[s] = make_uint4(0, 0, 0, 0);
    if (warp >= in_stage) return;
    const uint8_t* from = stage + warp * 2048 + threadIdx.x % 32 * 16;
#pragma unroll
    for (int s = 0; s < 4; ++s) codes[s] = *reinterpret_cast<const uint4*>(from + s * 512);
    scale = *reinterpret_cast<const float*>(stage + in_stage * 2048 + warp * 4);
  }
};

template <ProductForm kForm, int kTokens>
class WarpSums {
 public:
  static constexpr bool kWgmma = kForm == ProductForm::wgmma_e4m3;
  static constexpr int kTiles = kTokens / 8;  // of mma: eight tokens each
  static constexpr int kValues = kWgmma ? 2 * kTokens : 4 * kTiles;
  static_assert(kWgmma || kTokens % 8 == 0);
  using A = Activations<kForm, kTokens>;

  __device__ __forceinline__ WarpSums() {
#pragma unroll
    for (int i = 0; i < kValues; ++i) sum_[i] = 0;
  }

  // Block `block` of the activations; by all eight warps together.
  __device__ __forceinline__ void add(const Share& w, const A& x, int block) {
    uint32_t a[4][4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const uint4 v = w.codes[s];
      a[s][0] = v.x, a[s][1] = v.y, a[s][2] = v.z, a[s][3] = v.w;
    }
    float d[kValues];
    if constexpr (kWgmma) {
      using Columns = SegmentColumns<kTokens>;
      const uint64_t b = x.descriptor(block);
      tile::wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        tile::WgmmaE4m3<Columns::kColumns>::multiply(
            d, a[s], Columns::B::advance(b, s * Columns::B::kStepBytes), s);
      }
      tile::wgmma_commit();
      tile::wgmma_wait<0>();
      tile::wgmma_arrived(d);
#pragma unroll
      for (int s = 0; s < 4; ++s) tile::wgmma_read(a[s]);
    } else {
      float tiles[kTiles][4] = {};
#pragma unroll
      for (int s = 0; s < 4; ++s) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t top[2], bottom[2];
          tile::e4m3_to_f16(a[s][2 * half], top[0], top[1]);
          tile::e4m3_to_f16(a[s][2 * half + 1], bottom[0], bottom[1]);
          if constexpr (kForm == ProductForm::mma_bf16) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              top[i] = tile::f16_of_e4m3_to_bf16(top[i], tile::kTwoTo112);
              bottom[i] = tile::f16_of_e4m3_to_bf16(bottom[i], tile::kTwoTo112);
            }
          }
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
            const uint2 b = quad(x, block, n, s * 32 + half * 16);
            if constexpr (kForm == ProductForm::mma_bf16) {
              tile::mma_bf16(tiles[n], top[0], bottom[0], top[1], bottom[1], b.x, b.y);
            } else {
              tile::mma_f16(tiles[n], top[0], bottom[0], top[1], bottom[1], b.x, b.y);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kValues; ++i) d[i] = tiles[i / 4][i % 4];
    }
    promote(d, w.scale, x, block);
  }

  // to[token][row], of one warp: 16 floats a token.
  __device__ __forceinline__ void store(float* to, int tokens) const {
    const int lane = threadIdx.x % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    if (kWgmma && t != static_cast<int>(threadIdx.x) / 32 % 4) return;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (token_of(i) < tokens) to[token_of(i) * 16 + g + i / 2 % 2 * 8] = sum_[i];
    }
  }

 private:
  static __device__ __forceinline__ int token_of(int i) {
    return kWgmma ? i / 4 * 2 + i % 2 : i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
  }

  // B of a 16-bit form: column g of tile n is token 8 n + g.
  static __device__ __forceinline__ uint2 quad(const A& x, int block, int n, int k) {
    const int token = n * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
    return token < x.tokens() ? x.quad(block, token, k + threadIdx.x % 4 * 4) : make_uint2(0, 0);
  }

  __device__ __forceinline__ void promote(const float (&d)[kValues], float weight_scale, const A& x,
                                          int block) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float scale = kForm == ProductForm::mma_bf16
                              ? weight_scale
                              : weight_scale * x.scale(block, token_of(i));
      sum_[i] = fmaf(d[i], scale, sum_[i]);
    }
  }

  float sum_[kValues];
};

// One warp's sums over a unit, its stages taken from the ring. first_block: of the activations.
template <ProductForm kForm, int kTokens>
__device__ __forceinline__ WarpSums<kForm, kTokens> multiply_unit(
    Consumer& consumer, const Activations<kForm, kTokens>& x, int num_blocks, int first_block) {
  WarpSums<kForm, kTokens> sums;
  const int warp = threadIdx.x / 32;
  for (int first = 0; first < num_blocks; first += kStageBlocks) {
    const Share share(consumer.wait(), min(kStageBlocks, num_blocks - first));
    consumer.release();
    sums.add(share, x, first_block + first + warp);
  }
  return sums;
}

// --- The eight warps' sums of some units, until they are folded.

class PartialSums {
 public:
  // Two halves, each with room for `units` units: one is folded while the other is written.
  static __host__ __device__ constexpr int64_t num_bytes(int units, int tokens) {
    return int64_t{2} * units * kConsumerWarps * 16 * tokens * 4;
  }
  // Holds as many units at a time as the memory does for so many tokens, at least one.
  static constexpr int kMaxUnits = 32;
  using Numbers = int[2][kMaxUnits];
  __device__ PartialSums(uint8_t* smem, int num_bytes, Numbers& numbers, int tokens)
      : smem_(reinterpret_cast<float*>(smem)), numbers_(numbers), half_floats_(num_bytes / 8) {
    start_over(tokens);
  }

  // Where the calling warp stores its sums of a unit, and the unit's number for who folds.
  __device__ __forceinline__ float* next(int unit) {
    if (threadIdx.x == 0) numbers_[upper_][units_] = unit;
    const int warp = threadIdx.x / 32;
    return half() + (units_++ * kConsumerWarps + warp) * 16 * tokens_;
  }
  __device__ __forceinline__ bool full() const { return units_ == capacity_; }
  __device__ __forceinline__ int units() const { return units_; }
  // After sync_consumers.
  __device__ __forceinline__ int number(int unit) const { return numbers_[upper_][unit]; }

  __device__ __forceinline__ float fold(int unit, int token, int row) const {
    const float* from = half() + (unit * kConsumerWarps * tokens_ + token) * 16 + row;
    float sum = from[0];
#pragma unroll
    for (int warp = 1; warp < kConsumerWarps; ++warp) sum += from[warp * 16 * tokens_];
    return sum;
  }
  // In the other half.
  __device__ __forceinline__ void start_over(int tokens) {
    upper_ = !upper_;
    units_ = 0;
    tokens_ = tokens;
    capacity_ = min(kMaxUnits, half_floats_ / (kConsumerWarps * 16 * tokens));
  }

 private:
  __device__ __forceinline__ float* half() const { return smem_ + (upper_ ? half_floats_ : 0); }
  float* smem_;
  Numbers& numbers_;
  int half_floats_;
  int tokens_ = 0;
  int capacity_ = 0;
  int units_ = 0;
  bool upper_ = true;
};

}  // namespace streamed
}  // namespace cachalot::ops
