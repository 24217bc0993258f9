#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/moe/expert_many.h"
#include "ops/moe/expert_product.cuh"
#include "ops/moe/pair_ranks.cuh"
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
// Where a pair is. columns 0: nowhere.
struct alignas(8) Place {
  int32_t first_slot;  // of its tile
  int16_t columns;     // of its tile
  int16_t column;
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
  float* slot_weights;
  Place* places;  // of each pair
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
  take(scratch.slot_weights, sizes.slots);
  take(scratch.places, sizes.pairs);
  take(scratch.x, sizes.slots * block_bytes(1) * (s.hidden_size / 128));
  take(scratch.h, sizes.slots * block_bytes(1) * (s.moe_intermediate_size / 128));
  return at;
}

// --- Tiles. An expert's tokens are shared by its tiles alike.

__global__ void __launch_bounds__(PairRanks::kThreads, 1)
    tiles_kernel(const int32_t* ids, const float* weights, int num_pairs, int num_experts,
                 Scratch s) {
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
  for (int pair = e; pair < num_pairs; pair += PairRanks::kThreads) {
    const int id = tile::load_shared_state(ids + pair);
    if (id < 0 || id >= num_experts) s.places[pair] = {0, 0, 0};
  }
  __syncthreads();
  ranks.each_pair(ids, num_pairs, num_experts, [&](int pair, int id, int rank) {
    const int own = tile_tokens[id];
    const int own_columns = (own + kColumnStep - 1) / kColumnStep * kColumnStep;
    const int first_of_tile = first_slot[id] + rank / own * own_columns;
    const int column = rank % own;
    s.places[pair] = {first_of_tile, static_cast<int16_t>(own_columns),
                      static_cast<int16_t>(column)};
    s.slot_pairs[first_of_tile + column] = pair;
    s.slot_weights[first_of_tile + column] = tile::load_shared_state(weights + pair);
  });
}

// --- Activations.

// Eight inputs, from k on, of a column of a block.
__device__ __forceinline__ void store_act8(uint8_t* block, int columns, int column, int k,
                                           const Act8& q) {
  using B = tile::CoreMatrices<kColumnStep>;
  *reinterpret_cast<uint2*>(block + B::offset(column, k, 16 * columns)) =
      make_uint2(q.codes[0], q.codes[1]);
  if (k == 0)
    *reinterpret_cast<float*>(block + columns * 128 + column * 4) = q.scale * tile::kE2m1InE4m3;
}

constexpr int kQuantiseThreads = 256;  // half a warp has a run of 128

// A token's row for each of its pairs.
template <typename T>
__global__ void __launch_bounds__(kQuantiseThreads)
    quantise_x_kernel(const T* x, int k, int blocks, Scratch s) {
  tile::wait_for_producers();
  tile::launch_dependents();
  const int64_t token = blockIdx.x;
  const int at = static_cast<int>(threadIdx.x) % 16 * 8;
  const int own = static_cast<int>(threadIdx.x) / 16;
  for (int first = 0; first < blocks; first += kQuantiseThreads / 16) {
    const int block = min(first + own, blocks - 1);
    EightValues<T> v;
    v.load(x + (token * blocks + block) * 128 + at);
    const Act8 q = quantise_act8(v.bf16());
    if (first + own >= blocks) continue;
    for (int i = 0; i < k; ++i) {
      const tile::Vector8 words = tile::load_shared_state(
          reinterpret_cast<const tile::Vector8*>(s.places + token * k + i));
      const int columns = static_cast<int>(words.word[1] & 0xFFFF);
      if (columns == 0) continue;
      store_act8(s.x + tile_offset(static_cast<int>(words.word[0]), blocks) +
                     block * block_bytes(columns),
                 columns, static_cast<int>(words.word[1] >> 16), at, q);
    }
  }
}

__device__ __forceinline__ Tile load_tile(const Tile* from) {
  const tile::Vector16 v =
      tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  return {static_cast<int32_t>(v.word[0]), static_cast<int32_t>(v.word[1]),
          static_cast<int32_t>(v.word[2]), static_cast<int32_t>(v.word[3])};
}

// A block of 128 inputs of a tile.
__global__ void __launch_bounds__(kQuantiseThreads)
    quantise_h_kernel(const uint16_t* h, int blocks, Scratch s) {
  tile::wait_for_producers();
  tile::launch_dependents();
  const int index = static_cast<int>(blockIdx.y);
  if (index >= tile::load_shared_state(s.num_tiles)) return;
  const Tile own = load_tile(s.tiles + index);
  const int block = static_cast<int>(blockIdx.x);
  const int at = static_cast<int>(threadIdx.x) % 16 * 8;
  uint8_t* const to = s.h + tile_offset(own.first_slot, blocks) + block * block_bytes(own.columns);
  for (int column = static_cast<int>(threadIdx.x) / 16; column < own.columns;
       column += kQuantiseThreads / 16) {
    EightValues<uint16_t> v = {};
    if (column < own.num_tokens) {
      const int64_t pair = tile::load_shared_state(s.slot_pairs + own.first_slot + column);
      v.load(h + (pair * blocks + block) * 128 + at);
    }
    store_act8(to, own.columns, column, at, quantise_act8(v.bf16()));
  }
}

// --- The products. A block takes two units of a tile at a time, a warpgroup each; a warp of the
// third keeps the ring filled. The tile's columns are two halves, so that the tensor cores have one
// while the other's sums are added up.

constexpr int kWarpgroups = 2;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = kWarpgroups * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kConsumerRegisters = 240;
constexpr int kProducerRegisters = 24;
constexpr int kWeightBytes = experts::kBlockCodeBytes + experts::kBlockScaleBytes;
constexpr int kStageBytes = block_bytes(kTileTokens) + kWarpgroups * kWeightBytes;
constexpr int kStages = 6;
constexpr int kHeldBytes = kTileTokens * experts::kUnitRows * 4;  // sums of a warpgroup
constexpr int kSmemBytes = kStages * kStageBytes + kWarpgroups * kHeldBytes;
using Ring = tile::BulkRing<kStages>;

struct ManyParams {
  const uint8_t* weight;
  int64_t expert_bytes;
  int64_t unit_bytes;
  int units;   // of an expert
  int blocks;  // of 128 inputs
  bool gate_up;
  float limit;
  const uint8_t* x;
  const int32_t* num_tiles;
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
    block += block % kRun == kRun - 1 ? kRun + 1 : 1;
    if (block < num_blocks || chain == 1) return false;
    chain = 1;
    block = kRun;
    return true;
  }
};

// By the producing lane.
__device__ __forceinline__ void fill_ring(const ManyParams& p, Ring& ring, uint8_t* smem,
                                          int num_items) {
  tile::RingPlace place;
  int count = 0;
  const int pairs_of_units = p.units / kWarpgroups;
  for (int item = static_cast<int>(blockIdx.x); item < num_items;
       item += static_cast<int>(gridDim.x)) {
    const int index = item / pairs_of_units;
    const Tile own = load_tile(p.tiles + index);
    const uint8_t* const x = p.x + tile_offset(own.first_slot, p.blocks);
    const uint8_t* const weight = p.weight + own.expert * p.expert_bytes +
                                  (item - index * pairs_of_units) * kWarpgroups * p.unit_bytes;
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
        const uint8_t* const from =
            weight + unit * p.unit_bytes + int64_t{run} * experts::kStageBytes;
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

// A warpgroup's sums over a unit: half h of the tile's columns in v[h], places as in mma.cuh.
template <int kHalf>
struct UnitSums {
  float v[2][kHalf / 2];
};

class UnitMultiplier {
 public:
  // held: kHeldBytes of the warpgroup's own.
  __device__ UnitMultiplier(Ring& ring, const uint8_t* smem, int group, float* held)
      : ring_(ring, smem, kStageBytes, kStages),
        weights_(block_bytes(kTileTokens) + group * kWeightBytes),
        held_(held + threadIdx.x % kGroupThreads) {}

  // Takes num_blocks stages.
  template <int kHalf>
  __device__ __forceinline__ void multiply(int num_blocks, UnitSums<kHalf>& sums) {
    constexpr int kValues = kHalf / 2;
    auto& chain = sums.v;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) chain[h][i] = 0;
    }
    ChainOrder order{num_blocks};
    bool holds = false;
#pragma unroll 1
    for (int i = 0; i < num_blocks; ++i) {
      add_block(chain);
      if (!order.advance() || i + 1 == num_blocks) continue;
      holds = true;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int v = 0; v < kValues; ++v) {
          held_[(h * kValues + v) * kGroupThreads] = chain[h][v];
          chain[h][v] = 0;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        // The other chain may have no block.
        chain[h][v] = holds ? held_[(h * kValues + v) * kGroupThreads] + chain[h][v]
                            : chain[h][v] + 0.0f;
      }
    }
  }

 private:
  // The next stage's. While one half's 32 inputs are added up, the other's are multiplied.
  template <int kValues>
  __device__ __forceinline__ void add_block(float (&chain)[2][kValues]) {
    constexpr int kHalf = 2 * kValues;
    using B = tile::CoreMatrices<2 * kHalf>;
    const uint8_t* const stage = ring_.wait();
    experts::BlockShare w;
    w.read(stage + weights_, 1, 0);
    const uint64_t b = B::descriptor(tile::smem_address(stage));
    float d[2][kValues], total[2][kValues];
    uint32_t a[2][4];
    const auto start = [&](int s, int h) {
      tile::wgmma_fence();
      tile::WgmmaE4m3<kHalf>::multiply(d[h], a[s % 2],
                                       B::advance(b, s * B::kStepBytes + h * kHalf * 16), 0);
      tile::wgmma_commit();
    };
    expand(w, 0, a[0]);
    start(0, 0);
    start(0, 1);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const float2 scale = w.scale(s);
      if (s < 3) expand(w, s + 1, a[(s + 1) % 2]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        s == 3 && h == 1 ? tile::wgmma_wait<0>() : tile::wgmma_wait<1>();
        tile::wgmma_arrived(d[h]);
        if (h == 1) tile::wgmma_read(a[s % 2]);
#pragma unroll
        for (int v = 0; v < kValues; ++v) {
          const float row_scale = v / 2 % 2 == 0 ? scale.x : scale.y;
          total[h][v] = s == 0 ? d[h][v] * row_scale : fmaf(d[h][v], row_scale, total[h][v]);
        }
        if (s < 3) start(s + 1, h);
      }
    }
    const uint8_t* const x_scales = stage + 128 * 2 * kHalf + threadIdx.x % 4 * 8;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int n = 0; n < kHalf / 8; ++n) {
        const float2 of_tokens =
            *reinterpret_cast<const float2*>(x_scales + (h * kHalf + n * 8) * 4);
#pragma unroll
        for (int v = n * 4; v < n * 4 + 4; ++v)
          chain[h][v] = fmaf(total[h][v], v % 2 == 0 ? of_tokens.x : of_tokens.y, chain[h][v]);
      }
    }
    ring_.release();
  }
  static __device__ __forceinline__ void expand(const experts::BlockShare& w, int step,
                                                uint32_t (&a)[4]) {
    tile::e2m1_to_e4m3(w.word(step, 0), a[0], a[2]);
    tile::e2m1_to_e4m3(w.word(step, 1), a[1], a[3]);
  }

  tile::BulkConsumer<kStages> ring_;
  int weights_;  // where the warpgroup's begin in a stage
  float* held_;
};

__device__ __forceinline__ float silu(float x) { return x / (1.0f + exp_f32_device(-x)); }

// Of one warpgroup.
__device__ __forceinline__ void sync_group(int group) {
  group == 0 ? tile::sync_threads<1, kGroupThreads>() : tile::sync_threads<2, kGroupThreads>();
}

// Turns the sums into values of h or y: by way of shared memory, so that rows are written in runs.
template <int kHalf>
__device__ __forceinline__ void write_unit(const ManyParams& p, const Tile& own, int unit,
                                           int group, uint8_t* held, const UnitSums<kHalf>& sums) {
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int lane = thread % 32, warp = thread / 32;
  const int values = p.gate_up ? experts::kUnitRows / 2 : experts::kUnitRows;  // of a token
  constexpr int kRowBytes = experts::kUnitRows * 2 + 16;
  sync_group(group);  // all have taken what they held
  const auto place = [&](int column, int value) {
    return reinterpret_cast<uint16_t*>(held + column * kRowBytes) + value;
  };
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int n = 0; n < kHalf / 8; ++n) {
      const int column = h * kHalf + n * 8 + lane % 4 * 2;
      if (p.gate_up) {
        const auto weights =
            tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(
                p.slot_weights + own.first_slot + column));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float gate = tile::round_to_bf16(sums.v[h][n * 4 + i]);
          float up = tile::round_to_bf16(sums.v[h][n * 4 + 2 + i]);
          // Comparisons, so that NaN stays NaN.
          if (p.limit > 0) {
            if (gate > p.limit) gate = p.limit;
            if (up > p.limit) up = p.limit;
            if (up < -p.limit) up = -p.limit;
          }
          const float value = __uint_as_float(weights.word[i]) * (silu(gate) * up);
          *place(column + i, warp * 8 + lane / 4) = tile::bf16_bits(value);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          *place(column + i % 2, warp * 16 + lane / 4 + i / 2 * 8) =
              tile::bf16_bits(sums.v[h][n * 4 + i]);
        }
      }
    }
  }
  sync_group(group);
  const int pieces = values / 8;  // of 16 bytes
  for (int i = thread; i < own.num_tokens * pieces; i += kGroupThreads) {
    const int column = i / pieces, piece = i % pieces;
    const int64_t pair = tile::load_shared_state(p.slot_pairs + own.first_slot + column);
    *reinterpret_cast<uint4*>(p.out + pair * p.out_columns + unit * values + piece * 8) =
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
  const int pairs_of_units = p.units / kWarpgroups;
  const int num_items = tile::load_shared_state(p.num_tiles) * pairs_of_units;
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
      const int index = item / pairs_of_units;
      const Tile own = load_tile(p.tiles + index);
      const int unit = (item - index * pairs_of_units) * kWarpgroups + group;
      const auto take = [&]<int kHalf>() {
        UnitSums<kHalf> sums;
        multiplier.multiply(p.blocks, sums);
        write_unit(p, own, unit, group, held, sums);
      };
      switch (own.columns / kColumnStep) {
        case 1: take.template operator()<8>(); break;
        case 2: take.template operator()<16>(); break;
        case 3: take.template operator()<24>(); break;
        case 4: take.template operator()<32>(); break;
        case 5: take.template operator()<40>(); break;
        case 6: take.template operator()<48>(); break;
        case 7: take.template operator()<56>(); break;
        default: take.template operator()<64>(); break;
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
  cuda::launch(stream, tiles, tiles_kernel, params.ids, params.weights, tokens * k,
               static_cast<int>(s.num_experts), scratch);

  const int x_blocks = static_cast<int>(s.hidden_size / 128);
  cuda::LaunchShape quantise;
  quantise.grid = dim3(static_cast<unsigned>(tokens));
  quantise.block = kQuantiseThreads;
  const auto quantise_x = [&](const auto* x) {
    using T = std::remove_cvref_t<decltype(*x)>;
    cuda::launch(stream, quantise, quantise_x_kernel<T>, x, k, x_blocks, scratch);
  };
  if (s.float_rows) {
    quantise_x(static_cast<const float*>(params.x));
  } else {
    quantise_x(static_cast<const uint16_t*>(params.x));
  }

  const auto multiply = [&](const StreamedLayout& layout, const std::byte* weight, bool gate_up) {
    ManyParams p = {};
    p.weight = reinterpret_cast<const uint8_t*>(weight);
    p.expert_bytes = layout.num_bytes();
    p.unit_bytes = layout.unit_bytes();
    p.units = static_cast<int>(layout.num_units());
    p.blocks = static_cast<int>(layout.num_blocks());
    p.gate_up = gate_up;
    p.limit = s.limit;
    p.x = gate_up ? scratch.x : scratch.h;
    p.num_tiles = scratch.num_tiles;
    p.tiles = scratch.tiles;
    p.slot_pairs = scratch.slot_pairs;
    p.slot_weights = scratch.slot_weights;
    p.out = gate_up ? params.scratch.h : params.scratch.y;
    p.out_columns = gate_up ? s.moe_intermediate_size : s.hidden_size;
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(plan.grid));
    shape.block = kThreads;
    shape.smem_bytes = kSmemBytes;
    cuda::launch(stream, shape, many_products_kernel, p);
  };
  constexpr StreamedFormat kFp4 = StreamedFormat::fp4;
  multiply({kFp4, 2 * s.moe_intermediate_size, s.hidden_size}, params.gate_up, true);
  quantise.grid = dim3(static_cast<unsigned>(s.moe_intermediate_size / 128), max_tiles);
  cuda::launch(stream, quantise, quantise_h_kernel, params.scratch.h,
               static_cast<int>(s.moe_intermediate_size / 128), scratch);
  multiply({kFp4, s.hidden_size, s.moe_intermediate_size}, params.down, false);
}

}  // namespace cachalot::ops
