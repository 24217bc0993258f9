#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/moe/expert_many.h"
#include "ops/moe/expert_product.cuh"
#include "ops/moe/pair_ranks.cuh"
#include "ops/moe/swiglu.cuh"
#include "ops/quant/act8_run.cuh"
#include "tile/wgmma_widths.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kTileTokens = 128;  // at most
constexpr int kColumnStep = 16;   // a tile has a multiple of so many columns

// Some tokens of one expert: its slots are columns of the products.
struct alignas(16) Tile {
  int32_t expert;
  int32_t num_tokens;
  int32_t first_slot;
  int32_t columns;  // >= num_tokens
};
// A tile's activations: blocks of 128 inputs, each the codes of all columns as CoreMatrices and
// their scales.
__host__ __device__ constexpr int block_bytes(int columns) { return columns * (128 + 4); }
__device__ __forceinline__ int64_t tile_offset(int first_slot, int blocks) {
  return int64_t{first_slot} * block_bytes(1) * blocks;
}

// Device memory of a call.
struct Scratch {
  int32_t* num_tiles;
  Tile* tiles;
  int32_t* slot_pairs;
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
int64_t cut(const ExpertShape& s, std::byte* from, Scratch& scratch) {
  const Sizes sizes(s);
  int64_t at = 0;
  const auto take = [&](auto*& pointer, int64_t count) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(from + at);
    at += (count * static_cast<int64_t>(sizeof(*pointer)) + 127) / 128 * 128;
  };
  take(scratch.num_tiles, 1);
  take(scratch.tiles, sizes.tiles);
  take(scratch.slot_pairs, sizes.slots);
  take(scratch.x, sizes.slots * block_bytes(1) * (s.hidden_size / 128));
  take(scratch.h, sizes.slots * block_bytes(1) * (s.moe_intermediate_size / 128));
  return at;
}

// --- Tiles. An expert's tokens are shared by its tiles alike.

__global__ void __launch_bounds__(PairRanks::kThreads, 1)
    tiles_kernel(const int32_t* ids, int num_pairs, int num_experts, Scratch s) {
  __shared__ PairRanks ranks;
  __shared__ int first_slot[PairRanks::kMaxExperts];
  __shared__ int16_t tile_tokens[PairRanks::kMaxExperts];
  __shared__ int sums[2][PairRanks::kMaxExperts / 32];
  ranks.clear(num_experts);
  tile::wait_for_producers();
  tile::launch_dependents();

  // Thread e has expert e.
  const int tokens = ranks.count(ids, num_pairs, num_experts);
  const int e = static_cast<int>(threadIdx.x);
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
  const int share = tiles == 0 ? 1 : (tokens + tiles - 1) / tiles;
  const int columns = (share + kColumnStep - 1) / kColumnStep * kColumnStep;
  const int first_tile = sum_before(tiles, sums[0]);
  const int first = sum_before(tiles * columns, sums[1]);
  if (e < PairRanks::kMaxExperts) {
    first_slot[e] = first;
    tile_tokens[e] = static_cast<int16_t>(share);
    for (int i = 0; i < tiles; ++i) {
      s.tiles[first_tile + i] = {e, min(share, tokens - i * share), first + i * columns, columns};
    }
    if (e == PairRanks::kMaxExperts - 1) *s.num_tiles = first_tile + tiles;
  }
  __syncthreads();
  ranks.each_pair(ids, num_pairs, num_experts, [&](int pair, int id, int rank) {
    const int own = tile_tokens[id];
    const int own_columns = (own + kColumnStep - 1) / kColumnStep * kColumnStep;
    s.slot_pairs[first_slot[id] + rank / own * own_columns + rank % own] = pair;
  });
}

// --- Activations.

__device__ __forceinline__ Tile load_tile(const Tile* from) {
  const tile::Vector16 v = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  return {static_cast<int32_t>(v.word[0]), static_cast<int32_t>(v.word[1]),
          static_cast<int32_t>(v.word[2]), static_cast<int32_t>(v.word[3])};
}

constexpr int kQuantiseThreads = 256;  // half a warp has a run of 128
constexpr int kRunPieces = 8;          // of 16 codes each, a warp's to write
static_assert(kQuantiseThreads == 32 * kRunPieces);

// 128 inputs of a tile, by way of shared memory, so that they are written in one run. Row of x =
// pair / pairs_per_row; columns past the last token are zeros.
template <typename T>
__global__ void __launch_bounds__(kQuantiseThreads)
    quantise_kernel(const T* x, int pairs_per_row, int blocks, Scratch s, uint8_t* to) {
  using B = tile::CoreMatrices<kColumnStep>;
  // All columns' 16 codes are followed by 16 bytes: a column's pieces lie in different banks.
  __shared__ __align__(16) uint8_t quantised[block_bytes(kTileTokens) + kRunPieces * 16];
  tile::wait_for_producers();
  tile::launch_dependents();
  const int index = static_cast<int>(blockIdx.y);
  if (index >= tile::load_shared_state(s.num_tiles)) return;
  const Tile own = load_tile(s.tiles + index);
  const int stride = 16 * own.columns + 16;
  auto* const scales = reinterpret_cast<float*>(quantised + kRunPieces * stride);
  const int block = static_cast<int>(blockIdx.x);
  using Values = RunValues<T>;
  constexpr int kBatch = 4;  // loads under way
  constexpr int kStep = kQuantiseThreads / 16;
  for (int first = static_cast<int>(threadIdx.x) / 16; first < own.columns;
       first += kBatch * kStep) {
    Values v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int column = first + i * kStep;
      if (column >= own.num_tokens) continue;
      const int pair = tile::load_shared_state(s.slot_pairs + own.first_slot + column);
      v[i].load(x + (int64_t{pair / pairs_per_row} * blocks + block) * 128);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int column = first + i * kStep;
      const Act8 q = quantise_act8(v[i].bf16());
      if (column >= own.columns) continue;  // whole warps
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int at = B::offset(column, StreamedFp4::place(Values::place(j)), stride);
        *reinterpret_cast<uint32_t*>(quantised + at) = q.codes[j];
      }
      if (threadIdx.x % 16 == 0) {
        scales[scale_place(column)] = q.scale * tile::kE2m1TableInE4m3;
      }
    }
  }
  __syncthreads();
  auto* const out = reinterpret_cast<uint4*>(to + tile_offset(own.first_slot, blocks) +
                                             int64_t{block} * block_bytes(own.columns));
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto* const codes = reinterpret_cast<const uint4*>(quantised + warp * stride);
  for (int i = lane; i < own.columns; i += 32) out[warp * own.columns + i] = codes[i];
  if (warp == 0 && lane < own.columns / 4)
    out[kRunPieces * own.columns + lane] = reinterpret_cast<const uint4*>(scales)[lane];
}

// --- The products. A block takes three units of a tile at a time, a warpgroup each; a warp of the
// fourth keeps the ring filled.

constexpr int kWarpgroups = 3;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = kWarpgroups * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kConsumerRegisters = 160;
constexpr int kProducerRegisters = 24;
constexpr int kWeightBytes = experts::kBlockCodeBytes + experts::kBlockScaleBytes;
constexpr int kStageBytes = block_bytes(kTileTokens) + kWarpgroups * kWeightBytes;
constexpr int kStages = 4;
constexpr int kHeldBytes = kTileTokens * experts::kUnitRows * 4;  // sums of a warpgroup
constexpr int kSmemBytes = kStages * kStageBytes + kWarpgroups * kHeldBytes;
using Ring = tile::BulkRing<kStages>;

struct ManyParams {
  const uint8_t* weight;
  int64_t expert_bytes;
  int64_t unit_bytes;
  int64_t row_scales;  // where an expert's begin
  int units;           // of an expert
  int blocks;          // of 128 inputs
  bool gate_up;
  float limit;
  const uint8_t* x;
  const int32_t* num_tiles;
  const Tile* tiles;
  const int32_t* slot_pairs;
  const float* pair_weights;
  uint16_t* out;
  int64_t out_columns;
};

// The blocks in the order of the chains of expert_product.cuh, one chain after the other.
struct ChainOrder {
  int num_blocks;
  int block = 0;
  int chain = 0;

  // Whether the next block begins the other chain.
  __device__ __forceinline__ bool advance() {
    constexpr int kRun = experts::kStageBlocks;
    block += block % kRun == kRun - 1 ? kRun + 1 : 1;
    if (block < num_blocks || chain == 1) return false;
    chain = 1;
    block = kRun;
    return true;
  }
};

// A tile's units are shared out by as many as a block has warpgroups.
__device__ __forceinline__ int num_shares(const ManyParams& p) {
  return (p.units + kWarpgroups - 1) / kWarpgroups;
}

// By the producing lane.
__device__ __forceinline__ void fill_ring(const ManyParams& p, Ring& ring, uint8_t* smem,
                                          int num_items) {
  tile::RingPlace place;
  int count = 0;
  const int shares = num_shares(p);
  for (int item = static_cast<int>(blockIdx.x); item < num_items;
       item += static_cast<int>(gridDim.x)) {
    const int index = item / shares;
    const Tile own = load_tile(p.tiles + index);
    const uint8_t* const x = p.x + tile_offset(own.first_slot, p.blocks);
    const uint8_t* const weight = p.weight + own.expert * p.expert_bytes;
    const int first_unit = (item - index * shares) * kWarpgroups;
    const int x_bytes = block_bytes(own.columns);
    ChainOrder order{p.blocks};
    for (int i = 0; i < p.blocks; ++i) {
      constexpr int kRun = experts::kStageBlocks;
      const int run = order.block / kRun, in_run = order.block % kRun;
      const int run_blocks = min(kRun, p.blocks - run * kRun);
      if (count >= kStages) ring.empty[place.stage].wait(place.phase ^ 1);
      tile::Mbarrier& full = ring.full[place.stage];
      uint8_t* to = smem + place.stage * kStageBytes;
      full.arrive_expecting(static_cast<uint32_t>(x_bytes + kWarpgroups * kWeightBytes));
      full.bulk_copy(to, x + order.block * x_bytes, static_cast<uint32_t>(x_bytes));
      to += block_bytes(kTileTokens);
#pragma unroll
      for (int unit = 0; unit < kWarpgroups; ++unit) {
        // Past the last one the last, whose sums are not written.
        const uint8_t* const from = weight + min(first_unit + unit, p.units - 1) * p.unit_bytes +
                                    int64_t{run} * experts::kStageBytes;
        full.bulk_copy(to, from + in_run * experts::kBlockCodeBytes, experts::kBlockCodeBytes);
        to += experts::kBlockCodeBytes;
        full.bulk_copy(
            to, from + run_blocks * experts::kBlockCodeBytes + in_run * experts::kBlockScaleBytes,
            experts::kBlockScaleBytes);
        to += experts::kBlockScaleBytes;
      }
      place.advance(kStages);
      ++count;
      order.advance();
    }
  }
}

// A warpgroup's sums over a unit, places as in mma.cuh.
template <int kColumns>
using UnitSums = float[kColumns / 2];

// A warpgroup waits for its products, of many columns in two parts, and meanwhile the others add
// up.
class UnitMultiplier {
 public:
  // held: kHeldBytes of the warpgroup's own.
  __device__ UnitMultiplier(Ring& ring, const uint8_t* smem, int group, float* held)
      : ring_(ring, smem, kStageBytes, kStages),
        weights_(block_bytes(kTileTokens) + group * kWeightBytes),
        held_(held + threadIdx.x % kGroupThreads) {}

  // Takes num_blocks stages.
  template <int kColumns>
  __device__ __forceinline__ void multiply(int num_blocks, UnitSums<kColumns>& chain) {
    constexpr int kValues = kColumns / 2;
#pragma unroll
    for (int v = 0; v < kValues; ++v) chain[v] = 0;
    ChainOrder order{num_blocks};
    bool holds = false;
#pragma unroll 1
    for (int i = 0; i < num_blocks; ++i) {
      add_block<kColumns>(chain);
      if (!order.advance() || i + 1 == num_blocks) continue;
      holds = true;
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        held_[v * kGroupThreads] = chain[v];
        chain[v] = 0;
      }
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      // The other chain may have no block.
      chain[v] = holds ? held_[v * kGroupThreads] + chain[v] : chain[v] + 0.0f;
    }
  }

 private:
  // The next stage's.
  template <int kColumns>
  __device__ __forceinline__ void add_block(UnitSums<kColumns>& chain) {
    constexpr int kFirst = kColumns > 96 ? 64 : kColumns;
    const uint8_t* const stage = ring_.wait();
    experts::BlockShare w;
    w.read(stage + weights_, 1, 0);
    uint32_t a[4][4];
    w.expand(a);
    add_columns<kColumns, 0, kFirst>(stage, a, chain);
    if constexpr (kFirst < kColumns) add_columns<kColumns, kFirst, kColumns>(stage, a, chain);
  }
  // Columns kBegin to kEnd, the last ones last.
  template <int kColumns, int kBegin, int kEnd>
  __device__ __forceinline__ void add_columns(const uint8_t* stage, const uint32_t (&a)[4][4],
                                              UnitSums<kColumns>& chain) {
    using B = tile::CoreMatrices<kColumns>;
    constexpr int kOwn = kEnd - kBegin;
    const uint64_t x = B::descriptor(tile::smem_address(stage) + kBegin * 16);
    float d[kOwn / 2];
    tile::wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s)
      tile::WgmmaE4m3<kOwn>::multiply(d, a[s], B::advance(x, s * B::kStepBytes), s);
    tile::wgmma_commit();
    float4 of_tokens[kOwn / 16];
    const auto* const scales =
        reinterpret_cast<const float4*>(stage + kColumns * 128 + kBegin * 4) + threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kOwn / 16; ++n) of_tokens[n] = scales[n * 4];
    tile::wgmma_wait<0>();
    tile::wgmma_arrived(d);
    if constexpr (kEnd == kColumns) {
#pragma unroll
      for (int s = 0; s < 4; ++s) tile::wgmma_read(a[s]);
      ring_.release();
    }
#pragma unroll
    for (int v = 0; v < kOwn / 2; ++v) {
      const float4& four = of_tokens[v / 8];
      float& sum = chain[kBegin / 2 + v];
      const float first = v / 4 % 2 == 0 ? four.x : four.z;
      const float second = v / 4 % 2 == 0 ? four.y : four.w;
      sum = fmaf(d[v], v % 2 == 0 ? first : second, sum);
    }
  }

  tile::BulkConsumer<kStages> ring_;
  int weights_;  // where the warpgroup's begin in a stage
  float* held_;
};

// Of one warpgroup.
__device__ __forceinline__ void sync_group(int group) {
  switch (group) {
    case 0: return tile::sync_threads<1, kGroupThreads>();
    case 1: return tile::sync_threads<2, kGroupThreads>();
    default: return tile::sync_threads<3, kGroupThreads>();
  }
}

// Turns the sums into values of h or y: by way of shared memory, so that rows are written in runs.
template <int kColumns>
__device__ __forceinline__ void write_unit(const ManyParams& p, const Tile& own, int unit,
                                           int group, uint8_t* held, UnitSums<kColumns>& sums) {
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int lane = thread % 32, warp = thread / 32;
  const int values = p.gate_up ? experts::kUnitRows / 2 : experts::kUnitRows;  // of a token
  constexpr int kRowBytes = experts::kUnitRows * 2 + 16;
  static_assert(kTileTokens * kRowBytes + kGroupThreads * 8 <= kHeldBytes &&
                kTileTokens <= kGroupThreads);
  auto* const weights = reinterpret_cast<float*>(held + kTileTokens * kRowBytes);
  auto* const pairs = reinterpret_cast<int32_t*>(weights + kGroupThreads);
  const auto place = [&](int column, int value) {
    return reinterpret_cast<uint16_t*>(held + column * kRowBytes) + value;
  };
  const int pair =
      thread < own.num_tokens ? tile::load_shared_state(p.slot_pairs + own.first_slot + thread) : 0;
  const float weight =
      p.gate_up && thread < own.num_tokens ? tile::load_shared_state(p.pair_weights + pair) : 0.0f;
  const uint8_t* const of_rows = p.weight + own.expert * p.expert_bytes + p.row_scales +
                                 unit * experts::kUnitRows + warp * 16 + lane / 4;
  const float row_scales[2] = {tile::e8m0_to_float(__ldg(of_rows)),
                               tile::e8m0_to_float(__ldg(of_rows + 8))};
  sync_group(group);  // all have taken what they held
  weights[thread] = weight;
  pairs[thread] = pair;
  if (p.gate_up) sync_group(group);
  if (p.gate_up) {
    bool ordinary = true;
#pragma unroll
    for (int v = 0; v < kColumns / 2; v += 4) {
#pragma unroll
      for (int i = v; i < v + 2; ++i) {
        float& gate = sums[i];
        float& up = sums[i + 2];
        gate = tile::round_to_bf16(gate * row_scales[0]);
        up = tile::round_to_bf16(up * row_scales[1]);
        clamp_swiglu(gate, up, p.limit);
        ordinary &= is_ordinary_gate(gate);
      }
    }
    const auto store = [&](const auto& silu_of) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const int column = n * 8 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float value =
              weights[column + i] * (silu_of(sums[n * 4 + i]) * sums[n * 4 + 2 + i]);
          *place(column + i, warp * 8 + lane / 4) = tile::bf16_bits(value);
        }
      }
    };
    if (ordinary) {
      store([](float gate) { return silu_of_ordinary(gate); });
    } else {
      store([](float gate) { return silu(gate); });
    }
  } else {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        *place(column + i % 2, warp * 16 + lane / 4 + i / 2 * 8) =
            tile::bf16_bits(sums[n * 4 + i] * row_scales[i / 2]);
      }
    }
  }
  sync_group(group);
  const int pieces = values / 8;  // of 16 bytes
  for (int i = thread; i < own.num_tokens * pieces; i += kGroupThreads) {
    const int column = i / pieces, piece = i % pieces;
    *reinterpret_cast<uint4*>(p.out + int64_t{pairs[column]} * p.out_columns + unit * values +
                              piece * 8) =
        *reinterpret_cast<const uint4*>(place(column, piece * 8));
  }
  sync_group(group);
}

__global__ void __launch_bounds__(kThreads, 1)
    many_products_kernel(const __grid_constant__ ManyParams p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Ring ring;
  if (threadIdx.x == 0) ring.init(kStages, kConsumers / 32);
  __syncthreads();
  tile::wait_for_producers();
  tile::launch_dependents();
  const int shares = num_shares(p);
  const int num_items = tile::load_shared_state(p.num_tiles) * shares;
  const int group = tile::uniform(static_cast<int>(threadIdx.x) / kGroupThreads);
  if (group == kWarpgroups) {
    tile::shrink_registers<kProducerRegisters>();
    if (threadIdx.x == kConsumers) fill_ring(p, ring, smem, num_items);
  } else {
    tile::grow_registers<kConsumerRegisters>();
    uint8_t* const held = smem + kStages * kStageBytes + group * kHeldBytes;
    UnitMultiplier multiplier(ring, smem, group, reinterpret_cast<float*>(held));
    for (int item = static_cast<int>(blockIdx.x); item < num_items;
         item += static_cast<int>(gridDim.x)) {
      const int index = item / shares;
      const Tile own = load_tile(p.tiles + index);
      const int unit = (item - index * shares) * kWarpgroups + group;
      const auto take = [&]<int kColumns>() {
        UnitSums<kColumns> sums;
        multiplier.multiply<kColumns>(p.blocks, sums);
        if (unit < p.units) write_unit<kColumns>(p, own, unit, group, held, sums);
      };
      static_assert(kTileTokens == 8 * kColumnStep);
      switch (own.columns / kColumnStep) {
        case 1: take.template operator()<kColumnStep>(); break;
        case 2: take.template operator()<2 * kColumnStep>(); break;
        case 3: take.template operator()<3 * kColumnStep>(); break;
        case 4: take.template operator()<4 * kColumnStep>(); break;
        case 5: take.template operator()<5 * kColumnStep>(); break;
        case 6: take.template operator()<6 * kColumnStep>(); break;
        case 7: take.template operator()<7 * kColumnStep>(); break;
        default: take.template operator()<8 * kColumnStep>(); break;
      }
    }
  }
}

}  // namespace

int64_t expert_many_bytes(const ExpertShape& shape) {
  Scratch scratch;
  return cut(shape, nullptr, scratch);
}

void allow_expert_many() { cuda::allow_smem(many_products_kernel, kSmemBytes); }

void launch_expert_many(const ExpertPlan& plan, const cuda::Stream& stream,
                        const ExpertParams& params) {
  const ExpertShape& s = plan.shape;
  CACHALOT_CHECK(params.scratch.many != nullptr);
  const int tokens = static_cast<int>(params.tokens), k = static_cast<int>(s.k);
  Scratch scratch;
  cut(s, params.scratch.many, scratch);
  const auto max_tiles = static_cast<unsigned>(Sizes(s).tiles);

  cuda::LaunchShape tiles;
  tiles.grid = dim3(1);
  tiles.block = PairRanks::kThreads;
  cuda::launch(stream, tiles, tiles_kernel, params.ids, tokens * k, static_cast<int>(s.num_experts),
               scratch);

  const auto quantise = [&](const auto* x, int pairs_per_row, int64_t columns, uint8_t* to) {
    using T = std::remove_cvref_t<decltype(*x)>;
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(columns / 128), max_tiles);
    shape.block = kQuantiseThreads;
    cuda::launch(stream, shape, quantise_kernel<T>, x, pairs_per_row,
                 static_cast<int>(columns / 128), scratch, to);
  };
  if (s.float_rows) {
    quantise(static_cast<const float*>(params.x), k, s.hidden_size, scratch.x);
  } else {
    quantise(static_cast<const uint16_t*>(params.x), k, s.hidden_size, scratch.x);
  }

  const auto multiply = [&](const StreamedFp4& layout, const std::byte* weight, bool gate_up) {
    ManyParams p = {};
    p.weight = reinterpret_cast<const uint8_t*>(weight);
    p.expert_bytes = layout.num_bytes();
    p.unit_bytes = layout.unit_bytes();
    p.row_scales = layout.row_scale(0);
    p.units = static_cast<int>(layout.num_units());
    p.blocks = static_cast<int>(layout.num_blocks());
    p.gate_up = gate_up;
    p.limit = s.limit;
    p.x = gate_up ? scratch.x : scratch.h;
    p.num_tiles = scratch.num_tiles;
    p.tiles = scratch.tiles;
    p.slot_pairs = scratch.slot_pairs;
    p.pair_weights = params.weights;
    p.out = gate_up ? params.scratch.h : params.scratch.y;
    p.out_columns = gate_up ? s.moe_intermediate_size : s.hidden_size;
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(plan.grid));
    shape.block = kThreads;
    shape.smem_bytes = kSmemBytes;
    cuda::launch(stream, shape, many_products_kernel, p);
  };
  multiply({2 * s.moe_intermediate_size, s.hidden_size}, params.gate_up, true);
  quantise(static_cast<const uint16_t*>(params.scratch.h), 1, s.moe_intermediate_size, scratch.h);
  multiply({s.hidden_size, s.moe_intermediate_size}, params.down, false);
}

}  // namespace cachalot::ops
