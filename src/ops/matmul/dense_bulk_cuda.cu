#include <algorithm>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "device/cuda/tensor_map.h"
#include "ops/matmul/dense_bulk.h"
#include "ops/matmul/dense_bulk_prepare.cuh"
#include "tile/lanes.cuh"
#include "tile/mma.cuh"
#include "tile/wgmma_bf16.cuh"
#include "tile/wgmma_shared.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
using namespace dense_bulk;

constexpr int kGroups = 2;  // warpgroups that multiply, half of the rows each
constexpr int kWarps = kGroups * 4;
constexpr int kThreads = kWarps * 32 + 128;  // the last warpgroup's first lane fills the ring
constexpr int kRegisters = 240;
constexpr int kProducerRegisters = 24;
constexpr int kMaxStages = 6;
constexpr int kAlignment = tile::SwizzledTile::kGroupBytes;
using Ring = tile::BulkRing<kMaxStages>;

// wide: the form unquantised. chained: of more blocks of inputs than there are chains, so that a
// chain needs registers beside the sum, and a block has half of the rows.
template <bool kIsWide, bool kIsChained>
struct BulkShape {
  static constexpr bool kWide = kIsWide;
  static constexpr bool kChained = kIsChained;
  static constexpr int kRows = kChained ? kMostRows / 2 : kMostRows;
  static constexpr int kHalves = kRows / kGroups / 64;  // of a warpgroup, 64 rows each
  static constexpr int kPieces = pieces_of_block(kWide);
  static constexpr int kXPiece = x_piece(kWide, kRows);
  static constexpr int kStageBytes = kWeightPiece + kXPiece;
  static constexpr int kStages = kChained ? 6 : 4;
  static constexpr int kSmemBytes = kStages * kStageBytes + kAlignment;
  // That give a stage back: where none reads from it itself, only by products for which its whole
  // warp waits, one for the warp.
  static constexpr int kGivingLanes = kWide ? 1 : 32;
  using Weight = tile::SharedRows<128, 1024>;

  // Of a piece of x: 64 rows from first_row, a step of inputs.
  static __device__ __forceinline__ uint64_t x_step(uint32_t piece, int first_row, int step) {
    if constexpr (kWide) {
      return tile::SwizzledTile::major_k(piece + first_row * kPieceInputs, step);
    } else {
      using X = tile::SharedRows<kRows * 16, 128>;
      return X::advance(X::descriptor(piece + first_row * 16), step * 2 * kRows * 16);
    }
  }
};
constexpr int kSteps = 4;  // of the tensor cores over a piece, 32 bytes of inputs each

// A block's items: the tokens of a tile after each other, so that its weights stay in L2.
struct Item {
  int tile;
  int row_tile;
  __device__ __forceinline__ Item(int item, int row_tiles)
      : tile(item / row_tiles), row_tile(item % row_tiles) {}
};

template <typename Shape>
__device__ __forceinline__ void fill_ring(const Params& p, Ring& ring, uint8_t* smem,
                                          int row_tiles) {
  tile::RingPlace place;
  int count = 0;
  for (int i = static_cast<int>(blockIdx.x); i < p.tiles * row_tiles;
       i += static_cast<int>(gridDim.x)) {
    const Item item(i, row_tiles);
    const int first_column = Shape::kWide ? find_group(p, item.tile) * p.x.blocks * 128 : 0;
    const int64_t pieces = int64_t{p.x.blocks} * Shape::kPieces;
    const uint8_t* const x = p.x.prepared + item.row_tile * pieces * Shape::kXPiece;
    const uint8_t* const weight = p.weight + item.tile * pieces * kWeightPiece;
    dense_many::ChainOrder order{p.x.blocks};
    for (int block = 0; block < p.x.blocks; ++block, order.advance()) {
      for (int in_block = 0; in_block < Shape::kPieces; ++in_block) {
        const int64_t piece = order.block * Shape::kPieces + in_block;
        if (count >= Shape::kStages) ring.empty[place.stage].wait(place.phase ^ 1);
        tile::Mbarrier& full = ring.full[place.stage];
        uint8_t* const to = smem + place.stage * Shape::kStageBytes;
        full.arrive_expecting(Shape::kStageBytes);
        full.bulk_copy(to, weight + piece * kWeightPiece, kWeightPiece);
        if constexpr (Shape::kWide) {
          full.copy_box(to + kWeightPiece, &p.x_rows, first_column + static_cast<int>(piece) * 64,
                        item.row_tile * Shape::kRows);
        } else {
          full.bulk_copy(to + kWeightPiece, x + piece * Shape::kXPiece, Shape::kXPiece);
        }
        place.advance(Shape::kStages);
        ++count;
      }
    }
  }
}

// The scales of a tile in the order of the chains, 32 at a time, a lane one.
class TileScales {
 public:
  __device__ __forceinline__ TileScales(const Params& p, int tile)
      : from_(p.weight_scales + min(tile, p.tiles - 1) * p.x.blocks),
        num_blocks_(p.x.blocks),
        own_(load(0)),
        later_(load(32)) {}

  __device__ __forceinline__ float next() {
    const float scale = __shfl_sync(0xFFFFFFFFu, own_, at_ % 32);
    if (++at_ % 32 == 0) {
      own_ = later_;
      later_ = load(at_ + 32);
    }
    return scale;
  }

 private:
  __device__ __forceinline__ float load(int first) const {
    const int i = first + static_cast<int>(threadIdx.x) % 32;
    return i < num_blocks_ ? __ldg(from_ + i) : 0.0f;
  }

  const float* from_;
  int num_blocks_;
  float own_, later_;
  int at_ = 0;
};

// A warpgroup's sums: half of the rows and all of the block's outputs. While one group adds up a
// block's products the other's run.
template <typename Shape>
class Sums {
 public:
  static constexpr int kValues = kOutputs / 2;  // of a lane and 64 rows
  static constexpr int kHalves = Shape::kHalves;
  static constexpr int kPieces = Shape::kPieces;
  static constexpr int kStages = Shape::kStages;

  __device__ Sums(Ring& ring, const uint8_t* stages)
      : ring_(ring),
        stages_(stages),
        first_row_(static_cast<int>(threadIdx.x) / 128 * (kHalves * 64)),
        row_(first_row_ + static_cast<int>(threadIdx.x) % 128 / 32 * 16 +
             static_cast<int>(threadIdx.x) % 32 / 4) {}

  __device__ __forceinline__ void multiply(int num_blocks, TileScales& scales) {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (float& v : sum_[h]) v = 0;
    }
    float chain[Shape::kChained ? kValues : 1] = {};
    dense_many::ChainOrder order{num_blocks};
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      add_block(scales.next(), chain);
      if constexpr (Shape::kChained) {
        if (order.ends_chain()) {
#pragma unroll
          for (int i = 0; i < kValues; ++i) {
            sum_[0][i] += chain[i];
            chain[i] = 0;
          }
        }
        order.advance();
      }
    }
  }

  __device__ __forceinline__ void store(const Params& p, const Item& item) const {
    const Group& group = p.groups[find_group(p, item.tile)];
    const int first_output = (item.tile - group.first_tile) * kOutputs;
    const bool whole = first_output + kOutputs <= group.rows && group.y_stride % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(group.y) % 16 == 0;
    const int present = whole ? kOutputs : group.rows - first_output;
    const int row = item.row_tile * Shape::kRows + row_;
    const int64_t at = row * group.y_stride + first_output;
    const Place to = {group.y, at, group.y_stride, p.x.m - row, present};
    if (!whole) return p.x.float_y ? store_to<float, false>(to) : store_to<uint16_t, false>(to);
    p.x.float_y ? store_to<float, true>(to) : store_to<uint16_t, true>(to);
  }

 private:
  // chain: where a chain is more than one block.
  template <int kChainValues>
  __device__ __forceinline__ void add_block(float scale, float (&chain)[kChainValues]) {
    tile::RingPlace at = place_;
    const uint8_t* stages[kPieces];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      ring_.full[at.stage].wait(at.phase);
      stages[piece] = stages_ + at.stage * Shape::kStageBytes;
      at.advance(kStages);
    }
    float of_rows[kHalves][2];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      float d[kValues];
      tile::wgmma_fence();
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const uint32_t stage = tile::smem_address(stages[piece]);
        const uint64_t w = Shape::Weight::descriptor(stage);
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const uint64_t x_step = Shape::x_step(stage + kWeightPiece, first_row_ + h * 64, s);
          const uint64_t w_step = Shape::Weight::advance(w, s * 2 * 128);
          if constexpr (Shape::kWide) {
            tile::shared_bf16_n128(d, x_step, w_step, piece + s);
          } else {
            tile::shared_e4m3_n128(d, x_step, w_step, s);
          }
        }
      }
      tile::wgmma_commit();
      if (h == 0) {
        const auto* const rows =
            reinterpret_cast<const float*>(stages[0] + kWeightPiece + Shape::kRows * kPieceInputs);
#pragma unroll
        for (int i = 0; i < kHalves; ++i) {
#pragma unroll
          for (int upper = 0; upper < 2; ++upper) {
            of_rows[i][upper] =
                Shape::kWide ? scale : scale * rows[scale_place(row_ + i * 64 + upper * 8)];
          }
        }
      }
      tile::wgmma_wait<0>();
      tile::wgmma_arrived(d);
      if (h + 1 == kHalves) release();
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        float& sum = Shape::kChained ? chain[i % kChainValues] : sum_[h][i];
        sum = fmaf(d[i], of_rows[h][i / 2 % 2], sum);
      }
    }
  }

  // The block's stages: see tile::BulkRing.
  __device__ __forceinline__ void release() {
    const bool gives = static_cast<int>(threadIdx.x) % 32 < Shape::kGivingLanes;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (gives) ring_.empty[place_.stage].arrive();
      place_.advance(kStages);
    }
  }

  // Of the lane's first row and the block's first output.
  struct Place {
    void* y;
    int64_t at;
    int64_t stride;
    int rows;  // there are, from it on
    int outputs;
  };
  // Four lanes exchange theirs, so that each has eight outputs in a row. whole: all of the block's
  // are there, and aligned.
  template <typename T, bool kWhole>
  __device__ __forceinline__ void store_to(const Place& place) const {
    const int lane_outputs = static_cast<int>(threadIdx.x) % 4 * 8;
    T* const to = static_cast<T*>(place.y) + place.at + lane_outputs;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        const int row = h * 64 + upper * 8;
        T* const to_row = to + row * place.stride;
#pragma unroll
        for (int part = 0; part < kOutputs / 32; ++part) {
          uint32_t pairs[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int at = (4 * part + i) * 4 + 2 * upper;
            pairs[i] = tile::pack_bf16(sum_[h][at], sum_[h][at + 1]);
          }
          tile::transpose_among_four(pairs);
          if (row >= place.rows) continue;
          if constexpr (kWhole) {
            store_eight(to_row + part * 32, pairs);
          } else {
            store_some(to_row + part * 32, pairs, place.outputs - part * 32 - lane_outputs);
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void store_eight(uint16_t* to, const uint32_t (&pairs)[4]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
  static __device__ __forceinline__ void store_eight(float* to, const uint32_t (&pairs)[4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      reinterpret_cast<float4*>(to)[i] =
          make_float4(tile::low_bf16(pairs[2 * i]), tile::high_bf16(pairs[2 * i]),
                      tile::low_bf16(pairs[2 * i + 1]), tile::high_bf16(pairs[2 * i + 1]));
    }
  }
  template <typename T>
  static __device__ __forceinline__ void store_some(T* to, const uint32_t (&pairs)[4],
                                                    int present) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= present) return;
      const uint32_t bits = i % 2 == 0 ? pairs[i / 2] & 0xFFFF : pairs[i / 2] >> 16;
      if constexpr (sizeof(T) == 4) {
        to[i] = tile::low_bf16(bits);
      } else {
        to[i] = static_cast<uint16_t>(bits);
      }
    }
  }

  Ring& ring_;
  const uint8_t* stages_;
  int first_row_;  // the group's
  int row_;        // the lane's first
  tile::RingPlace place_;
  float sum_[kHalves][kValues];
};

template <bool kWide, bool kChained>
__global__ void __launch_bounds__(kThreads, 1) bulk_kernel(const __grid_constant__ Params p) {
  using Shape = BulkShape<kWide, kChained>;
  extern __shared__ __align__(1024) uint8_t bytes[];
  __shared__ Ring ring;
  uint8_t* const smem = bytes + (kAlignment - tile::smem_address(bytes) % kAlignment) % kAlignment;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      ring.full[i].init(1);
      ring.empty[i].init(kWarps * Shape::kGivingLanes);
    }
    tile::Mbarrier::publish_inits();
  }
  __syncthreads();
  tile::launch_dependents();
  tile::wait_for_producers();
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int row_tiles = (p.x.m + Shape::kRows - 1) / Shape::kRows;
  if (warp >= kWarps) {
    tile::shrink_registers<kProducerRegisters>();
    if (threadIdx.x == kWarps * 32) fill_ring<Shape>(p, ring, smem, row_tiles);
    return;
  }
  tile::grow_registers<kRegisters>();
  Sums<Shape> sums(ring, smem);
  const int stride = static_cast<int>(gridDim.x);
  int i = static_cast<int>(blockIdx.x);
  TileScales scales(p, i / row_tiles);
  for (; i < p.tiles * row_tiles; i += stride) {
    TileScales next(p, (i + stride) / row_tiles);
    sums.multiply(p.x.blocks, scales);
    scales = next;
    sums.store(p, Item(i, row_tiles));
  }
}

bool is_wide(const DenseShape& s) { return s.form == DenseForm::unquantised; }

bool is_chained(const DenseShape& s) { return s.columns / 128 > dense_many::kChains; }
int rows_of_block(const DenseShape& s) { return is_chained(s) ? kMostRows / 2 : kMostRows; }

// Of all groups, where each but the last has the same rows; with a shared x at most.
int64_t tiles_of(const DenseShape& s) {
  return s.shared_x ? (s.rows + kOutputs - 1) / kOutputs + s.groups - 1
                    : s.groups * ((s.rows / s.groups + kOutputs - 1) / kOutputs);
}
int64_t row_tiles_of(const DenseShape& s) {
  return (s.m + rows_of_block(s) - 1) / rows_of_block(s);
}
int64_t x_bytes(const DenseShape& s) {
  if (is_wide(s)) return s.has_float_x() ? s.m * s.groups * s.columns * 2 : 0;
  return row_tiles_of(s) * (s.columns / 128) * x_piece(false, rows_of_block(s));
}
int64_t weight_bytes(const DenseShape& s) {
  if (s.laid) return 0;
  return tiles_of(s) * (s.columns / 128) * pieces_of_block(is_wide(s)) * kWeightPiece;
}

int64_t scale_bytes(const DenseShape& s) {
  if (s.laid) return 0;
  return (tiles_of(s) * (s.columns / 128) * 4 + 15) / 16 * 16;
}

template <bool kWide>
void launch_lay(const cuda::Stream& stream, const Params& p) {
  cuda::LaunchShape lay;
  lay.grid = dim3(static_cast<unsigned>(p.x.blocks), static_cast<unsigned>(p.tiles));
  lay.block = 256;
  cuda::launch(stream, lay, lay_weight_kernel<kWide>, p);
}

// The place of weights that are laid already. Never written.
void take_laid(Params& p, std::span<const DenseGroup> groups) {
  const auto* const first = reinterpret_cast<const uint8_t*>(groups[0].laid);
  p.weight = const_cast<uint8_t*>(first);
  p.weight_scales = const_cast<float*>(groups[0].laid_scales);
  CACHALOT_CHECK(first != nullptr && p.weight_scales != nullptr);
}

template <bool kWide, bool kChained>
void launch_kernels(const cuda::Stream& stream, const Params& p, int64_t grid, bool laid) {
  using Shape = BulkShape<kWide, kChained>;
  if (!laid) launch_lay<kWide>(stream, p);
  cuda::LaunchShape prepare;
  prepare.block = 256;
  if constexpr (kWide) {
    const int64_t eights = int64_t{p.x.m} * p.x.blocks * p.num_groups * 16;
    prepare.grid = dim3(static_cast<unsigned>((eights + 255) / 256));
    if (p.x.float_x) cuda::launch(stream, prepare, round_rows_kernel, p);
  } else {
    prepare.grid = dim3(static_cast<unsigned>(p.x.blocks),
                        static_cast<unsigned>((p.x.m + Shape::kRows - 1) / Shape::kRows));
    cuda::launch(stream, prepare, dense_many::prepare_kernel, p.x);
  }
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(grid));
  shape.block = kThreads;
  shape.smem_bytes = Shape::kSmemBytes;
  cuda::launch(stream, shape, bulk_kernel<kWide, kChained>, p);
}
template <bool kWide, bool kChained>
void allow() {
  cuda::allow_smem(bulk_kernel<kWide, kChained>, BulkShape<kWide, kChained>::kSmemBytes);
}

void launch_dense_bulk(const DensePlan& plan, const cuda::Stream& stream, const void* x,
                       int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                       const LaunchOrder&) {
  const DenseShape& s = plan.shape;
  CACHALOT_CHECK(static_cast<int64_t>(groups.size()) == s.groups);
  Params p{};
  p.x.x = x;
  p.x.x_stride = x_stride;
  p.x.float_x = s.has_float_x();
  p.x.float_y = s.has_float_y();
  p.x.m = static_cast<int>(s.m);
  p.x.blocks = static_cast<int>(s.columns / 128);
  p.x.tokens = rows_of_block(s);
  p.x.prepared = reinterpret_cast<uint8_t*>(scratch);
  p.weight = p.x.prepared + x_bytes(s);
  p.weight_scales = reinterpret_cast<float*>(p.weight + weight_bytes(s));
  if (s.laid) take_laid(p, groups);
  for (const DenseGroup& group : groups) {
    p.groups[p.num_groups++] = {reinterpret_cast<const uint8_t*>(group.weight), group.y,
                                group.y_stride, static_cast<int>(group.rows), p.tiles};
    p.tiles += static_cast<int>((group.rows + kOutputs - 1) / kOutputs);
  }
  CACHALOT_CHECK(p.tiles <= tiles_of(s));
  if (is_wide(s)) {
    const int64_t width = s.groups * s.columns;
    p.x_rows = s.has_float_x() ? cuda::map_bf16_rows(scratch, s.m, width, width, rows_of_block(s))
                               : cuda::map_bf16_rows(x, s.m, width, x_stride, rows_of_block(s));
  }
  const auto launch = is_wide(s)
                          ? is_chained(s) ? launch_kernels<true, true> : launch_kernels<true, false>
                      : is_chained(s) ? launch_kernels<false, true>
                                      : launch_kernels<false, false>;
  launch(stream, p, plan.grid, s.laid);
}

}  // namespace

int64_t dense_bulk_blocks(const DenseGroup& group, const DenseShape& s) {
  return (group.rows + kOutputs - 1) / kOutputs * (s.columns / 128);
}
int64_t dense_bulk_block_bytes(const DenseShape& s) {
  return int64_t{pieces_of_block(is_wide(s))} * kWeightPiece;
}

bool dense_bulk_fits(const DenseShape& s, int64_t num_sms) {
  if (is_wide(s) ? !s.float_rows || s.shared_x
                 : s.form != DenseForm::official_fp8 || (s.groups > 1 && !s.shared_x))
    return false;
  return s.m >= kMostRows && tiles_of(s) * row_tiles_of(s) >= num_sms * 3 / 4;
}

void plan_dense_bulk(DensePlan& plan, int64_t num_sms) {
  const DenseShape& s = plan.shape;
  plan.launch = launch_dense_bulk;
  plan.tokens = rows_of_block(s);
  plan.grid = static_cast<int>(std::min(num_sms, tiles_of(s) * row_tiles_of(s)));
  plan.scratch_bytes = x_bytes(s) + weight_bytes(s) + scale_bytes(s);
  allow<true, true>();
  allow<true, false>();
  allow<false, true>();
  allow<false, false>();
}

}  // namespace cachalot::ops
