#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/streamed_weight.h"
#include "tile/once.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using bf16_tiles::kThreads;
using bf16_tiles::kWarps;
constexpr int kFewTokens = 8;
constexpr int64_t kMaxFewBytes = 100 * 1024;  // of x in shared memory, so that two blocks fit an SM

struct Part {
  const tile::Vector16* weight;
  bf16_tiles::Outputs out;
  int first_block;  // of those that the parts' units are cut into
};

struct Params {
  const float* x;
  int64_t x_stride;
  const uint2* prepared;  // [tile of 8 tokens][step][lane]
  int m;
  int steps;  // of 16 inputs
  int units_per_block;
  int num_parts;
  Part parts[kMaxBf16Parts];
};

__device__ __forceinline__ int find_part(const Params& p, int block) {
  int part = 0;
  while (part + 1 < p.num_parts && block >= p.parts[part + 1].first_block) ++part;
  return part;
}

__device__ __forceinline__ int units_of(const Part& part) { return (part.out.rows + 15) / 16; }

__device__ __forceinline__ void multiply(float (&sum)[4], const tile::Vector16& a, uint2 b) {
  tile::mma_bf16(sum, a.word[0], a.word[1], a.word[2], a.word[3], b.x, b.y);
}

// Up to 8 tokens, in shared memory. A block: units_per_block units of a part, whose bytes each warp
// has under way kDepth steps ahead, the first of them before the kernel before has ended.
template <int kDepth>
__global__ void __launch_bounds__(kThreads, kDepth <= 16 ? 2 : 1)
    few_tokens_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ float sums[2][kWarps * kFewTokens * bf16_tiles::kTokenStride<1>];
  tile::launch_dependents();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const Part& part = p.parts[find_part(p, static_cast<int>(blockIdx.x))];
  const int first_unit = (static_cast<int>(blockIdx.x) - part.first_block) * p.units_per_block;
  const int num_units = min(p.units_per_block, units_of(part) - first_unit);
  const int begin = warp * p.steps / kWarps;
  const int own = (warp + 1) * p.steps / kWarps - begin;
  const tile::Vector16* from = part.weight + (int64_t{first_unit} * p.steps + begin) * 32 + lane;
  const uint64_t policy = tile::policy_of_once();
  tile::Vector16 a[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i)
    if (i < own) a[i] = tile::load_once(from + i * 32, policy);

  tile::wait_for_producers();
  const int row_bytes = p.steps * 32 + 32;
  const int quads = p.steps * 4;
  constexpr int kBatch = 4;  // loads under way
  for (int first = threadIdx.x; first < p.m * quads; first += kThreads * kBatch) {
    tile::Vector16 v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = min(first + i * kThreads, p.m * quads - 1);
      v[i] = tile::load_shared_state(
          reinterpret_cast<const tile::Vector16*>(p.x + at / quads * p.x_stride + at % quads * 4));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = first + i * kThreads;
      if (at < p.m * quads)
        *reinterpret_cast<uint2*>(smem + at / quads * row_bytes + at % quads * 8) =
            bf16_tiles::pack_four(v[i]);
    }
  }
  __syncthreads();

  const bool has_token = lane / 4 < p.m;
  const uint8_t* const own_x = smem + lane / 4 * row_bytes + begin * 32 + lane % 4 * 8;
  for (int unit = 0; unit < num_units; ++unit) {
    float d[4] = {};
    for (int step = 0; step < own; step += kDepth) {
      const bool ends = step + kDepth >= own;
      const tile::Vector16* const next = from + (ends ? p.steps : step + kDepth) * 32;
      const int num_next = !ends ? own - step - kDepth : unit + 1 < num_units ? own : 0;
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (step + i < own) {
          uint2 b = make_uint2(0, 0);
          if (has_token) b = *reinterpret_cast<const uint2*>(own_x + (step + i) * 32);
          multiply(d, a[i], b);
        }
        if (i < num_next) a[i] = tile::load_once(next + i * 32, policy);
      }
    }
    from += p.steps * 32;
    float* const to = sums[unit % 2];
    bf16_tiles::store_run<1>(to, kFewTokens, 0, 0, d);
    __syncthreads();
    bf16_tiles::fold_runs<1>(part.out, to, kFewTokens, first_unit + unit, 0, p.m);
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
  const Part& part = p.parts[find_part(p, static_cast<int>(blockIdx.y))];
  const int first_unit = (static_cast<int>(blockIdx.y) - part.first_block) * kUnits;
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

int64_t units_of(const Bf16Products& p) {
  int64_t units = 0;
  for (const Bf16Part& part : p.parts) units += (part.rows + 15) / 16;
  return units;
}

int64_t few_bytes(int64_t m, int64_t columns) { return m * (columns * 2 + 32); }

// Cuts each part's units into blocks of so many; gives their number.
unsigned cut(const Bf16Products& products, int units_per_block, Params& p) {
  int blocks = 0;
  for (const Bf16Part& part : products.parts) {
    const auto units = static_cast<int>((part.rows + 15) / 16);
    p.parts[p.num_parts++] = {reinterpret_cast<const tile::Vector16*>(part.weight),
                              {part.y, part.y_stride, static_cast<int>(part.rows), part.round_y},
                              blocks};
    blocks += (units + units_per_block - 1) / units_per_block;
  }
  p.units_per_block = units_per_block;
  return static_cast<unsigned>(blocks);
}

template <int kUnits, int kTiles>
void launch_many(const cuda::Stream& stream, const Bf16Products& products, Params& p) {
  cuda::LaunchShape shape;
  const unsigned blocks = cut(products, kUnits, p);
  shape.grid = dim3(static_cast<unsigned>((products.m + kTiles * 8 - 1) / (kTiles * 8)), blocks);
  shape.block = kThreads;
  shape.smem_bytes = int64_t{kWarps} * kTiles * 8 * bf16_tiles::kTokenStride<kUnits> * 4;
  auto* const kernel = many_tokens_kernel<kUnits, kTiles>;
  if (shape.smem_bytes > cuda::kSmemWithoutAsking) cuda::allow_smem(kernel, shape.smem_bytes);
  cuda::launch(stream, shape, kernel, p);
}

}  // namespace

Bf16Tile choose_bf16_tile(int64_t m, int64_t columns, int64_t num_units, int64_t num_sms) {
  if (m <= kFewTokens && few_bytes(m, columns) <= kMaxFewBytes) return {1, 0};
  for (const Bf16Tile tile : {Bf16Tile{4, 8}, Bf16Tile{2, 4}}) {
    const int64_t tokens = tile.token_tiles * 8;
    const int64_t blocks = (num_units + tile.units - 1) / tile.units * ((m + tokens - 1) / tokens);
    if (blocks >= num_sms) return tile;
  }
  return {1, 2};
}

int64_t bf16_scratch_bytes(const cuda::Device& device, const Bf16Products& p) {
  if (choose_bf16_tile(p.m, p.columns, units_of(p), device.num_sms).token_tiles == 0) return 0;
  return bf16_tiles::prepared_bytes(p.m, p.columns);
}

void launch_bf16_products(const cuda::Device& device, const cuda::Stream& stream,
                          const Bf16Products& products, std::byte* scratch) {
  CACHALOT_CHECK(products.m > 0 && products.m < (int64_t{1} << 24) && products.columns % 16 == 0);
  CACHALOT_CHECK(!products.parts.empty() && products.parts.size() <= kMaxBf16Parts);
  Params p{};
  p.x = products.x;
  p.x_stride = products.x_stride;
  p.m = static_cast<int>(products.m);
  p.steps = static_cast<int>(products.columns / 16);
  const int64_t units = units_of(products);
  const Bf16Tile tile = choose_bf16_tile(products.m, products.columns, units, device.num_sms);
  if (tile.token_tiles == 0) {
    // Enough blocks for an SM to have two, eight times over; the more a block has, the fewer read
    // x.
    const auto units_per_block =
        static_cast<int>(std::clamp<int64_t>(units / (16 * int64_t{device.num_sms}), 1, 8));
    cuda::LaunchShape shape;
    shape.grid = dim3(cut(products, units_per_block, p));
    shape.block = kThreads;
    shape.smem_bytes = few_bytes(products.m, products.columns);
    // Where each block has an SM for itself it may have more under way.
    auto* const kernel = shape.grid.x <= static_cast<unsigned>(device.num_sms)
                             ? few_tokens_kernel<32>
                             : few_tokens_kernel<16>;
    if (shape.smem_bytes > cuda::kSmemWithoutAsking) cuda::allow_smem(kernel, shape.smem_bytes);
    return cuda::launch(stream, shape, kernel, p);
  }
  p.prepared = reinterpret_cast<const uint2*>(scratch);
  bf16_tiles::prepare(stream, p.x, p.x_stride, p.m, p.steps, reinterpret_cast<uint2*>(scratch));
  if (tile.units == 4) return launch_many<4, 8>(stream, products, p);
  if (tile.units == 2) return launch_many<2, 4>(stream, products, p);
  launch_many<1, 2>(stream, products, p);
}

}  // namespace cachalot::ops
