#include <algorithm>
#include <cstring>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/compressor/entry_rows.cuh"
#include "ops/hyper/sinkhorn.cuh"
#include "ops/moe/router.cuh"
#include "ops/moe/swiglu.cuh"
#include "ops/on_gpu.h"
#include "ops/rope/head_rows.cuh"
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

// --- The ops as the kernel takes them: their params with twins, and what the host computes.

struct Heads {
  HeadRowsParams p;
  float factor;
};
struct KvRows {
  KvRowsParams p;
  int64_t pieces;
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

// How blocks do block `block` of an op. Each waits for the kernels before, unless they have ended.

constexpr int kMaxColumns = 2048;  // of a norm
__device__ __forceinline__ void run(const RmsNormParams& p, int64_t row, bool have_ended) {
  __shared__ float x[kMaxColumns];
  const int n = static_cast<int>(p.columns);
  if (!have_ended) tile::wait_for_producers();
  for (int i = threadIdx.x; i < n; i += kThreads) x[i] = p.x[row * p.x_stride + i];
  const float factor = row_norm_factor(x, n, p.eps);
  for (int i = threadIdx.x; i < n; i += kThreads) {
    p.y[row * p.y_stride + i] =
        weigh<Norm::weighted>(x[i] * factor, p.g != nullptr ? p.g + i : nullptr, p.round_y);
  }
}

__device__ __forceinline__ void run(const Heads& op, int64_t block, bool have_ended) {
  const int64_t own = block * (kThreads / heads::kLanes) + threadIdx.x / heads::kLanes;
  if (op.p.head_dim == kWideHead)
    return heads::head_row<kWideHead / 16>(op.p, op.factor, own, have_ended);
  heads::head_row<kIndexHead / 16>(op.p, op.factor, own, have_ended);
}

__device__ __forceinline__ void run(const KvRows& op, int64_t row, bool have_ended) {
  __shared__ float x[kMaxEntryWidth];
  const HeadRowsParams& p = op.p.heads;
  if (!have_ended) tile::wait_for_producers();
  for (int i = threadIdx.x; i < p.head_dim; i += kThreads) x[i] = p.x[row * p.row_stride + i];
  const int64_t rotation = row * (p.rope_dim / 2);
  finish_row<kThreads>(x, p, p.table.cos + rotation, p.table.sin + rotation, 0);
  for (int64_t piece = threadIdx.x / 32; piece < op.pieces; piece += kWarps)
    encode_kv_piece(op.p.format, x, p.head_dim, p.rope_dim, piece, op.p.to.row(row));
}

__device__ __forceinline__ void run(const ScaleParams& p, int64_t block, bool have_ended) {
  if (!have_ended) tile::wait_for_producers();
#pragma unroll
  for (int64_t i = 0; i < kOfBlock; i += kThreads) {
    const int64_t at = block * kOfBlock + i + threadIdx.x;
    if (at >= p.n) return;
    const float value = p.x[at] * p.factor;
    p.x[at] = p.round ? tile::round_to_bf16(value) : value;
  }
}

__device__ __forceinline__ void run(const Entries& op, int64_t entry, bool have_ended) {
  complete_entry<kThreads>(op.p, op.frequencies, op.factor, entry, have_ended);
}

__device__ __forceinline__ void run(const StoredRows& op, int64_t row, bool have_ended) {
  store_compressor_row<kThreads>(op.p, row, have_ended);
}

__device__ __forceinline__ void run(const StoreRecentParams& p, int64_t row, bool have_ended) {
  store_recent_row<kThreads>(p, row, have_ended);
}

constexpr int kMaxRanked = 512;  // experts
__device__ __forceinline__ void run(const RouterParams& p, int64_t row, bool have_ended) {
  __shared__ uint32_t values[2 * kMaxRanked];
  router::route_row<kThreads, kMaxRanked>(p, row, values, have_ended);
}

__device__ __forceinline__ void run(const Activations& op, int64_t block, bool have_ended) {
  if (!have_ended) tile::wait_for_producers();
  const int64_t row = block / op.blocks;
#pragma unroll
  for (int64_t i = 0; i < kOfBlock; i += kThreads) {
    const int64_t column = block % op.blocks * kOfBlock + i + threadIdx.x;
    if (column < op.p.columns) Swiglu{op.p}(row, column);
  }
}

__device__ __forceinline__ void run(const HyperCombParams& p, int64_t block, bool have_ended) {
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

// --- The kernel: the ops' blocks one after the other.

template <typename... Ops>
struct OpList {
  static constexpr size_t kBytes = std::max({sizeof(Ops)...});

  template <typename Op>
  static constexpr int kind() {
    constexpr bool kSame[] = {std::is_same_v<Op, Ops>...};
    int kind = 0;
    while (!kSame[kind]) ++kind;
    return kind;
  }
  static __device__ __forceinline__ void run_kind(int kind, const std::byte* op, int64_t block,
                                                  bool have_ended) {
    int own = 0;
    const auto run_if = [&](const auto& each) {
      if (own++ == kind) run(each, block, have_ended);
    };
    (run_if(*reinterpret_cast<const Ops*>(op)), ...);
  }
};
using All = OpList<RmsNormParams, Heads, KvRows, ScaleParams, Entries, StoredRows,
                   StoreRecentParams, RouterParams, Activations, HyperCombParams>;

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

__global__ void __launch_bounds__(kThreads, 2)
    together_kernel(const __grid_constant__ Parts parts) {
  tile::launch_dependents();
  int i = 0;
  while (i + 1 < parts.count && blockIdx.x >= parts.part[i + 1].first_block) ++i;
  const Part& part = parts.part[i];
  All::run_kind(part.kind, part.op, blockIdx.x - part.first_block, parts.beside);
}

// --- On the host.

class Builder {
 public:
  Builder(device::ExecContext& ctx, bool beside) : ctx_(ctx) { parts_.beside = beside; }

  void operator()(RmsNormParams p) {
    place(p.g);
    add(p, p.rows);
  }
  void operator()(HeadRowsParams p) {
    place(p.g);
    constexpr int64_t kHeads = kThreads / heads::kLanes;
    add(Heads{p, heads::hadamard_factor(p.head_dim)}, (p.rows * p.heads + kHeads - 1) / kHeads);
  }
  void operator()(KvRowsParams p) {
    place(p.heads.g);
    p.to = tensor::on_device(ctx_, p.to);
    add(KvRows{p, kv_row_pieces(p.format, p.heads.head_dim, p.heads.rope_dim)}, p.heads.rows);
  }
  void operator()(const ScaleParams& p) { add(p, (p.n + kOfBlock - 1) / kOfBlock); }
  void operator()(const CompleteEntries& op) {
    const int64_t count = op.p.has_entries ? 0 : op.p.sequences.num_entries(op.p.ratio);
    if (count == 0) return;
    add(Entries{on_device(op.p), ctx_.gpu->on_device(op.p.frequencies->data()),
                heads::hadamard_factor(op.p.width)},
        count);
  }
  void operator()(const StoreCompressorRows& op) {
    add(StoredRows{on_device(op.p)}, op.p.sequences.rows());
  }
  void operator()(StoreRecentParams p) {
    const int64_t rows = p.sequences.rows();
    place(p);
    add(p, rows);
  }
  void operator()(RouterParams p) {
    place(p.bias);
    add(p, p.rows);
  }
  void operator()(const SwigluParams& p) {
    const int64_t blocks = (p.columns + kOfBlock - 1) / kOfBlock;
    add(Activations{p, blocks}, p.rows * blocks);
  }

  void operator()(const HyperCombParams& p) { add(p, (p.rows + kWarps - 1) / kWarps); }

  void launch() const {
    if (num_blocks_ == 0) return;
    cuda::LaunchShape shape;
    shape.grid = dim3(num_blocks_);
    shape.block = kThreads;
    cuda::launch(cuda::stream_of(ctx_), shape, together_kernel, parts_);
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

  template <typename Op>
  void add(const Op& op, int64_t blocks) {
    static_assert(std::is_trivially_copyable_v<Op>);
    if (blocks == 0) return;
    Part& part = parts_.part[parts_.count++];
    part.kind = All::kind<Op>();
    part.first_block = num_blocks_;
    std::memcpy(part.op, &op, sizeof(op));
    num_blocks_ += static_cast<unsigned>(blocks);
  }

  device::ExecContext& ctx_;
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
  Builder builder(ctx, beside);
  for (const RowOp& op : ops) std::visit(builder, op);
  builder.launch();
}

}  // namespace cachalot::ops
