#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/optim/update_kernels.h"

namespace cachalot::ops {
namespace {

template <typename Params, typename Kernel>
void run(device::ExecContext& ctx, int64_t n, const Params& p, Kernel* kernel) {
  CACHALOT_CHECK(n >= 0);
  for_tiles(ctx, 1, n, 1,
            [&](const Tile& tile) { kernel(p, tile.first_column, tile.last_column); });
}

}  // namespace

void adamw(device::ExecContext& ctx, const AdamwParams& p) {
  CACHALOT_CHECK(p.step >= 1 && p.beta1 >= 0 && p.beta1 < 1 && p.beta2 >= 0 && p.beta2 < 1);
  const auto step = static_cast<double>(p.step);
  const AdamwStep factors{
      .g = p.g,
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
  run(ctx, p.n, factors, pick_kernel(ctx.isa, adamw_ref, adamw_avx2, adamw_avx512));
}

void muon_momentum(device::ExecContext& ctx, const MuonMomentumParams& p) {
  run(ctx, p.n, p,
      pick_kernel(ctx.isa, muon_momentum_ref, muon_momentum_avx2, muon_momentum_avx512));
}

void muon_apply(device::ExecContext& ctx, const MuonApplyParams& p) {
  run(ctx, p.n, p, pick_kernel(ctx.isa, muon_apply_ref, muon_apply_avx2, muon_apply_avx512));
}

}  // namespace cachalot::ops
