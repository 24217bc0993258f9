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
  static __device__ __forceinline__ int group_offset(int block) {
    __builtin_assume(block >= 0);
    return block / 4 * kGroupBytes;
  }
  static __device__ __forceinline__ int offset(int block, int token, int k) {
    __builtin_assume(block >= 0 && token >= 0 && k >= 0);
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

  // Reads rows of bf16, or of float that bf16 can hold, `stride` values after each other and
  // 16-byte aligned, quantises them as ACT8 with runs of 128, or keeps them; tokens from `present`
  // on are zeros. Of all tokens' runs, octets filled up, those from `first` to `end`, by eight
  // warps; sync_consumers before use. kBatch: loads of a lane under way.
  template <int kBatch, typename T>
  __device__ __forceinline__ void load(const T* x, int64_t stride, int present, int first,
                                       int end) {
    constexpr int kAtOnce = kBatch < 4 ? kBatch : 4;  // quantised
    constexpr int kStep = kConsumerWarps;
    const int k = static_cast<int>(threadIdx.x) % 32 * 4;  // a warp has a run, a lane four values
    const int padded = whole_octets(blocks_);
    int run = first + static_cast<int>(threadIdx.x) / 32;
    int token = first / padded;
    int block = run - token * padded;
    const T* from = x + token * stride + block * 128 + k;
    const auto settle = [&] {
      if (block >= padded) {
        block -= padded;
        ++token;
        from += stride - padded * 128;
      }
    };
    settle();
#pragma unroll 1
    for (; run < end; run += kStep * kBatch) {
      FourValues<T> v[kBatch];
      int tokens[kBatch], blocks[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        tokens[i] = token;
        blocks[i] = block;
        v[i] = {};
        if (run + i * kStep < end && token < present && block < blocks_) v[i].load(from);
        block += kStep;
        from += kStep * 128;
        settle();
      }
#pragma unroll
      for (int part = 0; part < kBatch; part += kAtOnce) {
        if (run + part * kStep >= end) break;
#pragma unroll
        for (int i = part; i < part + kAtOnce; ++i)
          store(v[i], place(tokens[i], blocks[i], k), scales_ + blocks[i] * kTokens + tokens[i],
                k == 0, run + i * kStep < end);
      }
    }
    if constexpr (kWgmma) tile::publish_to_async();
  }

  // The same for the only token.
  template <typename T>
  __device__ __forceinline__ void load_one(const T* x) {
    constexpr int kBatch = 8, kAtOnce = 4;
    constexpr int kStep = kConsumerWarps;
    const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
    const int k = static_cast<int>(threadIdx.x) % 32 * 4;
    const int padded = whole_octets(blocks_);
#pragma unroll 1
    for (int block = warp; block < padded; block += kStep * kBatch) {
      FourValues<T> v[kBatch];
      const T* const from = x + block * 128 + k;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        v[i] = {};
        if (block + i * kStep < blocks_) v[i].load(from + i * kStep * 128);
      }
      uint8_t* const to = place(0, block, k);
      float* const scale = scales_ + block * kTokens;
#pragma unroll
      for (int part = 0; part < kBatch; part += kAtOnce) {
        if (block + part * kStep >= padded) break;
#pragma unroll
        for (int i = part; i < part + kAtOnce; ++i)
          store(v[i], to + i * kOctetBytes, scale + i * kStep * kTokens, k == 0,
                block + i * kStep < padded);
      }
    }
    if constexpr (kWgmma) tile::publish_to_async();
  }

  // The same of values that values(token, column) makes: four that bf16 can hold, from that column
  // on. By the consumers.
  template <typename Values>
  __device__ __forceinline__ void make(const Values& values) {
    const int k = static_cast<int>(threadIdx.x) % 32 * 4;
    const int padded = whole_octets(blocks_);
    for (int run = static_cast<int>(threadIdx.x) / 32; run < padded * tokens_;
         run += kConsumerWarps) {
      const int token = run / padded;
      const int block = run - token * padded;
      FourValues<float> v = {};
      if (block < blocks_) v = values(token, block * 128 + k);
      store(v, place(token, block, k), scales_ + block * kTokens + token, k == 0, true);
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
  // Of a lane's four values, and from there to those eight blocks further.
  __device__ __forceinline__ uint8_t* place(int token, int block, int k) const {
    if constexpr (kWgmma) return values_ + SegmentColumns<kTokens>::offset(block, token, k);
    return values_ + token * row_bytes_ + block * 256 + k * 2;
  }
  static constexpr int kOctetBytes =
      kWgmma ? 2 * SegmentColumns<kTokens>::kGroupBytes : kConsumerWarps * 256;

  template <typename T>
  static __device__ __forceinline__ void store(const FourValues<T>& v, uint8_t* to, float* scale,
                                               bool first, bool wanted) {
    if constexpr (kForm == ProductForm::mma_bf16) {
      if (wanted) *reinterpret_cast<tile::Vector8*>(to) = v.bf16();
    } else {
      const Act8Four q = quantise_act8(v);
      tile::Vector8 values;
      if (!kWgmma) tile::e4m3_to_f16(q.codes, values.word[0], values.word[1]);
      if (!wanted) return;
      if constexpr (kWgmma) {
        *reinterpret_cast<uint32_t*>(to) = q.codes;
      } else {
        *reinterpret_cast<tile::Vector8*>(to) = values;
      }
      if (first) *scale = q.scale;
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
    float d[kValues], scale[kValues];  // the scales are on their way while the products run
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      scale[i] = kForm == ProductForm::mma_bf16 ? w.scale : w.scale * x.scale(block, token_of(i));
    }
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
          if constexpr (kForm == ProductForm::mma_bf16) {
            tile::e4m3_to_bf16(a[s][2 * half], top[0], top[1]);
            tile::e4m3_to_bf16(a[s][2 * half + 1], bottom[0], bottom[1]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              top[i] = tile::multiply_bf16(top[i], tile::kTwoTo120);
              bottom[i] = tile::multiply_bf16(bottom[i], tile::kTwoTo120);
            }
          } else {
            tile::e4m3_to_f16(a[s][2 * half], top[0], top[1]);
            tile::e4m3_to_f16(a[s][2 * half + 1], bottom[0], bottom[1]);
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
#pragma unroll
    for (int i = 0; i < kValues; ++i) sum_[i] = fmaf(d[i], scale[i], sum_[i]);
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

  float sum_[kValues];
};

// One warp's sums over a unit, its stages taken from the ring. first_block: of the activations.
template <ProductForm kForm, int kTokens>
__device__ __forceinline__ WarpSums<kForm, kTokens> multiply_unit(
    Consumer& consumer, const Activations<kForm, kTokens>& x, int num_blocks, int first_block) {
  WarpSums<kForm, kTokens> sums;
  // The same in all lanes, so that descriptors are made once a warp.
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
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
  static constexpr int kMaxUnits = 32;
  using Numbers = int[2][kMaxUnits];
  // capacity: of units at a time, at most kMaxUnits.
  __device__ PartialSums(uint8_t* smem, int capacity, Numbers& numbers, int tokens)
      : smem_(reinterpret_cast<float*>(smem)),
        numbers_(numbers),
        tokens_(tokens),
        capacity_(capacity) {}

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
  __device__ __forceinline__ void start_over() {
    upper_ ^= 1;
    units_ = 0;
  }

 private:
  __device__ __forceinline__ float* half() const {
    return smem_ + upper_ * capacity_ * kConsumerWarps * 16 * tokens_;
  }
  float* smem_;
  Numbers& numbers_;
  int tokens_;
  int capacity_;
  int units_ = 0;
  int upper_ = 0;
};

}  // namespace streamed
}  // namespace cachalot::ops
