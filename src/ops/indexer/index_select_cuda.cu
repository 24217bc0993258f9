#include <algorithm>
#include <bit>
#include <string>

#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/indexer/index_prefill_cuda.h"
#include "ops/indexer/index_score.cuh"
#include "ops/indexer/index_select_cuda.h"
#include "ops/on_gpu.h"
#include "tensor/rows_on_device.h"
#include "tile/cluster.cuh"
#include "tile/first_turn.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace index;
constexpr int kWarpgroups = 4;
constexpr int kThreads = kWarpgroups * kGroupThreads;
constexpr int kBinThreads = 256;  // of those, who look for the threshold's bin
constexpr int kWarps = kThreads / 32;
static_assert(kThreads == kQueryThreads);
constexpr int kClearThreads = 256;
constexpr int kAlignment = SwizzledTile::kGroupBytes;
constexpr int kBins = 4096;
constexpr int kSubBins = 16;
constexpr int kCounts =
    kSubBins + 1;  // of a block: its keys in the bin of the threshold; those above

// What the blocks of a row tell each other.
struct RowScratch {
  unsigned long long arrivals;
  alignas(16) uint32_t bins[kBins];
  // then [blocks][kCounts]
};
__host__ __device__ constexpr int64_t row_scratch_bytes(int blocks) {
  return (static_cast<int64_t>(sizeof(RowScratch)) + int64_t{blocks} * kCounts * 4 + 15) / 16 * 16;
}

// A warp's keys of a group, on their way.
struct alignas(16) WarpKeys {
  tile::Vector16 codes[2][32];  // as KeyCodes has them
  uint32_t scales[kWarpKeys];
};
constexpr int kRingDepth = 4;
constexpr int kRingBytes = kRingDepth * kWarps * static_cast<int>(sizeof(WarpKeys));

// The groups first, first + kWarpgroups, .. before `last`, some of which are under way.
class KeyRing {
 public:
  __device__ __forceinline__ KeyRing(KeyPlaces& places, WarpKeys* slots, int first, int last)
      : places_(places), slots_(slots), next_(first), last_(last) {}
  __device__ __forceinline__ void begin() {
    KeyPlaces::Place at[kRingDepth];
#pragma unroll
    for (int i = 0; i < kRingDepth; ++i) at[i] = places_.next();
    place_ = places_.next();
#pragma unroll
    for (int i = 0; i < kRingDepth; ++i) start(i, at[i]);
  }
  // The next group; once more where goes_on is false.
  __device__ __forceinline__ KeyCodes take(bool goes_on) {
    tile::wait_copy_groups<kRingDepth - 1>();
    __syncwarp();
    const int lane = threadIdx.x % 32;
    const WarpKeys& from = slots_[slot_ * kWarps];
    KeyCodes keys;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      keys.codes[i] = from.codes[i][lane];
      keys.scales[i] = from.scales[lane / 4 + 8 * i];
    }
    __syncwarp();
    if (!goes_on) return keys;
    start(slot_, place_);
    place_ = places_.next();
    slot_ = slot_ + 1 == kRingDepth ? 0 : slot_ + 1;
    return keys;
  }

 private:
  __device__ __forceinline__ void start(int slot, KeyPlaces::Place place) {
    if (next_ < last_) {
      const int lane = threadIdx.x % 32;
      const KeyPlaces::Source from = places_.source(place);
      WarpKeys& to = slots_[slot * kWarps];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        tile::start_copy(&to.codes[i][lane], reinterpret_cast<const tile::Vector16*>(from.codes) +
                                                 (lane / 4 + 8 * i) * 4 + lane % 4);
      }
      if (lane < kWarpKeys / 4) {
        tile::start_copy(to.scales + 4 * lane,
                         reinterpret_cast<const tile::Vector16*>(from.scales) + lane);
      }
    }
    tile::end_copy_group();
    next_ += kWarpgroups;
  }

  KeyPlaces& places_;
  WarpKeys* slots_;  // of this warp: every kWarps-th
  int next_;
  int last_;
  KeyPlaces::Place place_;
  int slot_ = 0;
};

// The sums of what threads after the calling one hold. By all threads.
__device__ __forceinline__ uint32_t sum_after(uint32_t own, uint32_t (&warps)[kWarps]) {
  const int lane = threadIdx.x % 32;
  uint32_t sum = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_down_sync(kAllLanes, sum, distance);
    if (lane + distance < 32) sum += other;
  }
  if (lane == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  uint32_t after = sum - own;
  for (int warp = static_cast<int>(threadIdx.x) / 32 + 1; warp < kWarps; ++warp)
    after += warps[warp];
  return after;
}

__global__ void __launch_bounds__(kClearThreads) clear_kernel(tile::Vector16* to, int64_t words) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kClearThreads + threadIdx.x;
  if (i < words) to[i] = tile::Vector16{};
}

constexpr int kCluster = 4;
// kGather: blocks, a cluster, that gather a row's keys in the first one, which then has them alone;
// 0: as many blocks as the grid is wide, which keep their keys and wait for each other.
template <int kGather>
__global__ void __cluster_dims__(kGather == 0 ? 1 : kGather, 1, 1) __launch_bounds__(kThreads, 1)
    index_select_kernel(const __grid_constant__ IndexParams p, int topk, int64_t scratch_stride) {
  constexpr bool kAlone = kGather > 0;
  extern __shared__ uint8_t bytes[];
  __shared__ __align__(16) uint32_t bins[kBins];
  __shared__ uint32_t warps[kWarps];
  __shared__ uint32_t counts[kCounts], totals[kCounts], before[kCounts];
  __shared__ HeadWeights weights_of_lanes[4];
  __shared__ int threshold_bin;
  __shared__ uint32_t above_bin;
  __shared__ uint32_t warp_above[kWarps], warp_equal[kWarps];
  uint8_t* const query = bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) % kAlignment;
  uint8_t* const ones = query + kQueryBytes;
  auto* const keys = reinterpret_cast<uint16_t*>(ones + kOnesBytes + kRingBytes);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = static_cast<int>(p.first_row) + blockIdx.y;
  const int block = blockIdx.x;
  const int num_blocks = static_cast<int>(gridDim.x);
  tile::launch_dependents();

  // What the host makes.
  const RowOf of(p.sequences, row);
  const int visible = (of.position + 1) / static_cast<int>(p.ratio);
  const int groups = (visible + kGroup - 1) / kGroup;
  const int per_block = (groups + num_blocks - 1) / num_blocks;
  const int first_group = min(groups, block * per_block);
  const int last_group = min(groups, first_group + per_block);
  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
  const int group = first_group + warpgroup;
  int32_t* const selected = p.selected + static_cast<int64_t>(row) * topk;
  if (visible <= topk) {
    tile::wait_for_producers();
    if (block == 0 && threadIdx.x == 0) p.num_selected[row] = visible;
    for (int i = block * kThreads + threadIdx.x; i < topk; i += num_blocks * kThreads) {
      selected[i] = i < visible ? i : -1;
    }
    return;
  }
  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  if (threadIdx.x < kCounts) counts[threadIdx.x] = 0;
  if (kGather > 1) tile::arrive_in_cluster();  // the bins are empty
  KeyPlaces places(p.layer_rows[of.sequence].index_keys, visible, group, kWarpgroups);
  KeyRing ring(places, reinterpret_cast<WarpKeys*>(ones + kOnesBytes) + warp, group, last_group);
  const int end_key = min(visible, last_group * kGroup);
  // Keys that no kernel of this step writes do not wait.
  const bool are_old = end_key <= of.first_position / static_cast<int>(p.ratio);
  if (are_old) ring.begin();
  fill_ones(ones, static_cast<int>(threadIdx.x), kThreads);

  auto* const scratch = reinterpret_cast<RowScratch*>(p.scratch + blockIdx.y * scratch_stride);
  auto* const all_counts = reinterpret_cast<uint32_t*>(scratch + 1);
  // Whose keys and bins a block fills: its own, or the cluster's first one's.
  const int first_key = kAlone ? 0 : first_group * kGroup;
  uint16_t* const all_keys = kGather > 1 ? tile::in_block_of_cluster(keys, 0) : keys;
  uint32_t* const all_bins = kGather > 1 ? tile::in_block_of_cluster(bins, 0) : bins;
  const int own =
      warp % 4 * kWarpKeys + lane / 4 + lane % 2 * 8;  // a key of a group, in lanes t < 2
  constexpr int kFewBlocks = 32;                       // which wait long enough
#pragma unroll 1
  for (int turn = num_blocks <= kFewBlocks ? tile::first_turn(p.rows) : 1; turn < 2; ++turn) {
    const bool is_real = turn == 1;
    if (is_real) {
      __syncthreads();  // what the first turn left is read
      tile::wait_for_producers();
      if (!are_old) ring.begin();
      if (block == 0 && threadIdx.x == 0) p.num_selected[row] = topk;
    }

    // Scores as ordered keys, and how many lie in each bin.
    arrange_query(p, row, query, weights_of_lanes, static_cast<int>(threadIdx.x));
    tile::publish_to_async();
    __syncthreads();
    if (kGather > 1 && is_real) tile::wait_in_cluster();
    const HeadWeights weights = weights_of_lanes[lane % 4];
    const int last = is_real ? last_group : group + 1;
#pragma unroll 1
    for (int i = group; i < last; i += kWarpgroups) {
      const KeyWords words(ring.take(is_real));
      float d[32];
      start_products(words, tile::smem_address(query), d);
      tile::wgmma_wait<0>();
      tile::wgmma_arrived(d);
      read_by_wgmma(words);
      Scores scores;
      const Terms terms(d, weights);
      start_sums(terms, tile::smem_address(ones), scores);
      tile::wgmma_wait<0>();
      tile::wgmma_arrived(scores.d);
      read_by_wgmma(terms);
      const int at = i * kGroup + own;
      if (is_real && lane % 4 < 2 && at < end_key) {
        const int of = lane % 2;
        const uint32_t key = ordered_key((of == 0 ? scores.of_row(0) : scores.of_row(1)) *
                                         (of == 0 ? words.factor[0] : words.factor[1]));
        all_keys[at - first_key] = static_cast<uint16_t>(key);
        atomicAdd(&all_bins[key / kSubBins], 1);
      }
    }
    if (kGather > 1 && is_real) {
      tile::arrive_in_cluster();
      tile::wait_in_cluster();
      if (block > 0) return;
    } else {
      __syncthreads();
    }
    if (!kAlone && is_real) {
      for (int i = threadIdx.x; i < kBins; i += kThreads) {
        if (bins[i] != 0) atomicAdd(&scratch->bins[i], bins[i]);
      }
      __syncthreads();
      if (threadIdx.x == 0) tile::wait_for_blocks(&scratch->arrivals, num_blocks);
      __syncthreads();
    }
    const int num_keys = !is_real ? 0 : kAlone ? visible : end_key - first_key;

    // The bin in which the topk-th largest lies; a thread has 16 bins.
    constexpr int kOwnBins = kBins / kBinThreads;
    uint32_t own_bins[kOwnBins];
    uint32_t own_sum = 0;
#pragma unroll
    for (int i = 0; i < kOwnBins / 4; ++i) {
      tile::Vector16 v = {};
      if (threadIdx.x < kBinThreads) {
        const int at = static_cast<int>(threadIdx.x) * kOwnBins + i * 4;
        v = kAlone ? *reinterpret_cast<const tile::Vector16*>(bins + at)
                   : tile::load_shared_state(
                         reinterpret_cast<const tile::Vector16*>(scratch->bins + at));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) own_sum += own_bins[i * 4 + j] = v.word[j];
    }
    uint32_t above = sum_after(own_sum, warps);
    const auto k = static_cast<uint32_t>(topk);
    if (above < k && above + own_sum >= k) {
#pragma unroll
      for (int i = kOwnBins - 1; i >= 0; --i) {
        if (above < k && above + own_bins[i] >= k) {
          threshold_bin = static_cast<int>(threadIdx.x) * kOwnBins + i;
          above_bin = above;
        }
        above += own_bins[i];
      }
    }
    __syncthreads();

    // How many keys of each block lie above the bin, and on each place within it.
    const int bin = threshold_bin;
    for (int i = threadIdx.x; i < num_keys; i += kThreads) {
      const int key = keys[i];
      if (key / kSubBins > bin) atomicAdd(&counts[kSubBins], 1);
      if (key / kSubBins == bin) atomicAdd(&counts[key % kSubBins], 1);
    }
    __syncthreads();
    if (kAlone) {
      if (threadIdx.x < kCounts) totals[threadIdx.x] = counts[threadIdx.x], before[threadIdx.x] = 0;
    } else {
      if (is_real) {
        if (threadIdx.x < kCounts) all_counts[block * kCounts + threadIdx.x] = counts[threadIdx.x];
        __syncthreads();
        if (threadIdx.x == 0) tile::wait_for_blocks(&scratch->arrivals, num_blocks);
        __syncthreads();
      }
      for (int i = warp; i < kCounts; i += kWarps) {
        uint32_t total = 0, earlier = 0;
        for (int b = lane; b < num_blocks; b += 32) {
          const uint32_t count = tile::load_shared_state(all_counts + b * kCounts + i);
          total += count;
          if (b < block) earlier += count;
        }
        total = __reduce_add_sync(kAllLanes, total);
        earlier = __reduce_add_sync(kAllLanes, earlier);
        if (lane == 0) totals[i] = total, before[i] = earlier;
      }
    }
    __syncthreads();

    // The threshold, how many keys equal to it are taken, and this block's first place.
    int place = kSubBins - 1;
    uint32_t taken = above_bin;
    uint32_t start = before[kSubBins];
    while (is_real && taken + totals[place] < k) {
      taken += totals[place];
      start += before[place];
      --place;
    }
    const uint32_t equal_wanted = k - taken;
    uint32_t equal_before = before[place];
    start += min(equal_before, equal_wanted);
    const int threshold = bin * kSubBins + place;

    // Each warp a run of keys: counted, then written in order.
    const int per_warp = (num_keys + kWarps - 1) / kWarps;
    const int begin = min(num_keys, warp * per_warp);
    const int end = min(num_keys, begin + per_warp);
    uint32_t num_above = 0, num_equal = 0;
    for (int i = begin; i < end; i += 32) {
      const int key = i + lane < end ? keys[i + lane] : -1;
      num_above += __popc(__ballot_sync(kAllLanes, key > threshold));
      num_equal += __popc(__ballot_sync(kAllLanes, key == threshold));
    }
    if (lane == 0) warp_above[warp] = num_above, warp_equal[warp] = num_equal;
    __syncthreads();
    uint32_t to = start - min(equal_before, equal_wanted);
    for (int w = 0; w < warp; ++w) to += warp_above[w], equal_before += warp_equal[w];
    to += min(equal_before, equal_wanted);
    const uint32_t lower = (1u << lane) - 1;
    for (int i = begin; i < end; i += 32) {
      const int key = i + lane < end ? keys[i + lane] : -1;
      const uint32_t equal = __ballot_sync(kAllLanes, key == threshold);
      const bool take = key > threshold ||
                        (key == threshold && equal_before + __popc(equal & lower) < equal_wanted);
      const uint32_t takes = __ballot_sync(kAllLanes, take);
      if (take) selected[to + __popc(takes & lower)] = first_key + i + lane;
      to += __popc(takes);
      equal_before += __popc(equal);
    }
  }
}

auto kernel_of(const IndexPlan& plan) {
  if (plan.cluster == 0) return index_select_kernel<0>;
  return plan.cluster == 1 ? index_select_kernel<1> : index_select_kernel<kCluster>;
}

}  // namespace

Result<IndexPlan> make_index_plan(const cuda::Device& device, const IndexShape& s) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("index selection: expected ") + what + ", found " +
                            std::to_string(found));
  };
  // All blocks are resident at once: they wait for each other.
  if (s.rows < 1 || s.rows > device.num_sms) return bad("1 row to one an SM", s.rows);
  if (s.topk < 1 || s.topk > 65536) return bad("topk from 1 to 65536", s.topk);
  if (s.max_visible < 1 || s.max_visible > (int64_t{1} << 26))
    return bad("1 to 2^26 entries", s.max_visible);
  IndexPlan plan;
  plan.shape = s;
  const int64_t groups = (s.max_visible + kGroup - 1) / kGroup;
  // Blocks that share a row wait for each other twice in memory: few entries are a cluster's or a
  // block's, more are shared by blocks with some groups for every warpgroup. More blocks than that
  // lose more by counting in the same bins than they gain.
  constexpr int64_t kGroupsOfBlock = 4 * kWarpgroups;
  const bool has_room = s.rows * kCluster <= device.num_sms;
  if (groups <= (has_room ? kCluster * kGroupsOfBlock : 2 * kGroupsOfBlock))
    plan.cluster = has_room ? kCluster : 1;
  const int64_t shared =
      std::min((groups + kGroupsOfBlock - 1) / kGroupsOfBlock, device.num_sms / s.rows);
  plan.blocks_per_row = plan.cluster > 0 ? plan.cluster : static_cast<int>(shared);
  const int64_t keepers = plan.cluster > 0 ? 1 : plan.blocks_per_row;
  const int64_t keys = (groups + keepers - 1) / keepers * kGroup;
  constexpr int64_t kFixedBytes = kAlignment + kQueryBytes + kOnesBytes + kRingBytes;
  const int64_t most = device.smem_per_block_bytes - 20 * 1024;
  if (kFixedBytes + keys * 2 > most) return bad("rows whose entries fit the shared memory", s.rows);
  // By powers of two: as a sequence grows the launch stays the same for long.
  const auto key_bytes = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(keys * 2)));
  plan.smem_bytes = std::min(most, kFixedBytes + key_bytes);
  if (plan.cluster == 0) plan.scratch_bytes = s.rows * row_scratch_bytes(plan.blocks_per_row);
  cuda::allow_smem(kernel_of(plan), plan.smem_bytes);
  return plan;
}

void launch_index_select(const IndexPlan& plan, const cuda::Stream& stream,
                         const IndexParams& params) {
  CACHALOT_CHECK(params.rows >= 1 && params.rows <= plan.shape.rows);
  cuda::LaunchShape shape;
  if (plan.scratch_bytes > 0 && plan.shape.max_visible > plan.shape.topk) {
    const int64_t words = plan.scratch_bytes / static_cast<int64_t>(sizeof(tile::Vector16));
    shape.grid = dim3(static_cast<unsigned>((words + kClearThreads - 1) / kClearThreads));
    shape.block = kClearThreads;
    cuda::launch(stream, shape, clear_kernel, reinterpret_cast<tile::Vector16*>(params.scratch),
                 words);
  }
  shape.grid = dim3(static_cast<unsigned>(plan.blocks_per_row), static_cast<unsigned>(params.rows));
  shape.block = kThreads;
  shape.smem_bytes = plan.smem_bytes;
  cuda::launch(stream, shape, kernel_of(plan), params, static_cast<int>(plan.shape.topk),
               row_scratch_bytes(plan.blocks_per_row));
}

namespace {

// For as many of the rows at a time as their entries leave room for.
IndexPlan plan_for(const cuda::Device& device, IndexShape shape) {
  shape.rows = std::min<int64_t>(shape.rows, device.num_sms);
  while (true) {
    const Result<IndexPlan> plan = make_index_plan(device, shape);
    if (plan) return *plan;
    CACHALOT_CHECK_MSG(shape.rows > 1, plan.error().message());
    shape.rows /= 2;
  }
}

void select_few(device::ExecContext& ctx, IndexParams p, const IndexShape& shape) {
  const IndexPlan plan = plan_for(cuda::device_of(ctx), shape);
  const device::ArenaScope scope(*ctx.arena);
  p.scratch = ctx.arena->allocate<std::byte>(plan.scratch_bytes);
  const int64_t last_row = p.first_row + shape.rows;
  for (; p.first_row < last_row; p.first_row += plan.shape.rows) {
    p.rows = std::min(plan.shape.rows, last_row - p.first_row);
    launch_index_select(plan, cuda::stream_of(ctx), p);
  }
}

// From here on one block for four rows of a sequence is faster than many blocks for each row.
constexpr int64_t kManyRows = 256;

}  // namespace

bool index_select_cuda_takes_bf16(device::ExecContext& ctx, const IndexSelectParams& p) {
  if (!p.tensor_cores || !p.bf16_math || !p.round_scores || p.format != tensor::IndexFormat::fp4 ||
      p.heads != kHeads || p.dim != kDim ||
      !make_index_prefill_plan(cuda::device_of(ctx), p.topk).has_value())
    return false;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    if (p.sequences.end_position(s) / p.ratio > p.topk &&
        p.layer_rows[s].index_keys.rows_per_block % kWarpKeys != 0)
      return false;
  }
  return true;
}

bool index_select_on_tensor_cores(device::ExecContext& ctx, const IndexSelectParams& p) {
  if (!index_select_cuda_takes_bf16(ctx, p)) return false;
  const Result<IndexPrefillPlan> many = make_index_prefill_plan(cuda::device_of(ctx), p.topk);
  const tensor::Sequences& all = p.sequences;
  const auto visible = [&](int64_t s) { return all.end_position(s) / p.ratio; };
  IndexParams params = {.first_row = 0,
                        .rows = 0,
                        .q = p.q,
                        .q_bf16 = p.q_bf16,
                        .weight = p.weight,
                        .sequences = tensor::on_device(ctx, all),
                        .layer_rows = ctx.gpu->on_device(p.layer_rows),
                        .ratio = p.ratio,
                        .selected = p.selected,
                        .num_selected = p.num_selected,
                        .scratch = nullptr};
  // Sequences with few rows each, up to one with many, which is alone.
  for (int64_t first = 0; first < all.count;) {
    IndexShape shape{0, 1, p.topk};
    int64_t last = first;
    for (; last < all.count && all.num_rows(last) < kManyRows; ++last)
      shape.max_visible = std::max(shape.max_visible, visible(last));
    params.first_row = all.first_row[first];
    shape.rows = all.first_row[last] - params.first_row;
    if (shape.rows > 0) select_few(ctx, params, shape);
    if (last < all.count) {
      params.first_row = all.first_row[last];
      params.rows = all.num_rows(last);
      launch_index_prefill(*many, cuda::stream_of(ctx), params);
      ++last;
    }
    first = last;
  }
  return true;
}

}  // namespace cachalot::ops
