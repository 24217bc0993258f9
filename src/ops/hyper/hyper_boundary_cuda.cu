#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/hyper/hyper_boundary.h"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "ops/hyper/sinkhorn.cuh"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/first_turn.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kStreams = 4;
constexpr int kMixes = 2 * kStreams + kStreams * kStreams;
constexpr int kSumStride = 32;  // of a slice in memory: the mixes, the sum of squares, nothing more
constexpr int kSlice = 32;      // channels of a block of the first kernel
constexpr int kTokens = 8;      // that it takes at a time
constexpr int kWarps = kStreams * kSlice / 16;
constexpr int kThreads = kWarps * 32;
constexpr int kRowWarps = 16;  // of the second kernel's blocks, a row each
constexpr int kRowThreads = kRowWarps * 32;
constexpr int kRowChannels = kRowThreads * 4;  // that its threads take at a time
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

struct Four {
  float x[4];
};

__device__ __forceinline__ Four load_four(const float* from) {
  const tile::Vector16 v = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  Four four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(v.word[i]);
  return four;
}
__device__ __forceinline__ void store_four(float* to, const Four& v) {
  *reinterpret_cast<float4*>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}

// A pair of weights as three pairs of bf16 that add up to them.
__device__ __forceinline__ void split_pair(float first, float second, uint32_t (&planes)[3]) {
#pragma unroll
  for (uint32_t& plane : planes) {
    plane = tile::pack_bf16(first, second);
    first -= tile::low_bf16(plane);
    second -= tile::high_bf16(plane);
  }
}

// The weights of a warp's 16 channels, a lane's as A of the product: of 16 mixes a tile.
template <int kTiles>
struct Weights {
  uint32_t a[kTiles][3][4];

  // from: of mix 0 of the lane's first channel.
  __device__ __forceinline__ void load(const float* from) {
    const int row = static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float w[2][4];  // [mixes 0 to 7, 8 to 15][channel]
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          w[half][i] = __ldg(from + i * (16 * kTiles) + tile * 16 + half * 8 + row);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t planes[3];
        split_pair(w[j % 2][j / 2 * 2], w[j % 2][j / 2 * 2 + 1], planes);
#pragma unroll
        for (int plane = 0; plane < 3; ++plane) a[tile][plane][j] = planes[plane];
      }
    }
  }
};

__device__ __forceinline__ bool mixes_in(const HyperBoundaryParams& p) {
  return p.y != nullptr || p.sum.picks != nullptr;
}

// Channels [channel, channel + 4) of a sublayer's output.
__device__ __forceinline__ Four load_output(const HyperBoundaryParams& p, int64_t token,
                                            int channel) {
  if (p.y != nullptr) return load_four(p.y + token * p.d + channel);
  const Four shared = load_four(p.sum.shared + token * p.d + channel);
  const int k = static_cast<int>(p.sum.k);
  const uint16_t* const from = p.sum.picks + token * k * p.d + channel;
  Four sum = {};
  constexpr int kBatch = 8;  // loads under way
  for (int first = 0; first < k; first += kBatch) {
    tile::Vector8 v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i < k)
        v[i] = tile::load_shared_state(
            reinterpret_cast<const tile::Vector8*>(from + (first + i) * p.d));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= k) break;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        sum.x[2 * j] += tile::low_bf16(v[i].word[j]);
        sum.x[2 * j + 1] += tile::high_bf16(v[i].word[j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sum.x[i] = tile::round_to_bf16(sum.x[i] + shared.x[i]);
  return sum;
}

// Channels [channel, channel + 4) of stream `stream` after the sublayer's output was mixed in.
__device__ __forceinline__ Four mixed(const HyperBoundaryParams& p, int64_t token, int stream,
                                      int channel) {
  const float* const streams = p.streams + token * kStreams * p.d + channel;
  Four x[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) x[j] = load_four(streams + j * p.d);
  const Four y = load_output(p, token, channel);
  const float post = tile::load_shared_state(p.post + token * kStreams + stream);
  float comb[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
    comb[j] = tile::load_shared_state(p.comb + token * kStreams * kStreams + j * kStreams + stream);
  }
  Four out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float value = post * y.x[i];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j], x[j].x[i], value);
    out.x[i] = tile::round_to_bf16(value);
  }
  return out;
}

// A block: 32 channels of all four streams, a warp 16 of one; of every gridDim.y-th eight tokens.
// Writes X' and the slice's sums. kTakesFirstTurn: see tile/first_turn.cuh; the registers that it
// takes would be missing where there are many rows.
template <int kTiles, bool kTakesFirstTurn>
__global__ void __launch_bounds__(kThreads, 2)
    sums_kernel(const __grid_constant__ HyperBoundaryParams p) {
  static_assert(kWarps == kTokens);
  __shared__ float sums[kWarps][16 * kTiles + 1][kTokens + 1];
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  const int stream = warp / 2;
  const int channel = static_cast<int>(blockIdx.x) * kSlice + warp % 2 * 16 + lane % 4 * 4;
  tile::launch_dependents();
  // The mapping's weights do not depend on the kernel before.
  Weights<kTiles> w;
  w.load(p.fn + (stream * p.d + channel) * (16 * kTiles));
  bool is_real = !kTakesFirstTurn;
  if (is_real) tile::wait_for_producers();
  int64_t first = blockIdx.y * kTokens;
#pragma unroll 1
  while (true) {
    const int64_t token = min(first + lane / 4, p.rows - 1);
    const bool is_there = is_real && first + lane / 4 < p.rows;
    float* const own = p.streams + (token * kStreams + stream) * p.d + channel;
    const Four x = mixes_in(p) ? mixed(p, token, stream, channel) : load_four(own);
    const uint32_t b0 = tile::pack_bf16(x.x[0], x.x[1]), b1 = tile::pack_bf16(x.x[2], x.x[3]);
    float squares = x.x[0] * x.x[0];
#pragma unroll
    for (int i = 1; i < 4; ++i) squares = fmaf(x.x[i], x.x[i], squares);
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    squares += __shfl_xor_sync(kAllLanes, squares, 2);
    float d[kTiles][4] = {};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int plane = 0; plane < 3; ++plane) {
        const uint32_t(&a)[4] = w.a[tile][plane];
        tile::mma_bf16(d[tile], a[0], a[1], a[2], a[3], b0, b1);
      }
    }
    __syncthreads();  // every warp has read the old streams, and the sums of the tokens before
    if (mixes_in(p) && is_there) store_four(own, x);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[warp][tile * 16 + i / 2 * 8 + lane / 4][lane % 4 * 2 + i % 2] = d[tile][i];
    }
    if (lane % 4 == 0) sums[warp][16 * kTiles][lane / 4] = squares;
    __syncthreads();
    // A warp has a token, a lane a sum; the sum of squares comes after the mixes.
    if (is_real && first + warp < p.rows) {
      const int sum = lane == kMixes ? 16 * kTiles : min(lane, 16 * kTiles - 1);
      float total = sums[0][sum][warp];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) total += sums[w][sum][warp];
      p.partial[((first + warp) * gridDim.x + blockIdx.x) * kSumStride + lane] = total;
    }
    if (is_real) {
      first += gridDim.y * kTokens;
      if (first >= p.rows) break;
    } else {
      tile::wait_for_producers();
      is_real = true;
    }
  }
}

// The same for many rows. A block keeps its weights in shared memory. A warp has 16 tokens at a
// time, the next of which are on their way meanwhile, and all products of them, whose sums it adds
// in registers: the warps of a block do not wait for each other.
constexpr int kManyRows = 128;  // from which it is the faster one
constexpr int kGroups = 2;      // of eight tokens
constexpr int kWarpTokens = kGroups * kTokens;
constexpr int kManyTokens = kWarps * kWarpTokens;
constexpr int kProducts = kWarps;  // of a token: 16 channels of a stream each
constexpr int kPlanes = 3;

// What a warp needs of its tokens.
struct ManyStage {
  static constexpr int kPieces = kSlice / 4;                // of 16 bytes
  tile::Vector16 rows[kStreams + 1][kWarpTokens][kPieces];  // the streams', and y
  tile::Vector16 mix[kWarpTokens][1 + kStreams];            // post, comb

  // Where a piece of a token's row lies: four pieces each of two tokens are in different banks.
  static __device__ __forceinline__ int place(int token, int piece) {
    return piece ^ token % 2 * (kPieces / 2);
  }

  // On their way until the copies' group is waited for; from `first` on, those past the last as the
  // last.
  __device__ __forceinline__ void start(const HyperBoundaryParams& p, int first) {
    const int lane = threadIdx.x % 32;
    const auto copy = [](tile::Vector16& to, const float* from) {
      tile::start_copy(&to, reinterpret_cast<const tile::Vector16*>(from));
    };
    const int last = static_cast<int>(p.rows) - 1, d = static_cast<int>(p.d);
    const int piece = lane % kPieces;
    const int channel = static_cast<int>(blockIdx.x) * kSlice + piece * 4;
#pragma unroll
    for (int i = 0; i < kWarpTokens * kPieces / 32; ++i) {
      const int token = i * (32 / kPieces) + lane / kPieces;
      const int64_t row = min(first + token, last);
      const float* const streams = p.streams + channel + row * (kStreams * d);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) copy(rows[j][token][place(token, piece)], streams + j * d);
      if (p.y != nullptr) copy(rows[kStreams][token][place(token, piece)], p.y + channel + row * d);
    }
    if (p.y == nullptr) return;
    for (int i = lane; i < kWarpTokens * (1 + kStreams); i += 32) {
      const int token = i / (1 + kStreams), part = i % (1 + kStreams);
      const int64_t row = min(first + token, last);
      copy(mix[token][part],
           part == 0 ? p.post + row * kStreams : p.comb + (row * kStreams + part - 1) * kStreams);
    }
  }

  __device__ __forceinline__ Four row(int r, int token, int piece) const {
    return floats(rows[r][token][place(token, piece)]);
  }
  static __device__ __forceinline__ Four floats(const tile::Vector16& v) {
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(v.word[i]);
    return four;
  }
};

// A lane's values of a token: of its four channels of each product's 16.
struct TokenPairs {
  uint32_t pair[kProducts][2];
  float squares;  // the sum over all products

  // X' of token `own` of the stage. to: its lane's place in memory, where it is to be written.
  __device__ __forceinline__ void mix(const ManyStage& stage, int own, bool has_y, float* to, int d,
                                      bool writes) {
    const int lane = threadIdx.x % 32;
    Four post, comb[kStreams];
    if (has_y) {
      post = ManyStage::floats(stage.mix[own][0]);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) comb[j] = ManyStage::floats(stage.mix[own][1 + j]);
    }
    float sums[kProducts];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int piece = half * 4 + lane % 4;
      Four x[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) x[j] = stage.row(j, own, piece);
      if (has_y) {
        const Four y = stage.row(kStreams, own, piece);
        Four out[kStreams];
#pragma unroll
        for (int stream = 0; stream < kStreams; ++stream) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float value = post.x[stream] * y.x[i];
#pragma unroll
            for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j].x[stream], x[j].x[i], value);
            out[stream].x[i] = value;
          }
        }
#pragma unroll
        for (int stream = 0; stream < kStreams; ++stream) x[stream] = out[stream];
      }
#pragma unroll
      for (int stream = 0; stream < kStreams; ++stream) {
        uint32_t(&own_pair)[2] = pair[stream * 2 + half];
        Four v;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          own_pair[i] = tile::pack_bf16(x[stream].x[2 * i], x[stream].x[2 * i + 1]);
          v.x[2 * i] = tile::low_bf16(own_pair[i]);
          v.x[2 * i + 1] = tile::high_bf16(own_pair[i]);
        }
        if (writes) store_four(to + stream * d + half * 16, v);
        float sum = v.x[0] * v.x[0];
#pragma unroll
        for (int i = 1; i < 4; ++i) sum = fmaf(v.x[i], v.x[i], sum);
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        sums[stream * 2 + half] = sum;
      }
    }
    squares = sums[0];
#pragma unroll
    for (int i = 1; i < kProducts; ++i) squares += sums[i];
  }
};

template <int kTiles>
struct ManySmem {
  tile::Vector16 weights[kProducts][kTiles][kPlanes][32];  // a lane's, as A
  ManyStage stages[kWarps][2];
};

template <int kTiles>
__global__ void __launch_bounds__(kThreads, 1)
    many_sums_kernel(const __grid_constant__ HyperBoundaryParams p) {
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& s = *reinterpret_cast<ManySmem<kTiles>*>(bytes);
  const int warp = tile::uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  tile::launch_dependents();
  {
    Weights<kTiles> w;
    const int64_t channel =
        static_cast<int64_t>(blockIdx.x) * kSlice + warp % 2 * 16 + lane % 4 * 4;
    w.load(p.fn + (warp / 2 * p.d + channel) * (16 * kTiles));
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        const uint32_t(&a)[4] = w.a[tile][plane];
        s.weights[warp][tile][plane][lane] = tile::Vector16{{a[0], a[1], a[2], a[3]}};
      }
    }
  }
  __syncthreads();
  tile::wait_for_producers();
  const int rows = static_cast<int>(p.rows), d = static_cast<int>(p.d);
  const bool has_y = p.y != nullptr;
  float* const streams = p.streams + static_cast<int>(blockIdx.x) * kSlice + lane % 4 * 4;
  float* const partial = p.partial + static_cast<int>(blockIdx.x) * kSumStride + lane / 4;
  ManyStage* stage = &s.stages[warp][0];
  ManyStage* other = &s.stages[warp][1];
  int first = warp * kWarpTokens;
  if (first < rows) stage->start(p, first);
  tile::end_copy_group();
#pragma unroll 1
  for (; first < rows; first += kManyTokens) {
    if (first + kManyTokens < rows) other->start(p, first + kManyTokens);
    tile::end_copy_group();
    tile::wait_copy_groups<1>();
    __syncwarp();
    TokenPairs tokens[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int own = g * kTokens + lane / 4;
      float* const to = streams + int64_t{first + own} * (kStreams * d);
      tokens[g].mix(*stage, own, has_y, to, d, has_y && first + own < rows);
    }
    __syncwarp();  // the stage is read

    float total[kGroups][kTiles][4];
#pragma unroll
    for (int product = 0; product < kProducts; ++product) {
      float sums[kGroups][kTiles][4] = {};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          const tile::Vector16 a = s.weights[product][tile][plane][lane];
#pragma unroll
          for (int g = 0; g < kGroups; ++g) {
            const uint32_t(&b)[2] = tokens[g].pair[product];
            tile::mma_bf16(sums[g][tile], a.word[0], a.word[1], a.word[2], a.word[3], b[0], b[1]);
          }
        }
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& sum = total[g][tile][i];
            sum = product == 0 ? sums[g][tile][i] : sum + sums[g][tile][i];
          }
        }
      }
    }

    // The mixes, then the sum of squares and zeros.
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        const int own = lane % 4 * 2 + which;
        const float squares = __shfl_sync(kAllLanes, tokens[g].squares, own * 4);
        const int token = first + g * kTokens + own;
        float* const to = partial + int64_t{token} * (static_cast<int>(gridDim.x) * kSumStride);
#pragma unroll
        for (int eight = 0; eight < kSumStride / 8; ++eight) {
          float value = 0;
          if (eight < 2 * kTiles) value = total[g][eight / 2 % kTiles][eight % 2 * 2 + which];
          if (eight == kMixes / 8 && lane / 4 == 0) value = squares;
          if (token < rows) to[eight * 8] = value;
        }
      }
    }
    ManyStage* const free = stage;
    stage = other;
    other = free;
  }
}

__device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

__device__ __forceinline__ float sigmoid(float z) {
  return 1.0f / (1.0f + exp_f32_device(0.0f - z));
}

// A block: one row. kVectors: of four channels, a thread. A warp more makes comb, which out does
// not need.
template <int kVectors, bool kHead, bool kTakesFirstTurn>
__global__ void __launch_bounds__(kRowThreads + 32, kTakesFirstTurn || kVectors > 2 ? 1 : 2)
    row_kernel(const __grid_constant__ HyperBoundaryParams p) {
  __shared__ float chains[kRowWarps][kSumStride];
  __shared__ float warp_squares[kRowWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int d = static_cast<int>(p.d);
  const int slices = d / kSlice;
  const int64_t token = blockIdx.x;
  const bool makes_comb = warp == kRowWarps;
  const int first = static_cast<int>(threadIdx.x) * 4;
  tile::launch_dependents();
  // A wide row that takes a first turn barely fits the registers: its weights come late, in the
  // real turn from the L1 cache, and u takes the place of a stream.
  constexpr bool kIsTight = kVectors > 2 && kTakesFirstTurn;
  const auto weights = [&](int at) {
    const tile::Vector16 own =
        tile::load_constant(reinterpret_cast<const tile::Vector16*>(p.norm + at));
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(own.word[i]);
    return four;
  };
  Four g[kVectors];
  float base = 0, scale = 0;
  if (lane < (kHead ? kStreams : kMixes)) {
    base = __ldg(p.base + lane);
    scale = __ldg(p.scale + (lane < kStreams ? 0 : lane < 2 * kStreams ? 1 : 2));
  }
  if (!kIsTight && !makes_comb) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at < d) g[v] = weights(at);
    }
  }
#pragma unroll 1
  for (int turn = kTakesFirstTurn ? 0 : 1; turn < 2; ++turn) {
    const bool is_real = turn == 1;
    if (is_real) {
      if (kTakesFirstTurn) __syncthreads();  // what the first turn left is read
      tile::wait_for_producers();
    }
    Four x[kVectors][kStreams];
    if (!makes_comb) {
      const float* const from = p.partial + token * slices * kSumStride + lane;
      float chain = 0;
#pragma unroll 8
      for (int slice = warp; slice < slices; slice += kRowWarps)
        chain += tile::load_shared_state(from + slice * kSumStride);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int at = first + v * kRowChannels;
        if (at >= d) continue;
#pragma unroll
        for (int j = 0; j < kStreams; ++j)
          x[v][j] = load_four(p.streams + (token * kStreams + j) * p.d + at);
      }
      chains[warp][lane] = chain;
    }
    __syncthreads();
    float mix = chains[0][lane];
#pragma unroll
    for (int w = 1; w < kRowWarps; ++w) mix += chains[w][lane];
    const float mean = __shfl_sync(kAllLanes, mix, kMixes) / static_cast<float>(kStreams * d);
    const float logit = mix * (1.0f / sqrtf(mean + p.rms_norm_eps)) * scale + base;
    if (makes_comb) {
      if (kHead || !is_real) continue;
      // The matrix's logits are the last 16 mixes.
      const float own = __shfl_sync(kAllLanes, logit, (lane + 2 * kStreams) % 32);
      if (p.logits == nullptr) {
        make_comb(own, p.sinkhorn_iters, p.hc_eps, p.comb + token * 16);
      } else if (lane < 16) {
        p.logits[token * 16 + lane] = own;
      }
      continue;
    }
    const float s = sigmoid(logit);
    if (!kHead && is_real && warp == 0 && lane / kStreams == 1)
      p.post[token * kStreams + lane - kStreams] = 2.0f * s;
    float pre[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) pre[j] = __shfl_sync(kAllLanes, s, j) + p.hc_eps;

    // u and its norm.
    Four own[kVectors];
    const auto u = [&](int v) -> Four& { return kIsTight ? x[v][0] : own[v]; };
    float squares = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (first + v * kRowChannels >= d) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = pre[0] * x[v][0].x[i];
#pragma unroll
        for (int j = 1; j < kStreams; ++j) sum = fmaf(pre[j], x[v][j].x[i], sum);
        u(v).x[i] = tile::round_to_bf16(sum);
        squares = fmaf(u(v).x[i], u(v).x[i], squares);
      }
    }
    squares = sum_lanes(squares);
    if (lane == 0) warp_squares[warp] = squares;
    tile::sync_threads<1, kRowThreads>();
    float total = warp_squares[0];
#pragma unroll
    for (int w = 1; w < kRowWarps; ++w) total += warp_squares[w];
    const float factor = 1.0f / sqrtf(total / static_cast<float>(d) + p.rms_norm_eps);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * kRowChannels;
      if (at >= d) continue;
      if (kIsTight) g[v] = weights(at);
      Four out;
#pragma unroll
      for (int i = 0; i < 4; ++i) out.x[i] = tile::round_to_bf16(g[v].x[i] * (u(v).x[i] * factor));
      if (is_real) store_four(p.out + token * p.d + at, out);
    }
  }
}

template <int kVectors, bool kHead, bool kFew>
void launch_row(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.rows));
  shape.block = kRowThreads + 32;
  cuda::launch(stream, shape, row_kernel<kVectors, kHead, kFew>, p);
}

// kFew: rows that take a first turn.
template <bool kHead, bool kFew>
void launch(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  constexpr int kTiles = kHead ? 1 : 2;
  shape.grid = dim3(static_cast<unsigned>(p.d / kSlice));
  shape.block = kThreads;
  if (p.rows >= kManyRows) {
    shape.smem_bytes = sizeof(ManySmem<kTiles>);
    cuda::allow_smem(many_sums_kernel<kTiles>, shape.smem_bytes);
    cuda::launch(stream, shape, many_sums_kernel<kTiles>, p);
  } else {
    // A block keeps its weights for all the tokens that it takes.
    shape.grid.y = static_cast<unsigned>(std::min<int64_t>((p.rows + kTokens - 1) / kTokens, 8));
    cuda::launch(stream, shape, sums_kernel<kTiles, kFew>, p);
  }
  if (p.d <= kRowChannels) return launch_row<1, kHead, kFew>(stream, p);
  if (p.d <= 2 * kRowChannels) return launch_row<2, kHead, kFew>(stream, p);
  launch_row<4, kHead, kFew>(stream, p);
}

}  // namespace

int64_t hyper_boundary_scratch(int64_t rows, int64_t d) { return rows * (d / kSlice) * kSumStride; }

void launch_hyper_boundary(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  const bool few = p.rows <= tile::kFewRows;
  if (p.head) return few ? launch<true, true>(stream, p) : launch<true, false>(stream, p);
  few ? launch<false, true>(stream, p) : launch<false, false>(stream, p);
}

void hyper_boundary_cuda(device::ExecContext& ctx, const HyperBoundaryRows& p) {
  constexpr int64_t kMaxRows = 512;  // whose streams stay in the L2 cache between the kernels
  device::ArenaScope scope(*ctx.arena);
  HyperBoundaryParams piece{};
  piece.d = p.d;
  piece.fn = reinterpret_cast<const float*>(p.fn->bytes().data());
  piece.base = ctx.gpu->on_device(p.base);
  piece.scale = ctx.gpu->on_device(p.scale);
  piece.norm = ctx.gpu->on_device(p.norm);
  piece.partial =
      ctx.arena->allocate<float>(hyper_boundary_scratch(std::min(p.rows, kMaxRows), p.d));
  piece.head = p.post == nullptr;
  if (p.sum != nullptr) piece.sum = *p.sum;
  piece.sinkhorn_iters = p.sinkhorn_iters;
  piece.hc_eps = p.hc_eps;
  piece.rms_norm_eps = p.rms_norm_eps;
  for (int64_t first = 0; first < p.rows; first += kMaxRows) {
    piece.rows = std::min(kMaxRows, p.rows - first);
    piece.streams = p.streams + first * kStreams * p.d;
    piece.y = p.y == nullptr ? nullptr : p.y + first * p.d;
    piece.post = piece.head ? nullptr : p.post + first * kStreams;
    piece.comb = piece.head ? nullptr : p.comb + first * kStreams * kStreams;
    piece.logits = p.logits == nullptr ? nullptr : p.logits + first * kStreams * kStreams;
    piece.out = p.out + first * p.d;
    launch_hyper_boundary(cuda::stream_of(ctx), piece);
  }
}

}  // namespace cachalot::ops
