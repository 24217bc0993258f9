// The products with packed weights on the GPU, with the CPU's bits (matmul.h), straight from its
// panels (packed_weight.h). A block takes a panel of 64 outputs and a few rows of x. The panel
// comes through a ring of bulk copies; four groups of 64 threads, a lane an output, take every
// fourth stage each. What a stage adds to the outputs is folded in the order of the stages: its
// sums over a group of scales (or over chain_inputs) do not depend on the stages before; where the
// weight has none, a stage continues the one chain.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/host_device.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/matmul.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops::packed {

inline constexpr int kLanes = static_cast<int>(PackedWeight::kPanelWidth);
inline constexpr int kGroups = 4;
inline constexpr int kConsumers = kGroups * kLanes;
inline constexpr int kThreads = kConsumers + 32;  // the last warp's first lane fills the ring
inline constexpr int kMaxStages = 6;
inline constexpr int kMaxRows = 4;
inline constexpr int kChainInputs = 64;  // MatmulParams::chain_inputs, where it is not 0

// Inputs of a stage, and its bytes for each output.
template <WeightFormat kFormat>
inline constexpr int kStageInputs = kFormat == WeightFormat::fp4   ? 256
                                    : kFormat == WeightFormat::fp8 ? 128
                                                                   : kChainInputs;
CACHALOT_HD constexpr int bytes_of_inputs(WeightFormat format, int inputs) {
  switch (format) {
    case WeightFormat::f32: return inputs * 4;
    case WeightFormat::bf16: return inputs * 2;
    case WeightFormat::fp8: return inputs;
    case WeightFormat::fp4: return inputs / 32 * 17;
  }
  return 0;
}

// What kernels know of a weight; `data` lies on the device.
struct Weight {
  const std::byte* data;
  int64_t rows;
  int columns;
  int padded_columns;
  int64_t scales_offset;  // fp8
  bool short_sums;        // fp8: over 32 inputs
  bool has_nan_codes;
};

inline Weight weight_of(const PackedWeight& w) {
  return {w.bytes().data(),
          w.rows(),
          static_cast<int>(w.columns()),
          static_cast<int>(w.padded_columns()),
          w.panel_scales(0) == nullptr
              ? 0
              : reinterpret_cast<const std::byte*>(w.panel_scales(0)) - w.bytes().data(),
          w.sum_group() == 32,
          w.has_nan_codes()};
}

// The rows of a product; or of many, one an expert: pairs [first_pair[e], first_pair[e + 1]) with
// the weight at data[e].
struct Rows {
  const float* x;
  int64_t m;  // of all experts
  int64_t x_stride;
  const int32_t* x_rows;
  float* y;
  int64_t y_stride;
  bool chains;
  bool round_y;
  const std::byte* const* data;  // null: one product
  const int64_t* first_pair;
  int num_experts;
};

// --- Sums of a stage.

template <bool kBf16>
__device__ __forceinline__ float step(float x, float w, float sum) {
  return kBf16 ? tile::fma_ftz(x, w, sum) : fmaf(x, w, sum);
}
// kInputs of them, an even number, in the order of matmul.h.
template <bool kBf16, int kInputs>
__device__ __forceinline__ float extend(const float (&x)[kInputs], const float (&w)[kInputs],
                                        float sum) {
#pragma unroll
  for (int i = 0; i < kInputs; i += 2) {
    sum = step<kBf16>(kBf16 ? x[i + 1] : x[i], kBf16 ? w[i + 1] : w[i], sum);
    sum = step<kBf16>(kBf16 ? x[i] : x[i + 1], kBf16 ? w[i] : w[i + 1], sum);
  }
  return sum;
}

__device__ __forceinline__ void unpack(uint32_t pair, float& low, float& high) {
  low = tile::low_bf16(pair);
  high = tile::high_bf16(pair);
}
// Four codes; e4m3_to_bf16's factor is 2^120.
template <bool kHasNan>
__device__ __forceinline__ void decode_fp8(uint32_t codes, float (&w)[4]) {
  if constexpr (kHasNan) {
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = tile::e4m3_value(codes >> (8 * i) & 0xFF);
  } else {
    uint32_t first, second;
    tile::e4m3_to_bf16(codes, first, second);
    unpack(tile::multiply_bf16(first, 0x7B807B80u), w[0], w[1]);
    unpack(tile::multiply_bf16(second, 0x7B807B80u), w[2], w[3]);
  }
}
// Eight inputs of a lane: bytes 0 and 1 hold 0 | 4 and 1 | 5 (low | high nibble), 2 and 3 those two
// later. As bf16 a nibble's bits are 2^-126 of its value.
__device__ __forceinline__ void decode_fp4(uint32_t word, float (&w)[8]) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x01C001C0u, kFactor = 0x7E807E80u;
  unpack(tile::multiply_bf16(((word << 12) & kSign) | ((word << 6) & kRest), kFactor), w[0], w[2]);
  unpack(tile::multiply_bf16(((word << 8) & kSign) | ((word << 2) & kRest), kFactor), w[4], w[6]);
  unpack(tile::multiply_bf16(((word << 4) & kSign) | ((word >> 2) & kRest), kFactor), w[1], w[3]);
  unpack(tile::multiply_bf16((word & kSign) | ((word >> 6) & kRest), kFactor), w[5], w[7]);
}

// What a stage's inputs add to a lane's outputs.
template <WeightFormat kFormat, bool kBf16, int kRows>
struct StageSums {
  static constexpr int kSums = kFormat == WeightFormat::fp4   ? 8
                               : kFormat == WeightFormat::fp8 ? 4
                                                              : 1;
  float sum[kRows][kSums];

  // x: kRows rows of the stage's inputs, x_stride apart, 16-byte aligned. start: of the chain.
  __device__ __forceinline__ void add(const Weight& w, const uint8_t* stage, int width, int lane,
                                      int inputs, const float* x, int x_stride,
                                      const float (&start)[kRows]) {
    const bool whole = inputs == kStageInputs<kFormat>;
    if (kFormat == WeightFormat::fp8 && w.has_nan_codes) {
      add_inputs<false, true>(w, stage, width, lane, inputs, x, x_stride, start);
    } else if (whole && width == kLanes) {
      add_inputs<true, false>(w, stage, kLanes, lane, kStageInputs<kFormat>, x, x_stride, start);
    } else if (whole) {
      add_inputs<true, false>(w, stage, width, lane, kStageInputs<kFormat>, x, x_stride, start);
    } else {
      add_inputs<false, false>(w, stage, width, lane, inputs, x, x_stride, start);
    }
  }

  // scale: fp8's of the stage.
  __device__ __forceinline__ void fold(const Weight& w, const float (&scales)[kSums], int inputs,
                                       bool first, bool chains, float (&total)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kSums == 1) {
        total[r] = !chains || first ? sum[r][0] : total[r] + sum[r][0];
      } else {
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
          if (kFormat == WeightFormat::fp8 && !w.short_sums) {
            if (j + 1 < kSums) continue;  // one sum of all of a stage: the last
          } else if (j * 32 >= inputs) {
            continue;
          }
          total[r] = fmaf(sum[r][j], scales[j], total[r]);
          if constexpr (kBf16) total[r] = tile::without_denormal(total[r]);
        }
      }
    }
  }

 private:
  // kWhole: inputs is a constant.
  template <bool kWhole, bool kHasNan>
  __device__ __forceinline__ void add_inputs(const Weight& w, const uint8_t* stage, int width,
                                             int lane, int inputs, const float* x, int x_stride,
                                             const float (&start)[kRows]) {
    if constexpr (kFormat == WeightFormat::f32) {
      const float* weights = reinterpret_cast<const float*>(stage) + lane;
      take_start(start);
#pragma unroll(kWhole ? 16 : 1)
      for (int k = 0; k < inputs; ++k) {
        const float weight = weights[k * width];
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r][0] = fmaf(x[r * x_stride + k], weight, sum[r][0]);
      }
    } else if constexpr (kFormat == WeightFormat::bf16) {
      const uint32_t* weights = reinterpret_cast<const uint32_t*>(stage) + lane;
      take_start(start);
#pragma unroll(kWhole ? 16 : 1)
      for (int k = 0; k < inputs; k += 2) {
        float pair[2];
        unpack(weights[k / 2 * width], pair[0], pair[1]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float2 v = *reinterpret_cast<const float2*>(x + r * x_stride + k);
          sum[r][0] = extend<kBf16, 2>({v.x, v.y}, pair, sum[r][0]);
        }
      }
    } else if constexpr (kFormat == WeightFormat::fp8) {
      const uint32_t* weights = reinterpret_cast<const uint32_t*>(stage) + lane;
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          sum[r][j] = j == 0 || w.short_sums ? 0.0f : sum[r][j > 0 ? j - 1 : 0];
        const int end = kWhole ? (j + 1) * 32 : min(inputs, (j + 1) * 32);
#pragma unroll(kWhole ? 8 : 1)
        for (int k = j * 32; k < end; k += 4) {
          float four[4];
          decode_fp8<kHasNan>(weights[k / 4 * width], four);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float4 v = *reinterpret_cast<const float4*>(x + r * x_stride + k);
            sum[r][j] = extend<kBf16, 4>({v.x, v.y, v.z, v.w}, four, sum[r][j]);
          }
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r][j] = 0;
        if (!kWhole && j * 32 >= inputs) continue;
        const uint8_t* codes =
            stage + j * 17 * width + width + lane / 8 * 32 + lane % 8 / 4 * 16 + lane % 4 * 2;
#pragma unroll
        for (int run = 0; run < 4; ++run) {
          const uint8_t* at = codes + run * width * 4;
          const uint32_t word = *reinterpret_cast<const uint16_t*>(at) |
                                static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(at + 8))
                                    << 16;
          float eight[8];
          decode_fp4(word, eight);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float* from = x + r * x_stride + j * 32 + run * 8;
            const float4 v0 = *reinterpret_cast<const float4*>(from);
            const float4 v1 = *reinterpret_cast<const float4*>(from + 4);
            sum[r][j] = extend<kBf16, 8>({v0.x, v0.y, v0.z, v0.w, v1.x, v1.y, v1.z, v1.w}, eight,
                                         sum[r][j]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void take_start(const float (&start)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r][0] = start[r];
  }
};

// --- The kernel.

using Ring = tile::BulkRing<kMaxStages>;

// A block's rows, and their weight.
struct Job {
  int64_t first;
  int count;
  const std::byte* data;
};

// Tile `tile` of kRows rows: each expert's pairs are cut into tiles of their own. By a warp; count
// 0: there is none.
template <int kRows>
__device__ __forceinline__ Job find_job(const Weight& w, const Rows& rows, int64_t tile) {
  if (rows.data == nullptr) {
    const int64_t first = tile * kRows;
    return {first, static_cast<int>(min(int64_t{kRows}, rows.m - first)), w.data};
  }
  const int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int begin = 0; begin < rows.num_experts; begin += 32) {
    const int expert = min(begin + lane, rows.num_experts - 1);
    const int64_t first = rows.first_pair[expert];
    const auto pairs =
        begin + lane < rows.num_experts ? static_cast<int>(rows.first_pair[expert + 1] - first) : 0;
    const int tiles = (pairs + kRows - 1) / kRows;
    int up_to = tiles;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, up_to, distance);
      if (lane >= distance) up_to += other;
    }
    const bool mine = tile >= up_to - tiles && tile < up_to;
    const unsigned who = __ballot_sync(0xFFFFFFFFu, mine);
    if (who != 0) {
      const auto before = static_cast<int>(tile) - (up_to - tiles);
      const int owner = __ffs(static_cast<int>(who)) - 1;
      const int64_t own_first = first + before * kRows;
      return {__shfl_sync(0xFFFFFFFFu, own_first, owner),
              __shfl_sync(0xFFFFFFFFu, min(kRows, pairs - before * kRows), owner),
              rows.data[begin + owner]};
    }
    tile -= __shfl_sync(0xFFFFFFFFu, up_to, 31);
  }
  return {0, 0, nullptr};
}

// Shared memory: stages, x [kRows, x_stride], totals [kRows, 64].
template <WeightFormat kFormat, bool kBf16, int kRows>
__global__ void __launch_bounds__(kThreads)
    product_kernel(const __grid_constant__ Weight w, const __grid_constant__ Rows rows,
                   int num_stages, int x_stride) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Ring ring;
  __shared__ tile::Mbarrier turns[kGroups];  // a group's, to fold: the one before it has folded
  __shared__ Job shared_job;
  constexpr int kInputs = kStageInputs<kFormat>;
  constexpr int kStageBytes = bytes_of_inputs(kFormat, kInputs) * kLanes;
  const int64_t panel_idx = blockIdx.y;
  const int64_t left = w.rows - panel_idx * kLanes;
  const int width = left >= kLanes ? kLanes : static_cast<int>((left + 15) / 16 * 16);
  const int panel_stages = (w.padded_columns + kInputs - 1) / kInputs;
  const bool fills = threadIdx.x >= kConsumers;

  tile::launch_dependents();
  // A weight does not depend on kernels before; which expert's it is does.
  if (rows.data != nullptr) tile::wait_for_producers();
  Job job;
  if (fills) {
    if (threadIdx.x % 32 == 0) {
      for (tile::Mbarrier& turn : turns) turn.init(kLanes);
      ring.init(num_stages, kLanes / 32);
    }
    job = find_job<kRows>(w, rows, blockIdx.x);
    if (threadIdx.x % 32 == 0) shared_job = job;
    __syncwarp();
    tile::arrive_threads<1, kThreads>();
    if (threadIdx.x % 32 != 0 || job.count == 0) return;
    tile::BulkProducer<kMaxStages> producer(ring, smem, kStageBytes, num_stages, num_stages);
    const auto* from =
        reinterpret_cast<const uint8_t*>(job.data) +
        panel_idx * (bytes_of_inputs(kFormat, 32) * int64_t{w.padded_columns} * kLanes / 32);
    for (int s = 0; s < panel_stages; ++s) {
      const int inputs = min(kInputs, w.padded_columns - s * kInputs);
      const int bytes = kFormat == WeightFormat::fp4
                            ? inputs / 32 * 17 * width
                            : inputs * width * bytes_of_inputs(kFormat, 32) / 32;
      producer.put(from, static_cast<uint32_t>(bytes));
      from += bytes;
    }
    return;
  }

  tile::sync_threads<1, kThreads>();
  job = shared_job;
  if (job.count == 0) return;
  if (rows.data == nullptr) tile::wait_for_producers();
  float* const x = reinterpret_cast<float*>(smem + num_stages * kStageBytes);
  float* const totals = x + kRows * x_stride;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t i = job.first + min(r, job.count - 1);
    const float* from = rows.x + (rows.x_rows != nullptr ? rows.x_rows[i] : i) * rows.x_stride;
#pragma unroll 4
    for (int k = threadIdx.x; k < w.padded_columns; k += kConsumers)
      x[r * x_stride + k] = k < w.columns ? from[k] : 0.0f;
  }
  tile::sync_threads<2, kConsumers>();

  const int group = tile::uniform(static_cast<int>(threadIdx.x) / kLanes);
  const int lane = threadIdx.x % kLanes;
  const bool chained =
      (kFormat == WeightFormat::f32 || kFormat == WeightFormat::bf16) && !rows.chains;
  tile::BulkConsumer<kMaxStages> consumer(ring, smem, kStageBytes, num_stages);
  const auto* fp8_scales = reinterpret_cast<const float*>(job.data + w.scales_offset) +
                           panel_idx * ((w.columns + 127) / 128);
  for (int s = 0; s < group; ++s) consumer.skip();
  float total[kRows] = {};
  uint32_t turn = 0;
  for (int s = group; s < panel_stages; s += kGroups) {
    const int inputs = min(kInputs, w.padded_columns - s * kInputs);
    const uint8_t* stage = consumer.wait();
    const auto take = [&] {
      if (s == 0) return;
      turns[group].wait(turn);
      turn ^= 1;
#pragma unroll
      for (int r = 0; r < kRows; ++r) total[r] = totals[r * kLanes + lane];
    };
    if (chained) take();
    StageSums<kFormat, kBf16, kRows> sums;
    float scales[decltype(sums)::kSums] = {};
    float start[kRows] = {};
    if (chained) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) start[r] = total[r];
    }
    if (lane < width) {
      if constexpr (kFormat == WeightFormat::fp8) {
        const float scale = fp8_scales[s];
#pragma unroll
        for (float& each : scales) each = scale;
      } else if constexpr (kFormat == WeightFormat::fp4) {
#pragma unroll
        for (int j = 0; j < decltype(sums)::kSums; ++j)
          if (j * 32 < inputs) scales[j] = tile::e8m0_value(stage[j * 17 * width + lane]);
      }
      sums.add(w, stage, width, lane, inputs, x + s * kInputs, x_stride, start);
    }
    consumer.release();
    for (int i = 1; i < kGroups; ++i) consumer.skip();
    if (!chained) take();
    sums.fold(w, scales, inputs, s == 0, rows.chains, total);
    if (s + 1 < panel_stages) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) totals[r * kLanes + lane] = total[r];
      turns[(group + 1) % kGroups].arrive();
    }
  }
  const int64_t row = panel_idx * kLanes + lane;
  if (group != (panel_stages - 1) % kGroups || row >= w.rows) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r < job.count)
      rows.y[(job.first + r) * rows.y_stride + row] =
          rows.round_y ? tile::round_to_bf16(total[r]) : total[r];
  }
}

template <WeightFormat kFormat, bool kBf16, int kRows>
void launch_product(device::ExecContext& ctx, const Weight& w, const Rows& rows) {
  constexpr int64_t kStageBytes = int64_t{bytes_of_inputs(kFormat, kStageInputs<kFormat>)} * kLanes;
  const int stages = kFormat == WeightFormat::f32 ? 4 : kMaxStages;
  const int x_stride = (w.padded_columns + 3) / 4 * 4;
  device::cuda::LaunchShape shape;
  const int64_t tiles = rows.data == nullptr ? (rows.m + kRows - 1) / kRows
                                             : std::min(rows.m, rows.m / kRows + rows.num_experts);
  shape.grid =
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>((w.rows + kLanes - 1) / kLanes));
  shape.block = kThreads;
  shape.smem_bytes = stages * kStageBytes + int64_t{4} * kRows * (x_stride + kLanes);
  CACHALOT_CHECK(shape.smem_bytes + 1024 <= device::cuda::device_of(ctx).smem_per_block_bytes);
  auto* const kernel = product_kernel<kFormat, kBf16, kRows>;
  device::cuda::allow_smem(kernel, shape.smem_bytes);
  device::cuda::launch(device::cuda::stream_of(ctx), shape, kernel, w, rows, stages, x_stride);
}

// few: one row a block.
template <WeightFormat kFormat, bool kBf16>
void launch_product(device::ExecContext& ctx, const Weight& w, const Rows& rows, bool few) {
  constexpr int64_t kMaxXBytes = 132 * 1024;  // of the rows of a block
  if (few || int64_t{w.padded_columns} * 4 * kMaxRows > kMaxXBytes) {
    launch_product<kFormat, kBf16, 1>(ctx, w, rows);
  } else {
    launch_product<kFormat, kBf16, kMaxRows>(ctx, w, rows);
  }
}

inline void launch_product(device::ExecContext& ctx, WeightFormat format, MatmulMath math,
                           const Weight& w, const Rows& rows, bool few) {
  const bool bf16 = math == MatmulMath::bf16;
  switch (format) {
    case WeightFormat::f32: return launch_product<WeightFormat::f32, false>(ctx, w, rows, few);
    case WeightFormat::bf16:
      return bf16 ? launch_product<WeightFormat::bf16, true>(ctx, w, rows, few)
                  : launch_product<WeightFormat::bf16, false>(ctx, w, rows, few);
    case WeightFormat::fp8:
      return bf16 ? launch_product<WeightFormat::fp8, true>(ctx, w, rows, few)
                  : launch_product<WeightFormat::fp8, false>(ctx, w, rows, few);
    case WeightFormat::fp4:
      return bf16 ? launch_product<WeightFormat::fp4, true>(ctx, w, rows, few)
                  : launch_product<WeightFormat::fp4, false>(ctx, w, rows, few);
  }
}

}  // namespace cachalot::ops::packed
