#include <string>

#include "device/cuda/launch.cuh"
#include "ops/attention/sparse_decode_cuda.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kDim = 512;
constexpr int kCodes = 448;
constexpr int kDataBytes = kCodes + (kDim - kCodes) * 2;
constexpr int kPieces = kDataBytes / 16;
constexpr int kScaleBytes = 8;
constexpr int kChunk = static_cast<int>(kDecodeChunk);
constexpr int kHeads = 64;  // of a block
constexpr int kThreads = 256;
constexpr float kLog2E = 0x1.715476p+0f;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// Rows of bf16 in shared memory, 16 bytes over, so that eight rows' 16 bytes lie in all banks.
constexpr int kRowBytes = kDim * 2 + 16;
constexpr int kWeightRowBytes = kChunk * 2 + 16;
struct Smem {
  uint8_t q[kHeads * kRowBytes];
  uint8_t keys[kChunk * kRowBytes];
  uint8_t weights[kHeads * kWeightRowBytes];
  const uint8_t* data[kChunk];
  const uint8_t* scales[kChunk];
  float max[2][kHeads];
  float sum[2][kHeads];
};

// How many keys a row has: window, entries.
struct KeyCounts {
  int window;
  int entries;
  __device__ KeyCounts(const SparseDecodeParams& p, int row)
      : window(min(static_cast<int>(p.window), tile::load_shared_state(p.position + row) + 1)),
        entries(p.num_selected == nullptr ? 0 : tile::load_shared_state(p.num_selected + row)) {}
  __device__ int total() const { return window + entries; }
};

__device__ __forceinline__ void find_key(const SparseDecodeParams& p, int row, int key,
                                         const KeyCounts& counts, const uint8_t*& data,
                                         const uint8_t*& scales) {
  const uint8_t* block;
  int slot, rows;
  if (key < counts.window) {
    rows = static_cast<int>(p.window_capacity);
    const int position = tile::load_shared_state(p.position + row) - (counts.window - 1) + key;
    slot = position % rows;
    block = reinterpret_cast<const uint8_t*>(p.window_base) +
            tile::load_shared_state(p.ring + row) * p.ring_bytes;
  } else {
    rows = static_cast<int>(p.rows_per_block);
    int entry = key - counts.window;
    if (p.selected != nullptr) entry = tile::load_shared_state(p.selected + row * p.topk + entry);
    slot = entry % rows;
    block =
        reinterpret_cast<const uint8_t*>(p.entries) +
        tile::load_shared_state(p.blocks + row * p.table_stride + entry / rows) * p.block_bytes +
        p.offset;
  }
  data = block + static_cast<int64_t>(slot) * kDataBytes;
  scales = block + static_cast<int64_t>(rows) * kDataBytes + slot * kScaleBytes;
}

// The chunk's keys to bf16 in shared memory; zeros past the last.
__device__ __forceinline__ void load_keys(Smem& s, int count) {
  constexpr int kItems = kChunk * kPieces / kThreads;
  static_assert(kChunk * kPieces % kThreads == 0);
  tile::Vector16 v[kItems];
  uint32_t factor[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int item = i * kThreads + static_cast<int>(threadIdx.x);
    const int key = item / kPieces;
    const int piece = item % kPieces;
    v[i] = tile::Vector16{};
    factor[i] = tile::kTwoTo112;
    if (key < count) {
      v[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(s.data[key]) + piece);
      if (piece < kCodes / 16)
        factor[i] = tile::e8m0_factor(tile::load_shared_state(s.scales[key] + piece / 4));
    }
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int item = i * kThreads + static_cast<int>(threadIdx.x);
    const int key = item / kPieces;
    const int piece = item % kPieces;
    uint8_t* const row = s.keys + key * kRowBytes;
    if (piece >= kCodes / 16) {
      *reinterpret_cast<tile::Vector16*>(row + kCodes * 2 + (piece - kCodes / 16) * 16) = v[i];
      continue;
    }
    tile::Vector16 values[2];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      uint32_t pairs[2];
      tile::e4m3_to_f16(v[i].word[word], pairs[0], pairs[1]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        values[word / 2].word[word % 2 * 2 + j] = tile::f16_of_e4m3_to_bf16(pairs[j], factor[i]);
      }
    }
    auto* const to = reinterpret_cast<tile::Vector16*>(row + piece * 32);
    to[0] = values[0];
    to[1] = values[1];
  }
}

// The address that a lane gives to load_matrices for the 16 x 16 values at (row, column).
__device__ __forceinline__ uint32_t matrix_address(const uint8_t* base, int row_bytes, int row,
                                                   int column) {
  const int lane = threadIdx.x % 32;
  return tile::smem_address(base + (row + lane % 16) * row_bytes + (column + lane / 16 * 8) * 2);
}

// Weights of 16 heads for 32 keys: products, maximum, exponentials, sum. Warp w has heads 16 (w %
// 4)
// and keys 32 (w / 4).
__device__ __forceinline__ void weigh(Smem& s, int count, float scale) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4, t = lane % 4;
  const int head = warp % 4 * 16;
  const int half = warp / 4;
  float d[4][4] = {};
#pragma unroll 4
  for (int k = 0; k < kDim; k += 16) {
    uint32_t a[4];
    tile::load_matrices(a, matrix_address(s.q, kRowBytes, head, k));
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t b[4];  // keys 0-7 and 8-15 of k 0-7, then of k 8-15
      tile::load_matrices(b, matrix_address(s.keys, kRowBytes, half * 32 + n * 16, k));
      tile::mma_bf16(d[2 * n], a[0], a[1], a[2], a[3], b[0], b[2]);
      tile::mma_bf16(d[2 * n + 1], a[0], a[1], a[2], a[3], b[1], b[3]);
    }
  }
  float max[2] = {__uint_as_float(0xFF800000u), __uint_as_float(0xFF800000u)};
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = half * 32 + n * 8 + 2 * t + i % 2;
      d[n][i] = key < count ? d[n][i] * scale : __uint_as_float(0xFF800000u);
      max[i / 2] = fmaxf(max[i / 2], d[n][i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    max[i] = fmaxf(max[i], __shfl_xor_sync(kAllLanes, max[i], 1));
    max[i] = fmaxf(max[i], __shfl_xor_sync(kAllLanes, max[i], 2));
    if (t == 0) s.max[half][head + g + 8 * i] = max[i];
  }
  __syncthreads();
  float sum[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = head + g + 8 * i;
    max[i] = fmaxf(s.max[0][row], s.max[1][row]);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float p0 = tile::approximate_exp2((d[n][2 * i] - max[i]) * kLog2E);
      const float p1 = tile::approximate_exp2((d[n][2 * i + 1] - max[i]) * kLog2E);
      sum[i] += p0;
      sum[i] += p1;
      *reinterpret_cast<uint32_t*>(s.weights + row * kWeightRowBytes +
                                   (half * 32 + n * 8 + 2 * t) * 2) = tile::pack_bf16(p0, p1);
    }
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    if (t == 0) s.sum[half][row] = sum[i];
  }
  __syncthreads();
}

// Values of 64 dimensions (of the warp) for 32 heads from `head` on.
__device__ __forceinline__ void sum_values(const Smem& s, int head, float (&d)[2][8][4]) {
  const int first = static_cast<int>(threadIdx.x) / 32 * 64;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d[m][n][i] = 0;
    }
  }
#pragma unroll
  for (int key = 0; key < kChunk; key += 16) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      tile::load_matrices(a[m], matrix_address(s.weights, kWeightRowBytes, head + m * 16, key));
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];  // dimensions 0-7 of keys 0-7 and 8-15, then dimensions 8-15
      tile::load_matrices_transposed(b, matrix_address(s.keys, kRowBytes, key, first + n * 16));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        tile::mma_bf16(d[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
        tile::mma_bf16(d[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
      }
    }
  }
}

// One chunk of one row for 64 heads. Grid: chunks, heads / 64, rows.
__global__ void __launch_bounds__(kThreads, 1)
    chunk_kernel(const __grid_constant__ SparseDecodeParams p) {
  extern __shared__ __align__(128) uint8_t bytes[];
  Smem& s = *reinterpret_cast<Smem*>(bytes);
  const int chunk = blockIdx.x;
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int row = blockIdx.z;
  tile::launch_dependents();
  tile::wait_for_producers();
  const KeyCounts counts(p, row);
  const int count = min(kChunk, counts.total() - chunk * kChunk);
  if (count <= 0) return;

  // Queries without registers, keys through them.
  const uint16_t* q = p.q + (static_cast<int64_t>(row) * p.heads + first_head) * kDim;
  for (int i = threadIdx.x; i < kHeads * (kDim / 8); i += kThreads) {
    const int head = i / (kDim / 8), piece = i % (kDim / 8);
    tile::start_copy(s.q + head * kRowBytes + piece * 16,
                     reinterpret_cast<const tile::Vector16*>(q + head * kDim) + piece);
  }
  if (threadIdx.x < count) {
    find_key(p, row, chunk * kChunk + static_cast<int>(threadIdx.x), counts, s.data[threadIdx.x],
             s.scales[threadIdx.x]);
  }
  __syncthreads();
  load_keys(s, count);
  tile::wait_copies();
  __syncthreads();

  weigh(s, count, p.scale);
  const int64_t at = (static_cast<int64_t>(row) * gridDim.x + chunk) * p.heads + first_head;
  if (threadIdx.x < kHeads) {
    const int head = threadIdx.x;
    *reinterpret_cast<float2*>(p.stats + (at + head) * 2) =
        make_float2(fmaxf(s.max[0][head], s.max[1][head]), s.sum[0][head] + s.sum[1][head]);
  }
  const int lane = threadIdx.x % 32;
  const int column = static_cast<int>(threadIdx.x) / 32 * 64 + lane % 4 * 2;
#pragma unroll 1
  for (int head = 0; head < kHeads; head += 32) {
    float d[2][8][4];
    sum_values(s, head, d);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* const to = p.partial + (at + head + m * 16 + lane / 4 + 8 * i) * kDim + column;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          *reinterpret_cast<float2*>(to + n * 8) = make_float2(d[m][n][2 * i], d[m][n][2 * i + 1]);
        }
      }
    }
  }
}

// The chunks of one head of a row, folded in order. Grid: heads, rows; a thread has four
// dimensions.
__global__ void __launch_bounds__(kDim / 4)
    fold_kernel(const __grid_constant__ SparseDecodeParams p, int max_chunks) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int head = blockIdx.x;
  const int row = blockIdx.y;
  const KeyCounts counts(p, row);
  const int chunks = (counts.total() + kChunk - 1) / kChunk;
  const int dim = static_cast<int>(threadIdx.x) * 4;
  float max = 0, sum = 0;
  float a[4] = {0, 0, 0, 0};
  constexpr int kBatch = 5;
  for (int first = 0; first < chunks; first += kBatch) {
    tile::Vector8 stats[kBatch];
    tile::Vector16 values[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= chunks) continue;
      const int64_t at = (static_cast<int64_t>(row) * max_chunks + first + i) * p.heads + head;
      stats[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(p.stats) + at);
      values[i] = tile::load_shared_state(
          reinterpret_cast<const tile::Vector16*>(p.partial + at * kDim + dim));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= chunks) continue;
      const float m = tile::bits_to_float(stats[i].word[0]);
      const float z = tile::bits_to_float(stats[i].word[1]);
      const float larger = first + i == 0 ? m : fmaxf(max, m);
      const float old = tile::approximate_exp2((max - larger) * kLog2E);
      const float fresh = tile::approximate_exp2((m - larger) * kLog2E);
      sum = fmaf(z, fresh, first + i == 0 ? 0.0f : sum * old);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[j] =
            fmaf(tile::bits_to_float(values[i].word[j]), fresh, first + i == 0 ? 0.0f : a[j] * old);
      }
      max = larger;
    }
  }
  if (chunks > 0) sum += tile::approximate_exp2((__ldg(p.sink + head) - max) * kLog2E);
  float out[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) out[j] = chunks > 0 ? tile::round_to_bf16(a[j] / sum) : 0.0f;
  if (dim >= kCodes) {
    const int pair = (dim - kCodes) / 2;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float* cs = p.rotation + (static_cast<int64_t>(row) * 32 + pair + j) * 2;
      const float c = tile::load_shared_state(cs), sine = -tile::load_shared_state(cs + 1);
      const float x = out[2 * j], y = out[2 * j + 1];
      out[2 * j] = x * c - y * sine;
      out[2 * j + 1] = x * sine + y * c;
    }
  }
  *reinterpret_cast<uint2*>(p.out + (static_cast<int64_t>(row) * p.heads + head) * kDim + dim) =
      make_uint2(tile::pack_bf16(out[0], out[1]), tile::pack_bf16(out[2], out[3]));
}

}  // namespace

void prepare_sparse_decode() { cuda::allow_smem(chunk_kernel, sizeof(Smem)); }

Status check_sparse_decode(const SparseDecodeParams& p) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("sparse decode: expected ") + what + ", found " +
                            std::to_string(found));
  };
  if (p.rows < 1 || p.rows > 65535) return bad("1 to 65535 rows", p.rows);
  if (p.heads < kHeads || p.heads % kHeads != 0) return bad("64 n heads", p.heads);
  if (p.window > 0 && p.window_capacity < p.window)
    return bad("a ring that holds the window", p.window_capacity);
  if (p.num_selected != nullptr && p.rows_per_block < 1)
    return bad("rows in a block", p.rows_per_block);
  if (sparse_decode_chunks(p) < 1) return bad("a key", p.window + p.topk);
  if (p.ring_bytes % 16 != 0 || p.block_bytes % 16 != 0 || p.offset % 16 != 0)
    return bad("blocks aligned to 16 bytes", p.block_bytes);
  return {};
}

void launch_sparse_decode(const cuda::Stream& stream, const SparseDecodeParams& p) {
  const auto chunks = static_cast<unsigned>(sparse_decode_chunks(p));
  cuda::LaunchShape shape;
  shape.grid = dim3(chunks, static_cast<unsigned>(p.heads / kHeads), static_cast<unsigned>(p.rows));
  shape.block = kThreads;
  shape.smem_bytes = sizeof(Smem);
  cuda::launch(stream, shape, chunk_kernel, p);
  cuda::LaunchShape fold;
  fold.grid = dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.rows));
  fold.block = kDim / 4;
  cuda::launch(stream, fold, fold_kernel, p, static_cast<int>(chunks));
}

}  // namespace cachalot::ops
