#include <algorithm>
#include <cstddef>
#include <string>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/matmul/streamed_product.cuh"
#include "ops/moe/expert_layer_cuda.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr StreamedFormat kFp4 = StreamedFormat::fp4;
using Fp4 = streamed::Blocks<kFp4>;
constexpr int kStageBytes = Fp4::stage_bytes(Fp4::kPerStage);
constexpr int kTileTokens = 8;

// --- Tokens by expert. One block; thread e owns expert e.

constexpr int kDispatchThreads = 512;

__global__ void __launch_bounds__(kDispatchThreads, 1)
    dispatch_kernel(const int32_t* ids, int tokens, int k, int num_experts, int tile_tokens,
                    ExpertScratch s) {
  extern __shared__ int32_t picks[];
  __shared__ int32_t warp_tiles[kDispatchThreads / 32];
  tile::launch_dependents();
  tile::wait_for_producers();
  const int pairs = tokens * k;
  const int expert = threadIdx.x;
  const int lane = expert % 32;
  for (int i = threadIdx.x; i < pairs; i += kDispatchThreads) {
    picks[i] = tile::load_shared_state(ids + i);
  }
  __syncthreads();
  int count = 0;
  if (expert < num_experts) {
    for (int i = 0; i < pairs; ++i) count += picks[i] == expert;
  }
  const int tiles = (count + tile_tokens - 1) / tile_tokens;

  // The place of the expert's first tile.
  int before = tiles;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, before, distance);
    if (lane >= distance) before += other;
  }
  if (lane == 31) warp_tiles[expert / 32] = before;
  __syncthreads();
  int place = before - tiles;
  for (int warp = 0; warp < expert / 32; ++warp) place += warp_tiles[warp];
  if (expert == kDispatchThreads - 1) *s.num_tiles = place + tiles;

  int in_tile = 0;
  for (int i = 0; count > 0 && i < pairs; ++i) {
    if (picks[i] != expert) continue;
    s.tiles[place].pairs[in_tile++] = i;
    --count;
    if (in_tile == tile_tokens || count == 0) {
      s.tiles[place].expert = expert;
      s.tiles[place].num_tokens = in_tile;
      in_tile = 0;
      ++place;
    }
  }
  // A token's pairs by expert: the rank of each among its own.
  for (int i = threadIdx.x; i < pairs; i += kDispatchThreads) {
    const int first = i / k * k;
    int rank = 0;
    for (int j = first; j < first + k; ++j) {
      rank += picks[j] < picks[i] || (picks[j] == picks[i] && j < i);
    }
    s.slots[first + rank] = picks[i] >= 0 && picks[i] < num_experts ? i : -1;
  }
}

// --- The two products.

struct ProductParams {
  const int32_t* num_tiles;
  const ExpertTile* tiles;
  const uint8_t* weight;
  int64_t expert_bytes;
  int64_t unit_bytes;
  int units;   // of an expert
  int blocks;  // of 128 inputs
  int stages;
  int in_flight;
  int x_bytes;
  int partial_bytes;
  int pairs_per_row;  // row of x = pair / pairs_per_row
  bool one_row;       // all pairs read row 0: loaded once
  const uint16_t* x;
  const float* pair_weights;
  float limit;
  uint16_t* out;
  int64_t out_columns;
};

__device__ __forceinline__ float silu(float x) { return x / (1.0f + exp_f32_device(-x)); }

// What becomes of the units' sums: gate and up of 8 columns, or 16 outputs. After sync_consumers.
template <bool kGateUp>
__device__ __forceinline__ void write_units(const ProductParams& p, const ExpertTile& expert,
                                            const streamed::PartialSums& partial) {
  constexpr int kColumns = kGateUp ? 8 : 16;
  const int tokens = expert.num_tokens;
  const int column = threadIdx.x % kColumns;
  int at = 0;
  int token = threadIdx.x / kColumns;
  while (true) {
    while (token >= tokens) token -= tokens, ++at;
    if (at >= partial.units()) break;
    const int pair = expert.pairs[token];
    float value = partial.fold(at, token, column);
    if constexpr (kGateUp) {
      float gate = tile::round_to_bf16(value);
      float up = tile::round_to_bf16(partial.fold(at, token, column + 8));
      // Comparisons, so that NaN stays NaN.
      if (p.limit > 0) {
        if (gate > p.limit) gate = p.limit;
        if (up > p.limit) up = p.limit;
        if (up < -p.limit) up = -p.limit;
      }
      value = tile::load_shared_state(p.pair_weights + pair) * (silu(gate) * up);
    }
    p.out[pair * p.out_columns + partial.number(at) * kColumns + column] = tile::bf16_bits(value);
    token += streamed::kConsumers / kColumns;
  }
}

// word: this lane's of the tile, as int32.
template <ProductForm kForm, int kTokens>
__device__ __forceinline__ void load_tile(const ProductParams& p, int word, int tokens,
                                          uint8_t* x_smem) {
  constexpr int kFirstPair = offsetof(ExpertTile, pairs) / 4;
  streamed::Activations<kForm, kFp4, kTokens> x(x_smem, tokens, p.blocks);
  x.load([&](int token) {
    const int pair = __shfl_sync(0xFFFFFFFFu, word, kFirstPair + token);
    return p.x + static_cast<int64_t>(pair / p.pairs_per_row) * (p.blocks * 128);
  });
}

// The code for a tile's tokens: the smallest that holds them, of those for up to kMost.
template <ProductForm kForm, int kMost, typename Work>
__device__ __forceinline__ void with_tokens(int tokens, const Work& work) {
  if constexpr (kForm != ProductForm::wgmma_e4m3) {
    work(std::integral_constant<int, 8>());
  } else if constexpr (kMost == 2) {
    work(std::integral_constant<int, 2>());
  } else {
    if (tokens <= 2) return work(std::integral_constant<int, 2>());
    if (tokens <= 4) return work(std::integral_constant<int, 4>());
    work(std::integral_constant<int, 8>());
  }
}

// All tiles' units in a row, cut into one run a block. When a block comes to the next tile, its
// activations have been loaded while the ring fed the last one's units.
// kMost: the most tokens of a tile; up to 2, two kernels fit an SM.
template <ProductForm kForm, bool kGateUp, int kMost>
__global__ void __launch_bounds__(streamed::kThreads, kMost == 2 ? 2 : 1)
    expert_product_kernel(const __grid_constant__ ProductParams p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ streamed::Ring ring;
  __shared__ streamed::PartialSums::Numbers numbers;
  __shared__ ExpertTile tiles[4];  // who folds a tile's sums may be two tiles behind who loads
  if (threadIdx.x == 0) ring.init(p.stages, streamed::kConsumerWarps);
  // Down finds the tiles written without waiting: gate and up let it start when they had waited.
  if constexpr (kGateUp) tile::wait_for_producers();
  __syncthreads();
  tile::launch_dependents();
  const int total = tile::load_shared_state(p.num_tiles) * p.units;
  const int share = total / static_cast<int>(gridDim.x);
  const int rest = total - share * static_cast<int>(gridDim.x);
  const int block = blockIdx.x;
  const int begin = block * share + min(block, rest);
  const int end = begin + share + (block < rest ? 1 : 0);

  if (threadIdx.x / 32 == streamed::kConsumerWarps) {
    if (threadIdx.x % 32 != 0 || begin == end) return;
    streamed::Producer producer(ring, smem, kStageBytes, p.stages, p.in_flight);
    int index = begin / p.units;
    int unit = begin - index * p.units;
    for (int left = end - begin; left > 0; ++index, unit = 0) {
      const int64_t expert = tile::load_shared_state(&p.tiles[index].expert);
      const uint8_t* from = p.weight + expert * p.expert_bytes + unit * p.unit_bytes;
      for (; unit < p.units && left > 0; ++unit, --left, from += p.unit_bytes) {
        streamed::put_unit<kFp4>(producer, from, p.blocks);
      }
    }
    return;
  }

  if constexpr (!kGateUp) tile::wait_for_producers();
  if (begin == end) return;
  streamed::Consumer consumer(ring, smem, kStageBytes, p.stages);
  uint8_t* const x_smem = smem + p.stages * kStageBytes;
  // By all consumers: tile `index` of the list as the block's tile number `count`.
  const auto fetch = [&](int index, int count) {
    constexpr int kWords = sizeof(ExpertTile) / 4;
    const int lane = threadIdx.x % 32;
    const int word =
        lane < kWords
            ? tile::load_shared_state(reinterpret_cast<const int32_t*>(&p.tiles[index]) + lane)
            : 0;
    if (threadIdx.x < kWords) reinterpret_cast<int32_t*>(&tiles[count % 4])[lane] = word;
    if (p.one_row && count > 0) return;
    const int num_tokens = __shfl_sync(0xFFFFFFFFu, word, offsetof(ExpertTile, num_tokens) / 4);
    with_tokens<kForm, kMost>(num_tokens, [&](auto tokens) {
      load_tile<kForm, decltype(tokens)::value>(p, word, num_tokens,
                                                x_smem + count % 2 * p.x_bytes);
    });
  };
  int index = begin / p.units;  // of the tile at work
  const int last_index = (end - 1) / p.units;
  int count = 0;
  fetch(index, count);
  if (index < last_index) fetch(index + 1, count + 1);
  streamed::sync_consumers();
  streamed::PartialSums partial(x_smem + 2 * p.x_bytes, p.partial_bytes, numbers,
                                tiles[0].num_tokens);
  int unit = begin - index * p.units;
  while (true) {
    const ExpertTile& expert = tiles[count % 4];
    const int unit_end = min(p.units, end - index * p.units);
    with_tokens<kForm, kMost>(expert.num_tokens, [&](auto tokens) {
      const streamed::Activations<kForm, kFp4, decltype(tokens)::value> x(
          x_smem + (p.one_row ? 0 : count % 2) * p.x_bytes, expert.num_tokens, p.blocks);
      for (; unit < unit_end; ++unit) {
        const auto sums = streamed::multiply_unit(consumer, x, p.blocks, 0);
        sums.store(partial.next(unit), expert.num_tokens);
        if (!partial.full()) continue;
        streamed::sync_consumers();
        write_units<kGateUp>(p, expert, partial);
        partial.start_over(expert.num_tokens);
      }
    });
    streamed::sync_consumers();  // for the sums; this tile's activations are read, the next one's
                                 // written
    write_units<kGateUp>(p, expert, partial);
    if (index == last_index) break;
    ++index;
    ++count;
    unit = 0;
    partial.start_over(tiles[count % 4].num_tokens);
    if (index < last_index) fetch(index + 1, count + 1);
  }
}

// --- The sum.

__global__ void __launch_bounds__(256)
    combine_kernel(const uint16_t* y, const int32_t* slots, const uint16_t* shared, int k,
                   int columns, uint16_t* out) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int token = blockIdx.y;
  const int column = (static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x)) * 4;
  if (column >= columns) return;
  float sum[4] = {0, 0, 0, 0};
  const auto add = [&](const uint16_t* from) {
    const tile::Vector8 v =
        tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(from + column));
    sum[0] += tile::low_bf16(v.word[0]);
    sum[1] += tile::high_bf16(v.word[0]);
    sum[2] += tile::low_bf16(v.word[1]);
    sum[3] += tile::high_bf16(v.word[1]);
  };
  for (int i = 0; i < k; ++i) {
    const int pair = tile::load_shared_state(slots + token * k + i);
    if (pair >= 0) add(y + static_cast<int64_t>(pair) * columns);
  }
  if (shared != nullptr) add(shared + static_cast<int64_t>(token) * columns);
  *reinterpret_cast<uint2*>(out + static_cast<int64_t>(token) * columns + column) =
      make_uint2(tile::pack_bf16(sum[0], sum[1]), tile::pack_bf16(sum[2], sum[3]));
}

using ProductKernel = void (*)(const ProductParams);

// config: 0 for one token, 1 for two, 2 for more.
template <bool kGateUp>
ProductKernel product_kernel(ExpertForm form, int config) {
  constexpr ProductForm kExact = ProductForm::mma_f16, kFp8 = ProductForm::wgmma_e4m3;
  if (form == ExpertForm::official) {
    return config < 2 ? expert_product_kernel<kExact, kGateUp, 2>
                      : expert_product_kernel<kExact, kGateUp, kTileTokens>;
  }
  return config < 2 ? expert_product_kernel<kFp8, kGateUp, 2>
                    : expert_product_kernel<kFp8, kGateUp, kTileTokens>;
}

template <bool kGateUp>
void launch_product(const ExpertPlan& plan, int config, const cuda::Stream& stream,
                    ProductParams p) {
  const ExpertSmem& smem = kGateUp ? plan.gate_up_smem[config] : plan.down_smem[config];
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.grid));
  shape.block = streamed::kThreads;
  shape.smem_bytes = smem.num_bytes;
  p.stages = smem.stages;
  p.in_flight = std::min(smem.stages, plan.in_flight);
  p.x_bytes = static_cast<int>(smem.x_bytes);
  p.partial_bytes = static_cast<int>(smem.partial_bytes);
  cuda::launch(stream, shape, product_kernel<kGateUp>(plan.shape.form, config), p);
}

// Stages for blocks of up to `tokens` tokens a tile: five where two kernels then fit an SM (so that
// the next one's ring fills while this one ends) or where there is room; at least two.
bool cut_smem(const cuda::Device& device, ProductForm form, int64_t columns, int tokens,
              ExpertSmem& smem) {
  smem.x_bytes =
      (streamed::activation_bytes(form, tokens, static_cast<int>(columns / 128)) + 127) / 128 * 128;
  smem.partial_bytes =
      streamed::PartialSums::num_bytes(tokens > 2 ? 32 / tokens : 8 / tokens, tokens);
  const int64_t fixed = 2 * smem.x_bytes + smem.partial_bytes;
  const int64_t reserved = 2048;  // the runtime's, the ring's barriers and the tiles
  for (const int64_t budget : {device.smem_per_sm_bytes / 2, device.smem_per_block_bytes}) {
    smem.stages = static_cast<int>(std::min<int64_t>(5, (budget - reserved - fixed) / kStageBytes));
    if (smem.stages >= 4) break;
  }
  smem.num_bytes = smem.stages * kStageBytes + fixed;
  return smem.stages >= 2;
}

}  // namespace

Result<ExpertPlan> make_expert_plan(const cuda::Device& device, const ExpertShape& s) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("expert layer: expected ") + what + ", found " +
                            std::to_string(found));
  };
  constexpr int64_t kMaxPairs = 12000;  // of 48 KiB
  if (s.num_experts < 1 || s.num_experts > kDispatchThreads)
    return bad("1 to 512 experts", s.num_experts);
  if (s.k < 1) return bad("a pick a token", s.k);
  if (s.max_tokens < 1 || s.max_tokens * s.k > kMaxPairs)
    return bad("1 to 12000 pairs", s.max_tokens * s.k);
  if (s.hidden_size < 128 || s.hidden_size % 128 != 0)
    return bad("hidden_size in blocks of 128", s.hidden_size);
  if (s.moe_intermediate_size < 128 || s.moe_intermediate_size % 128 != 0)
    return bad("moe_intermediate_size in blocks of 128", s.moe_intermediate_size);

  ExpertPlan plan;
  plan.shape = s;
  plan.grid = device.num_sms;
  plan.gate_up_expert_bytes =
      StreamedLayout{kFp4, 2 * s.moe_intermediate_size, s.hidden_size}.num_bytes();
  plan.down_expert_bytes = StreamedLayout{kFp4, s.hidden_size, s.moe_intermediate_size}.num_bytes();
  const ProductForm form =
      s.form == ExpertForm::official ? ProductForm::mma_f16 : ProductForm::wgmma_e4m3;
  const auto cut = [&](int config, int tokens) {
    return cut_smem(device, form, s.hidden_size, tokens, plan.gate_up_smem[config]) &&
           cut_smem(device, form, s.moe_intermediate_size, tokens, plan.down_smem[config]);
  };
  plan.tile_tokens = kTileTokens;
  if (!cut(2, plan.tile_tokens)) plan.tile_tokens = kTileTokens / 2;
  if (!cut(0, 1) || !cut(1, 2) || !cut(2, plan.tile_tokens))
    return bad("sizes that fit the shared memory", s.hidden_size);
  const auto allow = [&](const auto& kernel_of, const ExpertSmem(&smem)[3]) {
    // Two configurations may share a kernel.
    cuda::allow_smem(kernel_of(0), std::max(smem[0].num_bytes, smem[1].num_bytes));
    cuda::allow_smem(kernel_of(1), std::max(smem[0].num_bytes, smem[1].num_bytes));
    cuda::allow_smem(kernel_of(2), smem[2].num_bytes);
  };
  allow([&](int config) { return product_kernel<true>(s.form, config); }, plan.gate_up_smem);
  allow([&](int config) { return product_kernel<false>(s.form, config); }, plan.down_smem);
  return plan;
}

void launch_expert_layer(const ExpertPlan& plan, const cuda::Stream& stream,
                         const ExpertParams& params) {
  const ExpertShape& s = plan.shape;
  CACHALOT_CHECK(params.tokens >= 1 && params.tokens <= s.max_tokens);
  const int tokens = static_cast<int>(params.tokens);
  const int k = static_cast<int>(s.k);
  const int config = std::min(tokens, 3) - 1;

  cuda::LaunchShape dispatch;
  dispatch.grid = dim3(1);
  dispatch.block = kDispatchThreads;
  dispatch.smem_bytes = params.tokens * s.k * 4;
  cuda::launch(stream, dispatch, dispatch_kernel, params.ids, tokens, k,
               static_cast<int>(s.num_experts), plan.tile_tokens, params.scratch);

  ProductParams p = {};
  p.num_tiles = params.scratch.num_tiles;
  p.tiles = params.scratch.tiles;
  p.pair_weights = params.weights;
  p.limit = s.limit;

  const StreamedLayout gate_up{kFp4, 2 * s.moe_intermediate_size, s.hidden_size};
  p.weight = reinterpret_cast<const uint8_t*>(params.gate_up);
  p.expert_bytes = plan.gate_up_expert_bytes;
  p.unit_bytes = gate_up.unit_bytes();
  p.units = static_cast<int>(gate_up.num_units());
  p.blocks = static_cast<int>(gate_up.num_blocks());
  p.pairs_per_row = k;
  p.one_row = tokens == 1;
  p.x = params.x;
  p.out = params.scratch.h;
  p.out_columns = s.moe_intermediate_size;
  launch_product<true>(plan, config, stream, p);

  const StreamedLayout down{kFp4, s.hidden_size, s.moe_intermediate_size};
  p.weight = reinterpret_cast<const uint8_t*>(params.down);
  p.expert_bytes = plan.down_expert_bytes;
  p.unit_bytes = down.unit_bytes();
  p.units = static_cast<int>(down.num_units());
  p.blocks = static_cast<int>(down.num_blocks());
  p.pairs_per_row = 1;
  p.one_row = false;
  p.x = params.scratch.h;
  p.out = params.scratch.y;
  p.out_columns = s.hidden_size;
  launch_product<false>(plan, config, stream, p);

  cuda::LaunchShape combine;
  combine.grid =
      dim3(static_cast<unsigned>((s.hidden_size + 1023) / 1024), static_cast<unsigned>(tokens));
  combine.block = 256;
  cuda::launch(stream, combine, combine_kernel, params.scratch.y, params.scratch.slots,
               params.shared, k, static_cast<int>(s.hidden_size), params.out);
}

}  // namespace cachalot::ops
