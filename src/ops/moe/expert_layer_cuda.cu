#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/expert_many.h"
#include "ops/moe/expert_product.cuh"
#include "ops/moe/pair_ranks.cuh"
#include "ops/moe/swiglu.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;

// --- Tokens by expert, in tiles of up to tile_tokens tokens.

__global__ void __launch_bounds__(PairRanks::kThreads, 1)
    dispatch_kernel(const int32_t* ids, int num_pairs, int num_experts, int tile_tokens,
                    bool runs_beside, ExpertScratch s) {
  __shared__ PairRanks ranks;
  __shared__ int first_tile[PairRanks::kMaxExperts];
  __shared__ int sums[PairRanks::kMaxExperts / 32];
  ranks.clear(num_experts);
  if (!runs_beside) tile::wait_for_producers();
  tile::launch_dependents();

  // Thread e has expert e.
  const int tokens = ranks.count(ids, num_pairs, num_experts);
  const int e = static_cast<int>(threadIdx.x);
  const int tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const int first = sum_before(tiles, sums);
  if (e < PairRanks::kMaxExperts) {
    first_tile[e] = first;
    for (int i = 0; i < tiles; ++i) {
      s.tiles[first + i] = {e, min(tile_tokens, tokens - i * tile_tokens)};
    }
    if (e == PairRanks::kMaxExperts - 1) *s.num_tiles = first + tiles;
  }
  __syncthreads();
  ranks.each_pair(ids, num_pairs, num_experts, [&](int pair, int id, int rank) {
    s.pairs[(first_tile[id] + rank / tile_tokens) * kMaxTileTokens + rank % tile_tokens] = pair;
  });
}

// The same for up to 32 pairs, so few that each block does it for itself.
constexpr int kFewPairs = 32;
constexpr int kFewTokens = 8;

struct FewTiles {
  int num_tiles;
  ExpertTile tiles[kFewPairs];
  int32_t pairs[kFewPairs][kFewTokens];

  // By one warp. No expert has more than kFewTokens of the pairs.
  __device__ __forceinline__ void find(const int32_t* ids, int num_pairs, int num_experts) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int id = lane < num_pairs ? tile::load_shared_state(ids + lane) : -1;
    const bool known = id >= 0 && id < num_experts;
    const unsigned same = __match_any_sync(0xFFFFFFFFu, id);
    const unsigned before = (1u << lane) - 1;
    const bool first = known && (same & before) == 0;
    const unsigned firsts = __ballot_sync(0xFFFFFFFFu, first);
    if (known) {
      const int index = __popc(firsts & ((1u << (__ffs(static_cast<int>(same)) - 1)) - 1));
      if (first) tiles[index] = {id, __popc(same)};
      pairs[index][__popc(same & before)] = lane;
    }
    if (lane == 0) num_tiles = __popc(firsts);
  }
};

// --- The two products.

struct ProductParams {
  const uint8_t* weight;
  int64_t row_scales;  // where an expert's begin
  int64_t expert_bytes;
  int64_t unit_bytes;
  int units;      // of an expert
  int blocks;     // of 128 inputs
  const void* x;  // bf16, or float
  uint16_t* out;
  int64_t out_columns;
};

struct LayerParams {
  const int32_t* few_ids;  // null: the tiles are in memory
  int num_pairs;
  int picks;  // of a token
  int num_experts;
  const int32_t* num_tiles;
  const ExpertTile* tiles;
  const int32_t* pairs;
  unsigned long long* arrivals;
  int stages;
  int in_flight;
  int x_bytes;
  int smem_tokens;
  const float* pair_weights;
  float limit;
  bool float_rows;  // x of gate_up
  bool one_row;     // of x, which is loaded before the tiles are known
  bool runs_beside;
  ProductParams gate_up;
  ProductParams down;
};

// A tile as a warp has it: lane i knows token i's pair and the pair's weight.
struct WarpTile {
  ExpertTile tile;
  int pair;
};

__device__ __forceinline__ WarpTile read_tile(const LayerParams& p, const FewTiles& few,
                                              int index) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (p.few_ids != nullptr) {
    return {few.tiles[index], lane < kFewTokens ? few.pairs[index][lane] : 0};
  }
  const tile::Vector8 v =
      tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(p.tiles + index));
  return {{static_cast<int32_t>(v.word[0]), static_cast<int32_t>(v.word[1])},
          tile::load_shared_state(p.pairs + index * kMaxTileTokens + lane % kMaxTileTokens)};
}

// Two chains of a unit, [chain][token][row], each token's rows in other banks than the next one's.
constexpr int kTokenStride = experts::kUnitRows + 4;

// The first of the two rows of a unit whose sums a lane writes, and how much further the other is.
template <bool kGateUp>
__device__ __forceinline__ int own_row() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return kGateUp ? lane / 8 * 16 + lane % 8 : lane;
}
template <bool kGateUp>
inline constexpr int kToOtherRow = kGateUp ? 8 : 32;

// Their scales, e8m0: on their way while the unit is multiplied, so they stay as they are.
template <bool kGateUp>
__device__ __forceinline__ uint2 load_row_scales(const ProductParams& product, int expert,
                                                 int unit) {
  const uint8_t* const from = product.weight + expert * product.expert_bytes + product.row_scales +
                              unit * experts::kUnitRows + own_row<kGateUp>();
  return make_uint2(__ldg(from), __ldg(from + kToOtherRow<kGateUp>));
}

// What becomes of a unit's sums: gate and up of 32 columns, or 64 outputs. After sync_consumers.
template <bool kGateUp>
__device__ __forceinline__ void write_unit(const LayerParams& p, const WarpTile& t, float weight,
                                           uint2 row_scales, int unit, const float* chains) {
  const ProductParams& product = kGateUp ? p.gate_up : p.down;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto sum = [&](int token, int which) {
    const float* at =
        chains + token * kTokenStride + own_row<kGateUp>() + which * kToOtherRow<kGateUp>;
    return (at[0] + at[p.smem_tokens * kTokenStride]) *
           tile::e8m0_to_float(which == 0 ? row_scales.x : row_scales.y);
  };
  if constexpr (kGateUp) {
    for (int token = warp; token < t.tile.num_tokens; token += experts::kConsumerWarps) {
      const float gate = tile::round_to_bf16(sum(token, 0));
      const float up = tile::round_to_bf16(sum(token, 1));
      const float value = __shfl_sync(0xFFFFFFFFu, weight, token) * swiglu_value(gate, up, p.limit);
      const int64_t pair = __shfl_sync(0xFFFFFFFFu, t.pair, token);
      product.out[pair * product.out_columns + unit * 32 + lane] = tile::bf16_bits(value);
    }
  } else {
    for (int i = warp; i < 2 * t.tile.num_tokens; i += experts::kConsumerWarps) {
      const int token = i / 2;
      const int64_t pair = __shfl_sync(0xFFFFFFFFu, t.pair, token);
      product.out[pair * product.out_columns + unit * experts::kUnitRows + i % 2 * 32 + lane] =
          tile::bf16_bits(sum(token, i % 2));
    }
  }
}

// All tiles' units in a row are cut into one run a block; each tile's by themselves where that
// divides the blocks evenly, so that none needs two tiles' tokens.
struct Run {
  int index;  // of the tile
  int unit;   // of that tile
  int length;
  int num_alone;  // the tiles, where each has blocks of its own; else 0
  int alone;      // this block's

  __device__ __forceinline__ Run(int num_tiles, int units) {
    int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    int total = num_tiles * units;
    index = num_alone = alone = 0;
    const int own_blocks = blocks / max(1, num_tiles);
    if (own_blocks * num_tiles == blocks) {
      num_alone = num_tiles;
      index = alone = block / own_blocks;
      block -= index * own_blocks;
      blocks = own_blocks;
      total = units;
    }
    const int share = total / blocks;
    const int rest = total - share * blocks;
    const int begin = block * share + min(block, rest);
    length = share + (block < rest ? 1 : 0);
    index += begin / units;
    unit = begin % units;
  }
};

// By the producing lane.
__device__ __forceinline__ void put_run(const LayerParams& p, const ProductParams& product,
                                        const FewTiles& few, Run run, experts::Producer& producer) {
  for (; run.length > 0; ++run.index, run.unit = 0) {
    const int64_t expert = p.few_ids != nullptr
                               ? few.tiles[run.index].expert
                               : tile::load_shared_state(&p.tiles[run.index].expert);
    const int units = min(product.units - run.unit, run.length);
    run.length -= units;
    // An expert's units lie one after the other.
    const uint8_t* from =
        product.weight + expert * product.expert_bytes + run.unit * product.unit_bytes;
    for (int i = 0; i < units; ++i) {
      for (int at = 0; at < product.blocks; at += experts::kStageBlocks) {
        const int bytes = min(experts::kStageBlocks, product.blocks - at) *
                          (experts::kBlockCodeBytes + experts::kBlockScaleBytes);
        producer.put(from, static_cast<uint32_t>(bytes));
        from += bytes;
      }
    }
  }
}

// By the consumers. smem: for x_bytes of activations, then the chains.
template <ExpertForm kForm, bool kGateUp, int kTokens>
__device__ __forceinline__ void multiply_run(const LayerParams& p, const FewTiles& few, Run run,
                                             experts::Consumer& consumer, uint8_t* smem) {
  const ProductParams& product = kGateUp ? p.gate_up : p.down;
  const bool loaded = kGateUp && kTokens == 8 && p.one_row;
  if (run.length == 0) return;
  experts::Activations<kForm, kTokens> x(smem, p.smem_tokens, product.blocks);
  float* const chains = reinterpret_cast<float*>(smem + p.x_bytes);
  const int buffer = 2 * p.smem_tokens * kTokenStride;  // of two: one is written, the other read
  const int chain = static_cast<int>(threadIdx.x) / 128 * p.smem_tokens * kTokenStride;
  bool upper = false;
  WarpTile t = read_tile(p, few, run.index);
  while (true) {
    if (!loaded) {
      const auto load = [&](const auto* from) {
        x.load(
            [&](int token) {
              const int pair = __shfl_sync(0xFFFFFFFFu, t.pair, token);
              const int64_t at = kGateUp ? pair / p.picks : pair;
              return from + at * (product.blocks * 128);
            },
            t.tile.num_tokens);
      };
      if (kGateUp && p.float_rows) {
        load(static_cast<const float*>(product.x));
      } else {
        load(static_cast<const uint16_t*>(product.x));
      }
      experts::sync_consumers();
    }
    float weight = 0;
    if constexpr (kGateUp) {
      if (static_cast<int>(threadIdx.x) % 32 < t.tile.num_tokens) {
        weight = tile::load_shared_state(p.pair_weights + t.pair);
      }
    }
    const int units = min(product.units - run.unit, run.length);
    run.length -= units;
    // Under way while this tile is at work.
    const WarpTile next = run.length > 0 ? read_tile(p, few, run.index + 1) : t;
    for (int i = 0; i < units; ++i, ++run.unit) {
      const uint2 row_scales = load_row_scales<kGateUp>(product, t.tile.expert, run.unit);
      float* const to = chains + (upper ? buffer : 0);
      experts::multiply_unit(consumer, x, product.blocks, t.tile.num_tokens)
          .store(to + chain, kTokenStride, t.tile.num_tokens);
      experts::sync_consumers();  // also for x: it is read
      write_unit<kGateUp>(p, t, weight, row_scales, run.unit, to);
      upper = !upper;
    }
    if (run.length == 0) break;
    ++run.index;
    run.unit = 0;
    t = next;
  }
}

constexpr int kReady = 2;  // the barrier after which the ring and the few tiles can be used

// Both products. The ring goes on filling with the second one's weights while the blocks wait for
// each other between them.
template <ExpertForm kForm, int kTokens>
__global__ void __launch_bounds__(experts::kThreads, 1)
    expert_products_kernel(const __grid_constant__ LayerParams p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ experts::Ring ring;
  __shared__ FewTiles few;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool fills = warp == experts::kConsumerWarps;
  if (fills && threadIdx.x % 32 == 0) ring.init(p.stages, experts::kChainWarps);
  if (!p.runs_beside) tile::wait_for_producers();
  tile::launch_dependents();
  uint8_t* const x_smem = smem + p.stages * experts::kStageBytes;
  if (fills) {
    // The ring begins to fill while the consumers get ready.
    if (p.few_ids != nullptr) few.find(p.few_ids, p.num_pairs, p.num_experts);
    __syncwarp();
    tile::arrive_threads<kReady, experts::kThreads>();
  } else {
    if (kTokens == 8 && p.one_row) {
      experts::Activations<kForm, kTokens> x(x_smem, p.smem_tokens, p.gate_up.blocks);
      if (p.float_rows) {
        x.load([&](int) { return static_cast<const float*>(p.gate_up.x); }, 1);
      } else {
        x.load([&](int) { return static_cast<const uint16_t*>(p.gate_up.x); }, 1);
      }
    }
    tile::sync_threads<kReady, experts::kThreads>();
  }
  const int num_tiles = p.few_ids != nullptr ? few.num_tiles : tile::load_shared_state(p.num_tiles);
  const Run gate_up(num_tiles, p.gate_up.units);
  const Run down(num_tiles, p.down.units);

  if (fills) {
    if (threadIdx.x % 32 != 0) return;
    experts::Producer producer(ring, smem, experts::kStageBytes, p.stages, p.in_flight);
    put_run(p, p.gate_up, few, gate_up, producer);
    put_run(p, p.down, few, down, producer);
    return;
  }

  experts::Consumer consumer(ring, smem, experts::kStageBytes, p.stages);
  multiply_run<kForm, true, kTokens>(p, few, gate_up, consumer, x_smem);
  experts::sync_consumers();
  if (threadIdx.x == 0) {
    // Where a tile's blocks are its own they wait for each other alone. The counts stay multiples
    // of the grid.
    const bool alone = down.num_alone > 0 && down.num_alone <= kExpertArrivals;
    tile::wait_for_blocks(p.arrivals + (alone ? down.alone : 0), gridDim.x,
                          alone ? down.num_alone : 1);
  }
  experts::sync_consumers();
  multiply_run<kForm, false, kTokens>(p, few, down, consumer, x_smem);
}

// --- The sum.

constexpr int kCombineThreads = 128;
constexpr int kCombineColumns = 8 * kCombineThreads;  // of a block, a thread has eight
constexpr int64_t kManyCombined = 1024;
constexpr int kBlockCombined = 4;

__device__ __forceinline__ void store_eight(uint16_t* to, const uint32_t (&pairs)[4]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
__device__ __forceinline__ void store_eight(float* to, const uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    reinterpret_cast<float4*>(to)[i] =
        make_float4(tile::low_bf16(pairs[2 * i]), tile::high_bf16(pairs[2 * i]),
                    tile::low_bf16(pairs[2 * i + 1]), tile::high_bf16(pairs[2 * i + 1]));
  }
}

// Of some tokens, one after the other. T: bf16, or floats that hold such values.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const uint16_t* y, const int32_t* ids, int num_experts, const T* shared, int k,
                   int tokens, int block_tokens, int columns, T* out) {
  // [token of the block][k]: its pairs by ascending expert id; -1 of an unknown
  extern __shared__ int32_t slots[];
  tile::launch_dependents();
  const int first_token = static_cast<int>(blockIdx.y) * block_tokens;
  const int own_tokens = min(block_tokens, tokens - first_token);
  // The ids were there before the kernel that this one waits for began.
  for (int at = static_cast<int>(threadIdx.x); at < own_tokens * k; at += kCombineThreads) {
    const int of_token = at / k * k;
    const int pair = first_token * k + at;
    const int id = tile::load_shared_state(ids + pair);
    int rank = 0;
    for (int j = 0; j < k; ++j) {
      const int other = tile::load_shared_state(ids + first_token * k + of_token + j);
      rank += other < id || (other == id && j < at - of_token);
    }
    slots[of_token + rank] = id >= 0 && id < num_experts ? pair : -1;
  }
  tile::wait_for_producers();
  __syncthreads();
  const int column =
      static_cast<int>(blockIdx.x) * kCombineColumns + static_cast<int>(threadIdx.x) * 8;
  if (column >= columns) return;
  for (int token = 0; token < own_tokens; ++token) {
    float sum[8] = {};
    const auto add = [&](const tile::Vector16& v) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum[2 * i] += tile::low_bf16(v.word[i]);
        sum[2 * i + 1] += tile::high_bf16(v.word[i]);
      }
    };
    const int64_t own = static_cast<int64_t>(first_token + token) * columns + column;
    EightValues<T> last = {};
    if (shared != nullptr) last.load(shared + own);
    constexpr int kBatch = 8;  // loads under way
    for (int first = 0; first < k; first += kBatch) {
      tile::Vector16 v[kBatch];
      int pairs[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        pairs[i] = first + i < k ? slots[token * k + first + i] : -1;
        if (pairs[i] >= 0) {
          v[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(
              y + static_cast<int64_t>(pairs[i]) * columns + column));
        }
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (pairs[i] >= 0) add(v[i]);
      }
    }
    if (shared != nullptr) add(last.bf16());
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) packed[i] = tile::pack_bf16(sum[2 * i], sum[2 * i + 1]);
    store_eight(out + own, packed);
  }
}

using ProductsKernel = void (*)(const LayerParams);

ProductsKernel products_kernel(ExpertForm form, int tile_tokens) {
  constexpr ExpertForm kExact = ExpertForm::official, kFp8 = ExpertForm::official_fp8;
  if (form == kExact) {
    return tile_tokens == 8 ? expert_products_kernel<kExact, 8>
                            : expert_products_kernel<kExact, 16>;
  }
  return tile_tokens == 8 ? expert_products_kernel<kFp8, 8> : expert_products_kernel<kFp8, 16>;
}

int64_t activation_bytes(ExpertForm form, int tile_tokens, int tokens, int blocks) {
  constexpr ExpertForm kExact = ExpertForm::official, kFp8 = ExpertForm::official_fp8;
  using experts::Activations;
  if (form == kExact) {
    return tile_tokens == 8 ? Activations<kExact, 8>::num_bytes(tokens, blocks)
                            : Activations<kExact, 16>::num_bytes(tokens, blocks);
  }
  return tile_tokens == 8 ? Activations<kFp8, 8>::num_bytes(tokens, blocks)
                          : Activations<kFp8, 16>::num_bytes(tokens, blocks);
}

// Cuts shared memory for tiles of up to `tokens` tokens.
bool cut_smem(const cuda::Device& device, const ExpertShape& s, int tile_tokens, int64_t tokens,
              ExpertConfig& config) {
  config.tile_tokens = tile_tokens;
  config.smem_tokens = static_cast<int>(std::min({tokens, int64_t{tile_tokens}, s.max_tokens}));
  const int64_t columns = std::max(s.hidden_size, s.moe_intermediate_size);
  config.x_bytes =
      (activation_bytes(s.form, tile_tokens, config.smem_tokens, static_cast<int>(columns / 128)) +
       15) /
      16 * 16;
  const int64_t fixed = config.x_bytes + int64_t{2} * 2 * config.smem_tokens * kTokenStride * 4;
  const int64_t reserved = 2048;  // the ring's barriers and few tiles
  config.stages = static_cast<int>(
      std::min<int64_t>(experts::kMaxStages,
                        (device.smem_per_block_bytes - reserved - fixed) / experts::kStageBytes));
  // Of one or two tokens the weights of both products are few: less of them waits for its turn.
  if (tokens <= 2) config.stages = std::min(config.stages, 6);
  config.in_flight = std::min(config.stages, tokens <= 2 ? 4 : 6);
  config.num_bytes = config.stages * experts::kStageBytes + fixed;
  return config.stages >= 3;
}

// 0: up to 2 tokens; 1: few tokens an expert; 2: many.
int config_of(const ExpertShape& s, int64_t tokens) {
  if (tokens <= 2) return 0;
  return tokens * s.k <= 4 * s.num_experts ? 1 : 2;
}

// From the picks to y.
void launch_products(const ExpertPlan& plan, const cuda::Stream& stream,
                     const ExpertParams& params) {
  const ExpertShape& s = plan.shape;
  const int tokens = static_cast<int>(params.tokens);
  const int k = static_cast<int>(s.k);
  const ExpertConfig& config = plan.configs[config_of(s, params.tokens)];
  const int num_pairs = tokens * k;
  const bool few = num_pairs <= kFewPairs && tokens <= std::min(kFewTokens, config.smem_tokens);

  if (!few) {
    cuda::LaunchShape dispatch;
    dispatch.grid = dim3(1);
    dispatch.block = PairRanks::kThreads;
    cuda::launch(stream, dispatch, dispatch_kernel, params.ids, num_pairs,
                 static_cast<int>(s.num_experts), config.smem_tokens, params.runs_beside,
                 params.scratch);
  }

  LayerParams p = {};
  p.few_ids = few ? params.ids : nullptr;
  p.num_pairs = num_pairs;
  p.picks = k;
  p.num_experts = static_cast<int>(s.num_experts);
  p.num_tiles = params.scratch.num_tiles;
  p.tiles = params.scratch.tiles;
  p.pairs = params.scratch.pairs;
  p.arrivals = params.scratch.arrivals;
  p.stages = config.stages;
  p.in_flight = config.in_flight;
  p.x_bytes = static_cast<int>(config.x_bytes);
  p.smem_tokens = config.smem_tokens;
  p.pair_weights = params.weights;
  p.limit = s.limit;
  p.float_rows = s.has_float_x();
  const auto fill = [](ProductParams& product, const StreamedFp4& layout, const std::byte* weight) {
    product.weight = reinterpret_cast<const uint8_t*>(weight);
    product.expert_bytes = layout.num_bytes();
    product.unit_bytes = layout.unit_bytes();
    product.units = static_cast<int>(layout.num_units());
    product.blocks = static_cast<int>(layout.num_blocks());
    product.row_scales = layout.row_scale(0);
  };
  fill(p.gate_up, {2 * s.moe_intermediate_size, s.hidden_size}, params.gate_up);
  p.gate_up.x = params.x;
  p.one_row = tokens == 1;
  p.runs_beside = few && params.runs_beside;
  p.gate_up.out = params.scratch.h;
  p.gate_up.out_columns = s.moe_intermediate_size;
  fill(p.down, {s.hidden_size, s.moe_intermediate_size}, params.down);
  p.down.x = params.scratch.h;
  p.down.out = params.scratch.y;
  p.down.out_columns = s.hidden_size;
  cuda::LaunchShape products;
  products.grid = dim3(static_cast<unsigned>(plan.grid));
  products.block = experts::kThreads;
  products.smem_bytes = config.num_bytes;
  cuda::launch(stream, products, products_kernel(s.form, config.tile_tokens), p);
}

}  // namespace

Result<ExpertPlan> make_expert_plan(const cuda::Device& device, const ExpertShape& s) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("expert layer: expected ") + what + ", found " +
                            std::to_string(found));
  };
  if (s.num_experts < 1 || s.num_experts > PairRanks::kMaxExperts)
    return bad("1 to 512 experts", s.num_experts);
  if (s.k < 1) return bad("a pick a token", s.k);
  if (s.max_tokens < 1 || s.max_tokens * s.k > kMaxExpertPairs)
    return bad("1 to 24576 pairs", s.max_tokens * s.k);
  if (s.hidden_size < 128 || s.hidden_size % 128 != 0)
    return bad("hidden_size in blocks of 128", s.hidden_size);
  if (s.moe_intermediate_size < 128 || s.moe_intermediate_size % 128 != 0)
    return bad("moe_intermediate_size in blocks of 128", s.moe_intermediate_size);

  ExpertPlan plan;
  plan.shape = s;
  plan.grid = device.num_sms;
  const auto cut = [&](int config, int tile_tokens, int64_t tokens) {
    return cut_smem(device, s, tile_tokens, tokens, plan.configs[config]);
  };
  if (!cut(0, 8, 2) || !(cut(1, 8, 8) || cut(1, 8, 4)) ||
      !(cut(2, 16, 16) || cut(2, 8, 8) || cut(2, 8, 4))) {
    return bad("sizes that fit the shared memory", s.hidden_size);
  }
  // Configurations may share a kernel, which gets what the largest needs.
  for (const ExpertConfig& config : plan.configs) {
    int64_t most = 0;
    for (const ExpertConfig& other : plan.configs) {
      if (other.tile_tokens == config.tile_tokens) most = std::max(most, other.num_bytes);
    }
    cuda::allow_smem(products_kernel(s.form, config.tile_tokens), most);
  }
  if (s.form == ExpertForm::official_fp8) {
    plan.many_tokens = (kManyTokensAnExpert * s.num_experts + s.k - 1) / s.k;
    plan.many_bytes = plan.takes_many(s.max_tokens) ? expert_many_bytes(s) : 0;
    allow_expert_many();
  }
  return plan;
}

void launch_expert_layer(const ExpertPlan& plan, const cuda::Stream& stream,
                         const ExpertParams& params) {
  const ExpertShape& s = plan.shape;
  CACHALOT_CHECK(params.tokens >= 1 && params.tokens <= s.max_tokens);
  const int64_t tokens = params.tokens;
  const int k = static_cast<int>(s.k);
  if (plan.takes_many(tokens)) {
    launch_expert_many(plan, stream, params);
  } else {
    launch_products(plan, stream, params);
  }
  if (params.out == nullptr) return;

  // Of many tokens a block has several, so that it finds their pairs once.
  const int block_tokens = tokens >= kManyCombined ? kBlockCombined : 1;
  cuda::LaunchShape combine;
  combine.grid =
      dim3(static_cast<unsigned>((s.hidden_size + kCombineColumns - 1) / kCombineColumns),
           static_cast<unsigned>((tokens + block_tokens - 1) / block_tokens));
  combine.block = kCombineThreads;
  combine.smem_bytes = int64_t{block_tokens} * k * 4;
  const auto launch_combine = [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    cuda::launch(stream, combine, combine_kernel<T>, params.scratch.y, params.ids,
                 static_cast<int>(s.num_experts), static_cast<const T*>(params.shared), k,
                 static_cast<int>(tokens), block_tokens, static_cast<int>(s.hidden_size), out);
  };
  if (s.has_float_out()) {
    launch_combine(static_cast<float*>(params.out));
  } else {
    launch_combine(static_cast<uint16_t*>(params.out));
  }
}

}  // namespace cachalot::ops
