#include <algorithm>
#include <limits>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/moe/expert_many.h"
#include "ops/moe/expert_many_slots.cuh"
#include "ops/moe/expert_product.cuh"
#include "ops/moe/swiglu.cuh"
#include "tile/lanes.cuh"
#include "tile/wgmma_bf16.cuh"
#include "tile/wgmma_widths.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace many_experts;

// A block takes three units of a tile at a time, a warpgroup each; a warp of the fourth keeps the
// rings filled.

constexpr int kWarpgroups = 3;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = kWarpgroups * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kConsumerRegisters = 160;
constexpr int kProducerRegisters = 32;
constexpr int kXBytes = data_bytes(kTileTokens);
constexpr int kAlignment = tile::SwizzledTile::kGroupBytes;
constexpr int kXStageBytes = (kXBytes + kAlignment - 1) / kAlignment * kAlignment;
constexpr int kXStages = 3;
// Weights come two blocks at a time: fewer copies. Of a unit the codes, then the scales.
constexpr int kWeightBlocks = 2;
constexpr int kUnitBytes = kWeightBlocks * (experts::kBlockCodeBytes + experts::kBlockScaleBytes);
constexpr int kWeightStageBytes = kWarpgroups * kUnitBytes;
constexpr int kWeightStages = 3;
static_assert(experts::kStageBlocks % kWeightBlocks == 0 &&
              (kWeightBlocks & (kWeightBlocks - 1)) == 0);
constexpr int kHeldBytes = kTileTokens * experts::kUnitRows * 4;  // sums of a warpgroup
constexpr int kWeightsAt = kXStages * kXStageBytes;
constexpr int kHeldAt = kWeightsAt + kWeightStages * kWeightStageBytes;
constexpr int kSmemBytes = kHeldAt + kWarpgroups * kHeldBytes;

// What a block takes at a time, and what the ends of its sums need.
struct alignas(16) Item {
  Tile tile;
  alignas(16) int32_t first_unit;  // kNoUnit: the block has had its last item
  alignas(16) int32_t pairs[kTileTokens];
  float weights[kTileTokens];  // of the pairs
  uint8_t row_scales[kWarpgroups][experts::kUnitRows];
};
constexpr int kNoUnit = -1;
constexpr int kItems = 2;  // known at a time

struct Rings {
  tile::BulkRing<kXStages> x;
  tile::BulkRing<kWeightStages> weights;
  tile::BulkRing<kItems> items;
};

struct ManyParams {
  const uint8_t* weight;
  int64_t expert_bytes;
  int64_t unit_bytes;
  int64_t row_scales;  // where an expert's begin
  int units;           // of an expert
  int blocks;          // of 128 inputs
  float limit;         // of gate and up
  const uint8_t* x;
  const int32_t* num_tiles;
  int32_t* taken_items;
  const Tile* tiles;
  const int32_t* slot_pairs;
  const float* slot_weights;
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
    static_assert((kRun & (kRun - 1)) == 0);
    block += (block & (kRun - 1)) == kRun - 1 ? kRun + 1 : 1;
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

// A ring as the producing warp sees it.
template <int kStages>
struct RingHead {
  tile::BulkRing<kStages>& ring;
  tile::RingPlace place = {};

  // When the next stage is empty; its barrier.
  __device__ __forceinline__ tile::Mbarrier& wait() {
    ring.empty[place.stage].wait(place.phase ^ 1);  // at first it is
    return ring.full[place.stage];
  }
};

// By the producing warp, whose first lane starts the copies. Items differ in how long they take, so
// a block asks for its next one.
template <bool kGateUp>
__device__ __forceinline__ void fill_rings(const ManyParams& p, Rings& rings, Item* items,
                                           uint8_t* smem) {
  RingHead<kXStages> x_head{rings.x};
  RingHead<kWeightStages> weights_head{rings.weights};
  RingHead<kItems> items_head{rings.items};
  const bool leads = threadIdx.x % 32 == 0;
  const int shares = num_shares(p);
  const int num_items = tile::uniform(tile::load_shared_state(p.num_tiles)) * shares;
  int item = static_cast<int>(blockIdx.x);
  while (item < num_items) {
    const int index = item / shares;
    const Tile own = load_tile(p.tiles + index);
    const int first_slot = tile::uniform(own.first_slot), columns = tile::uniform(own.columns);
    const uint8_t* const x = p.x + tile_offset(first_slot, p.blocks);
    const uint8_t* const weight = p.weight + tile::uniform(own.expert) * p.expert_bytes;
    const int first_unit = (item - index * shares) * kWarpgroups;
    const int units = min(kWarpgroups, p.units - first_unit);
    const int taken = leads ? atomicAdd(p.taken_items, 1) : 0;
    tile::Mbarrier& item_full = items_head.wait();
    if (leads) {
      Item& to = items[items_head.place.stage];
      const auto column_bytes = static_cast<uint32_t>(columns * 4);
      const auto scale_bytes = static_cast<uint32_t>(units * experts::kUnitRows);
      to.tile = own;
      to.first_unit = first_unit;
      item_full.arrive_expecting((kGateUp ? 2 : 1) * column_bytes + scale_bytes);
      item_full.bulk_copy(to.pairs, p.slot_pairs + first_slot, column_bytes);
      if constexpr (kGateUp) {
        item_full.bulk_copy(to.weights, p.slot_weights + first_slot, column_bytes);
      }
      item_full.bulk_copy(to.row_scales, weight + p.row_scales + first_unit * experts::kUnitRows,
                          scale_bytes);
    }
    items_head.place.advance(kItems);
    const auto x_bytes = static_cast<uint32_t>(data_bytes(columns));
    ChainOrder order{p.blocks};
#pragma unroll 1
    for (int i = 0; i < p.blocks; ++i) {
      constexpr int kRun = experts::kStageBlocks;
      const int in_run = order.block & (kRun - 1), first_of_run = order.block - in_run;
      if ((in_run & (kWeightBlocks - 1)) == 0) {
        const int run_blocks = min(kRun, p.blocks - first_of_run);
        const auto stage_blocks = static_cast<uint32_t>(min(kWeightBlocks, run_blocks - in_run));
        tile::Mbarrier& full = weights_head.wait();
        if (leads) {
          full.arrive_expecting(static_cast<uint32_t>(units * (kUnitBytes / kWeightBlocks)) *
                                stage_blocks);
          uint8_t* to = smem + kWeightsAt + weights_head.place.stage * kWeightStageBytes;
          const uint8_t* from =
              weight + first_unit * p.unit_bytes + first_of_run * (experts::kStageBytes / kRun);
#pragma unroll 1
          for (int unit = 0; unit < units; ++unit, to += kUnitBytes, from += p.unit_bytes) {
            full.bulk_copy(to, from + in_run * experts::kBlockCodeBytes,
                           stage_blocks * experts::kBlockCodeBytes);
            full.bulk_copy(
                to + kWeightBlocks * experts::kBlockCodeBytes,
                from + run_blocks * experts::kBlockCodeBytes + in_run * experts::kBlockScaleBytes,
                stage_blocks * experts::kBlockScaleBytes);
          }
        }
        weights_head.place.advance(kWeightStages);
      }
      tile::Mbarrier& full = x_head.wait();
      if (leads) {
        full.arrive_expecting(x_bytes);
        full.bulk_copy(smem + x_head.place.stage * kXStageBytes,
                       x + order.block * block_bytes(columns), x_bytes);
      }
      x_head.place.advance(kXStages);
      order.advance();
    }
    item = static_cast<int>(gridDim.x) + tile::uniform(taken);
  }
  tile::Mbarrier& full = items_head.wait();
  if (leads) {
    items[items_head.place.stage].first_unit = kNoUnit;
    full.arrive();
  }
}

// A warpgroup's sums over a unit, places as in mma.cuh.
template <int kColumns>
using UnitSums = float[kColumns / 2];

// A warpgroup waits for its products, and meanwhile the others add up.
class UnitMultiplier {
 public:
  // held: kHeldBytes of the warpgroup's own.
  __device__ UnitMultiplier(Rings& rings, const uint8_t* smem, int group, float* held)
      : x_(rings.x, smem, kXStageBytes, kXStages),
        weights_(rings.weights, smem + kWeightsAt + group * kUnitBytes, kWeightStageBytes,
                 kWeightStages),
        held_(held + threadIdx.x % kGroupThreads) {}

  // Takes num_blocks stages of x and their weights.
  template <int kColumns>
  __device__ __forceinline__ void multiply(int num_blocks, UnitSums<kColumns>& chain) {
    constexpr int kValues = kColumns / 2;
#pragma unroll
    for (int v = 0; v < kValues; ++v) chain[v] = 0;
    ChainOrder order{num_blocks};
    bool holds = false;
#pragma unroll 1
    for (int i = 0; i < num_blocks; ++i) {
      add_block<kColumns>(order, chain);
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
      const float other = holds ? held_[v * kGroupThreads] : 0.0f;
      chain[v] = other + chain[v];
    }
  }

  // The same stages, by a warpgroup that has no unit.
  __device__ __forceinline__ void skip(int num_blocks) {
    ChainOrder order{num_blocks};
#pragma unroll 1
    for (int i = 0; i < num_blocks; ++i) {
      weights_.wait();
      release_weights(order);
      x_.wait();
      x_.release();
      order.advance();
    }
  }

 private:
  // After the last read of a block's.
  __device__ __forceinline__ void release_weights(const ChainOrder& order) {
    const bool is_last = (order.block & (kWeightBlocks - 1)) == kWeightBlocks - 1;
    if (is_last || order.block == order.num_blocks - 1) weights_.release();
  }
  template <int kColumns>
  __device__ __forceinline__ void add_block(const ChainOrder& order, UnitSums<kColumns>& chain) {
    experts::BlockShare w;
    w.read(weights_.wait(), kWeightBlocks, order.block & (kWeightBlocks - 1));
    release_weights(order);
    const uint8_t* const stage = x_.wait();
    const uint32_t x = tile::smem_address(stage);
    uint32_t a[4][4];
    w.expand(a);
    float d[kColumns / 2];
    tile::wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s)
      tile::WgmmaE4m3<kColumns>::multiply(d, a[s], tile::SwizzledTile::major_k(x, s), s);
    tile::wgmma_commit();
    float4 of_tokens[kColumns / 16];
    const auto load_scales = [&] {
      const auto* const scales =
          reinterpret_cast<const float4*>(stage + kColumns * 128) + threadIdx.x % 4;
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) of_tokens[n] = scales[n * 4];
    };
    // Of many columns they would not find registers yet.
    constexpr bool kLate = kColumns > 96;
    if constexpr (!kLate) load_scales();
    tile::wgmma_wait<0>();
    tile::wgmma_arrived(d);
#pragma unroll
    for (int s = 0; s < 4; ++s) tile::wgmma_read(a[s]);
    if constexpr (kLate) load_scales();
    x_.release();
#pragma unroll
    for (int v = 0; v < kColumns / 2; ++v) {
      const float4& four = of_tokens[v / 8];
      const float first = v / 4 % 2 == 0 ? four.x : four.z;
      const float second = v / 4 % 2 == 0 ? four.y : four.w;
      chain[v] = fmaf(d[v], v % 2 == 0 ? first : second, chain[v]);
    }
  }

  tile::BulkConsumer<kXStages> x_;
  tile::BulkConsumer<kWeightStages> weights_;
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
template <bool kGateUp, int kColumns>
__device__ __forceinline__ void write_unit(const ManyParams& p, const Item& item, int unit,
                                           int group, uint8_t* held, UnitSums<kColumns>& sums) {
  const int thread = tile::thread_again() % kGroupThreads;
  const int lane = thread % 32, warp = thread / 32;
  constexpr int kHalves = kGateUp ? 1 : 2;  // a lane has values of so many rows
  constexpr int kWarpValues = 8 * kHalves;  // of a token
  constexpr int kValues = 4 * kWarpValues;
  constexpr int kRowBytes = kValues * 2 + 16;
  static_assert(kTileTokens * kRowBytes <= kHeldBytes);
  float row_scales[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    row_scales[i] = tile::e8m0_to_float(item.row_scales[group][warp * 16 + lane / 4 + i * 8]);
  }
  uint32_t packed[kColumns / 8][kHalves];  // of two columns
  if constexpr (kGateUp) {
    bool ordinary = true;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      float* const four = sums + n * 4;
      const uint32_t gates = tile::pack_bf16(four[0] * row_scales[0], four[1] * row_scales[0]);
      const uint32_t ups = tile::pack_bf16(four[2] * row_scales[1], four[3] * row_scales[1]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        four[i] = i == 0 ? tile::low_bf16(gates) : tile::high_bf16(gates);
        four[2 + i] = i == 0 ? tile::low_bf16(ups) : tile::high_bf16(ups);
        clamp_swiglu_above_0(four[i], four[2 + i], p.limit);
        ordinary &= is_ordinary_gate(four[i]);
      }
    }
    if (ordinary) {
#pragma unroll
      for (int v = 0; v < kColumns / 2; v += 4) {
        sums[v] = silu_of_ordinary(sums[v]);
        sums[v + 1] = silu_of_ordinary(sums[v + 1]);
      }
    } else {
#pragma unroll
      for (int v = 0; v < kColumns / 2; v += 4) {
        sums[v] = silu(sums[v]);
        sums[v + 1] = silu(sums[v + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const float* const four = sums + n * 4;
      const auto weights = *reinterpret_cast<const float2*>(item.weights + n * 8 + lane % 4 * 2);
      packed[n][0] =
          tile::pack_bf16(weights.x * (four[0] * four[2]), weights.y * (four[1] * four[3]));
    }
  } else {
#pragma unroll
    for (int v = 0; v < kColumns / 2; v += 2) {
      packed[v / 4][v / 2 % 2] =
          tile::pack_bf16(sums[v] * row_scales[v / 2 % 2], sums[v + 1] * row_scales[v / 2 % 2]);
    }
  }
  sync_group(group);  // all have taken what they held
#pragma unroll
  for (int n = 0; n < kColumns / 8; n += 2) {
    const int matrix = lane / 8;  // a lane names a column of one
    uint8_t* const to = held + (n * 8 + matrix / kHalves * 8 + lane % 8) * kRowBytes +
                        warp * kWarpValues * 2 + matrix % kHalves * 16;
    if constexpr (kGateUp) {
      tile::store_matrices_by_columns(to, packed[n][0], packed[n + 1][0]);
    } else {
      tile::store_matrices_by_columns(to, packed[n][0], packed[n][1], packed[n + 1][0],
                                      packed[n + 1][1]);
    }
  }
  sync_group(group);
  constexpr int kPieces = kValues / 8;  // of 16 bytes
  uint16_t* const out = p.out + unit * kValues;
#pragma unroll
  for (int first = 0; first < kColumns * kPieces; first += kGroupThreads) {
    const int column = (first + thread) / kPieces, piece = thread % kPieces;
    if (column >= item.tile.num_tokens) break;
    reinterpret_cast<uint4*>(out + int64_t{item.pairs[column]} * p.out_columns)[piece] =
        reinterpret_cast<const uint4*>(held + column * kRowBytes)[piece];
  }
  sync_group(group);
}

template <bool kGateUp>
__global__ void __launch_bounds__(kThreads, 1)
    many_products_kernel(const __grid_constant__ ManyParams p) {
  extern __shared__ __align__(kAlignment) uint8_t smem[];
  __shared__ Rings rings;
  __shared__ Item items[kItems];
  if (threadIdx.x == 0) {
    rings.x.init(kXStages, kConsumers / 32);
    rings.weights.init(kWeightStages, kConsumers / 32);
    rings.items.init(kItems, kConsumers / 32);
  }
  __syncthreads();
  tile::wait_for_producers();
  tile::launch_dependents();
  const int group = tile::uniform(static_cast<int>(threadIdx.x) / kGroupThreads);
  if (group == kWarpgroups) {
    tile::shrink_registers<kProducerRegisters>();
    if (threadIdx.x / 32 == kConsumers / 32) fill_rings<kGateUp>(p, rings, items, smem);
  } else {
    tile::grow_registers<kConsumerRegisters>();
    uint8_t* const held = smem + kHeldAt + group * kHeldBytes;
    UnitMultiplier multiplier(rings, smem, group, reinterpret_cast<float*>(held));
    tile::BulkConsumer<kItems> brought(rings.items, reinterpret_cast<const uint8_t*>(items),
                                       sizeof(Item), kItems);
    while (true) {
      const Item& item = *reinterpret_cast<const Item*>(brought.wait());
      const int first_unit = tile::uniform(item.first_unit);
      if (first_unit == kNoUnit) break;
      const int unit = first_unit + group;
      const auto take = [&]<int kColumns>() {
        UnitSums<kColumns> sums;
        multiplier.multiply<kColumns>(p.blocks, sums);
        write_unit<kGateUp, kColumns>(p, item, unit, group, held, sums);
      };
      static_assert(kTileTokens == 8 * kColumnStep);
      const int columns = tile::uniform(item.tile.columns);
      switch (unit < p.units ? columns / kColumnStep : 0) {
        case 0: multiplier.skip(p.blocks); break;
        case 1: take.template operator()<kColumnStep>(); break;
        case 2: take.template operator()<2 * kColumnStep>(); break;
        case 3: take.template operator()<3 * kColumnStep>(); break;
        case 4: take.template operator()<4 * kColumnStep>(); break;
        case 5: take.template operator()<5 * kColumnStep>(); break;
        case 6: take.template operator()<6 * kColumnStep>(); break;
        case 7: take.template operator()<7 * kColumnStep>(); break;
        default: take.template operator()<8 * kColumnStep>(); break;
      }
      brought.release();
    }
  }
}

}  // namespace

int64_t expert_many_bytes(const ExpertShape& shape) {
  Scratch scratch;
  return cut(shape, nullptr, scratch);
}

void allow_expert_many() {
  cuda::allow_smem(many_products_kernel<true>, kSmemBytes);
  cuda::allow_smem(many_products_kernel<false>, kSmemBytes);
}

void launch_expert_many(const ExpertPlan& plan, const cuda::Stream& stream,
                        const ExpertParams& params) {
  const ExpertShape& s = plan.shape;
  CACHALOT_CHECK(params.scratch.many != nullptr);
  const int tokens = static_cast<int>(params.tokens), k = static_cast<int>(s.k);
  Scratch scratch;
  cut(s, params.scratch.many, scratch);

  cuda::LaunchShape tiles;
  tiles.grid = dim3(static_cast<unsigned>(std::min<int64_t>(plan.grid, s.num_experts)));
  tiles.block = kTilesThreads;
  cuda::launch(stream, tiles, tiles_kernel, params.ids, tokens * k, static_cast<int>(s.num_experts),
               scratch);

  const auto quantise = [&](const auto* x, const float* weights, int rows, int pairs_per_row,
                            int64_t columns, uint8_t* to) {
    using T = std::remove_cvref_t<decltype(*x)>;
    const int64_t blocks = columns / 128;
    const int64_t parts = (blocks + kWarpRuns<T> - 1) / kWarpRuns<T>;
    constexpr int kWarps = kQuantiseThreads / 32;
    cuda::LaunchShape shape;
    shape.grid =
        dim3(static_cast<unsigned>(((rows + Sizes(s).tiles) * parts + kWarps - 1) / kWarps));
    shape.block = kQuantiseThreads;
    cuda::launch(stream, shape, quantise_kernel<T>, x, weights, rows, pairs_per_row,
                 static_cast<int>(blocks), scratch, to);
  };
  if (s.has_float_x()) {
    quantise(static_cast<const float*>(params.x), params.weights, tokens, k, s.hidden_size,
             scratch.x);
  } else {
    quantise(static_cast<const uint16_t*>(params.x), params.weights, tokens, k, s.hidden_size,
             scratch.x);
  }

  const auto multiply = [&](const StreamedFp4& layout, const std::byte* weight, bool gate_up) {
    ManyParams p = {};
    p.weight = reinterpret_cast<const uint8_t*>(weight);
    p.expert_bytes = layout.num_bytes();
    p.unit_bytes = layout.unit_bytes();
    p.row_scales = layout.row_scale(0);
    p.units = static_cast<int>(layout.num_units());
    p.blocks = static_cast<int>(layout.num_blocks());
    p.limit = s.limit > 0 ? s.limit : std::numeric_limits<float>::infinity();
    p.x = gate_up ? scratch.x : scratch.h;
    p.num_tiles = scratch.num_tiles;
    p.taken_items = scratch.taken_items + (gate_up ? 0 : 1);
    p.tiles = scratch.tiles;
    p.slot_pairs = scratch.slot_pairs;
    p.slot_weights = scratch.slot_weights;
    p.out = gate_up ? params.scratch.h : params.scratch.y;
    p.out_columns = gate_up ? s.moe_intermediate_size : s.hidden_size;
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(plan.grid));
    shape.block = kThreads;
    shape.smem_bytes = kSmemBytes;
    cuda::launch(stream, shape, gate_up ? many_products_kernel<true> : many_products_kernel<false>,
                 p);
  };
  multiply({2 * s.moe_intermediate_size, s.hidden_size}, params.gate_up, true);
  quantise(static_cast<const uint16_t*>(params.scratch.h), nullptr, tokens * k, 1,
           s.moe_intermediate_size, scratch.h);
  multiply({s.hidden_size, s.moe_intermediate_size}, params.down, false);
}

}  // namespace cachalot::ops
