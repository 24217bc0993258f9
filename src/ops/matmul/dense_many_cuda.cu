#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/dense_many.h"
#include "ops/matmul/dense_many_prepare.cuh"
#include "ops/matmul/streamed_weight.h"
#include "tile/cluster.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
#include "tile/turns.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace dense_many;
constexpr int kGroupThreads = 128;
constexpr int kUnits = 8;  // of a block, 16 outputs each
constexpr int kProducerRegisters = 24;
constexpr int kStageBlocks = 8;  // of a weight's stages
constexpr int kUnitBytes = 2048;
constexpr int kUnitRows = 16;
constexpr int kMaxStages = 8;
using Ring = tile::BulkRing<kMaxStages>;

// A warp's codes of a block of 128 inputs, and their scale.
struct Codes {
  uint32_t step[4][4];  // of 32 inputs each
  float scale;

  __device__ __forceinline__ void load(const uint8_t* unit, int num_blocks, int block) {
    const int stage = block / kStageBlocks, in_stage = block % kStageBlocks;
    const int blocks = min(kStageBlocks, num_blocks - stage * kStageBlocks);
    const uint8_t* const from = unit + stage * (kStageBlocks * (2048 + 4));
    const uint8_t* const codes = from + in_stage * 2048 + static_cast<int>(threadIdx.x) % 32 * 16;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const tile::Vector16 v =
          tile::load_constant(reinterpret_cast<const tile::Vector16*>(codes + s * 512));
#pragma unroll
      for (int i = 0; i < 4; ++i) step[s][i] = v.word[i];
    }
    scale = __ldg(reinterpret_cast<const float*>(from + blocks * 2048 + in_stage * 4));
  }
};

__device__ __forceinline__ void to_bf16(uint32_t codes, uint32_t (&pairs)[2]) {
  tile::e4m3_to_bf16(codes, pairs[0], pairs[1]);
#pragma unroll
  for (uint32_t& pair : pairs) pair = tile::multiply_bf16(pair, tile::kTwoTo120);
}

// A unit of all groups' units, past the last one the last.
struct Unit {
  const Group* group;
  int index;  // in its group
  const uint8_t* weight;

  __device__ __forceinline__ Unit(const Params& p, int unit) {
    const int own = min(unit, p.units - 1);
    int g = 0;
    while (g + 1 < p.num_groups && own >= p.groups[g + 1].first_unit) ++g;
    group = &p.groups[g];
    index = own - group->first_unit;
    weight = group->weight + index * p.unit_bytes;
  }
  // Its bytes of a block of 128 inputs.
  __device__ __forceinline__ const uint8_t* codes(int block) const {
    return weight + block / kStageBlocks * (kStageBlocks * (kUnitBytes + 4)) +
           block % kStageBlocks * kUnitBytes;
  }
  __device__ __forceinline__ float scale(int num_blocks, int block) const {
    const int stage = block / kStageBlocks;
    const int blocks = min(kStageBlocks, num_blocks - stage * kStageBlocks);
    return __ldg(reinterpret_cast<const float*>(weight + stage * (kStageBlocks * (kUnitBytes + 4)) +
                                                blocks * kUnitBytes + block % kStageBlocks * 4));
  }
};

// How a block of kHalves halves is made up: warpgroups for four units each and all tokens; where a
// chain has at most one block of inputs, so that a sum needs no place for it beside (kShort), twice
// as many for half of the tokens each; and one whose first warp fills the ring.
template <int kHalves, bool kIsShort>
struct ManyShape {
  static constexpr bool kShort = kIsShort;
  static constexpr int kTokens = kHalves * kHalfTokens;
  static constexpr int kOwnHalves = kShort ? 1 : kHalves;       // of a warpgroup
  static constexpr int kWarps = kHalves / kOwnHalves * kUnits;  // that multiply
  static constexpr int kThreads = kWarps * 32 + kGroupThreads;
  static constexpr int kRegisters = kWarps == kUnits ? 240 : 112;
  static constexpr int kBlockBytes = block_bytes(kTokens);
  static constexpr int kStageBytes = kBlockBytes + kUnits * kUnitBytes;
  // Of a warp: sums of some tokens on their way to memory.
  static constexpr int kPieceTokens = 32;
  static constexpr int kRowFloats = kUnitRows + 4;
  static constexpr int kOwnFloats = kPieceTokens * kRowFloats;
  static constexpr int kStages = kHalves == 1 ? 8 : kShort ? 5 : 6;
  static constexpr int kSmemBytes = kStages * kStageBytes + kWarps * kOwnFloats * 4;
};

// An item of a pair of blocks: 256 outputs, of which each has its half, of the tokens of a block.
struct Items {
  int token_groups;
  int count;

  __device__ __forceinline__ Items(const Params& p, int tokens)
      : token_groups((p.m + tokens - 1) / tokens),
        count((p.units + tile::kPair * kUnits - 1) / (tile::kPair * kUnits) * token_groups) {}
  static __device__ __forceinline__ int first() {
    return static_cast<int>(blockIdx.x) / tile::kPair;
  }
  static __device__ __forceinline__ int stride() {
    return static_cast<int>(gridDim.x) / tile::kPair;
  }
  // The first of the eight units of block `rank`.
  __device__ __forceinline__ int first_unit(int item, int rank) const {
    return (item / token_groups * tile::kPair + rank) * kUnits;
  }
  __device__ __forceinline__ int token_group(int item) const { return item % token_groups; }
};

// By the warp that fills the ring: a lane a unit. Each block of the pair brings half of x to both.
template <typename Shape>
__device__ __forceinline__ void fill_ring(const Params& p, Ring& ring, uint8_t* smem, int rank,
                                          const Items& items) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kPart = Shape::kBlockBytes / tile::kPair;
  tile::RingPlace place;
  int count = 0;
  for (int item = Items::first(); item < items.count; item += Items::stride()) {
    const Unit unit(p, items.first_unit(item, rank) + lane % kUnits);
    const uint8_t* const x =
        p.prepared + int64_t{items.token_group(item)} * p.blocks * Shape::kBlockBytes;
    ChainOrder order{p.blocks};
    for (int i = 0; i < p.blocks; ++i, order.advance()) {
      if (count >= Shape::kStages) ring.empty[place.stage].wait(place.phase ^ 1);
      tile::Mbarrier& full = ring.full[place.stage];
      uint8_t* const to = smem + place.stage * Shape::kStageBytes;
      if (lane == 0) {
        full.arrive_expecting(Shape::kStageBytes);
        tile::copy_to_pair(full, to + rank * kPart,
                           x + int64_t{order.block} * Shape::kBlockBytes + rank * kPart, kPart);
      }
      __syncwarp();
      if (lane < kUnits) {
        full.bulk_copy(to + Shape::kBlockBytes + lane * kUnitBytes, unit.codes(order.block),
                       kUnitBytes);
      }
      place.advance(Shape::kStages);
      ++count;
    }
  }
}

// The scales of a unit in the order of the chains, 32 at a time, a lane one.
class UnitScales {
 public:
  __device__ __forceinline__ UnitScales(const Unit& unit, int num_blocks)
      : unit_(unit), num_blocks_(num_blocks), own_(load(0)), later_(load(32)) {}

  // Call i gives the one of block i.
  __device__ __forceinline__ float next() {
    const float scale = __shfl_sync(0xFFFFFFFFu, own_, at_ % 32);
    if (++at_ % 32 == 0) {
      own_ = later_;
      later_ = load(at_ + 32);
    }
    return scale;
  }

 private:
  __device__ __forceinline__ float load(int first) const {
    const int i = first + static_cast<int>(threadIdx.x) % 32;
    if (i >= num_blocks_) return 0;
    // The first chains have a block more.
    const int all = num_blocks_ / kChains, longer = num_blocks_ % kChains;
    const int rest = i - longer * (all + 1);
    const int chain = rest < 0 ? i / (all + 1) : longer + rest / all;
    const int in_chain = rest < 0 ? i % (all + 1) : rest % all;
    return unit_.scale(num_blocks_, chain + in_chain * kChains);
  }

  Unit unit_;
  int num_blocks_;
  float own_, later_;
  int at_ = 0;
};

// A warp's sums of its unit and its halves of the tokens. A warpgroup waits for its products, half
// of the tokens at a time: meanwhile the others add up.
template <int kHalves, bool kIsShort>
class ManySums {
 public:
  using Shape = ManyShape<kHalves, kIsShort>;
  using X = tile::CoreMatrices<Shape::kTokens>;
  static constexpr bool kShort = Shape::kShort;
  static constexpr int kHalfValues = kHalfTokens / 2;  // of a lane
  static constexpr int kValues = Shape::kOwnHalves * kHalfValues;

  __device__ ManySums(Ring& ring, uint8_t* smem, int warp)
      : ring_(ring),
        turns_(kShort ? 0 : warp / 4),
        stages_(smem),
        first_half_(warp / kUnits * Shape::kOwnHalves),
        codes_(Shape::kBlockBytes + warp % kUnits * kUnitBytes +
               static_cast<int>(threadIdx.x) % 32 * 16),
        own_(reinterpret_cast<float*>(smem + Shape::kStages * Shape::kStageBytes) +
             warp * Shape::kOwnFloats) {}

  // After the last item.
  __device__ __forceinline__ void end() {
    if constexpr (!kShort) turns_.end();
  }

  // Takes num_blocks stages.
  __device__ __forceinline__ void multiply(int num_blocks, UnitScales& scales) {
    // What is added to -0 stays as it is.
#pragma unroll
    for (int i = 0; i < kValues; ++i) sum_[i] = -0.0f;
    float chain[kShort ? 1 : kValues];
    if constexpr (!kShort) {
#pragma unroll
      for (float& value : chain) value = 0;
    }
    ChainOrder order{num_blocks};
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      add_block(scales.next(), chain);
      if constexpr (!kShort) {
        const bool ends_chain = order.ends_chain();
        order.advance();
        if (!ends_chain) continue;
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          sum_[i] += chain[i];
          chain[i] = 0;
        }
      }
    }
    // Chains without a block are zeros.
    if (num_blocks < kChains) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum_[i] += 0.0f;
    }
  }

  // By way of shared memory, so that a lane writes four outputs at a time. first_token: of the
  // block.
  __device__ __forceinline__ void store(const Params& p, const Unit& unit, int first_token) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Group& group = *unit.group;
    const int n = unit.index * kUnitRows + lane % 4 * 4;
    const int value_bytes = p.float_y ? 4 : 2;
    const bool in_one = n + 4 <= group.rows && group.y_stride % 4 == 0 &&
                        reinterpret_cast<uintptr_t>(group.y) % (4 * value_bytes) == 0;
    constexpr int kPiece = Shape::kPieceTokens;
#pragma unroll
    for (int piece = 0; piece < 2 * kValues / kPiece; ++piece) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPiece / 2; ++i) {
        own_[(i / 4 * 8 + lane % 4 * 2 + i % 2) * Shape::kRowFloats + lane / 4 + i / 2 % 2 * 8] =
            sum_[piece * (kPiece / 2) + i];
      }
      __syncwarp();
#pragma unroll
      for (int first = 0; first < kPiece; first += 8) {
        const int row = first_token + first_half_ * kHalfTokens + piece * kPiece + first + lane / 4;
        const float4 v = *reinterpret_cast<const float4*>(
            own_ + (first + lane / 4) * Shape::kRowFloats + lane % 4 * 4);
        if (row >= p.m) continue;
        const uint2 pairs = make_uint2(tile::pack_bf16(v.x, v.y), tile::pack_bf16(v.z, v.w));
        const int64_t to = row * group.y_stride + n;
        if (in_one) {
          if (p.float_y) {
            *reinterpret_cast<float4*>(static_cast<float*>(group.y) + to) =
                make_float4(tile::low_bf16(pairs.x), tile::high_bf16(pairs.x),
                            tile::low_bf16(pairs.y), tile::high_bf16(pairs.y));
          } else {
            *reinterpret_cast<uint2*>(static_cast<uint16_t*>(group.y) + to) = pairs;
          }
          continue;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (n + i >= group.rows) continue;
          const uint32_t pair = i / 2 == 0 ? pairs.x : pairs.y;
          const uint32_t bits = i % 2 == 0 ? pair & 0xFFFF : pair >> 16;
          if (p.float_y) {
            static_cast<float*>(group.y)[to + i] = tile::low_bf16(bits);
          } else {
            static_cast<uint16_t*>(group.y)[to + i] = static_cast<uint16_t>(bits);
          }
        }
      }
    }
    __syncwarp();
  }

 private:
  // The next stage's. chain: the sums of the chain; of one block nothing is kept there.
  template <int kChainValues>
  __device__ __forceinline__ void add_block(float scale, float (&chain)[kChainValues]) {
    ring_.full[place_.stage].wait(place_.phase);
    const uint8_t* const stage = stages_ + place_.stage * Shape::kStageBytes;
    uint32_t a[4][4];  // of 32 inputs each
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const uint4 codes = *reinterpret_cast<const uint4*>(stage + codes_ + s * 512);
      a[s][0] = codes.x, a[s][1] = codes.y, a[s][2] = codes.z, a[s][3] = codes.w;
    }
    const auto* const scales = reinterpret_cast<const float4*>(stage + Shape::kTokens * 128) +
                               first_half_ * (kHalfTokens / 4) + threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < Shape::kOwnHalves; ++h) {
      float d[kHalfValues];
      if constexpr (!kShort) turns_.wait();
      tile::wgmma_fence();
      const uint64_t x =
          X::descriptor(tile::smem_address(stage) + (first_half_ + h) * kHalfTokens * 16);
#pragma unroll
      for (int s = 0; s < 4; ++s)
        tile::WgmmaE4m3<kHalfTokens>::multiply(d, a[s], X::advance(x, s * X::kStepBytes), s);
      tile::wgmma_commit();
      if constexpr (!kShort) turns_.pass();
      float4 of_tokens[kHalfTokens / 16];
#pragma unroll
      for (int n = 0; n < kHalfTokens / 16; ++n)
        of_tokens[n] = scales[h * (kHalfTokens / 4) + n * 4];
      tile::wgmma_wait<0>();
      tile::wgmma_arrived(d);
      if (h + 1 == Shape::kOwnHalves) {
#pragma unroll
        for (int s = 0; s < 4; ++s) tile::wgmma_read(a[s]);
        release();
      }
#pragma unroll
      for (int n = 0; n < kHalfTokens / 8; ++n) {
        const float4& four = of_tokens[n / 2];
        const float first = scale * (n % 2 == 0 ? four.x : four.z);
        const float second = scale * (n % 2 == 0 ? four.y : four.w);
#pragma unroll
        for (int i = n * 4; i < n * 4 + 4; ++i) {
          const int at = h * kHalfValues + i;
          const float factor = i % 2 == 0 ? first : second;
          if constexpr (kShort) {
            sum_[at] += fmaf(d[i], factor, 0.0f);
          } else {
            chain[at] = fmaf(d[i], factor, chain[at]);
          }
        }
      }
    }
  }
  // Of the stage, to who fills it in both blocks, as half of it is filled from the other. By each
  // lane: see tile::BulkRing.
  __device__ __forceinline__ void release() {
#pragma unroll
    for (int rank = 0; rank < tile::kPair; ++rank)
      tile::arrive_in_pair(ring_.empty[place_.stage], rank);
    place_.advance(Shape::kStages);
  }

  Ring& ring_;
  tile::TwoTurns<1> turns_;
  const uint8_t* stages_;
  int first_half_;
  int codes_;   // where the lane's begin in a stage
  float* own_;  // the warp's memory
  tile::RingPlace place_;
  float sum_[kValues];
};

template <int kHalves, bool kShort>
__global__ void __cluster_dims__(tile::kPair, 1, 1)
    __launch_bounds__(ManyShape<kHalves, kShort>::kThreads, 1)
        many_kernel(const __grid_constant__ Params p) {
  using Shape = ManyShape<kHalves, kShort>;
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Ring ring;
  // A stage is free when all warps of both blocks have said so.
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      ring.full[i].init(1);
      ring.empty[i].init(tile::kPair * Shape::kWarps * 32);
    }
    tile::Mbarrier::publish_inits();
  }
  tile::sync_pair();
  tile::launch_dependents();
  tile::wait_for_producers();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int rank = tile::rank_in_pair();
  const Items items(p, Shape::kTokens);
  if (warp >= Shape::kWarps) {
    tile::shrink_registers<kProducerRegisters>();
    if (warp == Shape::kWarps) fill_ring<Shape>(p, ring, smem, rank, items);
    __syncwarp();
  } else {
    tile::grow_registers<Shape::kRegisters>();
    ManySums<kHalves, kShort> sums(ring, smem, warp);
    const auto unit_of = [&](int item) { return items.first_unit(item, rank) + warp % kUnits; };
    int item = Items::first();
    UnitScales scales(Unit(p, unit_of(item)), p.blocks);
    for (; item < items.count; item += Items::stride()) {
      UnitScales next_scales(Unit(p, unit_of(item + Items::stride())), p.blocks);
      sums.multiply(p.blocks, scales);
      scales = next_scales;
      if (unit_of(item) < p.units)
        sums.store(p, Unit(p, unit_of(item)), items.token_group(item) * Shape::kTokens);
    }
    sums.end();
  }
  tile::sync_pair();  // what is under way to the other block has come
}

// --- The form unquantised for fewer rows: a warp has a chain.

constexpr int kWideUnits = 2;  // of a block

template <int kTiles>
__global__ void __launch_bounds__(bf16_tiles::kThreads, kTiles > 4 ? 1 : 2)
    wide_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t smem[];
  constexpr int kRows = kTiles * 8;  // of x
  tile::launch_dependents();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int first_unit = static_cast<int>(blockIdx.y) * kWideUnits;
  int g = 0;
  while (g + 1 < p.num_groups && first_unit >= p.groups[g + 1].first_unit) ++g;
  const Group& group = p.groups[g];
  const uint8_t* const weight = group.weight + (first_unit - group.first_unit) * p.unit_bytes;
  const int steps = p.blocks * p.num_groups * 8;
  const auto* const prepared = reinterpret_cast<const uint2*>(p.prepared);
  const int num_tiles = (p.m + 7) / 8;
  const uint2* x[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int tile = min(static_cast<int>(blockIdx.x) * kTiles + n, num_tiles - 1);
    x[n] = prepared + (int64_t{tile} * steps + g * p.blocks * 8) * 32 + lane;
  }
  float sum[kWideUnits][kTiles][4] = {};
  Codes codes[kWideUnits];
  if (warp < p.blocks) {
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u) codes[u].load(weight + u * p.unit_bytes, p.blocks, warp);
  }
  tile::wait_for_producers();
  for (int block = warp; block < p.blocks; block += kChains) {
    Codes next[kWideUnits];
    const int next_block = min(block + kChains, p.blocks - 1);
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u)
      next[u].load(weight + u * p.unit_bytes, p.blocks, next_block);
    float d[kWideUnits][kTiles][4] = {};
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      uint2 b[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) b[n] = x[n][(block * 8 + step) * 32];
#pragma unroll
      for (int u = 0; u < kWideUnits; ++u) {
        uint32_t top[2], bottom[2];
        to_bf16(codes[u].step[step / 2][step % 2 * 2], top);
        to_bf16(codes[u].step[step / 2][step % 2 * 2 + 1], bottom);
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
          tile::mma_bf16(d[u][n], top[0], bottom[0], top[1], bottom[1], b[n].x, b[n].y);
      }
    }
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u) {
#pragma unroll
      for (int i = 0; i < kTiles * 4; ++i)
        sum[u][i / 4][i % 4] = fmaf(d[u][i / 4][i % 4], codes[u].scale, sum[u][i / 4][i % 4]);
      codes[u] = next[u];
    }
  }
  float* const sums = reinterpret_cast<float*>(smem);
#pragma unroll
  for (int u = 0; u < kWideUnits; ++u) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
      bf16_tiles::store_run<kWideUnits>(sums, kRows, u, n, sum[u][n]);
  }
  __syncthreads();
  const int first_row = static_cast<int>(blockIdx.x) * kRows;
  bf16_tiles::fold_runs<kWideUnits>(
      {static_cast<float*>(group.y), group.y_stride, group.rows, true}, sums, kRows,
      first_unit - group.first_unit, first_row, min(kRows, p.m - first_row));
}

template <int kTiles>
void launch_wide(const cuda::Stream& stream, const Params& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.m + kTiles * 8 - 1) / (kTiles * 8)),
                    static_cast<unsigned>(p.units / kWideUnits));
  shape.block = bf16_tiles::kThreads;
  shape.smem_bytes =
      int64_t{bf16_tiles::kWarps} * kTiles * 8 * bf16_tiles::kTokenStride<kWideUnits> * 4;
  if (shape.smem_bytes > cuda::kSmemWithoutAsking)
    cuda::allow_smem(wide_kernel<kTiles>, shape.smem_bytes);
  cuda::launch(stream, shape, wide_kernel<kTiles>, p);
}

bool is_wide(const DenseShape& s) { return s.form == DenseForm::unquantised; }

int64_t units_of(const DenseShape& s) {
  return StreamedLayout{StreamedFormat::fp8, s.rows, s.columns}.num_units();
}
// Items of two blocks each.
int64_t items_of(const DenseShape& s, int64_t tokens) {
  return (units_of(s) + tile::kPair * kUnits - 1) / (tile::kPair * kUnits) *
         ((s.m + tokens - 1) / tokens);
}

template <int kHalves, bool kShort>
void launch_many(const cuda::Stream& stream, const Params& p, int64_t grid) {
  using Shape = ManyShape<kHalves, kShort>;
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(grid));
  shape.block = Shape::kThreads;
  shape.smem_bytes = Shape::kSmemBytes;
  cuda::launch(stream, shape, many_kernel<kHalves, kShort>, p);
}
template <int kHalves, bool kShort>
void allow_many() {
  cuda::allow_smem(many_kernel<kHalves, kShort>, ManyShape<kHalves, kShort>::kSmemBytes);
}

// Whether a block of 128 outputs and two halves of tokens for each multiprocessor comes out.
bool takes_whole_blocks(const DenseShape& s, int64_t num_sms) {
  return items_of(s, 2 * kHalfTokens) * tile::kPair >= num_sms;
}

}  // namespace

bool dense_many_fits(const DenseShape& s, int64_t num_sms) {
  if (is_wide(s)) {
    return s.float_rows && !s.shared_x && s.rows % (s.groups * 16 * kWideUnits) == 0 && s.m > 16 &&
           units_of(s) / kWideUnits >= num_sms;
  }
  return s.form == DenseForm::official_fp8 && (s.shared_x || s.groups == 1) && s.m >= kHalfTokens &&
         items_of(s, kHalfTokens) * tile::kPair >= num_sms * 3 / 4;
}

bool dense_many_takes_bf16(const DenseShape& s, int64_t num_sms) {
  return dense_many_fits(s, num_sms) && !is_wide(s);
}

void plan_dense_many(DensePlan& plan, int64_t num_sms) {
  const DenseShape& s = plan.shape;
  plan.launch = launch_dense_many;
  if (is_wide(s)) {
    plan.scratch_bytes = bf16_tiles::prepared_bytes(s.m, s.groups * s.columns);
    return;
  }
  plan.tokens = takes_whole_blocks(s, num_sms) ? 2 * kHalfTokens : kHalfTokens;
  plan.grid =
      static_cast<int>(std::min(num_sms / tile::kPair, items_of(s, plan.tokens)) * tile::kPair);
  plan.scratch_bytes =
      (s.m + plan.tokens - 1) / plan.tokens * (s.columns / 128) * block_bytes(plan.tokens);
  allow_many<1, false>();
  allow_many<1, true>();
  allow_many<2, false>();
  allow_many<2, true>();
}

void launch_dense_many(const DensePlan& plan, const cuda::Stream& stream, const void* x,
                       int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                       const LaunchOrder&) {
  const DenseShape& s = plan.shape;
  CACHALOT_CHECK(static_cast<int64_t>(groups.size()) == s.groups);
  Params p{};
  p.x = x;
  p.x_stride = x_stride;
  p.float_x = s.has_float_x();
  p.float_y = s.has_float_y();
  p.m = static_cast<int>(s.m);
  p.blocks = static_cast<int>(s.columns / 128);
  p.tokens = plan.tokens;
  p.prepared = reinterpret_cast<uint8_t*>(scratch);
  p.unit_bytes = StreamedLayout{StreamedFormat::fp8, s.rows, s.columns}.unit_bytes();
  for (const DenseGroup& group : groups) {
    p.groups[p.num_groups++] = {reinterpret_cast<const uint8_t*>(group.weight), group.y,
                                group.y_stride, static_cast<int>(group.rows), p.units};
    p.units += static_cast<int>((group.rows + 15) / 16);
  }
  if (is_wide(s)) {
    bf16_tiles::prepare(stream, static_cast<const float*>(x), x_stride, p.m,
                        static_cast<int>(s.groups * s.columns / 16),
                        reinterpret_cast<uint2*>(scratch));
    return s.m > 32 ? launch_wide<8>(stream, p) : launch_wide<4>(stream, p);
  }
  cuda::LaunchShape prepare;
  prepare.block = 256;
  prepare.grid = dim3(static_cast<unsigned>(p.blocks),
                      static_cast<unsigned>((s.m + plan.tokens - 1) / plan.tokens));
  cuda::launch(stream, prepare, prepare_kernel, p);
  const bool is_short = p.blocks <= kChains;
  if (plan.tokens == kHalfTokens) {
    is_short ? launch_many<1, true>(stream, p, plan.grid)
             : launch_many<1, false>(stream, p, plan.grid);
  } else {
    is_short ? launch_many<2, true>(stream, p, plan.grid)
             : launch_many<2, false>(stream, p, plan.grid);
  }
}

}  // namespace cachalot::ops
