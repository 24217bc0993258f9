// A row of a step into its sequence's ring (store_recent_rows of ops/compressor/compressor.h) on
// the GPU.
#pragma once

#include "ops/compressor/compressor.h"
#include "ops/rows/thread_group.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {

// Units from one place to another by kOf of the block's threads, eight of a thread under way at
// once.
template <int kOf, typename T>
__device__ __forceinline__ void copy_units(T* to, const T* from, int64_t count, int thread) {
  constexpr int kBatch = 8;
  for (int64_t first = thread; first < count; first += kBatch * kOf) {
    T v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kOf < count) v[i] = from[first + i * kOf];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kOf < count) to[first + i * kOf] = v[i];
  }
}
template <int kOf>
__device__ __forceinline__ void copy_bytes(std::byte* to, const std::byte* from, int64_t n,
                                           int thread) {
  const uintptr_t places = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) |
                           static_cast<uintptr_t>(n);
  if (places % 16 == 0) {
    copy_units<kOf>(reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), n / 16,
                    thread);
  } else if (places % 4 == 0) {
    copy_units<kOf>(reinterpret_cast<uint32_t*>(to), reinterpret_cast<const uint32_t*>(from), n / 4,
                    thread);
  } else {
    copy_units<kOf>(to, from, n, thread);
  }
}

// Where a row of the step goes; null where no later step needs it. Of the host's tables alone, so
// that it may be asked before the kernels before have ended.
struct RecentPlace {
  tensor::RowRef to;
  tensor::RowLayout layout;
  int64_t position;

  __device__ __forceinline__ RecentPlace(const tensor::Sequences& sequences,
                                         const tensor::LayerRows* layer_rows, tensor::Recent kind,
                                         int64_t row) {
    const int64_t s = sequences.sequence_of(row);
    const tensor::RowRing ring = tensor::ring_of(layer_rows[s], kind);
    layout = ring.layout;
    position = sequences.position(s, row);
    const bool keeps = ring.base != nullptr && row >= sequences.first_row[s + 1] - ring.capacity;
    to = keeps ? ring.row(position) : tensor::RowRef{nullptr, nullptr};
  }
};

// By a group; waits for the kernels before, unless they have ended.
template <typename Group>
__device__ __forceinline__ void store_recent_row(const StoreRecentParams& p, int64_t row,
                                                 bool have_ended = false) {
  const RecentPlace place(p.sequences, p.layer_rows, p.kind, row);
  const tensor::RowRef from = p.step_rows.row(row);
  if (!have_ended) tile::wait_for_producers();
  if (place.to.data == nullptr) return;
  constexpr int kOfScales = 32;  // threads
  constexpr int kOfData = Group::kCount > kOfScales ? Group::kCount - kOfScales : kOfScales;
  const int thread = Group::thread() - (Group::kCount - kOfData);
  if (thread >= 0) copy_bytes<kOfData>(place.to.data, from.data, place.layout.data_bytes, thread);
  if (Group::thread() < kOfScales) {
    copy_bytes<kOfScales>(place.to.scale, from.scale, place.layout.scale_bytes, Group::thread());
  }
}

}  // namespace cachalot::ops
