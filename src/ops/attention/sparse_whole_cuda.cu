// Sparse decode attention, a group of a row's heads by one block. Two of its warpgroups expand
// keys, chunk after chunk into two places, half of the dimensions after the other. The two others
// weigh every other chunk each, and each sums up half of the values of all. A half is free again as
// soon as its values are summed, and used as soon as it is filled; a chunk is scored before the
// values of the one before it are summed. Who weighed a chunk multiplies its weights from
// registers; odd chunks are weighed while the values of those before are summed. Queries that are
// raw get their norm and rotation from them, in shared memory.
#include <algorithm>
#include <type_traits>

#include "device/cuda/launch.cuh"
#include "device/cuda/tensor_map.h"
#include "ops/attention/raw_queries.cuh"
#include "ops/attention/sparse_chunk.cuh"
#include "ops/attention/sparse_forms.h"

namespace cachalot::ops::sparse {
namespace {

namespace cuda = device::cuda;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kProducers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kProducers;
constexpr int kConsumerRegisters = 192;
constexpr int kProducerRegisters = 64;
// The pieces of a key's first half are on their way in shared memory; the others in registers.
constexpr int kStaged = kTiles / 2;
constexpr int kHalf = kDim / 2;
// Producers are two chunks ahead, so at most three items.
constexpr int kTotals = 4;

struct Smem {
  uint8_t q[kOperandBytes];
  uint8_t keys[2][kOperandBytes];
  uint8_t weights[2][kTileBytes];
  tile::Vector16 staged[kStaged][kProducers];  // on their way to being expanded
  // Likewise of each key: its scales, its block, and which entry it is.
  tile::Vector8 scales[kChunk];
  const uint8_t* block[kChunk];
  int picked[kChunk];
  int exponent[2][kHeads];
  float sum[2][kHeads];
  int total[kTotals];  // keys of an item
  tile::Mbarrier counted[kTotals];
  tile::Mbarrier queries;      // in bf16: they are there
  tile::Mbarrier full[2][2];   // a half of the keys is there
  tile::Mbarrier empty[2][2];  // nobody reads it any more
  tile::Mbarrier weighed[2];   // weights, exponents and sums are there
};
static_assert(sizeof(Smem) <= 227 * 1024);

// --- The producers. Each warp has eight keys of a chunk, four lanes a key. The bytes of the next
// chunk's are under way while those before are expanded; where they lie is looked up one chunk
// earlier, and which entries they are yet a chunk earlier, by copies to shared memory: a register
// that is loaded in one turn for the next makes that one wait for all such loads.
class Producer {
 public:
  __device__ Producer(const SparseDecodeParams& p, Smem& s)
      : p_(p),
        s_(s),
        staged_(&s.staged[0][threadIdx.x % kProducers]),
        own_(static_cast<int>(threadIdx.x) % kProducers / 4) {}

  __device__ __forceinline__ void expand(int row) {
    const RowKeys keys(p_, row);
    const int chunks = num_chunks(keys.total);
    tell(keys.total);
    tile::wait_copies();  // those of no key that the last row ended with
    __syncwarp();
    look_up(keys, key(0), pick_now(keys, key(0)));
    tile::wait_copies();
    __syncwarp();
    const Bytes first = found();
    __syncwarp();
    stage(first, key(0) < keys.total);
    load(first);
    pick(keys, key(2));
    look_up(keys, key(1), pick_now(keys, key(1)));

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int buffer = (turn_ + chunk) % 2;
      const uint32_t parity = ~phases_ >> buffer & 1;
      phases_ ^= 1u << buffer;
      s_.empty[buffer][0].wait(parity);
      uint8_t* const to = s_.keys[buffer];
      tile::wait_copies();
      __syncwarp();
      const tile::Vector8 scales = s_.scales[own_];
      tile::Vector16 staged = staged_[0];
#pragma unroll
      for (int i = 0; i < kStaged; ++i) {
        const tile::Vector16 after = staged_[min(i + 1, kStaged - 1) * kProducers];
        store_piece(to, own_, i, staged, scales);
        staged = after;
      }
      tile::publish_to_async();
      s_.full[buffer][0].arrive();
      s_.empty[buffer][1].wait(parity);
      const Bytes next = found();
      const int picked = s_.picked[own_];
      __syncwarp();
      stage(next, key(chunk + 1) < keys.total);
      look_up(keys, key(chunk + 2), picked);
      pick(keys, key(chunk + 3));
      const uint32_t mask = key(chunk) < keys.total ? ~0u : 0u;
#pragma unroll
      for (int i = kStaged; i < kPieces; ++i) {
        tile::Vector16 piece = loaded_[i - kStaged];
#pragma unroll
        for (uint32_t& word : piece.word) word &= mask;
        store_piece(to, own_, i, piece, scales);
      }
      tile::publish_to_async();
      s_.full[buffer][1].arrive();
      load(next);
    }
    turn_ += chunks;
  }

 private:
  struct Bytes {
    const uint8_t* data;  // the lane's
    const uint8_t* scales;
  };

  __device__ __forceinline__ int key(int chunk) const { return chunk * kChunk + own_; }
  static __device__ __forceinline__ bool is_first_lane() { return threadIdx.x % 4 == 0; }
  static __device__ __forceinline__ bool is_entry(const RowKeys& keys, int key) {
    return key >= keys.window && key < keys.total;
  }
  // The consumers how many keys the row has.
  __device__ __forceinline__ void tell(int total) {
    if (threadIdx.x == kConsumers) {
      s_.total[item_ % kTotals] = total;
      s_.counted[item_ % kTotals].arrive();
    }
    ++item_;
  }

  // Which entry a key is; of others anything.
  __device__ __forceinline__ void pick(const RowKeys& keys, int key) {
    if (is_first_lane() && keys.selected != nullptr && is_entry(keys, key))
      tile::start_copy(&s_.picked[own_], keys.selected + (key - keys.window));
  }
  static __device__ __forceinline__ int pick_now(const RowKeys& keys, int key) {
    if (keys.selected == nullptr || !is_entry(keys, key)) return 0;
    return tile::load_shared_state(keys.selected + (key - keys.window));
  }
  // Where a key lies, past the last key the first.
  __device__ __forceinline__ void look_up(const RowKeys& keys, int key, int picked) {
    int slot, rows;
    if (is_entry(keys, key)) {
      const int entry = keys.selected == nullptr ? key - keys.window : picked;
      const int index = keys.block_of(entry);
      slot = entry - index * keys.block_rows;
      rows = keys.block_rows;
      if (is_first_lane()) {
        tile::start_copy(&s_.block[own_],
                         reinterpret_cast<const tile::Vector8*>(keys.table + index));
      }
    } else {
      if (key >= keys.total) key = 0;
      const bool of_step = key >= keys.first_of_step;
      const int in_ring = keys.slot + key;
      slot = of_step                    ? keys.step_row + key
             : in_ring < keys.ring_rows ? in_ring
                                        : in_ring - keys.ring_rows;
      rows = of_step ? static_cast<int>(p_.rows) : keys.ring_rows;
      if (is_first_lane()) {
        s_.block[own_] = of_step ? reinterpret_cast<const uint8_t*>(p_.step_rows) : keys.ring;
      }
    }
    data_at_ = slot * kDataBytes + static_cast<int>(threadIdx.x) % 4 * 16;
    scales_at_ = rows * kDataBytes + slot * kScaleBytes;
  }
  __device__ __forceinline__ Bytes found() const {
    const uint8_t* const block = s_.block[own_];
    return {block + data_at_, block + scales_at_};
  }

  static __device__ __forceinline__ const tile::Vector16* piece(const Bytes& from, int i) {
    return reinterpret_cast<const tile::Vector16*>(from.data + 64 * i);
  }
  // Where there is no such key, zeros.
  __device__ __forceinline__ void stage(const Bytes& from, bool is_key) {
    if (is_first_lane())
      tile::start_copy(&s_.scales[own_], reinterpret_cast<const tile::Vector8*>(from.scales));
#pragma unroll
    for (int i = 0; i < kStaged; ++i)
      tile::start_copy_or_zero(staged_ + i * kProducers, piece(from, i), is_key);
  }
  __device__ __forceinline__ void load(const Bytes& from) {
#pragma unroll
    for (int i = kStaged; i < kPieces; ++i)
      loaded_[i - kStaged] = tile::load_shared_state(piece(from, i));
  }

  const SparseDecodeParams& p_;
  Smem& s_;
  tile::Vector16* staged_;
  int own_;
  uint32_t phases_ = 0;  // of the two places
  int turn_ = 0;         // chunks so far
  uint32_t item_ = 0;
  // What look_up found, from the start of the block.
  int data_at_ = 0;
  int scales_at_ = 0;
  tile::Vector16 loaded_[kPieces - kStaged];
};

// --- The consumers.

// Of a warpgroup: half of the values, as two accumulators.
constexpr int kQuarter = kDim / 4;
using Values = float[2][kQuarter / 2];
// kBf16: queries and results are.
template <bool kBf16>
class Consumer {
  using Value = std::conditional_t<kBf16, uint16_t, float>;

 public:
  __device__ Consumer(const SparseDecodeParams& p, const CUtensorMap& q_rows, Smem& s)
      : p_(p),
        q_rows_(q_rows),
        s_(s),
        side_(tile::uniform(static_cast<int>(threadIdx.x) / kGroupThreads)),
        head_(own_head()) {}

  // What an item (a row and a group of heads) starts with.
  __device__ __forceinline__ void start(int item, int num_items) {
    if (item >= num_items) return;
    if constexpr (kBf16) {
      if (threadIdx.x != 0) return;
      s_.queries.arrive_expecting(kOperandBytes);
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
        s_.queries.copy_box(s_.q + i * kTileBytes, &q_rows_, i * kTileDims, item * kHeads);
    } else {
      store_queries<kConsumers>(queries(item), s_.q, static_cast<int>(threadIdx.x));
    }
  }

  // An item that was started; starts the next.
  __device__ __forceinline__ void attend(int item, int next, int num_items) {
    s_.counted[item_ % kTotals].wait(item_ / kTotals & 1);
    const int total = tile::uniform(s_.total[item_ % kTotals]);
    const int chunks = num_chunks(total);
    if constexpr (kBf16) {
      if (p_.raw.table.cos != nullptr) {
        finish_queries(item / num_groups());
      } else if (side_ == 0 || chunks > 1) {
        // Who scores nothing may still be here when the next item's are asked for.
        s_.queries.wait(item_ & 1);
      }
    } else {
      tile::publish_to_async();
      tile::sync_threads<1, kConsumers>();
    }
    ++item_;
    if (next < num_items) prefetch(next);
    const float* const sink = p_.sink + item % num_groups() * kHeads + head_;
    const float sinks[2] = {__ldg(sink), __ldg(sink + 8)};
    RunningHead running[2];
    Values values;
    if (side_ == 0) {
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk += 2) {
        float d[32];
        score(0, d);
        ChunkWeights w = weigh(d, total - chunk * kChunk, p_.scale * kLog2E);
        publish(0, running, w);
        sum_own_values(0, chunk == 0, running, w, values);
        if (chunk + 1 < chunks) {
          start_values(1, false, running, values);
          // All scores of this item are there, so that its queries may go.
          if constexpr (kBf16) {
            if (chunk + 2 == chunks) start(next, num_items);
          }
          end_values(1, values);
        }
      }
      if constexpr (kBf16) {
        if (chunks % 2 != 0) start(next, num_items);
      }
    } else {
#pragma unroll 1
      for (int chunk = 1; chunk < chunks; chunk += 2) {
        float d[32];
        score(1, d);
        start_values(0, chunk == 1, running, values);
        ChunkWeights w = weigh(d, total - chunk * kChunk, p_.scale * kLog2E);
        publish(1, running, w);
        end_values(0, values);
        sum_own_values(1, false, running, w, values);
      }
      if (chunks % 2 != 0) {
        start_values(0, chunks == 1, running, values);
        end_values(0, values);
      }
    }
    turn_ ^= chunks & 1;
    finish(item, running, sinks, values);
    if constexpr (!kBf16) start(next, num_items);
  }

 private:
  __device__ __forceinline__ int num_groups() const { return static_cast<int>(p_.heads) / kHeads; }
  __device__ __forceinline__ const Value* queries(int item) const {
    const int64_t at = static_cast<int64_t>(item) * kHeads * kDim;
    if constexpr (kBf16) {
      return p_.q_bf16 + at;
    } else {
      return p_.q + at;
    }
  }
  // Raw ones, of all heads.
  __device__ __forceinline__ void finish_queries(int row) {
    const RawAngles angles(p_.raw.table, row);
    s_.queries.wait(item_ & 1);
    finish_raw_heads(s_.q, angles, p_.raw.eps);
    tile::publish_to_async();
    tile::sync_threads<1, kConsumers>();
  }
  __device__ __forceinline__ void prefetch(int item) const {
    constexpr int kLineValues = tile::kLineBytes / static_cast<int>(sizeof(Value));
    for (int i = threadIdx.x; i < kHeads * kDim / kLineValues; i += kConsumers)
      tile::prefetch_line(queries(item) + i * kLineValues);
  }
  // Of the even chunks of an item or the odd ones. Found anew each time, so that what follows from
  // it takes no registers of a thread.
  __device__ __forceinline__ int place_of(int odd) const { return tile::uniform(turn_ ^ odd); }
  __device__ __forceinline__ uint32_t parity(int place) const { return phases_ >> place & 1; }

  __device__ __forceinline__ void score(int odd, float (&d)[32]) {
    const int place = place_of(odd);
    s_.full[place][0].wait(parity(place));
    start_scores<0>(s_.q, s_.keys[place], d);
    s_.full[place][1].wait(parity(place));
    start_scores<1>(s_.q, s_.keys[place], d);
    tile::wgmma_wait<0>();
  }

  // A chunk's weights, which are scaled as the chunks before it demand.
  __device__ __forceinline__ void publish(int odd, const RunningHead (&running)[2],
                                          ChunkWeights& w) {
    const int place = place_of(odd);
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        s_.exponent[place][head_ + 8 * i] = w.exponent[i];
        s_.sum[place][head_ + 8 * i] = w.sum[i];
      }
    }
    RunningHead::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      RunningHead ahead = running[i];
      factors[i] = ahead.add(w.exponent[i], w.sum[i]);
    }
    scale_weights(w.pair, factors);
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int piece = i / 4 * 2 + i % 4 / 2;
      *reinterpret_cast<uint32_t*>(
          s_.weights[place] + SwizzledTile::offset(head_ + i % 2 * 8, piece) + t * 4) = w.pair[i];
    }
    tile::publish_to_async();
    s_.weighed[place].arrive();
  }

  // Starts to add a chunk to the values; nothing may touch them before end_values.
  __device__ __forceinline__ void start_values(int odd, bool first, RunningHead (&running)[2],
                                               Values& values) {
    const int place = place_of(odd);
    s_.full[place][side_].wait(parity(place));
    s_.weighed[place].wait(parity(place));
    phases_ ^= 1u << place;
    RunningHead::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factors[i] = running[i].add(s_.exponent[place][head_ + 8 * i], s_.sum[place][head_ + 8 * i]);
    }
    if (!first) scale_both(values, factors);
    const uint32_t a = tile::smem_address(s_.weights[place]);
    start_products(
        place, first, values, [&](float(&d)[kQuarter / 2], int step, uint64_t b, int accumulate) {
          tile::wgmma_bf16_n128_columns(d, SwizzledTile::major_k(a, step), b, accumulate);
        });
  }
  __device__ __forceinline__ void end_values(int odd, Values& values) {
    const int place = place_of(odd);
    tile::wgmma_wait<0>();
    tile::wgmma_arrived(values[0]);
    tile::wgmma_arrived(values[1]);
    s_.empty[place][side_].arrive();
  }
  // The same of a chunk that this warpgroup weighed, after publish.
  __device__ __forceinline__ void sum_own_values(int odd, bool first, RunningHead (&running)[2],
                                                 const ChunkWeights& w, Values& values) {
    const int place = place_of(odd);
    phases_ ^= 1u << place;
    RunningHead::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) factors[i] = running[i].add(w.exponent[i], w.sum[i]);
    if (!first) scale_both(values, factors);
    start_products(place, first, values,
                   [&](float(&d)[kQuarter / 2], int step, uint64_t b, int accumulate) {
                     const uint32_t a[4] = {w.pair[4 * step], w.pair[4 * step + 1],
                                            w.pair[4 * step + 2], w.pair[4 * step + 3]};
                     tile::wgmma_bf16_n128_columns(d, a, b, accumulate);
                   });
    // The queries may go when all warps of this warpgroup have scored. Nobody waits for long: they
    // have come here too, or are about to.
    s_.weighed[place].wait(~phases_ >> place & 1);
    end_values(odd, values);
    tile::wgmma_read(w.pair);
  }
  static __device__ __forceinline__ void scale_both(Values& values,
                                                    const RunningHead::Factors (&factors)[2]) {
    scale_values(values[0], factors);
    scale_values(values[1], factors);
  }
  template <typename Product>
  __device__ __forceinline__ void start_products(int place, bool first, Values& values,
                                                 const Product& product) {
    const uint32_t b = tile::smem_address(s_.keys[place]) + side_ * (kTiles / 2) * kTileBytes;
    tile::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        product(values[i], step,
                SwizzledTile::major_columns(b + i * (kTiles / 4) * kTileBytes, step, kTileBytes),
                !first || step > 0 ? 1 : 0);
      }
    }
    tile::wgmma_commit();
  }

  __device__ __forceinline__ void finish(int item, const RunningHead (&running)[2],
                                         const float (&sinks)[2], const Values& values) {
    const float inverse[2] = {running[0].finish(sinks[0]), running[1].finish(sinks[1])};
    const int64_t at = (static_cast<int64_t>(item) * kHeads + head_) * kDim + side_ * kHalf;
    Value* out;
    if constexpr (kBf16) {
      out = p_.out_bf16 + at;
    } else {
      out = p_.out + at;
    }
    const BackRotation back(p_.rotate_back, item / num_groups());
#pragma unroll
    for (int i = 0; i < kTiles / 2; ++i) {
      finish_tile(values[i / 2] + i % 2 * 32, inverse, i + 1 == kTiles / 2 && side_ == 1, back,
                  out + i * kTileDims);
    }
  }

  const SparseDecodeParams& p_;
  const CUtensorMap& q_rows_;
  Smem& s_;
  int side_;
  int head_;
  uint32_t phases_ = 0;  // of the two places
  int turn_ = 0;         // the place of the next chunk
  uint32_t item_ = 0;
};

template <bool kBf16>
__global__ void __launch_bounds__(kThreads, 1)
    whole_kernel(const __grid_constant__ SparseDecodeParams p,
                 const __grid_constant__ CUtensorMap q_rows, int num_items) {
  extern __shared__ __align__(SwizzledTile::kGroupBytes) uint8_t bytes[];  // all there is
  Smem& s = *reinterpret_cast<Smem*>(bytes);
  if (threadIdx.x == 0) {
    s.queries.init(1);
    for (tile::Mbarrier& counted : s.counted) counted.init(1);
    for (int i = 0; i < 2; ++i) {
      for (int half = 0; half < 2; ++half) {
        s.full[i][half].init(kProducers);
        s.empty[i][half].init(kGroupThreads);
      }
      s.weighed[i].init(kGroupThreads);
    }
    tile::Mbarrier::publish_inits();
  }
  __syncthreads();
  tile::wait_for_producers();
  tile::launch_dependents();
  const int groups = static_cast<int>(p.heads) / kHeads;
  const int first = static_cast<int>(blockIdx.x), stride = static_cast<int>(gridDim.x);
  if (threadIdx.x >= kConsumers) {
    tile::shrink_registers<kProducerRegisters>();
    Producer producer(p, s);
    for (int item = first; item < num_items; item += stride) producer.expand(item / groups);
  } else {
    tile::grow_registers<kConsumerRegisters>();
    Consumer<kBf16> consumer(p, q_rows, s);
    consumer.start(first, num_items);
    for (int item = first; item < num_items; item += stride)
      consumer.attend(item, item + stride, num_items);
  }
}

}  // namespace

void prepare_whole() {
  cuda::allow_smem(whole_kernel<false>, sizeof(Smem));
  cuda::allow_smem(whole_kernel<true>, sizeof(Smem));
}

void launch_whole(const cuda::Stream& stream, const SparseDecodeParams& p, int num_sms) {
  const auto items = static_cast<int>(p.rows * (p.heads / kHeads));
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(items, num_sms)));
  shape.block = kThreads;
  shape.smem_bytes = sizeof(Smem);
  CUtensorMap q_rows = {};
  if (p.q_bf16 != nullptr)
    q_rows = cuda::map_bf16_rows(p.q_bf16, p.rows * p.heads, kDim, kDim, kHeads);
  cuda::launch(stream, shape, p.q_bf16 != nullptr ? whole_kernel<true> : whole_kernel<false>, p,
               q_rows, items);
}

}  // namespace cachalot::ops::sparse
