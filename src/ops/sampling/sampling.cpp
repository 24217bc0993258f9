#include "ops/sampling/sampling.h"

#include "base/check.h"
#include "ops/sampling/sampling_impl.h"

namespace cachalot::ops {

void sample(device::ExecContext& ctx, const SampleParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.vocab_size >= 0 && p.vocab_size <= INT32_MAX);
  for (int64_t row = 0; row < p.rows; ++row) {
    CACHALOT_CHECK(p.params[row].num_top >= 0 && p.params[row].num_top <= p.top_stride);
  }
  if (ctx.gpu != nullptr) return sample_cuda(ctx, p);
  SampleRowKernel* kernel = ctx.isa == device::Isa::reference ? sample_row_ref : sample_row_cpu;
  const device::ArenaScope scope(*ctx.arena);
  // One a worker: what is in it does not outlive a row.
  auto* scratch = ctx.arena->allocate<TokenWeight>(ctx.pool->num_threads() * p.vocab_size);
  ctx.pool->run(p.rows, [&](int64_t row, int worker) {
    p.tokens[row] = kernel(
        {p.logits + row * p.logits_stride, p.vocab_size, p.params[row], p.top + row * p.top_stride,
         p.allowed == nullptr ? nullptr : p.allowed + row * id_set_words(p.vocab_size),
         scratch + worker * p.vocab_size});
  });
}

}  // namespace cachalot::ops
