#include <algorithm>

#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/streamed_experts.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

static_assert(StreamedExperts::kArrivals == kExpertArrivals &&
              sizeof(unsigned long long) == sizeof(uint64_t));

void expert_layer_cuda(device::ExecContext& ctx, const ExpertLayerRows& p) {
  const StreamedExperts& experts = *p.experts;
  const int64_t most = std::min(p.rows, kMaxExpertPairs / p.k);
  const Result<ExpertPlan> plan = make_expert_plan(
      device::cuda::device_of(ctx), {.form = ExpertForm::official_fp8,
                                     .max_tokens = most,
                                     .num_experts = experts.num_experts,
                                     .k = p.k,
                                     .hidden_size = experts.hidden_size,
                                     .moe_intermediate_size = experts.moe_intermediate_size,
                                     .limit = p.limit,
                                     .float_rows = true,
                                     .bf16_out = p.out_bf16 != nullptr,
                                     .bf16_x = p.x_bf16 != nullptr});
  CACHALOT_CHECK(plan.has_value());
  device::ArenaScope scope(*ctx.arena);
  const int64_t pairs = most * p.k;
  CACHALOT_CHECK(p.picks == nullptr || p.rows <= most);
  const ExpertScratch scratch{
      ctx.arena->allocate<int32_t>(1),
      ctx.arena->allocate<ExpertTile>(pairs),
      ctx.arena->allocate<int32_t>(pairs * kMaxTileTokens),
      reinterpret_cast<unsigned long long*>(const_cast<std::byte*>(experts.arrivals.data())),
      ctx.arena->allocate<uint16_t>(pairs * experts.moe_intermediate_size),
      p.picks != nullptr ? p.picks : ctx.arena->allocate<uint16_t>(pairs * experts.hidden_size),
      ctx.arena->allocate<std::byte>(plan->many_bytes)};
  for (int64_t first = 0; first < p.rows; first += most) {
    const int64_t at = first * experts.hidden_size;
    const void* x = p.x == nullptr ? nullptr : p.x + at;
    if (p.x_bf16 != nullptr) x = p.x_bf16 + at;
    const void* shared = p.shared == nullptr ? nullptr : p.shared + at;
    void* out = p.out == nullptr ? nullptr : p.out + at;
    if (p.out_bf16 != nullptr) {
      shared = p.shared_bf16 + at;
      out = p.out_bf16 + at;
    }
    launch_expert_layer(*plan, device::cuda::stream_of(ctx),
                        {.tokens = std::min(most, p.rows - first),
                         .x = x,
                         .ids = p.ids + first * p.k,
                         .weights = p.weights + first * p.k,
                         .gate_up = experts.gate_up.data(),
                         .down = experts.down.data(),
                         .shared = shared,
                         .scratch = scratch,
                         .out = out,
                         .runs_beside = p.runs_beside && first == 0});
  }
}

}  // namespace cachalot::ops
