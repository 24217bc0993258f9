#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/bf16_parts.cuh"
#include "ops/matmul/bf16_wide.h"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::ops::bf16_wide {
namespace {

namespace cuda = device::cuda;
using bf16_tiles::Part;
constexpr int64_t kLeastRows = 256;
constexpr int kRuns = bf16_tiles::kWarps;
constexpr int kGroups = 2;  // warpgroups that multiply, a warp one unit
constexpr int kGroupUnits = kTileUnits / kGroups;
constexpr int kWarps = kGroups * 4;
constexpr int kProducers = 4;  // warps that fill the ring
constexpr int kThreads = (kWarps + kProducers) * 32;
constexpr int kRegisters = 240;
constexpr int kProducerRegisters = 24;
constexpr int kPieceSteps = 4;  // of 16 inputs
constexpr int kPieceInputs = kPieceSteps * 16;
constexpr int kUnitPiece = kPieceSteps * 512;  // bytes
constexpr int kMaxStages = 8;
using Ring = tile::BulkRing<kMaxStages>;

// Tokens of a warpgroup.
template <int kGroupTokens>
struct WideShape {
  static constexpr int kTokens = kGroupTokens;
  using X = tile::CoreMatrices<kTokens>;
  static constexpr int kXPiece = kPieceSteps * X::kStepBytes;
  static constexpr int kStageBytes =
      std::max(kXPiece + kTileUnits * kUnitPiece, 2 * kXPiece + kGroupUnits * kUnitPiece);
  static constexpr int kStages = kTokens == 128 ? 5 : 8;
  static constexpr int kSmemBytes = kStages * kStageBytes;
  static_assert(kStages <= kMaxStages);
};

struct Params {
  const void* x;  // float, or bf16
  int64_t x_stride;
  uint8_t* prepared;  // [tile of tokens][piece]: CoreMatrices
  int m;
  int pieces;
  int units;
  int token_tiles;
  int whole_items;  // of kTileUnits units and a tile of tokens
  int items;        // then those of the last units, where they are few, and two tiles of tokens
  bf16_tiles::Parts parts;
};

// The tokens of the same units after each other, so that their weights stay in L2.
struct Item {
  bool whole;
  int first_unit;
  int first_tile;  // of tokens

  __device__ __forceinline__ Item(const Params& p, int item) : whole(item < p.whole_items) {
    first_unit = (whole ? item : p.whole_items) / p.token_tiles * kTileUnits;
    first_tile = whole ? item % p.token_tiles : (item - p.whole_items) * 2;
  }
  // Of a warpgroup.
  __device__ __forceinline__ int unit(int group) const {
    return first_unit + (whole ? group * kGroupUnits : 0);
  }
  __device__ __forceinline__ int tile(int group) const { return first_tile + (whole ? 0 : group); }
};

// Where a stage holds what a warpgroup reads.
template <typename Shape>
__device__ __forceinline__ int place_of_x(const Item& item, int group) {
  return item.whole ? 0 : group * Shape::kXPiece;
}
template <typename Shape>
__device__ __forceinline__ int place_of_units(const Item& item, int group) {
  return item.whole ? Shape::kXPiece + group * (kGroupUnits * kUnitPiece) : 2 * Shape::kXPiece;
}

// x [m, K] as the tensor core reads it: in 16 inputs, of which four lanes have four each, the first
// two of each come before the others, as in a unit of a weight. A warp: a piece of eight rows.
// T: of x, float or uint16_t for bf16.
template <typename Shape, typename T>
__global__ void __launch_bounds__(256) prepare_kernel(const __grid_constant__ Params p) {
  using X = typename Shape::X;
  tile::launch_dependents();
  tile::wait_for_producers();
  const int lane = static_cast<int>(threadIdx.x) % 32, q = lane % 4;
  const int piece = static_cast<int>(blockIdx.x) * 8 + static_cast<int>(threadIdx.x) / 32;
  const int row = static_cast<int>(blockIdx.y) * 8 + lane / 4;
  if (piece >= p.pieces) return;
  uint2 fours[kPieceSteps] = {};
  if (row < p.m) {
    const T* const from =
        static_cast<const T*>(p.x) + row * p.x_stride + int64_t{piece} * kPieceInputs + q * 4;
#pragma unroll
    for (int s = 0; s < kPieceSteps; ++s) fours[s] = bf16_tiles::load_packed_four(from + s * 16);
  }
  uint8_t* const to =
      p.prepared + (int64_t{row / Shape::kTokens} * p.pieces + piece) * Shape::kXPiece;
#pragma unroll
  for (int s = 0; s < kPieceSteps; ++s) {
    const int first = X::offset(row % Shape::kTokens, s * 32 + q * 4);
    *reinterpret_cast<uint32_t*>(to + first) = fours[s].x;
    *reinterpret_cast<uint32_t*>(to + first + X::kStride) = fours[s].y;
  }
}

// By each of the producers, a quarter of every stage: a lane a unit, and one some of x.
template <typename Shape>
__device__ __forceinline__ void fill_ring(const Params& p, Ring& ring, uint8_t* smem,
                                          int producer) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  tile::RingPlace place;
  int count = 0;
  for (int i = static_cast<int>(blockIdx.x); i < p.items; i += static_cast<int>(gridDim.x)) {
    const Item item(p, i);
    const int tiles = item.whole ? 1 : 2;
    const int units = (item.whole ? kTileUnits : kGroupUnits) / kProducers;
    const int x_bytes = tiles * Shape::kXPiece / kProducers;
    const bool has_unit = lane < units;
    const uint8_t* from;
    int at, stride, num_bytes;
    if (has_unit) {
      const int in_item = producer * units + lane;
      const int unit = min(item.first_unit + in_item, p.units - 1);
      const Part& part = p.parts.find(unit);
      from = reinterpret_cast<const uint8_t*>(part.weight) +
             int64_t{unit - part.first} * p.pieces * kUnitPiece;
      at = place_of_units<Shape>(item, 0) + in_item * kUnitPiece;
      stride = num_bytes = kUnitPiece;
    } else {
      at = producer * x_bytes;
      const int tile = min(item.first_tile + at / Shape::kXPiece, p.token_tiles - 1);
      from = p.prepared + int64_t{tile} * p.pieces * Shape::kXPiece + at % Shape::kXPiece;
      stride = Shape::kXPiece;
      num_bytes = x_bytes;
    }
#pragma unroll 1
    for (int piece = 0; piece < p.pieces; ++piece) {
      if (count >= Shape::kStages) ring.empty[place.stage].wait(place.phase ^ 1);
      tile::Mbarrier& full = ring.full[place.stage];
      if (lane == 0) full.arrive_expecting(units * kUnitPiece + x_bytes);
      __syncwarp();
      if (lane <= units)
        full.bulk_copy(smem + place.stage * Shape::kStageBytes + at, from, num_bytes);
      from += stride;
      place.advance(Shape::kStages);
      ++count;
    }
  }
}

// A warp's sums of its unit and of a tile of tokens. The products of a piece run while the weights
// of the next are brought to registers.
template <typename Shape>
class Sums {
 public:
  static constexpr int kValues = Shape::kTokens / 2;  // of a lane

  __device__ Sums(Ring& ring, const uint8_t* stages)
      : ring_(ring),
        stages_(stages),
        group_(tile::uniform(static_cast<int>(threadIdx.x) / 128)),
        warp_(static_cast<int>(threadIdx.x) / 32 % 4) {}

  __device__ __forceinline__ void multiply(const Params& p, const Item& item) {
    x_ = place_of_x<Shape>(item, group_);
    weights_ = place_of_units<Shape>(item, group_) + warp_ * kUnitPiece +
               static_cast<int>(threadIdx.x) % 32 * 16;
    const int pieces = p.pieces / kRuns;  // an even number
#pragma unroll
    for (float& v : sum_) v = -0.0f;  // which changes no bit of the first run's
#pragma unroll 1
    for (int run = 0; run < kRuns; ++run) {
      float d[kValues];
      uint32_t even[kPieceSteps][4], odd[kPieceSteps][4];
      start<true>(d, even);
#pragma unroll 1
      for (int piece = 2; piece < pieces; piece += 2) {
        start<false>(d, odd);
        finish<1>(even);
        start<false>(d, even);
        finish<1>(odd);
      }
      start<false>(d, odd);
      finish<1>(even);
      finish<0>(odd);
      tile::wgmma_arrived(d);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum_[i] += d[i];
    }
  }

  __device__ __forceinline__ void store(const Params& p, const Item& item) const {
    const int unit = item.unit(group_) + warp_;
    if (unit >= p.units) return;
    const Part& part = p.parts.find(unit);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int n = (unit - part.first) * 16 + lane / 4;
    const int first = item.tile(group_) * Shape::kTokens + lane % 4 * 2;
    float* const to = part.out.y + first * part.out.y_stride + n;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int token = i / 4 * 8 + i % 2, row = i / 2 % 2 * 8;
      if (first + token >= p.m || n + row >= part.out.rows) continue;
      to[token * part.out.y_stride + row] =
          part.out.round_y ? tile::round_to_bf16(sum_[i]) : sum_[i];
    }
  }

 private:
  // The products of the next piece, with its weights.
  template <bool kFirst>
  __device__ __forceinline__ void start(float (&d)[kValues], uint32_t (&a)[kPieceSteps][4]) {
    ring_.full[next_.stage].wait(next_.phase);
    const uint8_t* const stage = stages_ + next_.stage * Shape::kStageBytes;
    next_.advance(Shape::kStages);
#pragma unroll
    for (int s = 0; s < kPieceSteps; ++s) {
      const auto v = *reinterpret_cast<const tile::Vector16*>(stage + weights_ + s * 512);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[s][i] = v.word[i];
    }
    const uint64_t x = Shape::X::descriptor(tile::smem_address(stage + x_));
    tile::wgmma_fence();
#pragma unroll
    for (int s = 0; s < kPieceSteps; ++s) {
      const uint64_t step = Shape::X::advance(x, s * Shape::X::kStepBytes);
      const int accumulate = !kFirst || s > 0;
      if constexpr (Shape::kTokens == 128) {
        tile::wgmma_bf16_n128(d, a[s], step, accumulate);
      } else {
        tile::wgmma_bf16_n64(d, a[s], step, accumulate);
      }
    }
    tile::wgmma_commit();
  }
  // The oldest piece whose products are under way; kLater more are.
  template <int kLater>
  __device__ __forceinline__ void finish(const uint32_t (&a)[kPieceSteps][4]) {
    tile::wgmma_wait<kLater>();
#pragma unroll
    for (int s = 0; s < kPieceSteps; ++s) tile::wgmma_read(a[s]);
    ring_.empty[last_.stage].arrive();
    last_.advance(Shape::kStages);
  }

  Ring& ring_;
  const uint8_t* stages_;
  int group_, warp_;
  int x_, weights_;  // the lane's places in a stage
  tile::RingPlace next_, last_;
  float sum_[kValues];
};

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 1) wide_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Ring ring;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      ring.full[i].init(kProducers);
      ring.empty[i].init(kWarps * 32);
    }
    tile::Mbarrier::publish_inits();
  }
  __syncthreads();
  tile::launch_dependents();
  tile::wait_for_producers();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  if (warp >= kWarps) {
    tile::shrink_registers<kProducerRegisters>();
    fill_ring<Shape>(p, ring, smem, warp - kWarps);
    return;
  }
  tile::grow_registers<kRegisters>();
  Sums<Shape> sums(ring, smem);
  for (int i = static_cast<int>(blockIdx.x); i < p.items; i += static_cast<int>(gridDim.x)) {
    const Item item(p, i);
    sums.multiply(p, item);
    sums.store(p, item);
  }
}

int64_t token_tiles_of(int tokens, int64_t m) { return (m + tokens - 1) / tokens; }
int64_t whole_items_of(int tokens, int64_t m, int64_t units) {
  return (units + kTileUnits - kGroupUnits - 1) / kTileUnits * token_tiles_of(tokens, m);
}
int64_t items_of(int tokens, int64_t m, int64_t units) {
  const bool is_rest = units % kTileUnits > 0 && units % kTileUnits <= kGroupUnits;
  return whole_items_of(tokens, m, units) + (is_rest ? token_tiles_of(2 * tokens, m) : 0);
}

template <int kTokens, typename T>
void launch_kernels(const cuda::Device& device, const cuda::Stream& stream, const Params& p) {
  using Shape = WideShape<kTokens>;
  cuda::LaunchShape prepare;
  prepare.grid = dim3(static_cast<unsigned>((p.pieces + 7) / 8),
                      static_cast<unsigned>(p.token_tiles * (kTokens / 8)));
  prepare.block = 256;
  cuda::launch(stream, prepare, prepare_kernel<Shape, T>, p);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(p.items, device.num_sms)));
  shape.block = kThreads;
  shape.smem_bytes = Shape::kSmemBytes;
  cuda::allow_smem(wide_kernel<Shape>, Shape::kSmemBytes);
  cuda::launch(stream, shape, wide_kernel<Shape>, p);
}

template <typename T>
void launch_of(int tokens, const cuda::Device& device, const cuda::Stream& stream, Params& p,
               const T* x) {
  p.x = x;
  CACHALOT_CHECK(tokens == kTileTokens[0] || tokens == kTileTokens[1]);
  tokens == kTileTokens[0] ? launch_kernels<kTileTokens[0], T>(device, stream, p)
                           : launch_kernels<kTileTokens[1], T>(device, stream, p);
}

}  // namespace

bool fits(int tokens, int64_t m, int64_t columns, int64_t num_units, int64_t num_sms) {
  return m >= kLeastRows && columns % (2 * kRuns * kPieceInputs) == 0 &&
         items_of(tokens, m, num_units) >= num_sms * 3 / 4;
}

int64_t scratch_bytes(int tokens, int64_t m, int64_t columns) {
  return token_tiles_of(tokens, m) * tokens * columns * 2;
}

void launch(const cuda::Device& device, const cuda::Stream& stream, const Bf16Products& products,
            int tokens, std::byte* scratch) {
  Params p{};
  p.x_stride = products.x_stride;
  p.prepared = reinterpret_cast<uint8_t*>(scratch);
  p.m = static_cast<int>(products.m);
  p.pieces = static_cast<int>(products.columns / kPieceInputs);
  p.units = p.parts.cut(products, 1);
  p.token_tiles = static_cast<int>(token_tiles_of(tokens, products.m));
  p.whole_items = static_cast<int>(whole_items_of(tokens, products.m, p.units));
  p.items = static_cast<int>(items_of(tokens, products.m, p.units));
  products.x_bf16 != nullptr ? launch_of(tokens, device, stream, p, products.x_bf16)
                             : launch_of(tokens, device, stream, p, products.x);
}

}  // namespace cachalot::ops::bf16_wide
