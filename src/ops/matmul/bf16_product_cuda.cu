#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/bf16_parts.cuh"
#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/bf16_wide.h"
#include "ops/matmul/streamed_weight.h"
#include "tile/once.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using bf16_tiles::kThreads;
using bf16_tiles::kWarps;
using bf16_tiles::num_units;
using bf16_tiles::Part;
constexpr int kFewTokens = 8;
constexpr int64_t kMaxFewBytes = 100 * 1024;  // of x in shared memory

struct Params {
  const float* x;
  int64_t x_stride;
  const uint2* prepared;  // [tile of 8 tokens][step][lane]
  int m;
  int steps;  // of 16 inputs
  int units;
  bool lets_next_in;
  bool runs_beside;
  bf16_tiles::Parts parts;
};

__device__ __forceinline__ int units_of(const Part& part) { return (part.out.rows + 15) / 16; }

__device__ __forceinline__ void multiply(float (&sum)[4], const tile::Vector16& a, uint2 b) {
  tile::mma_bf16(sum, a.word[0], a.word[1], a.word[2], a.word[3], b.x, b.y);
}

// The weights of a thread: its 16 bytes of every step of its warp's run, unit after unit, in a ring
// in shared memory that it fills and empties itself.
constexpr int kGroupSteps = 8;  // that are copied together
constexpr int kGroups = 3;      // under way
constexpr int kRingBytes = kGroups * kGroupSteps * kThreads * 16;
class Stream {
 public:
  __device__ Stream(const Params& p, uint8_t* smem, int begin, int own)
      : p_(p),
        slots_(reinterpret_cast<tile::Vector16*>(smem) + threadIdx.x),
        first_(int64_t{begin} * 32 + threadIdx.x % 32),
        own_(own),
        unit_(static_cast<int>(blockIdx.x)),
        policy_(tile::policy_of_once()) {
    start_unit();
#pragma unroll 1
    for (int i = 0; i < kGroups; ++i) put();
  }

  // The oldest group's steps; until put.
  __device__ __forceinline__ const tile::Vector16* wait() const {
    tile::wait_copy_groups<kGroups - 1>();
    return slots_ + slot_ * (kGroupSteps * kThreads);
  }
  // The next group, in place of the oldest.
  __device__ __forceinline__ void put() {
    if (unit_ < p_.units) {
      tile::Vector16* const to = slots_ + slot_ * (kGroupSteps * kThreads);
#pragma unroll
      for (int i = 0; i < kGroupSteps; ++i) {
        if (step_ + i < own_) tile::start_copy_once(to + i * kThreads, from_ + i * 32, policy_);
      }
      from_ += kGroupSteps * 32;
      step_ += kGroupSteps;
      if (step_ >= own_) {
        unit_ += static_cast<int>(gridDim.x);
        start_unit();
      }
    }
    tile::end_copy_group();
    slot_ = slot_ + 1 == kGroups ? 0 : slot_ + 1;
  }

 private:
  __device__ __forceinline__ void start_unit() {
    step_ = 0;
    if (unit_ >= p_.units) return;
    const Part& part = p_.parts.find(unit_);
    from_ = part.weight + int64_t{unit_ - part.first} * p_.steps * 32 + first_;
  }

  const Params& p_;
  tile::Vector16* slots_;
  int64_t first_;  // of the thread in a unit
  int own_;
  const tile::Vector16* from_;
  int unit_;
  int step_;
  int slot_ = 0;
  uint64_t policy_;
};

// Up to 8 tokens, in shared memory. A block: every gridDim.x-th unit of 16 outputs, whose first
// bytes are under way before the kernel before has ended.
__global__ void __launch_bounds__(kThreads, 2) few_tokens_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ float sums[2][kWarps * kFewTokens * bf16_tiles::kTokenStride<1>];
  if (!p.lets_next_in) tile::launch_dependents();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int begin = warp * p.steps / kWarps;
  const int own = (warp + 1) * p.steps / kWarps - begin;
  Stream stream(p, smem, begin, own);
  uint8_t* const x = smem + kRingBytes;
  const int row_bytes = p.steps * 32 + 32;
  const int quads = p.steps * 4;

  if (!p.runs_beside) tile::wait_for_producers();
  if (p.lets_next_in) tile::launch_dependents();
  constexpr int kBatch = 4;  // loads under way
  for (int token = 0; token < p.m; ++token) {
    const auto* from = reinterpret_cast<const tile::Vector16*>(p.x + token * p.x_stride);
    auto* const to = reinterpret_cast<uint2*>(x + token * row_bytes);
#pragma unroll 1
    for (int first = threadIdx.x; first < quads; first += kThreads * kBatch) {
      tile::Vector16 v[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (first + i * kThreads < quads)
          v[i] = tile::load_shared_state(from + first + i * kThreads);
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (first + i * kThreads < quads) to[first + i * kThreads] = bf16_tiles::pack_four(v[i]);
    }
  }
  __syncthreads();

  const bool has_token = lane / 4 < p.m;
  const uint8_t* const own_x = x + lane / 4 * row_bytes + begin * 32 + lane % 4 * 8;
  int buffer = 0;
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    float d[4] = {};
#pragma unroll 1
    for (int step = 0; step < own; step += kGroupSteps) {
      const tile::Vector16* const weights = stream.wait();
      const int steps = min(kGroupSteps, own - step);
      const auto multiply_first = [&](int count) {
        tile::Vector16 a[kGroupSteps];
        uint2 b[kGroupSteps];
#pragma unroll
        for (int i = 0; i < kGroupSteps; ++i) {
          if (i >= count) break;
          a[i] = weights[i * kThreads];
          b[i] = make_uint2(0, 0);
          if (has_token) b[i] = *reinterpret_cast<const uint2*>(own_x + (step + i) * 32);
        }
#pragma unroll
        for (int i = 0; i < kGroupSteps; ++i) {
          if (i >= count) break;
          multiply(d, a[i], b[i]);
        }
      };
      if (steps == kGroupSteps) {
        multiply_first(kGroupSteps);
      } else {
        multiply_first(steps);
      }
      stream.put();
    }
    float* const to = sums[buffer];
    buffer ^= 1;
    bf16_tiles::store_run<1>(to, kFewTokens, 0, 0, d);
    __syncthreads();
    const Part& part = p.parts.find(unit);
    bf16_tiles::fold_runs<1>(part.out, to, kFewTokens, unit - part.first, 0, p.m);
  }
}

// Any number of tokens, prepared. A block: kUnits units of a part, kTiles tiles of 8 tokens.
template <int kUnits, int kTiles>
__global__ void __launch_bounds__(kThreads, kUnits* kTiles > 8 ? 1 : 2)
    many_tokens_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) uint8_t smem[];
  constexpr int kTokens = kTiles * 8;
  tile::launch_dependents();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const Part& part = p.parts.find(static_cast<int>(blockIdx.y));
  const int first_unit = (static_cast<int>(blockIdx.y) - part.first) * kUnits;
  const int begin = warp * p.steps / kWarps;
  const int own = (warp + 1) * p.steps / kWarps - begin;
  const int num_tiles = (p.m + 7) / 8;
  const tile::Vector16* weights[kUnits];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const int unit = min(first_unit + u, units_of(part) - 1);
    weights[u] = part.weight + (int64_t{unit} * p.steps + begin) * 32 + lane;
  }
  const uint2* x[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int token_tile = min(static_cast<int>(blockIdx.x) * kTiles + n, num_tiles - 1);
    x[n] = p.prepared + (int64_t{token_tile} * p.steps + begin) * 32 + lane;
  }
  float d[kUnits][kTiles][4] = {};
  tile::Vector16 a[kUnits];
  uint2 b[kTiles];
  if (own > 0) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) a[u] = tile::load_constant(weights[u]);
  }
  tile::wait_for_producers();
  if (own > 0) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) b[n] = x[n][0];
  }
#pragma unroll 2
  for (int step = 0; step < own; ++step) {
    const int next = min(step + 1, own - 1);
    tile::Vector16 next_a[kUnits];
    uint2 next_b[kTiles];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) next_a[u] = tile::load_constant(weights[u] + next * 32);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) next_b[n] = x[n][next * 32];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) multiply(d[u][n], a[u], b[n]);
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) a[u] = next_a[u];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) b[n] = next_b[n];
  }
  float* const sums = reinterpret_cast<float*>(smem);
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) bf16_tiles::store_run<kUnits>(sums, kTokens, u, n, d[u][n]);
  }
  __syncthreads();
  const int first_token = static_cast<int>(blockIdx.x) * kTokens;
  bf16_tiles::fold_runs<kUnits>(part.out, sums, kTokens, first_unit, first_token,
                                min(kTokens, p.m - first_token));
}

int64_t few_bytes(int64_t m, int64_t columns) { return m * (columns * 2 + 32); }

void launch_few(const cuda::Device& device, const cuda::Stream& stream,
                const Bf16Products& products, Params& p) {
  p.units = p.parts.cut(products, 1);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(p.units, device.num_sms)));
  shape.block = kThreads;
  shape.smem_bytes = kRingBytes + few_bytes(products.m, products.columns);
  auto* const kernel = few_tokens_kernel;
  cuda::allow_smem(kernel, kRingBytes + kMaxFewBytes);
  cuda::launch(stream, shape, kernel, p);
}

template <int kUnits, int kTiles>
void launch_many(const cuda::Stream& stream, const Bf16Products& products, Params& p) {
  cuda::LaunchShape shape;
  const auto blocks = static_cast<unsigned>(p.parts.cut(products, kUnits));
  shape.grid = dim3(static_cast<unsigned>((products.m + kTiles * 8 - 1) / (kTiles * 8)), blocks);
  shape.block = kThreads;
  shape.smem_bytes = int64_t{kWarps} * kTiles * 8 * bf16_tiles::kTokenStride<kUnits> * 4;
  auto* const kernel = many_tokens_kernel<kUnits, kTiles>;
  if (shape.smem_bytes > cuda::kSmemWithoutAsking) cuda::allow_smem(kernel, shape.smem_bytes);
  cuda::launch(stream, shape, kernel, p);
}

bool is_wide(const Bf16Tile& tile) { return tile.units == bf16_wide::kTileUnits; }

}  // namespace

Bf16Tile choose_bf16_tile(int64_t m, int64_t columns, int64_t num_units, int64_t num_sms) {
  if (m <= kFewTokens && few_bytes(m, columns) <= kMaxFewBytes) return {1, 0};
  for (const int tokens : bf16_wide::kTileTokens)
    if (bf16_wide::fits(tokens, m, columns, num_units, num_sms))
      return {bf16_wide::kTileUnits, tokens / 8};
  for (const Bf16Tile tile : {Bf16Tile{4, 8}, Bf16Tile{2, 4}}) {
    const int64_t tokens = tile.token_tiles * 8;
    const int64_t blocks = (num_units + tile.units - 1) / tile.units * ((m + tokens - 1) / tokens);
    if (blocks >= num_sms) return tile;
  }
  return {1, 2};
}

int64_t bf16_scratch_bytes(const cuda::Device& device, const Bf16Products& p) {
  const Bf16Tile tile = choose_bf16_tile(p.m, p.columns, num_units(p), device.num_sms);
  if (tile.token_tiles == 0) return 0;
  if (is_wide(tile)) return bf16_wide::scratch_bytes(tile.token_tiles * 8, p.m, p.columns);
  return bf16_tiles::prepared_bytes(p.m, p.columns);
}

bool bf16_products_take_bf16(const cuda::Device& device, const Bf16Products& p) {
  return choose_bf16_tile(p.m, p.columns, num_units(p), device.num_sms).token_tiles != 0;
}

void launch_bf16_products(const cuda::Device& device, const cuda::Stream& stream,
                          const Bf16Products& products, std::byte* scratch,
                          const LaunchOrder& order) {
  CACHALOT_CHECK(products.m > 0 && products.m < (int64_t{1} << 24) && products.columns % 16 == 0);
  CACHALOT_CHECK(!products.parts.empty() && products.parts.size() <= kMaxBf16Parts);
  Params p{};
  p.x = products.x;
  p.x_stride = products.x_stride;
  p.m = static_cast<int>(products.m);
  p.steps = static_cast<int>(products.columns / 16);
  const int64_t units = num_units(products);
  const Bf16Tile tile = choose_bf16_tile(products.m, products.columns, units, device.num_sms);
  p.lets_next_in = order.lets_next_in;
  p.runs_beside = order.runs_beside;
  CACHALOT_CHECK(tile.token_tiles == 0 || !(order.lets_next_in || order.runs_beside));
  CACHALOT_CHECK(tile.token_tiles != 0 || products.x_bf16 == nullptr);
  if (tile.token_tiles == 0) {
    return launch_few(device, stream, products, p);
  }
  if (is_wide(tile)) {
    return bf16_wide::launch(device, stream, products, tile.token_tiles * 8, scratch);
  }
  p.prepared = reinterpret_cast<const uint2*>(scratch);
  const auto prepare = [&](const auto* x) {
    bf16_tiles::prepare(stream, x, p.x_stride, p.m, p.steps, reinterpret_cast<uint2*>(scratch));
  };
  products.x_bf16 != nullptr ? prepare(products.x_bf16) : prepare(products.x);
  if (tile.units == 4) return launch_many<4, 8>(stream, products, p);
  if (tile.units == 2) return launch_many<2, 4>(stream, products, p);
  launch_many<1, 2>(stream, products, p);
}

}  // namespace cachalot::ops
