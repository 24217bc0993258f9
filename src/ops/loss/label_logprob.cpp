#include "ops/loss/label_logprob.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/loss/softmax_kernels.h"

namespace cachalot::ops {
namespace {

bool is_allowed(const uint8_t* row, int64_t v) { return (row[v >> 3] >> (v & 7) & 1) != 0; }

class RowKernel {
 public:
  RowKernel(const device::ExecContext& ctx, const LabelLogprobParams& p)
      : p_(p),
        exp_sum_(pick_kernel(ctx.isa, exp_sum_ref, exp_sum_avx2, exp_sum_avx512)),
        scale_(pick_kernel(ctx.isa, scale_ref, scale_avx2, scale_avx512)) {}

  // `scratch`: vocab_size floats.
  void run(int64_t row, float* scratch) const {
    const int32_t label = p_.labels[row];
    CACHALOT_CHECK(label >= 0 && label < p_.vocab_size);
    const float* x = p_.logits + row * p_.logits_stride;
    const uint8_t* allowed = p_.allowed == nullptr ? nullptr : p_.allowed + row * p_.allowed_stride;
    CACHALOT_CHECK(allowed == nullptr || is_allowed(allowed, label));
    // The allowed logits, close together; where the label's stands among them.
    int64_t n = 0, label_at = 0;
    for (int64_t v = 0; v < p_.vocab_size; ++v) {
      if (allowed != nullptr && !is_allowed(allowed, v)) continue;
      if (v == label) label_at = n;
      scratch[n++] = p_.temperature == 1 ? x[v] : x[v] / p_.temperature;
    }
    const auto z = static_cast<double>(scratch[label_at]);
    const ExpSum s = exp_sum_(scratch, n, scratch);
    if (p_.logprobs != nullptr) p_.logprobs[row] = z - static_cast<double>(s.max) - std::log(s.sum);
    if (p_.d_logits == nullptr) return;
    const double coefficient = p_.coefficients[row] / static_cast<double>(p_.temperature);
    const double e = scratch[label_at];
    scale_(scratch, n, static_cast<float>(-coefficient / s.sum));
    scratch[label_at] = static_cast<float>(coefficient * ((s.sum - e) / s.sum));
    float* d = p_.d_logits + row * p_.d_logits_stride;
    if (allowed == nullptr) {
      std::copy_n(scratch, n, d);
      return;
    }
    for (int64_t v = 0, i = 0; v < p_.vocab_size; ++v)
      d[v] = is_allowed(allowed, v) ? scratch[i++] : 0.0f;
  }

 private:
  const LabelLogprobParams& p_;
  ExpSumKernel* exp_sum_;
  ScaleKernel* scale_;
};

}  // namespace

void label_logprob(device::ExecContext& ctx, const LabelLogprobParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.vocab_size > 0 && p.temperature > 0);
  CACHALOT_CHECK(p.rows <= 1 || p.logits_stride >= p.vocab_size);
  CACHALOT_CHECK(p.d_logits == nullptr || p.coefficients != nullptr);
  CACHALOT_CHECK(p.rows <= 1 || p.d_logits == nullptr || p.d_logits_stride >= p.vocab_size);
  CACHALOT_CHECK(p.d_logits != p.logits || p.rows <= 1 || p.d_logits_stride == p.logits_stride);
  CACHALOT_CHECK(p.rows <= 1 || p.allowed == nullptr || 8 * p.allowed_stride >= p.vocab_size);
  device::ArenaScope scope(*ctx.arena);
  auto* scratch = ctx.arena->allocate<float>(p.rows * p.vocab_size);
  const RowKernel kernel(ctx, p);
  for_row_blocks(ctx, p.rows, 4 * p.vocab_size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) kernel.run(row, scratch + row * p.vocab_size);
  });
}

}  // namespace cachalot::ops
