#include <algorithm>
#include <string>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/indexer/index_select_cuda.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kHeads = 64;
constexpr int kDim = 128;
constexpr int kThreads = 384;     // as many as their registers allow
constexpr int kBinThreads = 256;  // of those, who look for the threshold's bin
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = 32;  // keys that a warp scores at a time
constexpr int kBins = 4096;
constexpr int kSubBins = 16;
constexpr int kCounts =
    kSubBins + 1;  // of a block: its keys in the bin of the threshold; those above
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// What the blocks of a row tell each other.
struct RowScratch {
  unsigned long long arrivals;
  alignas(16) uint32_t bins[kBins];
  // then [blocks][kCounts]
};
__host__ __device__ constexpr int64_t row_scratch_bytes(int blocks) {
  return (static_cast<int64_t>(sizeof(RowScratch)) + int64_t{blocks} * kCounts * 4 + 15) / 16 * 16;
}

// A bf16 score as a number of 16 bits in its order; NaN is 0, and -0 is 0.
__device__ __forceinline__ uint32_t ordered_key(float score) {
  const uint32_t bits = tile::bf16_bits(score + 0.0f);
  if (score != score) return 0;
  return (bits & 0x8000u) != 0 ? ~bits & 0xFFFFu : bits | 0x8000u;
}

// Eight fp4 values of a key (value i in bits 4 i) to bf16, times `scale`: pairs (i, i + 4).
__device__ __forceinline__ void decode(uint32_t word, uint32_t scale, uint32_t (&pairs)[4]) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x01C001C0u;
  pairs[0] = ((word << 12) & kSign) | ((word << 6) & kRest);
  pairs[1] = ((word << 8) & kSign) | ((word << 2) & kRest);
  pairs[2] = ((word << 4) & kSign) | ((word >> 2) & kRest);
  pairs[3] = (word & kSign) | ((word >> 6) & kRest);
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = tile::multiply_bf16(pairs[i], scale);
}

// Such a pair is 2^-126 of the codes' values; q is taken times 2^32, so that the factor that is
// left
// fits bf16 for every scale up to 2^33.
__device__ __forceinline__ uint32_t scale_pair(uint32_t e8m0) {
  const uint32_t exponent = min(e8m0, 160u) + 94;
  return exponent << 7 | exponent << 23;
}
constexpr uint32_t kTwoTo32 = 0x4F804F80;

// B of the products: q in the order of the lanes, [k step][eight heads][lane]. A lane's values of k
// are those of its quarter t of a key: the 32 of one scale.
__device__ __forceinline__ void arrange_q(const uint16_t* q, uint2* to) {
  for (int i = threadIdx.x; i < kHeads * kDim / 4; i += kThreads) {
    const int lane = i % 32;
    const int head = i / 32 % 8 * 8 + lane / 4;
    const int step = i / 256;
    const uint16_t* from = q + head * kDim + lane % 4 * 32 + step / 2 * 8 + step % 2 * 2;
    uint32_t v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = tile::load_shared_state(from + j % 2 + j / 2 * 4);
    to[i] = make_uint2(tile::multiply_bf16(v[0] | v[2] << 16, kTwoTo32),
                       tile::multiply_bf16(v[1] | v[3] << 16, kTwoTo32));
  }
}

struct Keys {
  tile::Vector16 codes[4];  // rows g, g + 8, g + 16, g + 24; this lane's quarter
  uint32_t scales[4];
};

__device__ __forceinline__ Keys load_keys(const IndexParams& p, const int32_t* table, int group) {
  const int lane = threadIdx.x % 32;
  const int rows_per_block = static_cast<int>(p.rows_per_block);
  const int first = group * kGroup;
  const int block = first / rows_per_block;
  const int slot = first - block * rows_per_block;
  const auto* data = reinterpret_cast<const uint8_t*>(p.base) +
                     tile::load_shared_state(table + block) * p.block_bytes + p.offset;
  const uint8_t* scales = data + rows_per_block * 64;
  Keys keys;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = slot + i * 8 + lane / 4;
    keys.codes[i] = tile::load_shared_state(
        reinterpret_cast<const tile::Vector16*>(data + row * 64) + lane % 4);
    keys.scales[i] = tile::load_shared_state(reinterpret_cast<const uint32_t*>(scales + row * 4));
  }
  return keys;
}

// Scores of 32 keys: of rows g + 8 i, in all four lanes of a row.
__device__ __forceinline__ void score(const Keys& keys, const uint2* q,
                                      const uint32_t (&weights)[8], float (&scores)[4]) {
  const int lane = threadIdx.x % 32;
  uint32_t scale[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) scale[i] = scale_pair(keys.scales[i] >> (lane % 4 * 8) & 255);
  float d[2][8][4] = {};
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    uint32_t a[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) decode(keys.codes[i].word[word], scale[i], a[i]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const uint2 b = q[((2 * word + half) * 8 + n) * 32 + lane];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          tile::mma_bf16(d[m][n], a[2 * m][2 * half], a[2 * m + 1][2 * half],
                         a[2 * m][2 * half + 1], a[2 * m + 1][2 * half + 1], b.x, b.y);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const uint32_t terms = tile::multiply_bf16(
          tile::pack_relu_bf16(d[i / 2][n][i % 2 * 2], d[i / 2][n][i % 2 * 2 + 1]), weights[n]);
      sum += tile::low_bf16(terms);
      sum += tile::high_bf16(terms);
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    scores[i] = sum;
  }
}

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

__global__ void __launch_bounds__(kThreads, 1)
    index_select_kernel(const __grid_constant__ IndexParams p, int topk, int64_t scratch_stride) {
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ uint32_t bins[kBins];
  __shared__ uint32_t warps[kWarps];
  __shared__ uint32_t counts[kCounts], totals[kCounts], before[kCounts];
  __shared__ int threshold_bin;
  __shared__ uint32_t above_bin;
  __shared__ uint32_t warp_above[kWarps], warp_equal[kWarps];
  auto* const q = reinterpret_cast<uint2*>(smem);
  auto* const keys = reinterpret_cast<uint16_t*>(smem + kHeads * kDim * 2);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.y;
  const int block = blockIdx.x;
  const int num_blocks = static_cast<int>(gridDim.x);
  tile::launch_dependents();
  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  if (threadIdx.x < kCounts) counts[threadIdx.x] = 0;
  tile::wait_for_producers();

  const int visible = tile::load_shared_state(p.visible + row);
  int32_t* const selected = p.selected + static_cast<int64_t>(row) * topk;
  if (block == 0 && threadIdx.x == 0) p.num_selected[row] = min(visible, topk);
  if (visible <= topk) {
    for (int i = block * kThreads + threadIdx.x; i < topk; i += num_blocks * kThreads) {
      selected[i] = i < visible ? i : -1;
    }
    return;
  }
  auto* const scratch = reinterpret_cast<RowScratch*>(p.scratch + row * scratch_stride);
  auto* const all_counts = reinterpret_cast<uint32_t*>(scratch + 1);

  // This block's scores as ordered keys, and how many lie in each bin.
  const int groups = (visible + kGroup - 1) / kGroup;
  const int per_block = (groups + num_blocks - 1) / num_blocks;
  const int first_group = min(groups, block * per_block);
  const int last_group = min(groups, first_group + per_block);
  const int first_key = first_group * kGroup;
  const int num_keys = min(visible, last_group * kGroup) - first_key;
  arrange_q(p.q + static_cast<int64_t>(row) * kHeads * kDim, q);
  uint32_t weights[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    weights[n] = tile::load_shared_state(
        reinterpret_cast<const uint32_t*>(p.weight + row * kHeads + 8 * n + lane % 4 * 2));
  }
  __syncthreads();
  const int32_t* table = p.blocks + row * p.table_stride;
  int group = first_group + warp;
  Keys next;
  if (group < last_group) next = load_keys(p, table, group);
  for (; group < last_group; group += kWarps) {
    const Keys now = next;
    if (group + kWarps < last_group) next = load_keys(p, table, group + kWarps);
    float scores[4];
    score(now, q, weights, scores);
    const int i = lane % 4;  // each of a row's four lanes stores one of the four rows
    const float own = i == 0 ? scores[0] : i == 1 ? scores[1] : i == 2 ? scores[2] : scores[3];
    const int at = (group - first_group) * kGroup + i * 8 + lane / 4;
    if (at < num_keys) {
      const uint32_t key = ordered_key(own);
      keys[at] = static_cast<uint16_t>(key);
      atomicAdd(&bins[key / kSubBins], 1);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    if (bins[i] != 0) atomicAdd(&scratch->bins[i], bins[i]);
  }
  __syncthreads();
  if (threadIdx.x == 0) tile::wait_for_blocks(&scratch->arrivals, num_blocks);
  __syncthreads();

  // The bin in which the topk-th largest lies; a thread has 16 bins.
  constexpr int kOwnBins = kBins / kBinThreads;
  uint32_t own_bins[kOwnBins];
  uint32_t own = 0;
#pragma unroll
  for (int i = 0; i < kOwnBins / 4; ++i) {
    tile::Vector16 v = {};
    if (threadIdx.x < kBinThreads) {
      v = tile::load_shared_state(
          reinterpret_cast<const tile::Vector16*>(scratch->bins + threadIdx.x * kOwnBins + i * 4));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) own += own_bins[i * 4 + j] = v.word[j];
  }
  uint32_t above = sum_after(own, warps);
  const auto k = static_cast<uint32_t>(topk);
  if (above < k && above + own >= k) {
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
  if (threadIdx.x < kCounts) all_counts[block * kCounts + threadIdx.x] = counts[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) tile::wait_for_blocks(&scratch->arrivals, num_blocks);
  __syncthreads();
  for (int i = block * kThreads + static_cast<int>(threadIdx.x); i < kBins;
       i += num_blocks * kThreads) {
    scratch->bins[i] = 0;  // for the next call
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
  __syncthreads();

  // The threshold, how many keys equal to it are taken, and this block's first place.
  int place = kSubBins - 1;
  uint32_t taken = above_bin;
  uint32_t start = before[kSubBins];
  while (taken + totals[place] < k) {
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
  // Few entries are shared by fewer blocks: each then has a group for every warp.
  plan.blocks_per_row = static_cast<int>(
      std::clamp<int64_t>((groups + kWarps - 1) / kWarps, 1, device.num_sms / s.rows));
  const int64_t keys = (groups + plan.blocks_per_row - 1) / plan.blocks_per_row * kGroup;
  plan.smem_bytes = kHeads * kDim * 2 + keys * 2;
  if (plan.smem_bytes > device.smem_per_block_bytes - 20 * 1024)
    return bad("rows whose entries fit the shared memory", s.rows);
  plan.scratch_bytes = s.rows * row_scratch_bytes(plan.blocks_per_row);
  cuda::allow_smem(index_select_kernel, plan.smem_bytes);
  return plan;
}

void launch_index_select(const IndexPlan& plan, const cuda::Stream& stream,
                         const IndexParams& params) {
  CACHALOT_CHECK(params.rows >= 1 && params.rows <= plan.shape.rows);
  CACHALOT_CHECK(params.rows_per_block % kGroup == 0);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.blocks_per_row), static_cast<unsigned>(params.rows));
  shape.block = kThreads;
  shape.smem_bytes = plan.smem_bytes;
  cuda::launch(stream, shape, index_select_kernel, params, static_cast<int>(plan.shape.topk),
               row_scratch_bytes(plan.blocks_per_row));
}

}  // namespace cachalot::ops
