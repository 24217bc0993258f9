// The routed experts of a layer on the GPU: from the router's picks to one row a
// pair of token and expert, and their sum.
// Source  reference/forward 4.2, 4.3, 0.5 (LIN4).
// Shapes  x [tokens, hidden_size] bf16; ids, weights [tokens, k]; gate_up and down: expert after
//         expert as ops/matmul/streamed_weight.h (stream_fp4_gate_up, stream_fp4); h [tokens * k,
//         moe_intermediate_size] bf16; y [tokens * k, hidden_size] bf16; shared, out [tokens,
//         hidden_size] bf16. Row t k + i of h and y is pick i of token t. Rows are contiguous and
//         16-byte aligned. float_rows: x, shared and out are float; what the first two hold, bf16
//         can hold. bf16_x: x is bf16 even so; bf16_out: shared and out are.
// Numerics  ops/moe/expert_product.cuh; gate and up rounded to bf16, clamped at limit, h =
//           bf16(weight silu(g) u) in fp32 with ops/elementwise/exp.h, quantised as ACT8 (runs of
//           128); y rounded to bf16; out = bf16 of the sum over ascending expert ids, then shared.
//           A token's bits depend on its row, picks and weights alone.
// Special an id outside [0, num_experts) takes part in nothing: its rows of h and y are not written
//         and the sum leaves it out.
// Errors  make_expert_plan: invalid_argument.
// Threads one call at a time on a device: the blocks of the products wait for each other, so all of
//         them must find a multiprocessor. scratch belongs to one stream.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"

namespace cachalot::ops {

enum class ExpertForm { official, official_fp8 };

struct ExpertShape {
  ExpertForm form;
  int64_t max_tokens;
  int64_t num_experts;
  int64_t k;  // num_experts_per_tok
  int64_t hidden_size;
  int64_t moe_intermediate_size;
  float limit;  // swiglu_limit
  bool float_rows = false;
  bool bf16_out = false;
  bool bf16_x = false;

  bool has_float_x() const { return float_rows && !bf16_x; }
  bool has_float_out() const { return float_rows && !bf16_out; }
};

// Some tokens of one expert.
struct ExpertTile {
  int32_t expert;
  int32_t num_tokens;
};

// Device memory of one layer's call, written by its kernels.
struct ExpertScratch {
  int32_t* num_tiles;  // [1]
  ExpertTile* tiles;   // [max_tokens * k]
  int32_t* pairs;      // [max_tokens * k, kMaxTileTokens]: those of each tile
  // [kExpertArrivals]: zero before the first call, then the kernels' own
  unsigned long long* arrivals;
  uint16_t* h;
  uint16_t* y;
  std::byte* many = nullptr;  // [plan.many_bytes], 16-byte aligned
};
inline constexpr int kMaxTileTokens = 16;
inline constexpr int kExpertArrivals = 32;
inline constexpr int64_t kMaxExpertPairs = 24576;  // of a call

// How many tokens a tile has and how a block's shared memory is cut.
struct ExpertConfig {
  int tile_tokens = 0;  // that the kernel is compiled for
  int smem_tokens = 0;  // that a tile has at most
  int stages = 0;
  int in_flight = 0;    // bulk copies of a block that are under way
  int64_t x_bytes = 0;  // of one tile's tokens
  int64_t num_bytes = 0;
};

struct ExpertPlan {
  ExpertShape shape;
  int grid = 0;
  ExpertConfig configs[3];  // for up to 2 tokens, for few and for more tokens an expert
  // From so many tokens on the products are those of expert_many.h, whose bits are the same; 0:
  // never.
  int64_t many_tokens = 0;
  int64_t many_bytes = 0;

  bool takes_many(int64_t tokens) const { return many_tokens > 0 && tokens >= many_tokens; }
};

Result<ExpertPlan> make_expert_plan(const device::cuda::Device& device, const ExpertShape& shape);

struct ExpertParams {
  int64_t tokens;
  const void* x;
  const int32_t* ids;
  const float* weights;
  const std::byte* gate_up;
  const std::byte* down;
  const void* shared;  // or null
  ExpertScratch scratch;
  void* out;  // null: y stays without its sum
  // Beside the kernel before, which lets the next one in (ops/matmul/launch_order.h) and of all
  // this writes `shared` alone.
  bool runs_beside = false;
};

// Kernels: tiles of tokens by expert (up to 32 pairs the next one finds them for itself), both
// products (of many tokens those of expert_many.h), sum. The first may start before the stream's
// last kernel has ended (programmatic edge).
void launch_expert_layer(const ExpertPlan& plan, const device::cuda::Stream& stream,
                         const ExpertParams& params);

}  // namespace cachalot::ops
