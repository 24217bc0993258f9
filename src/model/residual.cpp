#include "model/residual.h"

#include "autograd/elementwise_grad.h"
#include "autograd/hyper_grad.h"
#include "model/step_tables.h"
#include "ops/hyper/hyper_boundary.h"
#include "tensor/tensor_view.h"

namespace cachalot::model {
namespace {
float hyper_eps(const Step& step) { return static_cast<float>(step.config.hc_eps); }

// What found nothing to run with.
void finish_waiting(Step& step) {
  ops::Together together(step.exec);
  step.run_waiting_with(together);
}

float* inv_rms(Step& step, Matrix streams, int64_t rows) {
  float* values = step.floats(rows);
  autograd::hyper_inv_rms(step.context(), streams.data, rows, streams.columns,
                          static_cast<float>(step.config.rms_norm_eps), values);
  return values;
}
}  // namespace

Matrix residual_before(Step& step, const std::optional<HyperWeights>& weights,
                       formats::ResidualKind kind, Matrix streams, ResidualMix& mix) {
  if (!weights) return streams;
  const int64_t n = step.config.hc_mult;
  const int64_t d = step.config.hidden_size;
  const Matrix mixes = linear_maps(step, streams, step.rows, weights->fn);
  float* pre = step.floats(step.rows * n);
  mix.post = step.floats(step.rows * n);
  mix.comb = step.floats(step.rows * n * n);
  ops::HyperSplitParams p{};
  p.mixes = mixes.data;
  p.inv_rms = inv_rms(step, streams, step.rows);
  p.base = weights->base.data();
  p.scale = weights->scale.data();
  p.rows = step.rows;
  p.n = n;
  p.sinkhorn_iters = step.config.hc_sinkhorn_iters;
  p.hc_eps = hyper_eps(step);
  p.kind = kind == formats::ResidualKind::mhc ? ops::HyperKind::mhc : ops::HyperKind::unconstrained;
  p.pre = pre;
  p.post = mix.post;
  p.comb = mix.comb;
  autograd::hyper_split(step.context(), p);
  show(step, "hc.pre", {pre, n, n}, step.rows);
  show(step, "hc.post", {mix.post, n, n}, step.rows);
  show(step, "hc.comb", {mix.comb, n * n, n * n}, step.rows);
  const Matrix u = new_matrix(step, step.rows, d);
  autograd::hyper_pre(step.context(), streams.data, pre, step.rows, n, d, step.precision.bf16,
                      u.data);
  show(step, "hc.u", u, step.rows);
  step.recompute(Recomputed::maps, pre);
  return u;
}

Matrix residual_after(Step& step, const ResidualMix& mix, Matrix y, Matrix streams) {
  finish_waiting(step);
  const Matrix merged = result_over(step, streams, step.rows);
  if (mix.post == nullptr) {
    if (merged.data != streams.data) {
      autograd::copy(step.context(), {streams.data, streams.stride, step.rows, streams.columns,
                                      merged.data, merged.stride});
    }
    autograd::add(step.context(), merged.data, y.data, step.rows * y.columns, step.precision.bf16);
    return merged;
  }
  autograd::hyper_post(step.context(), streams.data, y.data, mix.post, mix.comb, step.rows,
                       step.config.hc_mult, step.config.hidden_size, step.precision.bf16,
                       merged.data);
  step.recompute(Recomputed::maps, mix.post);
  step.recompute(Recomputed::maps, mix.comb);
  return merged;
}

bool has_boundary_op(const Step& step, const std::optional<HyperWeights>& weights,
                     formats::ResidualKind kind) {
  return step.precision.fp8_cores && weights && kind == formats::ResidualKind::mhc &&
         weights->fn.format() == ops::WeightFormat::f32 &&
         ops::hyper_boundary_fits(step.config.hc_mult, step.config.hidden_size);
}

namespace {
void run_boundary(Step& step, const HyperWeights& weights, const std::vector<float>& norm,
                  const std::optional<Output>& output, uint16_t* streams, int64_t rows,
                  const ResidualMix& mix, float* logits, Matrix out, uint16_t* out_bf16 = nullptr,
                  bool* lets_next_in = nullptr) {
  const bool is_sum = output && output->sum;
  ops::hyper_boundary(
      step.exec,
      {rows, out.columns, streams, output ? output->y.data : nullptr, &weights.fn,
       weights.base.data(), weights.scale.data(), norm.data(), mix.post, mix.comb, logits, out.data,
       step.config.hc_sinkhorn_iters, hyper_eps(step), static_cast<float>(step.config.rms_norm_eps),
       is_sum ? &*output->sum : nullptr, output ? output->bf16 : nullptr, out_bf16, lets_next_in});
}
}  // namespace

bool boundary_takes_sums(const Step& step) {
  return step.probe == nullptr && step.rows <= ops::kMaxSummedRows;
}

Boundary new_boundary(Step& step, bool in_bf16) {
  const int64_t n = step.config.hc_mult;
  const int64_t d = step.config.hidden_size;
  return {in_bf16 ? Matrix{nullptr, d, d} : new_matrix(step, step.rows, d),
          in_bf16 ? step.exec.arena->allocate<uint16_t>(step.rows * d) : nullptr,
          step.exec.arena->allocate<uint16_t>(step.rows * n * d),
          {step.floats(step.rows * n), step.floats(step.rows * n * n)},
          step.floats(step.rows * n * n)};
}

void fill_streams(Step& step, Matrix from, const Boundary& boundary) {
  const int64_t width = step.config.hc_mult * step.config.hidden_size;
  ops::boundary_streams(step.exec, {from.data, from.stride, nullptr, step.rows, from.columns,
                                    width / from.columns, boundary.streams});
}

void pass_boundary(Step& step, const HyperWeights& weights, const std::vector<float>& norm,
                   const std::optional<Output>& output, const Boundary& boundary,
                   const ops::WeightsToLay& to_lay) {
  finish_waiting(step);
  bool beside = false;
  run_boundary(step, weights, norm, output, boundary.streams, step.rows, boundary.mix,
               boundary.logits, boundary.x, boundary.x_bf16, to_lay.count > 0 ? &beside : nullptr);
  step.laid = ops::lay_weights(step.exec, to_lay, boundary.laid, beside);
  step.waiting.push_back(ops::HyperCombParams{boundary.logits, boundary.mix.comb, step.rows,
                                              step.config.hc_sinkhorn_iters, hyper_eps(step)});
  if (output && step.probe != nullptr) {
    const int64_t width = step.config.hc_mult * step.config.hidden_size;
    step.probe->on_op("hc.streams", streams_on_host(step, boundary).data(), step.rows, width,
                      width);
  }
  show(step, "norm", boundary.x, step.rows);
}

std::vector<float> streams_on_host(const Step& step, const Boundary& boundary) {
  const int64_t count = step.rows * step.config.hc_mult * step.config.hidden_size;
  const OnHost<uint16_t> bits(step.exec, boundary.streams, count);
  return tensor::to_floats(
      {tensor::DType::bf16, {count}, reinterpret_cast<const std::byte*>(bits.data())});
}

void last_streams(Step& step, Matrix y, const Boundary& boundary, Matrix streams) {
  finish_waiting(step);
  ops::last_streams(step.exec, {boundary.streams, y.data, boundary.mix.post, boundary.mix.comb,
                                step.rows, step.config.hidden_size, streams.data});
}

Matrix collapse_streams(Step& step, const std::optional<HyperWeights>& weights,
                        const std::vector<float>& norm, const float* all, int64_t width,
                        std::span<const int64_t> chosen) {
  const auto rows = static_cast<int64_t>(chosen.size());
  const std::span<const int64_t> list = place_list(step.exec, chosen);
  const float eps = static_cast<float>(step.config.rms_norm_eps);
  if (has_boundary_op(step, weights, formats::ResidualKind::mhc)) {
    auto* const streams = step.exec.arena->allocate<uint16_t>(rows * width);
    ops::boundary_streams(step.exec, {all, width, list.data(), rows, width, 1, streams});
    const Matrix x = new_matrix(step, rows, step.config.hidden_size);
    run_boundary(step, *weights, norm, {}, streams, rows, {}, nullptr, x);
    return x;
  }
  const Matrix streams = new_matrix(step, rows, width);
  autograd::gather_rows(step.context(), all, list, width, streams.data);
  if (!weights) return rms_norm(step, streams, rows, norm, eps);
  const int64_t n = step.config.hc_mult;
  const Matrix mixes = linear_maps(step, streams, rows, weights->fn);
  float* pre = step.floats(rows * n);
  autograd::hyper_head_split(step.context(), mixes.data, inv_rms(step, streams, rows),
                             weights->base.data(), weights->scale.data(), rows, n, hyper_eps(step),
                             pre);
  show(step, "hc.pre", {pre, n, n}, rows);
  const Matrix u = new_matrix(step, rows, step.config.hidden_size);
  autograd::hyper_pre(step.context(), streams.data, pre, rows, n, u.columns, step.precision.bf16,
                      u.data);
  show(step, "hc.u", u, rows);
  return rms_norm(step, u, rows, norm, eps);
}

}  // namespace cachalot::model
