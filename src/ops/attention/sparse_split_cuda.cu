// Sparse decode attention of few rows, spread over the chip: a block for the weights of each chunk;
// then a block for every 64 dimensions of the values, which walks the chunks in order.
#include "device/cuda/launch.cuh"
#include "ops/attention/sparse_chunk.cuh"
#include "ops/attention/sparse_forms.h"
#include "tile/first_turn.cuh"

namespace cachalot::ops::sparse {
namespace {

namespace cuda = device::cuda;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kAlignment = SwizzledTile::kGroupBytes;

// What a block of the first kernel hands over.
struct alignas(16) Weighed {
  tile::Vector16 pairs[4][kGroupThreads];
  int exponent[kHeads];
  float sum[kHeads];
};

__device__ __forceinline__ uint8_t* aligned(uint8_t* bytes) {
  return bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) % kAlignment;
}

__device__ __forceinline__ Weighed* handed_over(const SparseDecodeParams& p, int row, int group,
                                                int max_chunks) {
  return reinterpret_cast<Weighed*>(p.scratch) +
         (static_cast<int64_t>(row) * (p.heads / kHeads) + group) * max_chunks;
}

// --- Grid: chunks, groups, rows.

constexpr int kWeighThreads = 256;  // a warp for every eight keys; the first four weigh
static_assert(kWeighThreads / 4 == kChunk);
struct WeighSmem {
  uint8_t q[kOperandBytes];
  uint8_t keys[kOperandBytes];
};

__global__ void __launch_bounds__(kWeighThreads, 1)
    weigh_kernel(const __grid_constant__ SparseDecodeParams p) {
  extern __shared__ uint8_t bytes[];
  WeighSmem& s = *reinterpret_cast<WeighSmem*>(aligned(bytes));
  const int chunk = blockIdx.x, group = blockIdx.y, row = blockIdx.z;
  RowKeys keys = RowKeys::before_total(p, row);
  const int own = static_cast<int>(threadIdx.x) / 4;
  const int key = chunk * kChunk + own;
  const float* const q = p.q + (static_cast<int64_t>(row) * p.heads + group * kHeads) * kDim;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int turn = tile::first_turn(p.rows); turn < 2; ++turn) {
    const bool is_real = turn == 1;
    int count = kChunk;
    keys.total = 0;
    if (is_real) {
      __syncthreads();  // what the first turn left is read
      tile::wait_for_producers();
      tile::launch_dependents();  // the next kernel may read what this one may
      keys.find_total(p, row);
      count = keys.total - chunk * kChunk;
      if (count <= 0) return;
    }
    // The key's bytes are found while the first queries are under way, and are under way while the
    // others are stored.
    constexpr int kAtOnce = 16;
    using OwnQueries = Queries<kWeighThreads, kAtOnce>;
    const int picked = keys.pick(p, key);
    OwnQueries queries;
    queries.load(q, 0, thread);
    const RowKeys::Source source = RowKeys::source(keys.place(p, key, picked));
    const tile::Vector8 scales = load_scales(source);
    tile::Vector16 pieces[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) pieces[i] = load_piece(source, i);
#pragma unroll
    for (int first = 0; first < OwnQueries::kPieces; first += kAtOnce) {
      queries.store(s.q, first, thread);
      if (first + kAtOnce < OwnQueries::kPieces) queries.load(q, first + kAtOnce, thread);
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) store_piece(s.keys, own, i, pieces[i], scales);
    tile::publish_to_async();
    __syncthreads();
    if (threadIdx.x >= kGroupThreads) continue;
    float d[32];
    start_scores<0>(s.q, s.keys, d);
    start_scores<1>(s.q, s.keys, d);
    tile::wgmma_wait<0>();
    const ChunkWeights w = weigh(d, count, p.scale * kLog2E);
    if (!is_real) continue;
    Weighed& to = handed_over(p, row, group, static_cast<int>(gridDim.x))[chunk];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to.pairs[i][threadIdx.x] =
          tile::Vector16{{w.pair[4 * i], w.pair[4 * i + 1], w.pair[4 * i + 2], w.pair[4 * i + 3]}};
    }
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to.exponent[own_head() + 8 * i] = w.exponent[i];
        to.sum[own_head() + 8 * i] = w.sum[i];
      }
    }
  }
}

// --- Grid: tiles of dimensions, groups, rows.

constexpr int kSumThreads = 256;  // all load what comes first; the first four warps sum
constexpr int kBatch = 5;         // chunks: two batches in shared memory, one summed, one loaded
// So little that a block of the next kernel finds room beside it.
struct SumSmem {
  uint8_t keys[2 * kBatch][kTileBytes];
  RowKeys::Source source[2 * kBatch * kChunk];
  uint8_t scale[2 * kBatch * kChunk];
};
// Barriers: of those who load, and of all.
constexpr int kSourcesFound = 1, kBatchSummed = 2;

// What a thread of a warpgroup needs of a chunk's weights.
struct OwnWeights {
  tile::Vector16 pairs[4];
  int exponent[2];
  float sum[2];

  __device__ __forceinline__ void load(const Weighed& from, int head) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = tile::load_shared_state(&from.pairs[i][threadIdx.x]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      exponent[i] = tile::load_shared_state(&from.exponent[head + 8 * i]);
      sum[i] = tile::load_shared_state(&from.sum[head + 8 * i]);
    }
  }
};

// Keys of chunks whose tile is loaded at once, and where they lie in shared memory: by the last
// kThreads threads of the block.
template <int kThreads>
struct Loaders {
  static constexpr int kKeys = kThreads / kGroupThreads * kBatch * kChunk;  // at most
  static constexpr int kOwnKeys = (kKeys + kThreads - 1) / kThreads;        // of a thread
  int thread;
  int begin, end;  // places of keys
  int first_key;

  __device__ __forceinline__ Loaders(int first_chunk, int last_chunk)
      : thread(static_cast<int>(threadIdx.x) - (kSumThreads - kThreads)),
        begin(first_chunk % (2 * kBatch) * kChunk),
        end(begin + (last_chunk - first_chunk) * kChunk),
        first_key(first_chunk * kChunk) {}
  __device__ __forceinline__ int key(int place) const { return first_key + place - begin; }
};

// Little code, for few blocks: those wait longer for code that they run once than for what the code
// does.
template <int kThreads, typename MayStore>
__device__ __forceinline__ void load_with_little_code(const SparseDecodeParams& p,
                                                      const RowKeys& keys, SumSmem& s, int index,
                                                      const Loaders<kThreads>& own,
                                                      const MayStore& may_store) {
#pragma unroll 1
  for (int i = own.begin + own.thread; i < own.end; i += kThreads)
    s.source[i] = RowKeys::source(keys.place(p, own.key(i), keys.pick(p, own.key(i))));
  tile::sync_threads<kSourcesFound, kThreads>();
  const bool is_codes = index < kTiles - 1;
  uint32_t scale[Loaders<kThreads>::kOwnKeys];
#pragma unroll
  for (int i = 0; i < Loaders<kThreads>::kOwnKeys; ++i) {
    const int at = own.begin + own.thread + i * kThreads;
    if (at >= own.end) break;
    const RowKeys::Source from = s.source[at];
    scale[i] = 0;
    if (from.data == nullptr) continue;
    tile::prefetch_line(from.data + index * 64);
    if (is_codes) scale[i] = tile::load_shared_state(from.data + from.scales + index);
  }
  may_store();
  // Pieces of 16 bytes: four of codes a key, whose values take the places of two, or eight.
  const int shift = is_codes ? 2 : 3;
  const auto row_of = [&](int item) { return item >> shift; };
  const auto piece_of = [&](int item) { return item & ((1 << shift) - 1); };
#pragma unroll 1
  for (int item = (own.begin << shift) + own.thread; item < own.end << shift; item += kThreads) {
    const RowKeys::Source from = s.source[row_of(item)];
    uint8_t* const to =
        s.keys[row_of(item) / kChunk] +
        SwizzledTile::offset(row_of(item) % kChunk, is_codes ? 2 * piece_of(item) : piece_of(item));
    tile::start_copy_or_zero(
        to, reinterpret_cast<const tile::Vector16*>(from.data + index * 64) + piece_of(item),
        from.data != nullptr);
  }
#pragma unroll
  for (int i = 0; i < Loaders<kThreads>::kOwnKeys; ++i) {
    const int at = own.begin + own.thread + i * kThreads;
    if (at < own.end) s.scale[at] = static_cast<uint8_t>(scale[i]);
  }
  tile::wait_copies();
  tile::sync_threads<kSourcesFound, kThreads>();
  if (is_codes) {
#pragma unroll 1
    for (int item = (own.begin << 2) + own.thread; item < own.end << 2; item += kThreads) {
      const int key = item >> 2, row = key % kChunk, piece = item & 3;
      uint8_t* const to = s.keys[key / kChunk];
      const tile::Vector16 codes =
          *reinterpret_cast<const tile::Vector16*>(to + SwizzledTile::offset(row, 2 * piece));
      store_codes(to, row, piece, codes, s.scale[key]);
    }
  }
}

// A thread's pieces of 16 bytes, whose code lies in a row: it passes through each once or twice.
// The places of keys, then their bytes, are under way together; the bytes come to registers.
template <bool kIsCodes, int kThreads, typename MayStore>
__device__ __forceinline__ void load_pieces(const SparseDecodeParams& p, SumSmem& s, int index,
                                            const Loaders<kThreads>& own,
                                            const MayStore& may_store) {
  constexpr int kAtOnce = 10;
  constexpr int kKeyPieces = kIsCodes ? 4 : 8;
  constexpr int kStep = kThreads / kKeyPieces;  // keys
  // Tiles follow each other, so that a key's row is that of one long tile, and the keys of a thread
  // all have their pieces in the same places of it.
  static_assert(kTileBytes == kChunk * SwizzledTile::kRowBytes && kStep % 8 == 0);
  static_assert(kChunk % kStep == 0);  // all threads have as many
  const int piece = own.thread % kKeyPieces;
#pragma unroll 1
  for (int begin = own.begin; begin < own.end; begin += kAtOnce * kStep) {
    const int key = begin + own.thread / kKeyPieces;
    const auto is_past = [&](int i) { return begin + i * kStep >= own.end; };
    RowKeys::Source from[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) from[i] = s.source[key + i * kStep];
    tile::Vector16 v[kAtOnce];
    uint32_t scale[kAtOnce];
    uint32_t are_keys = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (is_past(i)) break;
      // Of no key other bytes, in whose place come zeros: a choice would wait for what is loaded.
      const bool is_key = from[i].data != nullptr;
      const uint8_t* const data =
          is_key ? from[i].data : reinterpret_cast<const uint8_t*>(p.step_rows);
      are_keys |= is_key ? 1u << i : 0;
      v[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(data + index * 64) +
                                     piece);
      if constexpr (kIsCodes) scale[i] = tile::load_shared_state(data + from[i].scales + index);
    }
    if (begin == own.begin) may_store();
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (is_past(i)) break;
      if ((are_keys >> i & 1) == 0) v[i] = tile::Vector16{};
      uint8_t* const to = s.keys[0] + i * kStep * SwizzledTile::kRowBytes;
      if constexpr (kIsCodes) {
        store_codes(to, key, piece, v[i], scale[i]);
      } else {
        *reinterpret_cast<tile::Vector16*>(to + SwizzledTile::offset(key, piece)) = v[i];
      }
    }
  }
}
template <int kThreads, typename MayStore>
__device__ __forceinline__ void load_with_few_waits(const SparseDecodeParams& p,
                                                    const RowKeys& keys, SumSmem& s, int index,
                                                    const Loaders<kThreads>& own,
                                                    const MayStore& may_store) {
  constexpr int kOwnKeys = Loaders<kThreads>::kOwnKeys;
  const auto at = [&](int i) { return own.begin + own.thread + i * kThreads; };
  int picked[kOwnKeys];
#pragma unroll
  for (int i = 0; i < kOwnKeys; ++i) picked[i] = keys.pick(p, own.key(at(i)));
  RowKeys::Place place[kOwnKeys];
#pragma unroll
  for (int i = 0; i < kOwnKeys; ++i) place[i] = keys.place(p, own.key(at(i)), picked[i]);
#pragma unroll
  for (int i = 0; i < kOwnKeys; ++i) {
    if (at(i) < own.end) s.source[at(i)] = RowKeys::source(place[i]);
  }
  tile::sync_threads<kSourcesFound, kThreads>();
  if (index < kTiles - 1) {
    load_pieces<true>(p, s, index, own, may_store);
  } else {
    load_pieces<false>(p, s, index, own, may_store);
  }
}

// The tile of chunks [first, last) to their places, by the last kThreads threads of the block; to
// be seen after the block's barrier. may_store: before what lies there is overwritten. kFew: of few
// rows, whose blocks are few.
template <int kThreads, bool kFew, typename MayStore>
__device__ __forceinline__ void load_chunks(const SparseDecodeParams& p, const RowKeys& keys,
                                            SumSmem& s, int index, int first, int last,
                                            const MayStore& may_store) {
  const Loaders<kThreads> own(first, last);
  if constexpr (kFew) {
    load_with_little_code(p, keys, s, index, own, may_store);
  } else {
    load_with_few_waits(p, keys, s, index, own, may_store);
  }
  tile::publish_to_async();
}

// Two blocks fit an SM, so that all find one while the first kernel runs. kFew: load_chunks.
template <bool kFew>
__global__ void __launch_bounds__(kSumThreads, 2)
    sum_kernel(const __grid_constant__ SparseDecodeParams p, int max_chunks) {
  extern __shared__ uint8_t bytes[];
  SumSmem& s = *reinterpret_cast<SumSmem*>(aligned(bytes));
  const int index = blockIdx.x, group = blockIdx.y, row = blockIdx.z;
  tile::launch_dependents();
  const RowKeys keys(p, row);
  const int chunks = num_chunks(keys.total);
  const Weighed* weighed = handed_over(p, row, group, max_chunks);
  const int head = own_head();
  load_chunks<kSumThreads, kFew>(p, keys, s, index, 0, min(2 * kBatch, chunks), [] {});
  __syncthreads();
  const bool all_there = chunks <= 2 * kBatch;
  if (threadIdx.x >= kGroupThreads) {
    if (all_there) return;
    // A batch is under way while the one is summed in whose place it comes.
    const auto wait = [] { tile::sync_threads<kBatchSummed, kSumThreads>(); };
    for (int next = 2 * kBatch; next < chunks; next += kBatch) {
      load_chunks<kSumThreads - kGroupThreads, kFew>(p, keys, s, index, next,
                                                     min(next + kBatch, chunks), wait);
    }
    wait();
    return;
  }
  RunningHead running[2];
  float values[32];
  constexpr int kAhead = 2;  // chunks whose weights are under way
#pragma unroll 1
  for (int turn = tile::first_turn(p.rows); turn < 2; ++turn) {
    if (turn == 1) tile::wait_for_producers();
    const int end = turn == 1 ? chunks : min(chunks, kAhead);
    running[0] = running[1] = RunningHead();
    OwnWeights next[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < end) next[i].load(weighed[i], head);
    }
#pragma unroll 1
    for (int begin = 0; begin < end; begin += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = begin + j;
        if (i >= end) break;
        if (!all_there && i > 0 && i % kBatch == 0) tile::sync_threads<kBatchSummed, kSumThreads>();
        const OwnWeights own = next[j];
        if (i + kAhead < end) next[j].load(weighed[i + kAhead], head);
        RunningHead::Factors factors[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) factors[h] = running[h].add(own.exponent[h], own.sum[h]);
        uint32_t pair[16];
#pragma unroll
        for (int h = 0; h < 4; ++h) {
#pragma unroll
          for (int word = 0; word < 4; ++word) pair[4 * h + word] = own.pairs[h].word[word];
        }
        scale_weights(pair, factors);
        if (i > 0) scale_values(values, factors);
        const uint32_t b = tile::smem_address(s.keys[i % (2 * kBatch)]);
        tile::wgmma_fence();
#pragma unroll
        for (int step = 0; step < kChunk / 16; ++step) {
          const uint32_t a[4] = {pair[4 * step], pair[4 * step + 1], pair[4 * step + 2],
                                 pair[4 * step + 3]};
          tile::wgmma_bf16_n64_columns(values, a, SwizzledTile::major_columns(b, step, kTileBytes),
                                       i + step > 0 ? 1 : 0);
        }
        tile::wgmma_commit();
        tile::wgmma_wait<0>();
        tile::wgmma_arrived(values);
        tile::wgmma_read(pair);
      }
    }
  }
  const float* sink = p.sink + group * kHeads + head;
  const float inverse[2] = {running[0].finish(__ldg(sink)), running[1].finish(__ldg(sink + 8))};
  float* const out = p.out + (static_cast<int64_t>(row) * p.heads + group * kHeads + head) * kDim;
  finish_tile(values, inverse, index + 1 == kTiles, BackRotation(p.rotate_back, row),
              out + index * kTileDims);
}

}  // namespace

void prepare_split() {
  cuda::allow_smem(weigh_kernel, sizeof(WeighSmem) + kAlignment);
  for (auto* kernel : {sum_kernel<true>, sum_kernel<false>})
    cuda::allow_smem(kernel, sizeof(SumSmem) + kAlignment);
}

int64_t split_scratch_bytes(const SparseDecodeParams& p) {
  return p.rows * (p.heads / kHeads) * sparse_decode_chunks(p) *
         static_cast<int64_t>(sizeof(Weighed));
}

void launch_split(const cuda::Stream& stream, const SparseDecodeParams& p) {
  const auto chunks = static_cast<unsigned>(sparse_decode_chunks(p));
  const auto groups = static_cast<unsigned>(p.heads / kHeads);
  const auto rows = static_cast<unsigned>(p.rows);
  cuda::LaunchShape weigh;
  weigh.grid = dim3(chunks, groups, rows);
  weigh.block = kWeighThreads;
  weigh.smem_bytes = sizeof(WeighSmem) + kAlignment;
  cuda::launch(stream, weigh, weigh_kernel, p);
  cuda::LaunchShape sum;
  sum.grid = dim3(kTiles, groups, rows);
  sum.block = kSumThreads;
  sum.smem_bytes = sizeof(SumSmem) + kAlignment;
  cuda::launch(stream, sum, p.rows <= tile::kFewRows ? sum_kernel<true> : sum_kernel<false>, p,
               static_cast<int>(chunks));
}

}  // namespace cachalot::ops::sparse
