#include <string>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/indexer/index_prefill_cuda.h"
#include "ops/indexer/index_score.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace index;
constexpr int kQueries = 4;  // of a block, which scans all keys that they see
constexpr int kWarpgroups = 4;
constexpr int kThreads = kWarpgroups * kGroupThreads;
static_assert(kThreads == kQueryThreads);
constexpr int kAlignment = SwizzledTile::kGroupBytes;
constexpr int kRounds = 6;  // groups of each warpgroup between looks at how full the lists are
constexpr int kBetweenLooks = kRounds * kWarpgroups * kGroup;

// What is known of a row: entries that may be among its best, and the score below which (or at
// which) a later entry is none.
struct Candidates {
  uint16_t* keys;  // ordered_key
  int32_t* entries;
  int32_t* ties;
  int* count;
  int* threshold;  // a key at most it is out; -1: none
};

struct Smem {
  uint8_t query[kQueries][kQueryBytes];
  uint8_t ones[kOnesBytes];
  HeadWeights weights[kQueries][4];  // of lane t of a quad
  int count[kQueries];
  int threshold[kQueries];

  static constexpr int64_t bytes(int64_t capacity) {
    return static_cast<int64_t>(sizeof(Smem)) + kQueries * capacity * (2 + 4 + 4);
  }
  __device__ __forceinline__ Candidates candidates(int query_index, int capacity) {
    auto* const lists = reinterpret_cast<uint8_t*>(this + 1);
    auto* const entries = reinterpret_cast<int32_t*>(lists + kQueries * capacity * 2);
    return {reinterpret_cast<uint16_t*>(lists) + query_index * capacity,
            entries + query_index * capacity, entries + (kQueries + query_index) * capacity,
            &count[query_index], &threshold[query_index]};
  }
};

__device__ __forceinline__ KeyCodes load_keys(const KeyPlaces::Source& from) {
  const int lane = threadIdx.x % 32;
  KeyCodes keys;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = lane / 4 + 8 * i;
    keys.codes[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from.codes) +
                                            row * 4 + lane % 4);
    keys.scales[i] = tile::load_shared_state(reinterpret_cast<const uint32_t*>(from.scales) + row);
  }
  return keys;
}

// The largest x of `bits` bits for which holds(x) is true, where it is true up to that x; 0 where
// none is.
template <typename Holds>
__device__ __forceinline__ uint32_t largest(int bits, const Holds& holds) {
  uint32_t x = 0;
  for (int bit = bits - 1; bit >= 0; --bit) {
    if (holds(x | 1u << bit)) x |= 1u << bit;
  }
  return x;
}

// How many of the first `padded` keys (a multiple of 256) are at least `least`. By a warp.
__device__ __forceinline__ uint32_t count_from(const uint16_t* keys, int padded, uint32_t least) {
  uint32_t count = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32 * 8; i < padded; i += 256) {
    const auto v = *reinterpret_cast<const tile::Vector16*>(keys + i);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      count += (v.word[word] & 0xFFFFu) >= least ? 1 : 0;
      count += v.word[word] >> 16 >= least ? 1 : 0;
    }
  }
  return __reduce_add_sync(kAllLanes, count);
}

// Leaves the k best candidates, of equal ones the first entries. By a warp.
__device__ void keep_best(const Candidates& c, int k) {
  const int lane = threadIdx.x % 32;
  const int count = *c.count;
  if (count <= k) return;
  const int padded = (count + 255) / 256 * 256;
  for (int i = count + lane; i < padded; i += 32) c.keys[i] = 0;
  __syncwarp();
  const auto threshold = static_cast<int>(largest(16, [&](uint32_t least) {
    return count_from(c.keys, padded, least) >= static_cast<uint32_t>(k);
  }));
  const uint32_t lower = (1u << lane) - 1;
  int kept = 0, num_ties = 0;
  for (int first = 0; first < count; first += 32) {
    const int i = first + lane;
    const int key = i < count ? c.keys[i] : -1;
    const int entry = i < count ? c.entries[i] : 0;
    __syncwarp();
    const uint32_t above = __ballot_sync(kAllLanes, key > threshold);
    const uint32_t equal = __ballot_sync(kAllLanes, key == threshold);
    if (key > threshold) {
      c.keys[kept + __popc(above & lower)] = static_cast<uint16_t>(key);
      c.entries[kept + __popc(above & lower)] = entry;
    }
    if (key == threshold) c.ties[num_ties + __popc(equal & lower)] = entry;
    kept += __popc(above);
    num_ties += __popc(equal);
  }
  __syncwarp();
  const int wanted = k - kept;
  uint32_t last = 0x7FFFFFFF;
  if (num_ties > wanted) {  // the last entry that fewer than `wanted` are below
    last = largest(26, [&](uint32_t entry) {
      int below = 0;
      for (int i = lane; i < num_ties; i += 32) {
        below += static_cast<uint32_t>(c.ties[i]) < entry ? 1 : 0;
      }
      return __reduce_add_sync(kAllLanes, below) < wanted;
    });
  }
  for (int first = 0; first < num_ties; first += 32) {
    const int i = first + lane;
    const bool take = i < num_ties && static_cast<uint32_t>(c.ties[i]) <= last;
    const uint32_t takes = __ballot_sync(kAllLanes, take);
    if (take) {
      c.keys[kept + __popc(takes & lower)] = static_cast<uint16_t>(threshold);
      c.entries[kept + __popc(takes & lower)] = c.ties[i];
    }
    kept += __popc(takes);
  }
  if (lane == 0) {
    *c.count = k;
    *c.threshold = threshold;
  }
  __syncwarp();
}

// The first `count` entries in ascending order. By a warp.
__device__ void sort_entries(int32_t* entries, int count) {
  const int lane = threadIdx.x % 32;
  int size = 64;
  while (size < count) size *= 2;
  for (int i = count + lane; i < size; i += 32) entries[i] = 0x7FFFFFFF;
  __syncwarp();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
#pragma unroll 4
      for (int i = lane; i < size / 2; i += 32) {
        const int low = 2 * i - (i & (distance - 1)), high = low + distance;
        const int a = entries[low], b = entries[high];
        if ((a > b) == ((low & run) == 0)) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      __syncwarp();
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    index_prefill_kernel(const __grid_constant__ IndexParams p, int topk, int capacity) {
  extern __shared__ uint8_t bytes[];
  Smem& s = *reinterpret_cast<Smem*>(bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) %
                                                 kAlignment);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;  // the query whose scores the lane offers
  const int first_row = static_cast<int>(p.first_row) + static_cast<int>(blockIdx.x) * kQueries;
  const int num_rows = min(kQueries, static_cast<int>(p.first_row + p.rows) - first_row);
  tile::launch_dependents();
  if (threadIdx.x < kQueries) {
    s.count[threadIdx.x] = 0;
    s.threshold[threadIdx.x] = -1;
  }
  tile::wait_for_producers();

  // Rows that see no more than topk take them all, unscored.
  const RowOf of(p.sequences, first_row);
  const auto visible_of = [&](int i) { return (of.position + i + 1) / static_cast<int>(p.ratio); };
  int scanned = 0, longest = 0;
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    int visible = i < num_rows ? visible_of(i) : 0;
    if (visible <= topk) visible = 0;
    if (i == t) scanned = visible;
    longest = max(longest, visible);
  }
  const int groups = (longest + kGroup - 1) / kGroup;
  if (groups > 0) {
    for (int i = 0; i < num_rows; ++i) {
      const int64_t row = first_row + i;
      arrange_query(p.q + row * kHeads * kDim, p.weight + row * kHeads, s.query[i], s.weights[i],
                    static_cast<int>(threadIdx.x));
    }
    fill_ones(s.ones, static_cast<int>(threadIdx.x), kThreads);
    tile::publish_to_async();
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
    const Candidates own = s.candidates(t, capacity);
    int threshold = -1;
    KeyPlaces places(p.layer_rows[of.sequence].index_keys, longest, warpgroup, kWarpgroups);
    KeyCodes codes = load_keys(places.source(places.next()));
    KeyPlaces::Place place = places.next();
#pragma unroll 1
    for (int round = 0; round * kWarpgroups < groups; ++round) {
      const int group = round * kWarpgroups + warpgroup;
      if (group < groups) {
        const KeyWords words(codes);
        float d[32];
        Scores scores[kQueries];
        start_products(words, tile::smem_address(s.query[0]), d);
        tile::wgmma_wait<0>();
        tile::wgmma_arrived(d);
#pragma unroll
        for (int i = 0; i < kQueries; ++i) {
          const HeadWeights weights = s.weights[i][t];
          const Terms terms(d, weights);
          start_sums(terms, tile::smem_address(s.ones), scores[i]);
          if (i + 1 < kQueries) start_products(words, tile::smem_address(s.query[i + 1]), d);
          if (i == 1) {
            codes = load_keys(places.source(place));
            place = places.next();
          }
          tile::wgmma_wait<0>();
          tile::wgmma_arrived(d);
          tile::wgmma_arrived(scores[i].d);
          read_by_wgmma(terms);
          read_by_wgmma(words);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int entry = group * kGroup + warp % 4 * kWarpKeys + lane / 4 + 8 * i;
          const float score = t == 0   ? scores[0].of_row(i)
                              : t == 1 ? scores[1].of_row(i)
                              : t == 2 ? scores[2].of_row(i)
                                       : scores[3].of_row(i);
          const auto key = static_cast<int>(ordered_key(score * words.factor[i]));
          if (entry < scanned && key > threshold) {
            const int at = atomicAdd(own.count, 1);
            own.keys[at] = static_cast<uint16_t>(key);
            own.entries[at] = entry;
          }
        }
      }
      if (round % kRounds != kRounds - 1) continue;
      __syncthreads();
      bool full = false;
#pragma unroll
      for (int i = 0; i < kQueries; ++i) full |= s.count[i] > capacity - kBetweenLooks;
      __syncthreads();
      if (!full) continue;
      if (warp < kQueries) keep_best(s.candidates(warp, capacity), topk);
      __syncthreads();
      threshold = s.threshold[t];
    }
    __syncthreads();
  }

  if (warp >= num_rows) return;
  const int row = first_row + warp;
  const int visible = visible_of(warp);
  int32_t* const selected = p.selected + static_cast<int64_t>(row) * topk;
  if (lane == 0) p.num_selected[row] = min(visible, topk);
  if (visible <= topk) {
    for (int i = lane; i < topk; i += 32) selected[i] = i < visible ? i : -1;
    return;
  }
  const Candidates best = s.candidates(warp, capacity);
  keep_best(best, topk);
  sort_entries(best.entries, topk);
  for (int i = lane; i < topk; i += 32) selected[i] = best.entries[i];
}

}  // namespace

Result<IndexPrefillPlan> make_index_prefill_plan(const cuda::Device& device, int64_t topk) {
  IndexPrefillPlan plan;
  plan.topk = topk;
  // Room for twice the best, beside what comes between two looks; counted by 256.
  plan.capacity = (2 * topk + kBetweenLooks + 511) / 256 * 256;
  plan.smem_bytes = kAlignment + Smem::bytes(plan.capacity);
  if (topk < 1 || plan.smem_bytes > device.smem_per_block_bytes) {
    return invalid_argument(
        "index prefill: expected topk whose candidates fit the shared memory, found " +
        std::to_string(topk));
  }
  cuda::allow_smem(index_prefill_kernel, plan.smem_bytes);
  return plan;
}

void launch_index_prefill(const IndexPrefillPlan& plan, const cuda::Stream& stream,
                          const IndexParams& params) {
  CACHALOT_CHECK(params.rows >= 1);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((params.rows + kQueries - 1) / kQueries));
  shape.block = kThreads;
  shape.smem_bytes = plan.smem_bytes;
  cuda::launch(stream, shape, index_prefill_kernel, params, static_cast<int>(plan.topk),
               static_cast<int>(plan.capacity));
}

}  // namespace cachalot::ops
