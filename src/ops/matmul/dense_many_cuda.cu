#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/dense_many.h"
#include "ops/matmul/streamed_weight.h"
#include "ops/quant/act8.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kTokens = 64;  // of a block
constexpr int kWarpgroups = 3;
constexpr int kWarps = kWarpgroups * 4;  // a unit of 16 outputs each
constexpr int kConsumers = kWarps * 32;
constexpr int kThreads = kConsumers + 32;  // the last warp's first lane fills the ring
constexpr int kChains = 8;                 // of streamed_product.cuh
constexpr int kStageBlocks = 8;            // of a weight's stages
constexpr int kStages = 8;                 // of x: 128 inputs of the block's rows, and their scales
using B = tile::CoreMatrices<kTokens>;
constexpr int kCodeBytes = 128 * kTokens;
constexpr int kBlockBytes = kCodeBytes + kTokens * 4;
using Ring = tile::BulkRing<kStages>;

struct Group {
  const uint8_t* weight;
  void* y;
  int64_t y_stride;
  int rows;
  int first_unit;  // of all groups' units
};

struct Params {
  const void* x;
  int64_t x_stride;
  bool float_rows;
  int m;
  int blocks;         // of 128 inputs
  uint8_t* prepared;  // [64 rows][block]: kBlockBytes
  int64_t unit_bytes;
  int units;
  int num_groups;
  Group groups[kMaxDenseGroups];
};

// A block of 128 inputs of 64 rows: half a warp quantises a run of a row. Rows past the last are
// zeros.
template <typename T>
__device__ __forceinline__ void prepare_block(const Params& p, const T* x) {
  uint8_t* const to = p.prepared + (int64_t{blockIdx.y} * p.blocks + blockIdx.x) * kBlockBytes;
  const int k = static_cast<int>(threadIdx.x) % 16 * 8;
  for (int token = static_cast<int>(threadIdx.x) / 16; token < kTokens;
       token += static_cast<int>(blockDim.x) / 16) {
    const int64_t row = int64_t{blockIdx.y} * kTokens + token;
    EightValues<T> v = {};
    if (row < p.m) v.load(x + row * p.x_stride + int64_t{blockIdx.x} * 128 + k);
    const Act8 q = quantise_act8(v.bf16());
    *reinterpret_cast<uint2*>(to + B::offset(token, k)) = make_uint2(q.codes[0], q.codes[1]);
    if (k == 0) *reinterpret_cast<float*>(to + kCodeBytes + token * 4) = q.scale;
  }
}

__global__ void __launch_bounds__(256) prepare_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  if (p.float_rows) {
    prepare_block(p, static_cast<const float*>(p.x));
  } else {
    prepare_block(p, static_cast<const uint16_t*>(p.x));
  }
}

// A warp's codes of a block of 128 inputs, and their scale.
struct Codes {
  uint32_t step[4][4];  // of 32 inputs each
  float scale;

  __device__ __forceinline__ void load(const uint8_t* unit, int num_blocks, int block) {
    const int stage = block / kStageBlocks, in_stage = block % kStageBlocks;
    const int blocks = min(kStageBlocks, num_blocks - stage * kStageBlocks);
    const uint8_t* const from = unit + stage * (kStageBlocks * (2048 + 4));
    const uint8_t* const codes = from + in_stage * 2048 + static_cast<int>(threadIdx.x) % 32 * 16;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const tile::Vector16 v =
          tile::load_constant(reinterpret_cast<const tile::Vector16*>(codes + s * 512));
#pragma unroll
      for (int i = 0; i < 4; ++i) step[s][i] = v.word[i];
    }
    scale = __ldg(reinterpret_cast<const float*>(from + blocks * 2048 + in_stage * 4));
  }
};

// The blocks of an input in the order of the chains: of each chain those that follow by eights.
struct ChainOrder {
  int num_blocks;
  int chain = 0;
  int block = 0;

  __device__ __forceinline__ bool ends_chain() const { return block + kChains >= num_blocks; }
  __device__ __forceinline__ void advance() {
    block += kChains;
    if (block >= num_blocks) block = ++chain;
  }
};

__global__ void __launch_bounds__(kThreads, 1) many_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Ring ring;
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) ring.init(kStages, kWarps);
  __syncthreads();
  tile::launch_dependents();
  ChainOrder order{p.blocks};
  if (warp == kWarps) {
    if (lane != 0) return;
    tile::wait_for_producers();
    tile::BulkProducer<kStages> producer(ring, smem, kBlockBytes, kStages, kStages);
    const uint8_t* const from = p.prepared + int64_t{blockIdx.x} * p.blocks * kBlockBytes;
    for (int i = 0; i < p.blocks; ++i, order.advance())
      producer.put(from + int64_t{order.block} * kBlockBytes, kBlockBytes);
    return;
  }
  const int unit = static_cast<int>(blockIdx.y) * kWarps + warp;
  const int own = min(unit, p.units - 1);
  int g = 0;
  while (g + 1 < p.num_groups && own >= p.groups[g + 1].first_unit) ++g;
  const Group& group = p.groups[g];
  const uint8_t* const weight = group.weight + (own - group.first_unit) * p.unit_bytes;
  tile::BulkConsumer<kStages> consumer(ring, smem, kBlockBytes, kStages);

  constexpr int kValues = kTokens / 2;  // of a lane
  float sum[kValues], chain[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum[i] = chain[i] = 0;
  Codes codes;
  codes.load(weight, p.blocks, 0);
  int chains_done = 0;
  for (int i = 0; i < p.blocks; ++i) {
    const uint8_t* const x = consumer.wait();
    const uint64_t b = B::descriptor(tile::smem_address(x));
    float d[kValues];
    tile::wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      tile::WgmmaE4m3<kTokens>::multiply(d, codes.step[s], B::advance(b, s * B::kStepBytes), s);
    }
    tile::wgmma_commit();
    const float scale = codes.scale;
    const bool ends = order.ends_chain();
    order.advance();
    Codes next;
    if (i + 1 < p.blocks) next.load(weight, p.blocks, order.block);
    tile::wgmma_wait<0>();
    tile::wgmma_arrived(d);
#pragma unroll
    for (int s = 0; s < 4; ++s) tile::wgmma_read(codes.step[s]);
    const auto* const scales = reinterpret_cast<const float2*>(x + kCodeBytes) + lane % 4;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const float2 of_tokens = scales[n * 4];
      const float first = scale * of_tokens.x, second = scale * of_tokens.y;
#pragma unroll
      for (int v = n * 4; v < n * 4 + 4; ++v)
        chain[v] = fmaf(d[v], v % 2 == 0 ? first : second, chain[v]);
    }
    consumer.release();
    codes = next;
    if (!ends) continue;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      sum[v] = chains_done == 0 ? chain[v] : sum[v] + chain[v];
      chain[v] = 0;
    }
    ++chains_done;
  }
  if (unit >= p.units) return;
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    const int n = (own - group.first_unit) * 16 + lane / 4 + v / 2 % 2 * 8;
    const int token = static_cast<int>(blockIdx.x) * kTokens + v / 4 * 8 + lane % 4 * 2 + v % 2;
    if (n >= group.rows || token >= p.m) continue;
    const int64_t to = token * group.y_stride + n;
    // Chains without a block are zeros.
    const float value = p.blocks < kChains ? sum[v] + 0.0f : sum[v];
    if (p.float_rows) {
      static_cast<float*>(group.y)[to] = tile::round_to_bf16(value);
    } else {
      static_cast<uint16_t*>(group.y)[to] = tile::bf16_bits(value);
    }
  }
}

// --- The form unquantised: x stays bf16, a warp has a chain.

constexpr int kWideUnits = 2;  // of a block

__device__ __forceinline__ void to_bf16(uint32_t codes, uint32_t (&pairs)[2]) {
  tile::e4m3_to_f16(codes, pairs[0], pairs[1]);
#pragma unroll
  for (uint32_t& pair : pairs) pair = tile::f16_of_e4m3_to_bf16(pair, tile::kTwoTo112);
}

template <int kTiles>
__global__ void __launch_bounds__(bf16_tiles::kThreads, kTiles > 4 ? 1 : 2)
    wide_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t smem[];
  constexpr int kRows = kTiles * 8;  // of x
  tile::launch_dependents();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int first_unit = static_cast<int>(blockIdx.y) * kWideUnits;
  int g = 0;
  while (g + 1 < p.num_groups && first_unit >= p.groups[g + 1].first_unit) ++g;
  const Group& group = p.groups[g];
  const uint8_t* const weight = group.weight + (first_unit - group.first_unit) * p.unit_bytes;
  const int steps = p.blocks * p.num_groups * 8;
  const auto* const prepared = reinterpret_cast<const uint2*>(p.prepared);
  const int num_tiles = (p.m + 7) / 8;
  const uint2* x[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int tile = min(static_cast<int>(blockIdx.x) * kTiles + n, num_tiles - 1);
    x[n] = prepared + (int64_t{tile} * steps + g * p.blocks * 8) * 32 + lane;
  }
  float sum[kWideUnits][kTiles][4] = {};
  Codes codes[kWideUnits];
  if (warp < p.blocks) {
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u) codes[u].load(weight + u * p.unit_bytes, p.blocks, warp);
  }
  tile::wait_for_producers();
  for (int block = warp; block < p.blocks; block += kChains) {
    Codes next[kWideUnits];
    const int next_block = min(block + kChains, p.blocks - 1);
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u)
      next[u].load(weight + u * p.unit_bytes, p.blocks, next_block);
    float d[kWideUnits][kTiles][4] = {};
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      uint2 b[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) b[n] = x[n][(block * 8 + step) * 32];
#pragma unroll
      for (int u = 0; u < kWideUnits; ++u) {
        uint32_t top[2], bottom[2];
        to_bf16(codes[u].step[step / 2][step % 2 * 2], top);
        to_bf16(codes[u].step[step / 2][step % 2 * 2 + 1], bottom);
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
          tile::mma_bf16(d[u][n], top[0], bottom[0], top[1], bottom[1], b[n].x, b[n].y);
      }
    }
#pragma unroll
    for (int u = 0; u < kWideUnits; ++u) {
#pragma unroll
      for (int i = 0; i < kTiles * 4; ++i)
        sum[u][i / 4][i % 4] = fmaf(d[u][i / 4][i % 4], codes[u].scale, sum[u][i / 4][i % 4]);
      codes[u] = next[u];
    }
  }
  float* const sums = reinterpret_cast<float*>(smem);
#pragma unroll
  for (int u = 0; u < kWideUnits; ++u) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
      bf16_tiles::store_run<kWideUnits>(sums, kRows, u, n, sum[u][n]);
  }
  __syncthreads();
  const int first_row = static_cast<int>(blockIdx.x) * kRows;
  bf16_tiles::fold_runs<kWideUnits>(
      {static_cast<float*>(group.y), group.y_stride, group.rows, true}, sums, kRows,
      first_unit - group.first_unit, first_row, min(kRows, p.m - first_row));
}

template <int kTiles>
void launch_wide(const cuda::Stream& stream, const Params& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.m + kTiles * 8 - 1) / (kTiles * 8)),
                    static_cast<unsigned>(p.units / kWideUnits));
  shape.block = bf16_tiles::kThreads;
  shape.smem_bytes =
      int64_t{bf16_tiles::kWarps} * kTiles * 8 * bf16_tiles::kTokenStride<kWideUnits> * 4;
  if (shape.smem_bytes > cuda::kSmemWithoutAsking)
    cuda::allow_smem(wide_kernel<kTiles>, shape.smem_bytes);
  cuda::launch(stream, shape, wide_kernel<kTiles>, p);
}

bool is_wide(const DenseShape& s) { return s.form == DenseForm::unquantised; }

int64_t token_groups(const DenseShape& s) { return (s.m + kTokens - 1) / kTokens; }
int64_t units_of(const DenseShape& s) {
  return StreamedLayout{StreamedFormat::fp8, s.rows, s.columns}.num_units();
}

}  // namespace

bool dense_many_fits(const DenseShape& s, int64_t num_sms) {
  if (is_wide(s)) {
    return s.float_rows && !s.shared_x && s.rows % (s.groups * 16 * kWideUnits) == 0 && s.m > 16 &&
           units_of(s) / kWideUnits >= num_sms;
  }
  return s.form == DenseForm::official_fp8 && (s.shared_x || s.groups == 1) && s.m >= kTokens &&
         (units_of(s) + kWarps - 1) / kWarps * token_groups(s) >= num_sms * 3 / 4;
}

int64_t dense_many_scratch_bytes(const DenseShape& s) {
  if (is_wide(s)) return bf16_tiles::prepared_bytes(s.m, s.groups * s.columns);
  return token_groups(s) * (s.columns / 128) * kBlockBytes;
}

int64_t dense_many_smem_bytes() { return int64_t{kStages} * kBlockBytes; }

void allow_dense_many() { cuda::allow_smem(many_kernel, dense_many_smem_bytes()); }

void launch_dense_many(const DensePlan& plan, const cuda::Stream& stream, const void* x,
                       int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                       bool programmatic) {
  const DenseShape& s = plan.shape;
  CACHALOT_CHECK(static_cast<int64_t>(groups.size()) == s.groups);
  Params p{};
  p.x = x;
  p.x_stride = x_stride;
  p.float_rows = s.float_rows;
  p.m = static_cast<int>(s.m);
  p.blocks = static_cast<int>(s.columns / 128);
  p.prepared = reinterpret_cast<uint8_t*>(scratch);
  p.unit_bytes = StreamedLayout{StreamedFormat::fp8, s.rows, s.columns}.unit_bytes();
  for (const DenseGroup& group : groups) {
    p.groups[p.num_groups++] = {reinterpret_cast<const uint8_t*>(group.weight), group.y,
                                group.y_stride, static_cast<int>(group.rows), p.units};
    p.units += static_cast<int>((group.rows + 15) / 16);
  }
  if (is_wide(s)) {
    bf16_tiles::prepare(stream, static_cast<const float*>(x), x_stride, p.m,
                        static_cast<int>(s.groups * s.columns / 16),
                        reinterpret_cast<uint2*>(scratch));
    return s.m > 32 ? launch_wide<8>(stream, p) : launch_wide<4>(stream, p);
  }
  cuda::LaunchShape prepare;
  prepare.grid = dim3(static_cast<unsigned>(p.blocks), static_cast<unsigned>(token_groups(s)));
  prepare.block = 256;
  prepare.edge = programmatic ? cuda::Edge::programmatic : cuda::Edge::full;
  cuda::launch(stream, prepare, prepare_kernel, p);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(token_groups(s)),
                    static_cast<unsigned>((p.units + kWarps - 1) / kWarps));
  shape.block = kThreads;
  shape.smem_bytes = dense_many_smem_bytes();
  cuda::launch(stream, shape, many_kernel, p);
}

}  // namespace cachalot::ops
