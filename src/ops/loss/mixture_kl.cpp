#include "ops/loss/mixture_kl.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/loss/softmax_kernels.h"

namespace cachalot::ops {
namespace {

static_assert(kMixStretch == kExpSumRun);

void add_runs(ExpSumKernel* exp_sum, const float* x, int64_t n, ExpTotal& total) {
  for (int64_t v = 0; v < n; v += kMixStretch) {
    const ExpSum run = exp_sum(x + v, std::min(kMixStretch, n - v), nullptr);
    const double step = static_cast<double>(run.max) - static_cast<double>(total.max);
    if (step > 0) {
      total.sum = total.sum * std::exp(-step) + run.sum;
      total.max = run.max;
    } else {
      total.sum += run.sum * std::exp(step);
    }
  }
}

class RowKernel {
 public:
  RowKernel(const device::ExecContext& ctx, const MixtureKlParams& p)
      : p_(p), exp_sum_(pick_kernel(ctx.isa, exp_sum_ref, exp_sum_avx2, exp_sum_avx512)) {}

  // e: scratch of vocab_size floats.
  void run(int64_t row, float* e) const {
    const float* z = p_.logits + row * p_.logits_stride;
    const float* mixed = p_.mixed + row * p_.mixed_stride;
    const MixtureLog& log = p_.logs[row];
    ExpTotal own;
    add_runs(exp_sum_, z, p_.vocab_size, own);
    const ExpSum s = exp_sum_(z, p_.vocab_size, e);
    const auto max = static_cast<double>(own.max);
    const double rest = log.log - log.weight * std::log(own.sum);
    const auto ratio = [&](int64_t v) {
      return log.weight * (static_cast<double>(z[v]) - max) - static_cast<double>(mixed[v]) +
             log.max + rest;
    };
    const double loss =
        sum_in_chains([&](int64_t v) { return static_cast<double>(e[v]) * ratio(v); }) / s.sum;
    if (p_.losses != nullptr) p_.losses[row] = loss;
    if (p_.d_logits == nullptr) return;
    float* d = p_.d_logits + row * p_.d_logits_stride;
    const double factor = p_.scales[row] / s.sum;
    for (int64_t v = 0; v < p_.vocab_size; ++v)
      d[v] = static_cast<float>(factor * static_cast<double>(e[v]) * (ratio(v) - loss));
  }

 private:
  template <typename Term>
  double sum_in_chains(Term&& term) const {
    constexpr int64_t kChains = 16;
    double chains[kChains] = {};
    int64_t v = 0;
    for (; v + kChains <= p_.vocab_size; v += kChains)
      for (int64_t i = 0; i < kChains; ++i) chains[i] += term(v + i);
    for (int64_t i = 0; v < p_.vocab_size; ++i, ++v) chains[i] += term(v);
    for (int64_t half = kChains / 2; half > 0; half /= 2)
      for (int64_t i = 0; i < half; ++i) chains[i] += chains[i + half];
    return chains[0];
  }

  const MixtureKlParams& p_;
  ExpSumKernel* exp_sum_;
};

}  // namespace

void MixtureLog::add(double teacher_weight, const ExpTotal& total) {
  max += teacher_weight * static_cast<double>(total.max);
  log += teacher_weight * std::log(total.sum);
  weight += teacher_weight;
}

void mix_teacher(device::ExecContext& ctx, const MixTeacherParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.count > 0 && p.first % kMixStretch == 0);
  CACHALOT_CHECK(p.rows <= 1 || p.logits_stride >= p.count);
  ExpSumKernel* exp_sum = pick_kernel(ctx.isa, exp_sum_ref, exp_sum_avx2, exp_sum_avx512);
  for_row_blocks(ctx, p.rows, 4 * p.count, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* u = p.logits + row * p.logits_stride;
      add_runs(exp_sum, u, p.count, p.totals[row]);
      const float weight = p.weights[row];
      float* mixed = p.mixed + p.places[row] * p.mixed_stride + p.first;
      for (int64_t v = 0; v < p.count; ++v) mixed[v] += weight * u[v];
    }
  });
}

void mixture_kl(device::ExecContext& ctx, const MixtureKlParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.vocab_size > 0);
  CACHALOT_CHECK(p.rows <= 1 ||
                 (p.logits_stride >= p.vocab_size && p.mixed_stride >= p.vocab_size));
  CACHALOT_CHECK(p.d_logits == nullptr || p.scales != nullptr);
  CACHALOT_CHECK(p.rows <= 1 || p.d_logits == nullptr || p.d_logits_stride >= p.vocab_size);
  CACHALOT_CHECK(p.rows == 0 || p.d_logits != p.logits);
  device::ArenaScope scope(*ctx.arena);
  float* scratch = ctx.arena->allocate<float>(ctx.pool->num_threads() * p.vocab_size);
  const RowKernel kernel(ctx, p);
  ctx.pool->run(p.rows,
                [&](int64_t row, int worker) { kernel.run(row, scratch + worker * p.vocab_size); });
}

}  // namespace cachalot::ops
