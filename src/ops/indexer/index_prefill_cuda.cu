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
static_assert(kQueries == kWarpgroups);  // a warpgroup keeps a query's best

// What is known of a row: entries that may be among its best, and the score below which (or at
// which) a later entry is none.
struct Candidates {
  uint16_t* keys;  // ordered_key
  int32_t* entries;
  int32_t* ties;
  int* count;
  int* threshold;  // a key at most it is out; -1: none
};

// What the warps of a warpgroup tell each other.
struct alignas(16) Exchange {
  uint32_t of_warp[2][4];  // of every other round
  uint32_t places;
};

struct Smem {
  uint8_t query[kQueries][kQueryBytes];
  uint8_t ones[kOnesBytes];
  HeadWeights weights[kQueries][4];  // of lane t of a quad
  int count[kQueries];
  int threshold[kQueries];
  Exchange exchange[kQueries];

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

// --- By the warpgroup that has a query.

__device__ __forceinline__ int thread_of_group() {
  return static_cast<int>(threadIdx.x) % kGroupThreads;
}
__device__ __forceinline__ void sync_group() {
  __barrier_sync_count(1 + threadIdx.x / kGroupThreads, kGroupThreads);
}

class GroupRounds {
 public:
  __device__ explicit GroupRounds(Exchange& exchange) : exchange_(exchange) {}

  // The four warps' values, of which lane 0 has its warp's.
  __device__ __forceinline__ tile::Vector16 tell(uint32_t of_warp) {
    uint32_t* const own = exchange_.of_warp[round_];
    round_ ^= 1;
    if (threadIdx.x % 32 == 0) own[thread_of_group() / 32] = of_warp;
    sync_group();
    return *reinterpret_cast<const tile::Vector16*>(own);
  }
  __device__ __forceinline__ uint32_t sum(uint32_t value) {
    const tile::Vector16 v = tell(__reduce_add_sync(kAllLanes, value));
    return v.word[0] + v.word[1] + v.word[2] + v.word[3];
  }
  __device__ __forceinline__ uint32_t max(uint32_t value) {
    const tile::Vector16 v = tell(__reduce_max_sync(kAllLanes, value));
    return ::max(::max(v.word[0], v.word[1]), ::max(v.word[2], v.word[3]));
  }

 private:
  Exchange& exchange_;
  int round_ = 0;
};

// A thread's share of a list: eight after each other of every 1024.
constexpr int kRun = 8;
constexpr int kRunStride = kRun * kGroupThreads;

// Calls with each of the thread's keys below `end`, a multiple of kRun.
template <typename Call>
__device__ __forceinline__ void each_key(const uint16_t* keys, int end, const Call& call) {
#pragma unroll 2
  for (int i = thread_of_group() * kRun; i < end; i += kRunStride) {
    const auto v = *reinterpret_cast<const tile::Vector16*>(keys + i);
#pragma unroll
    for (const uint32_t word : v.word) {
      call(word & 0xFFFFu);
      call(word >> 16);
    }
  }
}

// Leaves the k best candidates, of equal ones the first entries, of entries below 2^entry_bits.
__device__ void keep_best(const Candidates& c, Exchange& exchange, int k, int entry_bits) {
  const int count = *c.count;
  if (count <= k) return;
  const int end = (count + kRun - 1) / kRun * kRun;
  const int lane = threadIdx.x % 32;
  GroupRounds rounds(exchange);
  if (thread_of_group() < end - count) c.keys[count + thread_of_group()] = 0;
  if (thread_of_group() == 0) exchange.places = 0;
  sync_group();
  // The largest key that at least k candidates reach: all reach what was the last time's.
  uint32_t most = 0;
  each_key(c.keys, end, [&](uint32_t key) { most = max(most, key); });
  uint32_t threshold = static_cast<uint32_t>(max(*c.threshold, 0));
  uint32_t above_all = rounds.max(most) + 1;
  while (above_all - threshold > 1) {
    const uint32_t middle = (threshold + above_all) / 2;
    uint32_t reach = 0;
    each_key(c.keys, end, [&](uint32_t key) { reach += key >= middle ? 1 : 0; });
    if (rounds.sum(reach) >= static_cast<uint32_t>(k)) {
      threshold = middle;
    } else {
      above_all = middle;
    }
  }
  // Run after run, so that what is written lies where all have read: those above it first in the
  // lists, those equal to it among the ties.
#pragma unroll 1
  for (int begin = 0; begin < count; begin += kRunStride) {
    const int first = begin + thread_of_group() * kRun;
    uint32_t keys[kRun];
    int32_t entries[kRun];
    uint32_t own = 0;  // how many are above (high half) and equal
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      keys[i] = first + i < count ? c.keys[first + i] : 0;
      entries[i] = first + i < count ? c.entries[first + i] : -1;
      if (entries[i] >= 0) own += keys[i] > threshold ? 1u << 16 : keys[i] == threshold ? 1 : 0;
    }
    uint32_t up_to = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, up_to, distance);
      if (lane >= distance) up_to += other;
    }
    uint32_t before = 0;
    if (lane == 31) before = atomicAdd(&exchange.places, up_to);
    before = __shfl_sync(kAllLanes, before, 31) + up_to - own;
    sync_group();
    uint32_t better = before >> 16, tie = before & 0xFFFFu;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (entries[i] < 0) continue;
      if (keys[i] > threshold) {
        c.keys[better] = static_cast<uint16_t>(keys[i]);
        c.entries[better++] = entries[i];
      } else if (keys[i] == threshold) {
        c.ties[tie++] = entries[i];
      }
    }
  }
  sync_group();
  const int kept = static_cast<int>(exchange.places >> 16);
  const int num_ties = static_cast<int>(exchange.places & 0xFFFFu);
  const int wanted = k - kept;
  // By a warp, since they are few: the ties up to the last entry that fewer than `wanted` are
  // below.
  if (thread_of_group() < 32) {
    uint32_t last = 0x7FFFFFFF;
    if (num_ties > wanted) {
      last = largest(entry_bits, [&](uint32_t entry) {
        int below = 0;
        for (int i = lane; i < num_ties; i += 32)
          below += static_cast<uint32_t>(c.ties[i]) < entry ? 1 : 0;
        return __reduce_add_sync(kAllLanes, below) < wanted;
      });
    }
    int at = kept;
    for (int begin = 0; begin < num_ties; begin += 32) {
      const int i = begin + lane;
      const bool take = i < num_ties && static_cast<uint32_t>(c.ties[i]) <= last;
      const uint32_t takes = __ballot_sync(kAllLanes, take);
      if (take) {
        const int to = at + __popc(takes & ((1u << lane) - 1));
        c.keys[to] = static_cast<uint16_t>(threshold);
        c.entries[to] = c.ties[i];
      }
      at += __popc(takes);
    }
    if (lane == 0) {
      *c.count = k;
      *c.threshold = static_cast<int>(threshold);
    }
  }
  sync_group();
}

// The first `count` entries in ascending order.
__device__ void sort_entries(int32_t* entries, int count) {
  const int thread = thread_of_group();
  int size = 64;
  while (size < count) size *= 2;
  for (int i = count + thread; i < size; i += kGroupThreads) entries[i] = 0x7FFFFFFF;
  sync_group();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
#pragma unroll 4
      for (int i = thread; i < size / 2; i += kGroupThreads) {
        const int low = 2 * i - (i & (distance - 1)), high = low + distance;
        const int a = entries[low], b = entries[high];
        if ((a > b) == ((low & run) == 0)) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      sync_group();
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
  const int entry_bits = 32 - __clz(longest);
  const int groups = (longest + kGroup - 1) / kGroup;
  if (groups > 0) {
    for (int i = 0; i < num_rows; ++i) {
      const int64_t row = first_row + i;
      arrange_query(p, row, s.query[i], s.weights[i], static_cast<int>(threadIdx.x));
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
      // Who asks last has seen all that were added.
      if (!__syncthreads_or(s.count[t] > capacity - kBetweenLooks)) continue;
      keep_best(s.candidates(warpgroup, capacity), s.exchange[warpgroup], topk, entry_bits);
      __syncthreads();
      threshold = s.threshold[t];
    }
    __syncthreads();
  }

  const int own = warp / 4;  // the warpgroup's query
  if (own >= num_rows) return;
  const int row = first_row + own;
  const int visible = visible_of(own);
  int32_t* const selected = p.selected + static_cast<int64_t>(row) * topk;
  const int thread = thread_of_group();
  if (thread == 0) p.num_selected[row] = min(visible, topk);
  if (visible <= topk) {
    for (int i = thread; i < topk; i += kGroupThreads) selected[i] = i < visible ? i : -1;
    return;
  }
  const Candidates best = s.candidates(own, capacity);
  keep_best(best, s.exchange[own], topk, entry_bits);
  sort_entries(best.entries, topk);
  for (int i = thread; i < topk; i += kGroupThreads) selected[i] = best.entries[i];
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
