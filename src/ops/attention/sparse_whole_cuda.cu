// Sparse decode attention, a group of a row's heads by one block. Two of its warpgroups expand
// keys, chunk after chunk into two places, half of the dimensions after the other. The two others
// weigh every other chunk each, and each sums up half of the values of all. A half is free again as
// soon as its values are summed, and used as soon as it is filled; a chunk is scored before the
// values of the one before it are summed.
#include <algorithm>
#include <type_traits>

#include "device/cuda/launch.cuh"
#include "ops/attention/sparse_chunk.cuh"
#include "ops/attention/sparse_forms.h"

namespace cachalot::ops::sparse {
namespace {

namespace cuda = device::cuda;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kProducers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kProducers;
constexpr int kConsumerRegisters = 200;
constexpr int kProducerRegisters = 56;
// The pieces of a key's first half are on their way in shared memory; the others in registers.
constexpr int kStaged = kTiles / 2;
constexpr int kHalf = kDim / 2;

struct Smem {
  uint8_t q[kOperandBytes];
  uint8_t keys[2][kOperandBytes];
  uint8_t weights[2][kTileBytes];
  tile::Vector16 staged[kStaged][kProducers];  // on their way to being expanded
  int exponent[2][kHeads];
  float sum[2][kHeads];
  tile::Mbarrier full[2][2];   // a half of the keys is there
  tile::Mbarrier empty[2][2];  // nobody reads it any more
  tile::Mbarrier weighed[2];   // weights, exponents and sums are there
};
constexpr int kAlignment = SwizzledTile::kGroupBytes;

// --- The producers. Each warp has eight keys of a chunk; the bytes of the next chunk's are under
// way while those before are expanded, and their places are looked up yet a chunk earlier.
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
    tile::wait_copies();  // those of no key that the last row ended with
    const RowKeys::Source first = RowKeys::source(keys.place(p_, own_, keys.pick(p_, own_)));
    stage(first);
    load(first);
    RowKeys::Place place = keys.place(p_, key(1), keys.pick(p_, key(1)));
    int picked = keys.pick(p_, key(2));

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int buffer = chunk % 2;
      const uint32_t parity = ~phases_ >> buffer & 1;
      phases_ ^= 1u << buffer;
      s_.empty[buffer][0].wait(parity);
      uint8_t* const to = s_.keys[buffer];
      const tile::Vector8 scales = scales_;
      tile::wait_copies();
#pragma unroll
      for (int i = 0; i < kStaged; ++i) {
        store_piece(to, own_, i, staged_[i * kProducers], scales);
      }
      tile::publish_to_async();
      s_.full[buffer][0].arrive();
      // Here its loads are done, as those of the bytes before must be too.
      const RowKeys::Source next = RowKeys::source(place);
      place = keys.place(p_, key(chunk + 2), picked);
      picked = keys.pick(p_, key(chunk + 3));
      stage(next);
      s_.empty[buffer][1].wait(parity);
#pragma unroll
      for (int i = kStaged; i < kPieces; ++i) {
        tile::Vector16 piece = loaded_[i - kStaged];
#pragma unroll
        for (uint32_t& word : piece.word) word &= is_key_;
        store_piece(to, own_, i, piece, scales);
      }
      load(next);
      tile::publish_to_async();
      s_.full[buffer][1].arrive();
    }
  }

 private:
  __device__ __forceinline__ int key(int chunk) const { return chunk * kChunk + own_; }
  // Of no key, other bytes instead of a choice between bytes and zeros, which would wait for them;
  // codes become zeros on their way or when they are stored.
  __device__ __forceinline__ RowKeys::Source some(const RowKeys::Source& from) const {
    if (from.data != nullptr) return from;
    return {reinterpret_cast<const uint8_t*>(p_.step_rows), 0};
  }
  __device__ __forceinline__ void stage(const RowKeys::Source& from) {
    const RowKeys::Source bytes = some(from);
    scales_ =
        tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(bytes.data + bytes.scales));
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      tile::start_copy_or_zero(staged_ + i * kProducers, piece_of(bytes, i), from.data != nullptr);
    }
  }
  __device__ __forceinline__ void load(const RowKeys::Source& from) {
    is_key_ = from.data != nullptr ? ~0u : 0u;
    const RowKeys::Source bytes = some(from);
#pragma unroll
    for (int i = kStaged; i < kPieces; ++i)
      loaded_[i - kStaged] = tile::load_shared_state(piece_of(bytes, i));
  }

  const SparseDecodeParams& p_;
  Smem& s_;
  tile::Vector16* staged_;
  int own_;
  uint32_t phases_ = 0;  // of the two places
  tile::Vector8 scales_;
  uint32_t is_key_;  // a mask of what is loaded
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
  __device__ Consumer(const SparseDecodeParams& p, Smem& s)
      : p_(p),
        s_(s),
        side_(tile::uniform(static_cast<int>(threadIdx.x) / kGroupThreads)),
        head_(own_head()) {}

  // What an item (a row and a group of heads) starts with.
  __device__ __forceinline__ void start(int item, int num_items) {
    if (item >= num_items) return;
    if constexpr (kBf16) {
      const auto* const from = reinterpret_cast<const tile::Vector16*>(queries(item));
#pragma unroll
      for (int i = 0; i < kHeads * kDim / 8 / kConsumers; ++i) {
        const int at = i * kConsumers + static_cast<int>(threadIdx.x);
        const int head = at / (kDim / 8), piece = at % (kDim / 8);
        tile::start_copy(s_.q + piece / 8 * kTileBytes + SwizzledTile::offset(head, piece % 8),
                         from + at);
      }
    } else {
      store_queries<kConsumers>(queries(item), s_.q, static_cast<int>(threadIdx.x));
    }
    next_total_ = RowKeys::count(p_, item / num_groups());
  }

  // An item that was started; starts the next.
  __device__ __forceinline__ void attend(int item, int next, int num_items) {
    const int total = next_total_;
    const int chunks = num_chunks(total);
    if constexpr (kBf16) tile::wait_copies();
    tile::publish_to_async();
    tile::sync_threads<1, kConsumers>();
    if (next < num_items) prefetch(next);
    RunningHead running[2];
    Values values;
    if (side_ == 0) {
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk += 2) {
        float d[32];
        score(0, d);
        publish(0, running, weigh(d, total - chunk * kChunk, p_.scale * kLog2E));
        sum_values(0, chunk == 0, running, values);
        if (chunk + 1 < chunks) sum_values(1, false, running, values);
      }
    } else {
#pragma unroll 1
      for (int chunk = 1; chunk < chunks; chunk += 2) {
        float d[32];
        score(1, d);
        sum_values(0, chunk == 1, running, values);
        publish(1, running, weigh(d, total - chunk * kChunk, p_.scale * kLog2E));
        sum_values(1, false, running, values);
      }
      if (chunks % 2 != 0) sum_values(0, chunks == 1, running, values);
    }
    // All scores of this item are there, so that its queries may go.
    if constexpr (kBf16) start(next, num_items);
    finish(item, running, values);
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
  __device__ __forceinline__ void prefetch(int item) const {
    constexpr int kLineValues = tile::kLineBytes / static_cast<int>(sizeof(Value));
    for (int i = threadIdx.x; i < kHeads * kDim / kLineValues; i += kConsumers)
      tile::prefetch_line(queries(item) + i * kLineValues);
  }
  __device__ __forceinline__ uint32_t parity(int side) const { return phases_ >> side & 1; }

  __device__ __forceinline__ void score(int side, float (&d)[32]) {
    s_.full[side][0].wait(parity(side));
    start_scores<0>(s_.q, s_.keys[side], d);
    s_.full[side][1].wait(parity(side));
    start_scores<1>(s_.q, s_.keys[side], d);
    tile::wgmma_wait<0>();
  }

  // A chunk's weights, scaled as the chunks before it demand.
  __device__ __forceinline__ void publish(int side, const RunningHead (&running)[2],
                                          ChunkWeights w) {
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        s_.exponent[side][head_ + 8 * i] = w.exponent[i];
        s_.sum[side][head_ + 8 * i] = w.sum[i];
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
          s_.weights[side] + SwizzledTile::offset(head_ + i % 2 * 8, piece) + t * 4) = w.pair[i];
    }
    tile::publish_to_async();
    s_.weighed[side].arrive();
  }

  // Adds a chunk to the values.
  __device__ __forceinline__ void sum_values(int side, bool first, RunningHead (&running)[2],
                                             Values& values) {
    s_.full[side][side_].wait(parity(side));
    s_.weighed[side].wait(parity(side));
    RunningHead::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factors[i] = running[i].add(s_.exponent[side][head_ + 8 * i], s_.sum[side][head_ + 8 * i]);
    }
    if (!first) {
      scale_values(values[0], factors);
      scale_values(values[1], factors);
    }
    const uint32_t a = tile::smem_address(s_.weights[side]);
    const uint32_t b = tile::smem_address(s_.keys[side]) + side_ * (kTiles / 2) * kTileBytes;
    tile::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        tile::wgmma_bf16_n128_columns(
            values[i], SwizzledTile::major_k(a, step),
            SwizzledTile::major_columns(b + i * (kTiles / 4) * kTileBytes, step, kTileBytes),
            !first || step > 0 ? 1 : 0);
      }
    }
    tile::wgmma_commit();
    tile::wgmma_wait<0>();
    phases_ ^= 1u << side;
    s_.empty[side][side_].arrive();
  }

  __device__ __forceinline__ void finish(int item, const RunningHead (&running)[2],
                                         const Values& values) {
    const int group = item % num_groups();
    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      inverse[i] = running[i].finish(__ldg(p_.sink + group * kHeads + head_ + 8 * i));
    }
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
  Smem& s_;
  int side_;
  int head_;
  uint32_t phases_ = 0;  // of the two places
  int next_total_ = 0;
};

template <bool kBf16>
__global__ void __launch_bounds__(kThreads, 1)
    whole_kernel(const __grid_constant__ SparseDecodeParams p, int num_items) {
  extern __shared__ __align__(1024) uint8_t bytes[];
  Smem& s = *reinterpret_cast<Smem*>(bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) %
                                                 kAlignment);
  if (threadIdx.x == 0) {
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
    Consumer<kBf16> consumer(p, s);
    consumer.start(first, num_items);
    for (int item = first; item < num_items; item += stride)
      consumer.attend(item, item + stride, num_items);
  }
}

}  // namespace

void prepare_whole() {
  cuda::allow_smem(whole_kernel<false>, sizeof(Smem) + kAlignment);
  cuda::allow_smem(whole_kernel<true>, sizeof(Smem) + kAlignment);
}

void launch_whole(const cuda::Stream& stream, const SparseDecodeParams& p, int num_sms) {
  const auto items = static_cast<int>(p.rows * (p.heads / kHeads));
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(items, num_sms)));
  shape.block = kThreads;
  shape.smem_bytes = sizeof(Smem) + kAlignment;
  cuda::launch(stream, shape, p.q_bf16 != nullptr ? whole_kernel<true> : whole_kernel<false>, p,
               items);
}

}  // namespace cachalot::ops::sparse
