// The inner part of the experts' products on the GPU: 8 warps take a unit of 64 output rows with
// FP4 weights (ops/matmul/streamed_fp4.h) from a ring that a ninth fills, for a tile of up to
// kTokens tokens. Warps 0 to 3 take 16 rows each in every other stage of four 128-input blocks,
// warps 4 to 7 the same rows in the stages between, so that one half waits while the other
// computes.
//
// The order of sums, the same for every number of tokens and every grid:
//   block    128 inputs, in the order of StreamedFp4::place, in the tensor core, from zero: codes
//            of x times W relative to its row's largest scale, which e4m3 holds exactly
//   chain c  blocks b with b / 4 % 2 == c, ascending: fma(block, scale of x, chain)
//   sum      (chain 0 + chain 1) times the row's largest scale
// so it depends on K alone.
//
// Forms  official_fp8: e4m3 on both sides; the tensor core truncates its sums
//          (tests/cuda/quantised_reference.h has the bound).
//        official: the same values in f16, fp32 sums.
#pragma once

#include <type_traits>

#include "ops/matmul/streamed_fp4.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/quant/act8.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/e2m1.cuh"
#include "tile/mma.cuh"
#include "tile/once.cuh"

namespace cachalot::ops::experts {

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumers = kConsumerWarps * 32;
inline constexpr int kChainWarps = 4;
inline constexpr int kThreads = kConsumers + 32;  // the last warp's first lane fills the ring
inline constexpr int kMaxStages = 8;
inline constexpr int kUnitRows = 64;
inline constexpr int kStageBlocks = 4;
inline constexpr int kBlockCodeBytes = kUnitRows * 64;
inline constexpr int kBlockScaleBytes = kUnitRows * 4;  // by how much scales lie below
inline constexpr int kStageBytes = kStageBlocks * (kBlockCodeBytes + kBlockScaleBytes);
using Ring = tile::BulkRing<kMaxStages>;
using Producer = tile::OnceProducer<kMaxStages>;
using Consumer = tile::BulkConsumer<kMaxStages>;

__device__ __forceinline__ void sync_consumers() { tile::sync_threads<1, kConsumers>(); }

// --- A tile's tokens in shared memory, quantised as ACT8.

template <ExpertForm kForm, int kTokens>
class Activations {
 public:
  static constexpr bool kFp8 = kForm == ExpertForm::official_fp8;
  using B = tile::CoreMatrices<kTokens>;

  // official_fp8: from one 16-byte step of k to the next. Few tokens' matrices lie over each other;
  // 16 bytes over, one column's values lie in different banks.
  static __host__ __device__ constexpr int stride(int tokens) {
    return tokens < 8 ? 16 * tokens : 16 * kTokens + 16;
  }
  // official: rows of f16, 32 bytes over, so that eight of them lie in different banks.
  static __host__ __device__ constexpr int row_bytes(int blocks) { return blocks * 256 + 32; }
  static __host__ __device__ constexpr int value_bytes(int tokens, int blocks) {
    return kFp8 ? blocks * 8 * stride(tokens) + 128 : tokens * row_bytes(blocks);
  }
  static __host__ __device__ constexpr int num_bytes(int tokens, int blocks) {
    return value_bytes(tokens, blocks) + blocks * kTokens * 4;
  }

  // max_tokens: of all tiles that the memory is for.
  __device__ Activations(uint8_t* smem, int max_tokens, int blocks)
      : values_(smem),
        scales_(reinterpret_cast<float*>(smem + value_bytes(max_tokens, blocks))),
        blocks_(blocks),
        units_(stride(max_tokens) / 16) {
    if constexpr (kFp8) first_ = B::descriptor(tile::smem_address(smem), 16 * units_);
  }

  // Rows of bf16, or of float that bf16 can hold (row(m) for m < tokens, by whole warps; 16-byte
  // aligned). By all consumers; sync_consumers before use.
  template <typename Row>
  __device__ __forceinline__ void load(const Row& row, int tokens) {
    using T = std::remove_cvref_t<decltype(*row(0))>;
    // Loads under way. Few tokens have less than a batch; of many the checks would cost registers.
    constexpr int kBatch = 4;
    const int k = static_cast<int>(threadIdx.x) % 32 * 4;  // a warp has a run, a lane four values
    const int runs = tokens * blocks_;
    for (int first = static_cast<int>(threadIdx.x) / 32; first < runs;
         first += kConsumerWarps * kBatch) {
      FourValues<T> v[kBatch];
      int token[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (kTokens == 8 && first + i * kConsumerWarps >= runs) break;
        const int run = min(first + i * kConsumerWarps, runs - 1);
        token[i] = tokens > 1 ? run / blocks_ : 0;
        v[i].load(row(token[i]) + (run - token[i] * blocks_) * 128 + k);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int run = first + i * kConsumerWarps;
        if (kTokens == 8 && run >= runs) break;
        const Act8Four q = quantise_act8(v[i]);
        if (run < runs) store(q, token[i], run - token[i] * blocks_, k);
      }
    }
    if constexpr (kFp8) tile::publish_to_async();
  }

  // Of 32 inputs `step` of a block.
  __device__ __forceinline__ uint64_t descriptor(int block, int step) const {
    return B::advance(first_, (block * 8 + step * 2) * units_ * 16);
  }
  // Four consecutive 16-bit values of token `token`, the first at place k of the block.
  __device__ __forceinline__ uint2 quad(int block, int token, int k) const {
    return *reinterpret_cast<const uint2*>(values_ + token * row_bytes(blocks_) + block * 256 +
                                           k * 2);
  }
  // Of tokens `token` and the next one.
  __device__ __forceinline__ float2 scales(int block, int token) const {
    return *reinterpret_cast<const float2*>(scales_ + block * kTokens + token);
  }

 private:
  __device__ __forceinline__ void store(const Act8Four& q, int token, int block, int k) {
    const int at = StreamedFp4::place(k);
    if constexpr (kFp8) {
      *reinterpret_cast<uint32_t*>(values_ + B::offset(token, block * 128 + at, 16 * units_)) =
          q.codes;
    } else {
      tile::Vector8 values;
      tile::e4m3_to_f16(q.codes, values.word[0], values.word[1]);
      *reinterpret_cast<tile::Vector8*>(values_ + token * row_bytes(blocks_) + block * 256 +
                                        at * 2) = values;
    }
    if (k == 0) scales_[block * kTokens + token] = q.scale * tile::kE2m1TableInE4m3;
  }

  uint8_t* values_;
  float* scales_;
  int blocks_;
  int units_;           // of 16 bytes: the stride
  uint64_t first_ = 0;  // official_fp8: the descriptor of block 0
};

// --- One warp's chain over a unit.

// Its share of a block: 16 rows.
struct BlockShare {
  uint4 codes[2];  // [64 inputs]
  uint2 below;     // [row / 8], bytes [32 inputs]

  __device__ __forceinline__ void read(const uint8_t* stage, int in_stage, int block) {
    const int group = static_cast<int>(threadIdx.x) / 32 % 4;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint8_t* from = stage + (block * 4 + group) * 1024 + lane * 16;
    codes[0] = *reinterpret_cast<const uint4*>(from);
    codes[1] = *reinterpret_cast<const uint4*>(from + 512);
    below = *reinterpret_cast<const uint2*>(stage + in_stage * kBlockCodeBytes +
                                            (block * 4 + group) * 64 + lane / 4 * 8);
  }
  // A of wgmma (tile/mma.cuh): of a row's inputs a lane has those of one scale.
  __device__ __forceinline__ void expand(uint32_t (&a)[4][4]) const {
    const uint32_t own = 0x4440 | threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows g, g + 8
      const tile::E2m1Table table(__byte_perm(half == 0 ? below.x : below.y, 0, own));
#pragma unroll
      for (int s = 0; s < 4; ++s)
        tile::e2m1_to_e4m3(word(s, half), table, a[s][half], a[s][half + 2]);
    }
  }

 private:
  __device__ __forceinline__ uint32_t word(int step, int half) const {
    const uint4& v = codes[step / 2];
    return step % 2 == 0 ? (half == 0 ? v.x : v.y) : (half == 0 ? v.z : v.w);
  }
};

template <ExpertForm kForm, int kTokens>
class ChainSums {
 public:
  static constexpr int kTiles = kTokens / 8;
  static constexpr int kValues = 4 * kTiles;  // places: tile/mma.cuh, D
  using A = Activations<kForm, kTokens>;

  __device__ __forceinline__ ChainSums() {
#pragma unroll
    for (int i = 0; i < kValues; ++i) sum_[i] = 0;
  }

  // The blocks of a stage, `in_stage` of them from `block` on. Two blocks' products are under way
  // at a time. By a warpgroup together.
  __device__ __forceinline__ void add(const uint8_t* stage, int in_stage, const A& x, int block,
                                      int tokens) {
    const auto read = [&](int i) {
      BlockShare share;
      share.read(stage, in_stage, i);
      return share;
    };
    if constexpr (A::kFp8) {
      if (in_stage == kStageBlocks) {
        Products even, odd;
        start(even, read(0), x, block);
        start(odd, read(1), x, block + 1);
        const BlockShare w2 = read(2);
        finish<1>(even, x, block);
        start(even, w2, x, block + 2);
        const BlockShare w3 = read(3);
        finish<1>(odd, x, block + 1);
        start(odd, w3, x, block + 3);
        finish<1>(even, x, block + 2);
        finish<0>(odd, x, block + 3);
        return;
      }
    }
    for (int i = 0; i < in_stage; ++i) {
      const BlockShare w = read(i);
      if constexpr (A::kFp8) {
        Products products;
        start(products, w, x, block + i);
        finish<0>(products, x, block + i);
      } else {
        add_f16(w, x, block + i, tokens);
      }
    }
  }

  // to[token * stride + row of the unit].
  __device__ __forceinline__ void store(float* to, int stride, int tokens) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float* const at = to + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (token < tokens) at[token * stride + i / 2 % 2 * 8] = sum_[i];
    }
  }

 private:
  // Of a block, and what the tensor cores read meanwhile.
  struct Products {
    float d[kValues];
    uint32_t a[4][4];
  };
  static __device__ __forceinline__ void start(Products& products, const BlockShare& w, const A& x,
                                               int block) {
    auto& [d, a] = products;
    w.expand(a);
    tile::wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s)
      tile::WgmmaE4m3<kTokens>::multiply(d, a[s], x.descriptor(block, s), s);
    tile::wgmma_commit();
  }
  // kPending: how many blocks were started after this one.
  template <int kPending>
  __device__ __forceinline__ void finish(Products& products, const A& x, int block) {
    auto& [d, a] = products;
    tile::wgmma_wait<kPending>();
    tile::wgmma_arrived(d);
#pragma unroll
    for (int s = 0; s < 4; ++s) tile::wgmma_read(a[s]);
    promote(d, x, block);
  }

  __device__ __forceinline__ void add_f16(const BlockShare& w, const A& x, int block, int tokens) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t a[4][4];
    w.expand(a);
    float d[kTiles][4] = {};
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t top[2], bottom[2];
        tile::e4m3_to_f16(a[s][2 * half], top[0], top[1]);
        tile::e4m3_to_f16(a[s][2 * half + 1], bottom[0], bottom[1]);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const int token = n * 8 + lane / 4;
          const uint2 b = token < tokens ? x.quad(block, token, s * 32 + half * 16 + lane % 4 * 4)
                                         : make_uint2(0, 0);
          tile::mma_f16(d[n], top[0], bottom[0], top[1], bottom[1], b.x, b.y);
        }
      }
    }
    float total[kValues];
#pragma unroll
    for (int i = 0; i < kValues; ++i) total[i] = d[i / 4][i % 4];
    promote(total, x, block);
  }

  __device__ __forceinline__ void promote(const float (&total)[kValues], const A& x, int block) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const float2 scale = x.scales(block, n * 8 + threadIdx.x % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum_[4 * n + i] = fmaf(total[4 * n + i], i % 2 == 0 ? scale.x : scale.y, sum_[4 * n + i]);
      }
    }
  }

  float sum_[kValues];
};

// The calling warp's chain over a unit, its stages taken from the ring: every other one.
template <ExpertForm kForm, int kTokens>
__device__ __forceinline__ ChainSums<kForm, kTokens> multiply_unit(
    Consumer& consumer, const Activations<kForm, kTokens>& x, int num_blocks, int tokens) {
  ChainSums<kForm, kTokens> sums;
  // The same in all lanes, so that descriptors are made once a warp.
  const int chain = tile::uniform(static_cast<int>(threadIdx.x) / 32 / kChainWarps);
  int left_over = chain;  // whether the next stage is the other chain's
  for (int at = 0; at < num_blocks; at += kStageBlocks, left_over ^= 1) {
    if (left_over != 0) {
      consumer.skip();
      continue;
    }
    sums.add(consumer.wait(), min(kStageBlocks, num_blocks - at), x, at, tokens);
    consumer.release();
  }
  return sums;
}

}  // namespace cachalot::ops::experts
