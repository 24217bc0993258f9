// Sparse decode attention, a group of a row's heads by one block. One of its warpgroups expands keys,
// chunk after chunk into two places. Two weigh every other chunk each and sum up half of the values
// of all: the first weighs a chunk while it sums with the second's weights and the second the other
// way round.
#include <algorithm>

#include "device/cuda/launch.cuh"
#include "ops/attention/sparse_chunk.cuh"
#include "ops/attention/sparse_forms.h"

namespace cachalot::ops::sparse {
namespace {

namespace cuda = device::cuda;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kProducers = kGroupThreads;
constexpr int kThreads = kConsumers + kProducers;
constexpr int kConsumerRegisters = 208;
constexpr int kProducerRegisters = 88;
constexpr int kHalf = kDim / 2;

struct Smem {
  uint8_t q[kOperandBytes];
  uint8_t keys[2][kOperandBytes];
  uint8_t weights[2][kTileBytes];
  tile::Vector16 staged[kCodePieces][kProducers];  // on their way to being expanded
  int exponent[2][kHeads];
  float sum[2][kHeads];
  tile::Mbarrier full[2];     // keys are there
  tile::Mbarrier empty[2];    // nobody reads them any more
  tile::Mbarrier weighed[2];  // weights, exponents and sums are there
};
constexpr int kAlignment = SwizzledTile::kGroupBytes;

__device__ __forceinline__ void arrive_warp(tile::Mbarrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier.arrive();
}

// --- The producers. Each warp has 16 keys of a chunk, eight at a time; the bytes of eight are under
// way while those before are expanded, and their places are looked up a chunk earlier.
class Producer {
 public:
  __device__ Producer(const SparseDecodeParams& p, Smem& s)
      : p_(p),
        s_(s),
        staged_(&s.staged[0][threadIdx.x % kProducers]),
        own_(static_cast<int>(threadIdx.x) % kProducers / 32 * 16 + threadIdx.x % 32 / 4) {}

  __device__ __forceinline__ void expand(int row) {
    const RowKeys keys(p_, row);
    const int chunks = num_chunks(keys.total);
    if (chunks == 0) return;
    tile::wait_copies();  // those of no key that the last row ended with
    int picked[2];
    RowKeys::Place place[2];
    RowKeys::Source source[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) source[i] = keys.source(p_, locate(keys, 0, i));
    start(source[0]);
#pragma unroll
    for (int i = 0; i < 2; ++i) place[i] = locate(keys, 1, i);
#pragma unroll
    for (int i = 0; i < 2; ++i) picked[i] = keys.pick(key(2, i));

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int buffer = chunk % 2;
      s_.empty[buffer].wait(~phases_ >> buffer & 1);
      phases_ ^= 1u << buffer;
      uint8_t* const to = s_.keys[buffer];
      expand_eight(to, own_, source[1]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        source[i] = keys.source(p_, place[i]);
        place[i] = keys.place(p_, key(chunk + 2, i), picked[i]);
        picked[i] = keys.pick(key(chunk + 3, i));
      }
      expand_eight(to, own_ + 8, source[0]);
      tile::publish_to_async();
      arrive_warp(s_.full[buffer]);
    }
  }

 private:
  __device__ __forceinline__ int key(int chunk, int half) const {
    return chunk * kChunk + own_ + 8 * half;
  }
  __device__ __forceinline__ RowKeys::Place locate(const RowKeys& keys, int chunk, int half) const {
    return keys.place(p_, key(chunk, half), keys.pick(key(chunk, half)));
  }
  __device__ __forceinline__ void start(const RowKeys::Source& from) {
#pragma unroll
    for (int i = 0; i < kCodePieces; ++i) {
      tile::start_copy_or_zero(staged_ + i * kProducers, piece_of(from, i), from.data != nullptr);
    }
    scales_ = load_scales(from);
#pragma unroll
    for (int i = kCodePieces; i < kPieces; ++i) rest_[i - kCodePieces] = load_piece(from, i);
  }
  // Expands the eight that are under way; starts the next.
  __device__ __forceinline__ void expand_eight(uint8_t* to, int row, const RowKeys::Source& next) {
    tile::Vector16 pieces[kPieces];
    tile::wait_copies();
#pragma unroll
    for (int i = 0; i < kCodePieces; ++i) pieces[i] = staged_[i * kProducers];
#pragma unroll
    for (int i = kCodePieces; i < kPieces; ++i) {
      store_piece(to, row, i, rest_[i - kCodePieces], scales_);
    }
    const tile::Vector8 scales = scales_;
    start(next);
#pragma unroll
    for (int i = 0; i < kCodePieces; ++i) store_piece(to, row, i, pieces[i], scales);
  }

  const SparseDecodeParams& p_;
  Smem& s_;
  tile::Vector16* staged_;
  int own_;
  uint32_t phases_ = 0;  // of the two places
  tile::Vector8 scales_;
  tile::Vector16 rest_[kPieces - kCodePieces];
};

// --- The consumers.
class Consumer {
 public:
  __device__ Consumer(const SparseDecodeParams& p, Smem& s)
      : p_(p),
        s_(s),
        side_(tile::uniform(static_cast<int>(threadIdx.x) / kGroupThreads)),
        head_(own_head()) {}

  // What an item (a row and a group of heads) starts with.
  __device__ __forceinline__ void start(int item, int num_items) {
    if (item >= num_items) return;
    start_queries(p_.q + static_cast<int64_t>(item) * kHeads * kDim, s_.q,
                  static_cast<int>(threadIdx.x), kConsumers);
    next_total_ = RowKeys::count(p_, item / num_groups());
  }

  // An item that was started; starts the next.
  __device__ __forceinline__ void attend(int item, int next, int num_items) {
    const int total = next_total_;
    const int chunks = num_chunks(total);
    tile::wait_copies();
    tile::publish_to_async();
    tile::sync_threads<1, kConsumers>();
    RunningHead running[2];
    float values[kHalf / 2];
    if (side_ == 0) {
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk += 2) {
        float d[32];
        score(0, d);
        if (chunk > 0) sum_values(1, false, running, values);
        publish(0, running, weigh(d, total - chunk * kChunk, p_.scale * kLog2E));
        sum_values(0, chunk == 0, running, values);
      }
      if (chunks > 0 && chunks % 2 == 0) sum_values(1, false, running, values);
    } else {
#pragma unroll 1
      for (int chunk = 1; chunk <= chunks; chunk += 2) {
        sum_values(0, chunk == 1, running, values);
        if (chunk == chunks) break;
        float d[32];
        score(1, d);
        publish(1, running, weigh(d, total - chunk * kChunk, p_.scale * kLog2E));
        sum_values(1, false, running, values);
      }
    }
    // All scores of this item are there, so that its queries may go.
    if (chunks == 0) tile::sync_threads<1, kConsumers>();
    start(next, num_items);
    finish(item, chunks, running, values);
  }

 private:
  __device__ __forceinline__ int num_groups() const { return static_cast<int>(p_.heads) / kHeads; }
  __device__ __forceinline__ uint32_t parity(int side) const { return phases_ >> side & 1; }

  __device__ __forceinline__ void score(int side, float (&d)[32]) {
    s_.full[side].wait(parity(side));
    scores(s_.q, s_.keys[side], d);
  }

  // A chunk's weights, scaled as the chunks before it demand.
  __device__ __forceinline__ void publish(int side, const RunningHead (&running)[2],
                                          ChunkWeights w) {
    const int head = tile::forget(head_);
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        s_.exponent[side][head + 8 * i] = w.exponent[i];
        s_.sum[side][head + 8 * i] = w.sum[i];
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
          s_.weights[side] + SwizzledTile::offset(head + i % 2 * 8, piece) + t * 4) = w.pair[i];
    }
    tile::publish_to_async();
    arrive_warp(s_.weighed[side]);
  }

  // Adds a chunk to the values.
  __device__ __forceinline__ void sum_values(int side, bool first, RunningHead (&running)[2],
                                             float (&values)[kHalf / 2]) {
    s_.full[side].wait(parity(side));
    s_.weighed[side].wait(parity(side));
    const int head = tile::forget(head_);
    RunningHead::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factors[i] = running[i].add(s_.exponent[side][head + 8 * i], s_.sum[side][head + 8 * i]);
    }
    if (!first) scale_values(values, factors);
    const uint32_t a = tile::smem_address(s_.weights[side]);
    const uint32_t b = tile::smem_address(s_.keys[side]) + side_ * (kTiles / 2) * kTileBytes;
    tile::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      tile::wgmma_bf16_n256_columns(values, SwizzledTile::major_k(a, step),
                                    SwizzledTile::major_columns(b, step, kTileBytes),
                                    !first || step > 0 ? 1 : 0);
    }
    tile::wgmma_commit();
    tile::wgmma_wait<0>();
    phases_ ^= 1u << side;
    arrive_warp(s_.empty[side]);
  }

  __device__ __forceinline__ void finish(int item, int chunks, const RunningHead (&running)[2],
                                         const float (&values)[kHalf / 2]) {
    uint16_t* const out = p_.out + (static_cast<int64_t>(item) * kHeads + head_) * kDim;
    if (chunks == 0) {
      for (int head = 0; head < 2; ++head) {
        for (int piece = threadIdx.x % 4; piece < kHalf / 8; piece += 4) {
          *reinterpret_cast<tile::Vector16*>(out + head * 8 * kDim + side_ * kHalf + piece * 8) =
              tile::Vector16{};
        }
      }
      return;
    }
    const int row = item / num_groups(), group = item % num_groups();
    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      inverse[i] = running[i].finish(__ldg(p_.sink + group * kHeads + head_ + 8 * i));
    }
#pragma unroll
    for (int i = 0; i < kTiles / 2; ++i) {
      finish_tile(p_, row, side_ * (kTiles / 2) + i, values + 32 * i, inverse, out);
    }
  }

  const SparseDecodeParams& p_;
  Smem& s_;
  int side_;
  int head_;
  uint32_t phases_ = 0;  // of the two places
  int next_total_ = 0;
};

__global__ void __launch_bounds__(kThreads, 1)
    whole_kernel(const __grid_constant__ SparseDecodeParams p, int num_items) {
  extern __shared__ __align__(1024) uint8_t bytes[];
  Smem& s = *reinterpret_cast<Smem*>(bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) %
                                                 kAlignment);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      s.full[i].init(kProducers / 32);
      s.empty[i].init(kConsumers / 32);
      s.weighed[i].init(kGroupThreads / 32);
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
    Consumer consumer(p, s);
    consumer.start(first, num_items);
    for (int item = first; item < num_items; item += stride)
      consumer.attend(item, item + stride, num_items);
  }
}

}  // namespace

void prepare_whole() { cuda::allow_smem(whole_kernel, sizeof(Smem) + kAlignment); }

void launch_whole(const cuda::Stream& stream, const SparseDecodeParams& p, int num_sms) {
  const auto items = static_cast<int>(p.rows * (p.heads / kHeads));
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(items, num_sms)));
  shape.block = kThreads;
  shape.smem_bytes = sizeof(Smem) + kAlignment;
  cuda::launch(stream, shape, whole_kernel, p, items);
}

}  // namespace cachalot::ops::sparse
