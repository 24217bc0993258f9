#include <algorithm>
#include <cstring>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/compressor/entry_rows.cuh"
#include "ops/hyper/sinkhorn.cuh"
#include "ops/moe/router.cuh"
#include "ops/moe/swiglu.cuh"
#include "ops/on_gpu.h"
#include "ops/rope/many_heads.cuh"
#include "ops/rows/together_impl.h"
#include "tensor/rows_on_device.h"
#include "tile/first_turn.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kOfBlock = 4 * kThreads;  // elements
constexpr int kWideHead = 512;
constexpr int kIndexHead = 128;
using Block = BlockGroup<kThreads>;

// --- The ops as the kernel takes them: their params with twins, and what the host computes.

struct Heads {
  HeadRowsParams p;
  float factor;
};
struct Entries {
  EntryRowsParams p;
  const float* frequencies;
  float factor;
};
struct StoredRows {
  EntryRowsParams p;
};
struct Activations {
  SwigluParams p;
  int64_t blocks;  // of a row
};
// Of many rows: a block has several.
template <typename Op>
struct Many {
  Op op;
  int64_t count;  // of rows
};

template <typename T>
__device__ __forceinline__ T& as(std::byte* memory) {
  return *reinterpret_cast<T*>(memory);
}

// How blocks do block `block` of an op. Each waits for the kernels before, unless they have ended.
// memory: shared.

constexpr int kMaxColumns = 2048;  // of a norm
__device__ __forceinline__ void run(const RmsNormParams& p, int64_t row, bool have_ended,
                                    std::byte* memory) {
  auto& x = as<float[kMaxColumns]>(memory);
  const int n = static_cast<int>(p.columns);
  if (!have_ended) tile::wait_for_producers();
  for (int i = threadIdx.x; i < n; i += kThreads) x[i] = p.x[row * p.x_stride + i];
  const float factor = row_norm_factor<Block>(x, n, p.eps);
  for (int i = threadIdx.x; i < n; i += kThreads) {
    p.y[row * p.y_stride + i] =
        weigh<Norm::weighted>(x[i] * factor, p.g != nullptr ? p.g + i : nullptr, p.round_y);
  }
}

__device__ __forceinline__ void run(const Heads& op, int64_t block, bool have_ended,
                                    std::byte* memory) {
  const int64_t own = block * (kThreads / heads::kLanes) + threadIdx.x / heads::kLanes;
  if (op.p.head_dim == kWideHead)
    return heads::head_row<kWideHead / 16>(op.p, op.factor, own, have_ended);
  heads::head_row<kIndexHead / 16>(op.p, op.factor, own, have_ended);
}

__device__ __forceinline__ void run(const Many<Heads>& many, int64_t block, bool have_ended,
                                    std::byte* memory) {
  const Heads& op = many.op;
  const auto own =
      static_cast<uint32_t>(block * (kThreads / heads::kFewLanes) + threadIdx.x / heads::kFewLanes);
  if (!have_ended) tile::wait_for_producers();
  if (op.p.head_dim == heads::kBf16Dim)
    return heads::many_bf16_heads<kThreads>(op.p, own, as<heads::Squares<kThreads>>(memory));
  op.p.from_bf16 != nullptr ? heads::many_index_heads<true>(op.p, op.factor, own)
                            : heads::many_index_heads<false>(op.p, op.factor, own);
}

template <typename Group>
__device__ __forceinline__ void make_kv_row(const KvRowsParams& op, int64_t row, float* x,
                                            bool have_ended) {
  const HeadRowsParams& p = op.heads;
  const int64_t rotation = row * (p.rope_dim / 2);
  if (!have_ended) tile::wait_for_producers();
  copy_units<Group::kCount>(x, p.x + row * p.row_stride, p.head_dim, Group::thread());
  finish_row<Group>(x, p, p.table.cos + rotation, p.table.sin + rotation, 0);
  encode_row<Group>(op.format, x, p.head_dim, p.rope_dim, op.to.row(row));
}
__device__ __forceinline__ void run(const KvRowsParams& op, int64_t row, bool have_ended,
                                    std::byte* memory) {
  make_kv_row<Block>(op, row, as<float[kMaxEntryWidth]>(memory), have_ended);
}

__device__ __forceinline__ void run(const ScaleParams& p, int64_t block, bool have_ended,
                                    std::byte* memory) {
  if (!have_ended) tile::wait_for_producers();
#pragma unroll
  for (int64_t i = 0; i < kOfBlock; i += kThreads) {
    const int64_t at = block * kOfBlock + i + threadIdx.x;
    if (at >= p.n) return;
    const float value = p.x[at] * p.factor;
    p.x[at] = p.round ? tile::round_to_bf16(value) : value;
  }
}

__device__ __forceinline__ void run(const Entries& op, int64_t entry, bool have_ended,
                                    std::byte* memory) {
  complete_entry<Block>(op.p, op.frequencies, op.factor, entry,
                        as<EntryMemory<kMaxEntrySlots>>(memory), have_ended);
}

__device__ __forceinline__ void run(const StoredRows& op, int64_t row, bool have_ended,
                                    std::byte* memory) {
  store_compressor_row<Block>(op.p, row, have_ended);
}

__device__ __forceinline__ void run(const StoreRecentParams& p, int64_t row, bool have_ended,
                                    std::byte* memory) {
  store_recent_row<Block>(p, row, have_ended);
}

constexpr int kMaxRanked = 512;  // experts
struct Ranking {                 // shared
  uint32_t values[2 * kMaxRanked];
  router::Choices choices;
};
__device__ __forceinline__ void run(const RouterParams& p, int64_t row, bool have_ended,
                                    std::byte* memory) {
  auto& own = as<Ranking>(memory);
  router::route_row<Block, kMaxRanked>(p, row, own.values, own.choices, have_ended);
}

// A row of many by a warp.

__device__ __forceinline__ void run_row(const KvRowsParams& op, int64_t row, int warp,
                                        bool have_ended, std::byte* memory) {
  make_kv_row<WarpGroup>(op, row, as<float[kWarps][kMaxEntryWidth]>(memory)[warp], have_ended);
}
__device__ __forceinline__ void run_row(const Entries& op, int64_t entry, int warp, bool have_ended,
                                        std::byte* memory) {
  complete_entry<WarpGroup>(op.p, op.frequencies, op.factor, entry,
                            as<EntryMemory<kFewEntrySlots>[kWarps]>(memory)[warp], have_ended);
}
__device__ __forceinline__ void run_row(const StoredRows& op, int64_t row, int, bool have_ended,
                                        std::byte* memory) {
  store_compressor_row<WarpGroup>(op.p, row, have_ended);
}
__device__ __forceinline__ void run_row(const StoreRecentParams& p, int64_t row, int,
                                        bool have_ended, std::byte* memory) {
  store_recent_row<WarpGroup>(p, row, have_ended);
}
__device__ __forceinline__ void run_row(const RouterParams& p, int64_t row, int warp,
                                        bool have_ended, std::byte* memory) {
  auto& own = as<Ranking[kWarps]>(memory)[warp];
  router::route_row<WarpGroup, kMaxRanked>(p, row, own.values, own.choices, have_ended);
}
template <typename Op>
__device__ __forceinline__ void run(const Many<Op>& many, int64_t block, bool have_ended,
                                    std::byte* memory) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t row = block * kWarps + warp;
  if (row < many.count) return run_row(many.op, row, warp, have_ended, memory);
  if (!have_ended) tile::wait_for_producers();
}

__device__ __forceinline__ void run(const Activations& op, int64_t block, bool have_ended,
                                    std::byte* memory) {
  if (!have_ended) tile::wait_for_producers();
  const int64_t row = block / op.blocks;
#pragma unroll
  for (int64_t i = 0; i < kOfBlock; i += kThreads) {
    const int64_t column = block % op.blocks * kOfBlock + i + threadIdx.x;
    if (column < op.p.columns) Swiglu{op.p}(row, column);
  }
}

__device__ __forceinline__ void run(const HyperCombParams& p, int64_t block, bool have_ended,
                                    std::byte* memory) {
  __shared__ float unused[kWarps][16];
  const int64_t row = block * kWarps + threadIdx.x / 32;
  if (row >= p.rows) {
    if (!have_ended) tile::wait_for_producers();
    return;
  }
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int turn = have_ended ? 1 : tile::first_turn(p.rows); turn < 2; ++turn) {
    if (turn == 1 && !have_ended) tile::wait_for_producers();
    make_comb(tile::load_shared_state(p.logits + row * 16 + lane % 16),
              turn == 1 ? p.sinkhorn_iters : 2, p.hc_eps,
              turn == 1 ? p.comb + row * 16 : unused[threadIdx.x / 32]);
  }
}

// --- The kernels: the ops' blocks one after the other.

template <typename... Ops>
struct OpList {
  static constexpr size_t kBytes = std::max({sizeof(Ops)...});

  template <typename Op>
  static constexpr int place() {
    constexpr bool kSame[] = {std::is_same_v<Op, Ops>...};
    int place = 0;
    while (!kSame[place]) ++place;
    return place;
  }
  template <typename Op>
  using Kind = std::integral_constant<int, place<Op>()>;
};
using All =
    OpList<RmsNormParams, Heads, KvRowsParams, ScaleParams, Entries, StoredRows, StoreRecentParams,
           RouterParams, Activations, HyperCombParams, Many<Heads>, Many<KvRowsParams>,
           Many<Entries>, Many<StoredRows>, Many<StoreRecentParams>, Many<RouterParams>>;

// A kernel's, with the registers that so many blocks of a multiprocessor leave, and the shared
// memory of a block.
template <int kOwnBlocks, size_t kOwnMemoryBytes, typename... Ops>
struct Some {
  static constexpr int kBlocks = kOwnBlocks;
  static constexpr size_t kMemoryBytes = kOwnMemoryBytes;
  static bool takes(unsigned kinds) {
    return (kinds & ~(... | (1u << All::Kind<Ops>::value))) == 0;
  }

  static __device__ __forceinline__ void run_kind(int kind, const std::byte* op, int64_t block,
                                                  bool have_ended, std::byte* memory) {
    const auto run_if = [&](int own, const auto& each) {
      if (own == kind) run(each, block, have_ended, memory);
    };
    (run_if(All::Kind<Ops>::value, *reinterpret_cast<const Ops*>(op)), ...);
  }
};
constexpr size_t kMemoryOfFew =
    std::max({sizeof(float[kMaxColumns]), sizeof(EntryMemory<kMaxEntrySlots>), sizeof(Ranking)});
constexpr size_t kMemoryOfMany =
    std::max({kMemoryOfFew, sizeof(heads::Squares<kThreads>),
              sizeof(EntryMemory<kFewEntrySlots>[kWarps]), sizeof(Ranking[kWarps])});
using Few = Some<2, kMemoryOfFew, RmsNormParams, Heads, KvRowsParams, ScaleParams, Entries,
                 StoredRows, StoreRecentParams, RouterParams, Activations, HyperCombParams>;
constexpr int64_t kManyRows = 256;
// Those of many rows with few registers each; and all.
using ManyLight =
    Some<3, kMemoryOfMany, ScaleParams, HyperCombParams, Many<Heads>, Many<KvRowsParams>,
         Many<StoredRows>, Many<StoreRecentParams>, Many<RouterParams>>;
using ManyRows = Some<2, kMemoryOfMany, RmsNormParams, Heads, ScaleParams, Entries, Activations,
                      HyperCombParams, Many<Heads>, Many<KvRowsParams>, Many<Entries>,
                      Many<StoredRows>, Many<StoreRecentParams>, Many<RouterParams>>;

struct Part {
  int kind;
  unsigned first_block;
  alignas(16) std::byte op[All::kBytes];
};
struct Parts {
  int count;
  bool beside;  // the kernel before: those before it have ended
  Part part[kMaxTogether];
};
static_assert(sizeof(Parts) <= 4000);  // of a kernel

template <typename Ops>
__global__ void __launch_bounds__(kThreads, Ops::kBlocks)
    together_kernel(const __grid_constant__ Parts parts) {
  __shared__ alignas(16) std::byte memory[Ops::kMemoryBytes];
  tile::launch_dependents();
  int i = 0;
  while (i + 1 < parts.count && blockIdx.x >= parts.part[i + 1].first_block) ++i;
  const Part& part = parts.part[i];
  Ops::run_kind(part.kind, part.op, blockIdx.x - part.first_block, parts.beside, memory);
}

// --- On the host.

// Of an op. Its rows are all ops' but for those that work on a few of them.
struct NumRows {
  int64_t operator()(const KvRowsParams& p) const { return p.heads.rows; }
  int64_t operator()(const ScaleParams&) const { return 0; }
  int64_t operator()(const CompleteEntries& op) const { return op.p.sequences.rows(); }
  int64_t operator()(const StoreCompressorRows& op) const { return op.p.sequences.rows(); }
  int64_t operator()(const StoreRecentParams& p) const { return p.sequences.rows(); }
  template <typename Params>
  int64_t operator()(const Params& p) const {
    return p.rows;
  }
};

class Builder {
 public:
  Builder(device::ExecContext& ctx, std::span<const RowOp> ops, bool beside) : ctx_(ctx) {
    parts_.beside = beside;
    for (const RowOp& op : ops) is_many_ |= std::visit(NumRows(), op) >= kManyRows;
    for (const bool is_long : {true, false}) {  // an entry takes longest, and begins first
      for (const RowOp& op : ops) {
        if (std::holds_alternative<CompleteEntries>(op) == is_long) std::visit(*this, op);
      }
    }
  }

  void operator()(RmsNormParams p) {
    place(p.g);
    add(p, p.rows);
  }
  void operator()(HeadRowsParams p) {
    const bool is_many =
        is_many_ && (heads::are_many_bf16_heads(p) || heads::are_many_index_heads(p));
    place(p.g);
    const Heads op{p, heads::hadamard_factor(p.head_dim)};
    const int64_t count = p.rows * p.heads;
    if (is_many) return add(Many<Heads>{op, count}, blocks_of(count, kThreads / heads::kFewLanes));
    add(op, blocks_of(count, kThreads / heads::kLanes));
  }
  void operator()(KvRowsParams p) {
    place(p.heads.g);
    p.to = tensor::on_device(ctx_, p.to);
    add_rows(p, p.heads.rows);
  }
  void operator()(const ScaleParams& p) { add(p, blocks_of(p.n, kOfBlock)); }
  void operator()(const CompleteEntries& op) {
    const int64_t count = op.p.has_entries ? 0 : op.p.sequences.num_entries(op.p.ratio);
    if (count == 0) return;
    const Entries entries{on_device(op.p), ctx_.gpu->on_device(op.p.frequencies->data()),
                          heads::hadamard_factor(op.p.width)};
    if ((op.p.overlap ? 2 : 1) * op.p.ratio <= kFewEntrySlots) return add_rows(entries, count);
    add(entries, count);
  }
  void operator()(const StoreCompressorRows& op) {
    add_rows(StoredRows{on_device(op.p)}, op.p.sequences.rows());
  }
  void operator()(StoreRecentParams p) {
    const int64_t rows = p.sequences.rows();
    place(p);
    add_rows(p, rows);
  }
  void operator()(RouterParams p) {
    place(p.bias);
    add_rows(p, p.rows);
  }
  void operator()(const SwigluParams& p) {
    const int64_t blocks = blocks_of(p.columns, kOfBlock);
    add(Activations{p, blocks}, p.rows * blocks);
  }
  void operator()(const HyperCombParams& p) { add(p, blocks_of(p.rows, kWarps)); }

  void launch() const {
    if (num_blocks_ == 0) return;
    cuda::LaunchShape shape;
    shape.grid = dim3(num_blocks_);
    shape.block = kThreads;
    auto* const kernel = !is_many_                  ? together_kernel<Few>
                         : ManyLight::takes(kinds_) ? together_kernel<ManyLight>
                                                    : together_kernel<ManyRows>;
    cuda::launch(cuda::stream_of(ctx_), shape, kernel, parts_);
  }

 private:
  void place(const float*& constant) const {
    if (constant != nullptr) constant = ctx_.gpu->on_device(constant);
  }
  template <typename P>
  void place(P& p) const {
    p.sequences = tensor::on_device(ctx_, p.sequences);
    p.layer_rows = ctx_.gpu->on_device(p.layer_rows);
    p.step_rows = tensor::on_device(ctx_, p.step_rows);
  }
  EntryRowsParams on_device(EntryRowsParams p) const {
    place(p.ape);
    place(p.g);
    place(p);
    return p;
  }

  static int64_t blocks_of(int64_t count, int64_t of_block) {
    return (count + of_block - 1) / of_block;
  }
  // A block each, or of many a warp.
  template <typename Op>
  void add_rows(const Op& op, int64_t rows) {
    is_many_ ? add(Many<Op>{op, rows}, blocks_of(rows, kWarps)) : add(op, rows);
  }
  template <typename Op>
  void add(const Op& op, int64_t blocks) {
    static_assert(std::is_trivially_copyable_v<Op>);
    if (blocks == 0) return;
    Part& part = parts_.part[parts_.count++];
    part.kind = All::Kind<Op>::value;
    kinds_ |= 1u << part.kind;
    part.first_block = num_blocks_;
    std::memcpy(part.op, &op, sizeof(op));
    num_blocks_ += static_cast<unsigned>(blocks);
  }

  device::ExecContext& ctx_;
  bool is_many_ = false;
  unsigned kinds_ = 0;
  Parts parts_{};
  unsigned num_blocks_ = 0;
};

// By finish_row.
bool row_fits(const HeadRowsParams& p) {
  return p.head_dim % 32 == 0 && p.head_dim <= kMaxEntryWidth && p.rope_dim % 2 == 0 &&
         p.rope_dim <= p.head_dim && (p.head_dim & (p.head_dim - 1)) * (p.hadamard ? 1 : 0) == 0 &&
         (p.snap != HeadSnap::fp8 || (p.head_dim - p.rope_dim) % 64 == 0);
}

bool entry_rows_fit(const EntryRowsParams& p) {
  HeadRowsParams heads{};
  heads.head_dim = p.width;
  heads.rope_dim = p.rope_dim;
  heads.snap = p.snap;
  heads.hadamard = p.hadamard;
  return row_fits(heads) && p.rope_dim / 2 <= kMaxEntryPairs &&
         (p.overlap ? 2 : 1) * p.ratio <= kMaxEntrySlots;
}

struct Fits {
  bool operator()(const RmsNormParams& p) const { return p.columns == 1024 || p.columns == 1536; }
  bool operator()(const HeadRowsParams& p) const {
    return (p.head_dim == kWideHead || p.head_dim == kIndexHead) && head_rows_cuda_fits(p);
  }
  bool operator()(const KvRowsParams& p) const {
    return p.heads.heads == 1 && p.heads.norm == HeadNorm::weighted && p.heads.g != nullptr &&
           !p.heads.hadamard && row_fits(p.heads);
  }
  bool operator()(const ScaleParams&) const { return true; }
  bool operator()(const CompleteEntries& op) const { return entry_rows_fit(op.p); }
  bool operator()(const StoreCompressorRows& op) const { return entry_rows_fit(op.p); }
  bool operator()(const StoreRecentParams&) const { return true; }
  bool operator()(const RouterParams& p) const {
    return p.scores == nullptr && p.n_routed_experts <= kMaxRanked &&
           p.num_experts_per_tok <= router::kMaxChoices;
  }
  bool operator()(const SwigluParams& p) const { return p.clamped == nullptr; }
  bool operator()(const HyperCombParams&) const { return true; }
};

}  // namespace

bool together_cuda_fits(const RowOp& op) { return std::visit(Fits(), op); }

void together_cuda(device::ExecContext& ctx, std::span<const RowOp> ops, bool beside) {
  Builder(ctx, ops, beside).launch();
}

}  // namespace cachalot::ops
