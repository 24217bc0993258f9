#include <algorithm>
#include <string>

#include "base/check.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/dense_bulk.h"
#include "ops/matmul/dense_many.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/streamed_product.cuh"
#include "ops/matmul/streamed_weight.h"
#include "ops/moe/swiglu.cuh"
#include "ops/norm/rms_norm.cuh"
#include "tile/first_turn.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr StreamedFormat kFp8 = StreamedFormat::fp8;
constexpr int kStageBytes = streamed::stage_bytes(streamed::kStageBlocks);

struct Group {
  const uint8_t* weight;
  void* y;
  int64_t y_stride;
  int rows;
  int first_unit;  // of all groups' units
};

// An op that makes the rows of x, as far as the product needs to know it.
enum class Made { no, norm, swiglu };
struct Making {
  Made made;
  float eps;        // norm
  const float* g;   // or null
  const float* up;  // swiglu, of which x is the gate
  int64_t up_stride;
  float limit;
};

struct Params {
  const void* x;  // bf16, or float
  int64_t x_stride;
  int64_t unit_bytes;
  int m;
  int units;
  int group_blocks;
  int num_groups;
  bool shared_x;
  int tokens;
  bool float_rows;
  int stages;
  int in_flight;
  int partial_offset;      // of the units' sums in shared memory
  int partial_units;       // that there is room for at a time
  uint8_t* prepared;       // or null
  int64_t prepared_bytes;  // of p.tokens rows
  bool lets_next_in;
  bool runs_beside;
  Making making;
  Group groups[kMaxDenseGroups];
};

__device__ __forceinline__ int find_group(const Params& p, int unit) {
  int group = 0;
  while (group + 1 < p.num_groups && unit >= p.groups[group + 1].first_unit) ++group;
  return group;
}

// From column first_column on; Activations::load has the rest.
template <int kBatch, typename Activations>
__device__ __forceinline__ void load_rows(const Params& p, Activations& x, int first_token,
                                          int first_column, int present, int first, int end) {
  const int64_t at = first_token * p.x_stride + first_column;
  if (kBatch > 2 && present == 1) {
    p.float_rows ? x.load_one(static_cast<const float*>(p.x) + at)
                 : x.load_one(static_cast<const uint16_t*>(p.x) + at);
  } else if (p.float_rows) {
    x.template load<kBatch>(static_cast<const float*>(p.x) + at, p.x_stride, present, first, end);
  } else {
    x.template load<kBatch>(static_cast<const uint16_t*>(p.x) + at, p.x_stride, present, first,
                            end);
  }
}

// Normed rows, by the consumers. rows: shared memory for them.
template <typename Activations>
__device__ __forceinline__ void make_norm(const Params& p, Activations& x, int tokens,
                                          float* rows) {
  __shared__ float factors[streamed::kMaxTokens];
  const int columns = p.group_blocks * 128;
  const auto* const from = static_cast<const float*>(p.x);
  for (int i = threadIdx.x; i < tokens * columns / 4; i += streamed::kConsumers) {
    const int at = i * 4;
    reinterpret_cast<tile::Vector16*>(rows)[i] = tile::load_shared_state(
        reinterpret_cast<const tile::Vector16*>(from + at / columns * p.x_stride + at % columns));
  }
  streamed::sync_consumers();
  const int token = static_cast<int>(threadIdx.x) / 16;  // of half a warp
  if (token / 2 * 2 < tokens) {
    const float* const row = rows + min(token, tokens - 1) * columns;
    float sum = 0;
#pragma unroll 8
    for (int i = threadIdx.x % 16; i < columns; i += 16)
      sum = add_square<Norm::weighted>(sum, row[i]);
    sum = fold_chains(sum);
    if (threadIdx.x % 16 == 0)
      factors[token] = norm_factor<Norm::weighted>(sum, columns, p.making.eps);
  }
  streamed::sync_consumers();
  x.make([&](int token, int column) {
    const float* const row = rows + token * columns + column;
    const float* const g = p.making.g;
    FourValues<float> v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v.words.word[i] = __float_as_uint(
          weigh<Norm::weighted>(row[i] * factors[token], g == nullptr ? g : g + column + i, true));
    }
    return v;
  });
}

// Activated rows.
template <typename Activations>
__device__ __forceinline__ void make_swiglu(const Params& p, Activations& x) {
  x.make([&](int token, int column) {
    FourValues<float> v, up;
    v.load(static_cast<const float*>(p.x) + token * p.x_stride + column);
    up.load(p.making.up + token * p.making.up_stride + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v.words.word[i] =
          __float_as_uint(tile::round_to_bf16(swiglu_value(v.at(i), up.at(i), p.making.limit)));
    }
    return v;
  });
}

// Rows as the product's blocks hold them, for more than a block would care to quantise for itself.
constexpr int kRunsToPrepare = 2 * streamed::kConsumerWarps;  // of a block
template <ProductForm kForm, int kTokens>
__global__ void __launch_bounds__(streamed::kConsumers)
    prepare_rows_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int first_token = static_cast<int>(blockIdx.y) * p.tokens;
  const int present = min(p.tokens, p.m - first_token);
  const int tokens = kForm == ProductForm::wgmma_e4m3 ? kTokens : present;
  streamed::Activations<kForm, kTokens> x(p.prepared + blockIdx.y * p.prepared_bytes, tokens,
                                          p.group_blocks);
  const int first = static_cast<int>(blockIdx.x) * kRunsToPrepare;
  const int runs = tokens * streamed::whole_octets(p.group_blocks);
  load_rows<2>(p, x, first_token, 0, present, first, min(first + kRunsToPrepare, runs));
}

// Of few tokens two blocks fit an SM's registers.
template <ProductForm kForm, int kTokens>
__global__ void __launch_bounds__(streamed::kThreads, kTokens > 8 ? 1 : 2)
    dense_product_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ streamed::Ring ring;
  __shared__ tile::Mbarrier x_ready;
  const int warp = threadIdx.x / 32;
  // Neighbouring units lie in different blocks; where each group has its own activations a block
  // has a run of units, so that it needs few groups'.
  const int num_blocks = static_cast<int>(gridDim.x);
  int begin = static_cast<int>(blockIdx.x);
  int end = p.units;
  int step = num_blocks;
  int first_group = 0;
  int num_groups = 1;  // of activations
  if (!p.shared_x) {
    const int share = p.units / num_blocks;
    const int rest = p.units - share * num_blocks;
    begin = begin * share + min(begin, rest);
    end = begin + share + (static_cast<int>(blockIdx.x) < rest ? 1 : 0);
    step = 1;
    first_group = find_group(p, begin);
    num_groups = find_group(p, end - 1) - first_group + 1;
  }
  if (threadIdx.x == 0) {
    x_ready.init(1);
    ring.init(p.stages, streamed::kConsumerWarps);
  }
  __syncthreads();
  if (!p.lets_next_in) tile::launch_dependents();

  // The ring: weights do not depend on the kernel before.
  if (warp == streamed::kConsumerWarps) {
    if (threadIdx.x % 32 != 0) return;
    streamed::Producer producer(ring, smem, kStageBytes, p.stages, p.in_flight);
    for (int unit = begin; unit < end; unit += step) {
      const Group& group = p.groups[find_group(p, unit)];
      streamed::put_unit(producer, group.weight + (unit - group.first_unit) * p.unit_bytes,
                         p.group_blocks);
    }
    return;
  }

  // What can be known before the kernel before has ended.
  const int first_token = static_cast<int>(blockIdx.y) * p.tokens;
  const int tokens = min(p.tokens, p.m - first_token);
  const int blocks = p.group_blocks * num_groups;
  uint8_t* const x_smem = smem + p.stages * kStageBytes;
  streamed::Activations<kForm, kTokens> x(x_smem, tokens, blocks);
  __shared__ streamed::PartialSums::Numbers numbers;
  streamed::Consumer consumer(ring, smem, kStageBytes, p.stages);
  streamed::PartialSums partial(smem + p.partial_offset, p.partial_units, numbers, tokens);
  // Of the folded outputs a thread has one row of every sixteenth pair of a unit and a token.
  constexpr int kPairs = streamed::kConsumers / 16;
  const int row = threadIdx.x % 16;
  const int own_unit = static_cast<int>(threadIdx.x) / 16 / tokens;
  const int own_token = static_cast<int>(threadIdx.x) / 16 - own_unit * tokens;
  const int unit_step = kPairs / tokens, token_step = kPairs - unit_step * tokens;

  // Activations.
  const bool waits = p.prepared == nullptr && !p.runs_beside;
#pragma unroll 1
  for (int turn = waits ? tile::first_turn(p.m) : 1; turn < 2; ++turn) {
    if (turn == 1) {
      if (!p.runs_beside) tile::wait_for_producers();
      if (p.lets_next_in) tile::launch_dependents();
    }
    if (p.prepared != nullptr) {
      if (threadIdx.x == 0) {
        const auto bytes = static_cast<uint32_t>(x.num_bytes());
        x_ready.arrive_expecting(bytes);
        x_ready.bulk_copy(x_smem, p.prepared + blockIdx.y * p.prepared_bytes, bytes);
      }
      x_ready.wait(0);
    } else if (p.making.made == Made::norm) {
      make_norm(p, x, tokens, reinterpret_cast<float*>(smem + p.partial_offset));
      streamed::sync_consumers();
    } else if (p.making.made == Made::swiglu) {
      make_swiglu(p, x);
      streamed::sync_consumers();
    } else {
      load_rows<8>(p, x, first_token, first_group * p.group_blocks * 128, tokens, 0,
                   tokens * streamed::whole_octets(blocks));
      streamed::sync_consumers();
    }
  }

  // Units, folded whenever there is no more room for their sums.
  for (int unit = begin; unit < end; unit += step) {
    const int first_block = p.shared_x ? 0 : (find_group(p, unit) - first_group) * p.group_blocks;
    const auto sums = streamed::multiply_unit(consumer, x, p.group_blocks, first_block);
    sums.store(partial.next(unit), tokens);
    if (!partial.full() && unit + step < end) continue;
    streamed::sync_consumers();
    int token = own_token;
    for (int at = own_unit; at < partial.units(); at += unit_step) {
      const Group& group = p.groups[find_group(p, partial.number(at))];
      const int n = (partial.number(at) - group.first_unit) * 16 + row;
      if (n < group.rows) {
        const int64_t to = (first_token + token) * group.y_stride + n;
        const float sum = partial.fold(at, token, row);
        if (p.float_rows) {
          static_cast<float*>(group.y)[to] = tile::round_to_bf16(sum);
        } else {
          static_cast<uint16_t*>(group.y)[to] = tile::bf16_bits(sum);
        }
      }
      token += token_step;
      if (token >= tokens) {
        token -= tokens;
        ++at;
      }
    }
    partial.start_over();
  }
}

template <ProductForm kForm, int kTokens>
void launch_kernel(const DensePlan& plan, const cuda::Stream& stream, const void* x,
                   int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                   const LaunchOrder& order) {
  const DenseShape& s = plan.shape;
  CACHALOT_CHECK(plan.overlaps || !(order.lets_next_in || order.runs_beside));
  CACHALOT_CHECK(static_cast<int64_t>(groups.size()) == s.groups);
  const StreamedLayout layout{kFp8, s.rows, s.columns};
  Params p{};
  p.x = x;
  p.x_stride = x_stride;
  p.unit_bytes = layout.unit_bytes();
  p.m = static_cast<int>(s.m);
  p.units = 0;
  p.group_blocks = static_cast<int>(layout.num_blocks());
  p.num_groups = 0;
  p.shared_x = s.shared_x || s.groups == 1;
  for (const DenseGroup& group : groups) {
    p.groups[p.num_groups++] = {reinterpret_cast<const uint8_t*>(group.weight), group.y,
                                group.y_stride, static_cast<int>(group.rows), p.units};
    p.units += static_cast<int>((group.rows + 15) / 16);
  }
  CACHALOT_CHECK(p.units == layout.num_units());
  p.tokens = plan.tokens;
  p.float_rows = s.float_rows;
  p.stages = plan.stages;
  p.in_flight = plan.in_flight;
  p.partial_offset = static_cast<int>(plan.smem_bytes - plan.partial_bytes);
  p.partial_units = static_cast<int>(
      std::min<int64_t>(streamed::PartialSums::kMaxUnits,
                        plan.partial_bytes / streamed::PartialSums::num_bytes(1, plan.tokens)));
  const auto chunks = static_cast<unsigned>((s.m + plan.tokens - 1) / plan.tokens);
  p.prepared = plan.scratch_bytes > 0 ? reinterpret_cast<uint8_t*>(scratch) : nullptr;
  p.prepared_bytes = plan.scratch_bytes / chunks;
  p.lets_next_in = order.lets_next_in;
  p.runs_beside = order.runs_beside;
  if (order.norm) {
    CACHALOT_CHECK(plan.makes_norm);
    p.x = order.norm->x;
    p.x_stride = order.norm->x_stride;
    p.making = {.made = Made::norm, .eps = order.norm->eps, .g = order.norm->g};
  } else if (order.swiglu) {
    CACHALOT_CHECK(plan.makes_swiglu);
    p.x = order.swiglu->gate;
    p.x_stride = order.swiglu->columns;
    p.making = {.made = Made::swiglu,
                .up = order.swiglu->up,
                .up_stride = order.swiglu->columns,
                .limit = order.swiglu->limit};
  }
  if (p.prepared != nullptr) {
    cuda::LaunchShape prepare;
    const int64_t runs = kTokens * streamed::whole_octets(static_cast<int>(layout.num_blocks()));
    prepare.grid =
        dim3(static_cast<unsigned>((runs + kRunsToPrepare - 1) / kRunsToPrepare), chunks);
    prepare.block = streamed::kConsumers;
    cuda::launch(stream, prepare, prepare_rows_kernel<kForm, kTokens>, p);
  }
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(plan.grid), chunks);
  shape.block = streamed::kThreads;
  shape.smem_bytes = plan.smem_bytes;
  cuda::launch(stream, shape, dense_product_kernel<kForm, kTokens>, p);
}

template <ProductForm kForm, int kTokens>
void choose(DensePlan& plan) {
  plan.launch = launch_kernel<kForm, kTokens>;
  cuda::allow_smem(dense_product_kernel<kForm, kTokens>, plan.smem_bytes);
}

// Of few rows of x in bf16 two blocks of less memory run on a multiprocessor: one alone takes as
// long to expand its weights as they take to come.
constexpr int64_t kPairRows = 2;
constexpr int64_t kPairBytes = 56 * 1024;

// Stages beside the activations, and what is left for sums: so that two kernels fit an SM and the
// next one's ring fills while this one ends, or else all of the block's share.
bool fit(DensePlan& plan, ProductForm form, int64_t budget, int min_stages) {
  const DenseShape& s = plan.shape;
  const int64_t units_per_block =
      (StreamedLayout{kFp8, s.rows, s.columns}.num_units() + plan.grid - 1) / plan.grid;
  const auto sums = [&](int64_t units) {
    return streamed::PartialSums::num_bytes(static_cast<int>(units), plan.tokens);
  };
  // A run of units crosses a border of groups at most so often.
  const int64_t units_per_group = StreamedLayout{kFp8, s.rows, s.columns}.num_units() / s.groups;
  const int64_t groups =
      s.shared_x
          ? 1
          : std::min(s.groups, 1 + (units_per_block + units_per_group - 2) / units_per_group);
  const int64_t x_bytes =
      (streamed::activation_bytes(form, plan.tokens, static_cast<int>(s.columns / 128 * groups)) +
       15) /
      16 * 16;
  const int64_t least = std::min<int64_t>(units_per_block, std::max(2, 16 / plan.tokens));
  plan.stages =
      static_cast<int>(std::clamp<int64_t>((budget - x_bytes - sums(least)) / kStageBytes, 0, 6));
  if (plan.stages < min_stages) return false;
  const int64_t room = budget - x_bytes - plan.stages * kStageBytes;
  plan.partial_bytes = sums(std::clamp<int64_t>(room / sums(1), least, units_per_block));
  plan.in_flight = std::min(plan.stages, 3);
  plan.smem_bytes = plan.stages * kStageBytes + x_bytes + plan.partial_bytes;
  return true;
}

}  // namespace

bool dense_takes_bf16(const cuda::Device& device, const DenseShape& s) {
  return dense_bulk_fits(s, device.num_sms) || dense_many_takes_bf16(s, device.num_sms);
}

Result<DensePlan> make_dense_plan(const cuda::Device& device, const DenseShape& s) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("dense product: expected ") + what + ", found " +
                            std::to_string(found));
  };
  if (s.m < 1 || s.m > (int64_t{1} << 20)) return bad("m from 1 to 2^20", s.m);
  if (s.columns < 128 || s.columns % 128 != 0) return bad("columns in blocks of 128", s.columns);
  if (s.rows < 1 || s.rows >= (int64_t{1} << 30)) return bad("rows from 1 to 2^30", s.rows);
  if (s.groups < 1 || s.groups > kMaxDenseGroups) return bad("1 to 16 groups", s.groups);
  if ((s.bf16_x || s.bf16_y) && !dense_takes_bf16(device, s))
    return bad("more rows where some are bf16", s.m);
  const bool own_x = s.groups > 1 && !s.shared_x;
  if (own_x && s.rows % (16 * s.groups) != 0) return bad("16 n rows a group", s.rows);
  if (own_x && s.columns % 1024 != 0) return bad("1024 n columns a group", s.columns);

  DensePlan plan;
  plan.shape = s;
  if (dense_bulk_fits(s, device.num_sms)) {
    plan_dense_bulk(plan, device.num_sms);
    return plan;
  }
  if (dense_many_fits(s, device.num_sms)) {
    plan_dense_many(plan, device.num_sms);
    return plan;
  }
  const ProductForm form = s.form == DenseForm::official_fp8 ? ProductForm::wgmma_e4m3
                           : s.form == DenseForm::official   ? ProductForm::mma_f16
                                                             : ProductForm::mma_bf16;
  const bool pairs = form == ProductForm::mma_bf16 && own_x && s.m <= kPairRows;
  plan.grid = static_cast<int>(std::min<int64_t>(
      (pairs ? 2 : 1) * device.num_sms, StreamedLayout{kFp8, s.rows, s.columns}.num_units()));
  const int64_t reserved = 2048;  // the runtime's, the ring's barriers, the units' numbers
  const int64_t shared_budget = device.smem_per_sm_bytes / 2 - reserved;
  const int64_t whole_budget = device.smem_per_block_bytes - reserved;
  bool fits = false;
  plan.tokens = static_cast<int>(std::min<int64_t>(s.m, streamed::kMaxTokens));
  while (true) {
    fits = (pairs && fit(plan, form, kPairBytes, 2)) || fit(plan, form, shared_budget, 4) ||
           fit(plan, form, whole_budget, 3);
    if (fits || plan.tokens == 1) break;
    plan.tokens /= 2;
  }
  if (!fits) return bad("columns that fit the shared memory", s.columns * s.groups);
  // Where that takes a block longer than a kernel of its own takes to start.
  constexpr int64_t kManyValues = 16384;
  if (plan.tokens * s.columns > kManyValues && form != ProductForm::mma_bf16 && !own_x) {
    plan.scratch_bytes =
        (s.m + plan.tokens - 1) / plan.tokens *
        ((streamed::activation_bytes(form, plan.tokens, static_cast<int>(s.columns / 128)) + 15) /
         16 * 16);
  }
  plan.overlaps = plan.scratch_bytes == 0;
  plan.makes_swiglu = plan.scratch_bytes == 0 && s.float_rows && form != ProductForm::mma_bf16 &&
                      !own_x && s.m <= plan.tokens;
  plan.makes_norm = plan.makes_swiglu && s.m * s.columns * 4 <= plan.partial_bytes;
  const bool many = plan.tokens > 8;
  if (form == ProductForm::mma_f16) {
    many ? choose<ProductForm::mma_f16, 16>(plan) : choose<ProductForm::mma_f16, 8>(plan);
  } else if (form == ProductForm::mma_bf16) {
    many ? choose<ProductForm::mma_bf16, 16>(plan) : choose<ProductForm::mma_bf16, 8>(plan);
  } else {
    constexpr ProductForm kForm = ProductForm::wgmma_e4m3;
    many              ? choose<kForm, 16>(plan)
    : plan.tokens > 4 ? choose<kForm, 8>(plan)
    : plan.tokens > 2 ? choose<kForm, 4>(plan)
                      : choose<kForm, 2>(plan);
  }
  return plan;
}

void launch_dense(const DensePlan& plan, const cuda::Stream& stream, const void* x,
                  int64_t x_stride, const std::byte* weight, void* y, int64_t y_stride,
                  std::byte* scratch, const LaunchOrder& order) {
  const DenseShape& s = plan.shape;
  const int64_t rows = s.rows / s.groups;
  DenseGroup groups[kMaxDenseGroups];
  for (int64_t g = 0; g < s.groups; ++g) {
    groups[g] = {weight + g * StreamedLayout{kFp8, rows, s.columns}.num_bytes(), rows,
                 static_cast<std::byte*>(y) + g * rows * (s.has_float_y() ? 4 : 2), y_stride};
  }
  launch_dense(plan, stream, x, x_stride, {groups, static_cast<size_t>(s.groups)}, scratch, order);
}

}  // namespace cachalot::ops
