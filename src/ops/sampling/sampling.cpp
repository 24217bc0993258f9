#include "ops/sampling/sampling.h"

#include <algorithm>

#include "base/check.h"
#include "device/gpu.h"
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

void copy_ids(device::ExecContext& ctx, const int32_t* from, int64_t count, int32_t* to) {
  if (ctx.gpu != nullptr) return copy_ids_cuda(ctx, from, count, to);
  std::copy_n(from, count, to);
}

void Drawing::start(device::ExecContext& ctx, const SampleParams& p) {
  CACHALOT_CHECK(p.rows <= kMaxRows && p.allowed == nullptr);
  wants_model_logprob_.clear();
  for (int64_t row = 0; row < p.rows; ++row) {
    CACHALOT_CHECK(p.params[row].num_top == 0);
    wants_model_logprob_.push_back(p.params[row].wants_model_logprob ? 1 : 0);
  }
  if (ctx.gpu != nullptr) {
    if (there_.size() == 0) {
      there_ = device::Buffer::create_scratch(drawn_bytes_cuda(), ctx.gpu);
      here_ = device::Buffer::create_pinned(drawn_bytes_cuda(), ctx.gpu).value();
    }
    return start_drawing_cuda(ctx, p, there_.data(), here_.data());
  }
  tokens_.resize(static_cast<size_t>(p.rows));
  SampleParams own = p;
  own.tokens = tokens_.data();
  sample(ctx, own);
  ids_.clear();
  for (const SampledToken& token : tokens_) ids_.push_back(std::max(token.id, 0));
}

const int32_t* Drawing::ids() const {
  return there_.size() == 0 ? ids_.data() : reinterpret_cast<const int32_t*>(there_.data());
}

void Drawing::finish(device::ExecContext& ctx, std::span<SampledToken> tokens) {
  CACHALOT_CHECK(tokens.size() == wants_model_logprob_.size());
  if (ctx.gpu == nullptr) {
    std::ranges::copy(tokens_, tokens.begin());
    return;
  }
  finish_drawing_cuda(ctx, here_.data(), wants_model_logprob_, tokens);
}

}  // namespace cachalot::ops
