#include "ops/optim/adamw.h"

#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/optim/task_list.h"
#include "ops/optim/update_kernels.h"

namespace cachalot::ops {
namespace {

AdamwStep factors(const AdamwParams& p) {
  CACHALOT_CHECK(p.n >= 0);
  CACHALOT_CHECK(p.step >= 1 && p.beta1 >= 0 && p.beta1 < 1 && p.beta2 >= 0 && p.beta2 < 1);
  const auto step = static_cast<double>(p.step);
  return {.g = p.g,
          .w = p.w,
          .m = p.m,
          .v = p.v,
          .grad_scale = p.grad_scale,
          .decay = static_cast<float>(1 - p.learning_rate * p.weight_decay),
          .one_minus_beta1 = static_cast<float>(1 - p.beta1),
          .beta2 = static_cast<float>(p.beta2),
          .one_minus_beta2 = static_cast<float>(1 - p.beta2),
          .root = static_cast<float>(std::sqrt(1 - std::pow(p.beta2, step))),
          .eps = static_cast<float>(p.eps),
          .step_size = static_cast<float>(p.learning_rate / (1 - std::pow(p.beta1, step)))};
}

}  // namespace

void adamw(device::ExecContext& ctx, const AdamwParams& p) { adamw(ctx, {&p, 1}); }

void adamw(device::ExecContext& ctx, std::span<const AdamwParams> parameters) {
  const auto count = static_cast<int64_t>(parameters.size());
  device::ArenaScope scope(*ctx.arena);
  auto* steps = ctx.arena->allocate<AdamwStep>(count);
  for (int64_t i = 0; i < count; ++i) steps[i] = factors(parameters[static_cast<size_t>(i)]);
  AdamwKernel* kernel = pick_kernel(ctx.isa, adamw_ref, adamw_avx2, adamw_avx512);
  for_array_blocks(
      ctx, count, kValuesPerTask, [&](int64_t i) { return parameters[static_cast<size_t>(i)].n; },
      [&](int64_t i, int64_t begin, int64_t end) { kernel(steps[i], begin, end); });
}

}  // namespace cachalot::ops
