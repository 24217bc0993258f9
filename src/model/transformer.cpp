#include "model/transformer.h"

#include <algorithm>

#include "autograd/elementwise_grad.h"
#include "autograd/embed_grad.h"
#include "model/attention.h"
#include "model/gpu_weights.h"
#include "model/linear.h"
#include "model/moe.h"
#include "model/residual.h"
#include "model/step.h"
#include "model/step_tables.h"
#include "ops/compressor/compressor.h"
#include "ops/rows/together.h"

namespace cachalot::model {
namespace {

// Absolute positions of the batch's rows.
int64_t* positions(device::ExecContext& ctx, const ForwardBatch& batch) {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  CACHALOT_CHECK(batch.sequences.rows() == rows);
  auto* out = ctx.arena->allocate<int64_t>(rows);
  ops::entry_positions(ctx, batch.sequences, 1, out);
  return out;
}

// Embeddings of the batch's tokens. A table of masters counts at bf16 as the published code stores
// it, straight through.
void embed(Step& step, const tensor::TensorView& table, float* rows) {
  autograd::embed(step.context(), table, step.batch.tokens, rows);
  const int64_t d = step.config.hidden_size;
  if (step.precision.bf16 && table.dtype == tensor::DType::f32)
    autograd::round_bf16(step.context(), {rows, step.rows, d, d});
}

bool has_window(const formats::LayerConfig& layer, int64_t layer_idx) {
  return layer.attention != formats::AttentionKind::full && layer.kv_source == layer_idx;
}

// The end of the shortest run of layers from `first` on that no later layer reads KV rows or picks
// from.
int64_t end_of_shared(std::span<const formats::LayerConfig> layers, int64_t first,
                      int64_t num_layers) {
  int64_t end = first + 1;
  for (int64_t layer = num_layers - 1; layer >= end; --layer) {
    const auto reads_from = [&](int64_t source) { return source >= first && source < layer; };
    if (reads_from(layers[layer].kv_source) || reads_from(layers[layer].index_source)) {
      end = layer + 1;
    }
  }
  return end;
}

// What a sublayer's input is mixed and normed with.
struct Before {
  const std::optional<HyperWeights>* hyper;
  const std::vector<float>* norm;
  ops::WeightsToLay to_lay = {};
};
Before before_attention(Step& step, const formats::LayerConfig& layer, const LayerWeights& weights,
                        bool lays) {
  return {&weights.hc_attn, &weights.attn_norm,
          lays ? attention_weights_to_lay(step, layer, weights.attn) : ops::WeightsToLay{}};
}
Before before_ffn(const Step& step, const LayerWeights& weights, bool lays) {
  return {&weights.hc_ffn, &weights.ffn_norm,
          lays ? ffn_weights_to_lay(step, weights.ffn) : ops::WeightsToLay{}};
}

// Nothing after the last.
struct NextLayer {
  const formats::LayerConfig* config = nullptr;
  const LayerWeights* weights = nullptr;
};

// boundary: with one op between sublayers, where the first one's input already lies. next: the
// layer after this one. stores_window: nobody reads the old rows of its ring any more.
Matrix run_layer(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                 const LayerWeights& weights, const NextLayer& next,
                 const std::optional<Boundary>& boundary, bool stores_window, Matrix streams) {
  const float eps = static_cast<float>(step.config.rms_norm_eps);
  const auto merge = [&](const ResidualMix& mix, Matrix y) {
    streams = residual_after(step, mix, y, streams);
    show(step, "hc.streams", streams, step.rows);
  };
  auto sublayer = [&](Before own, std::optional<Before> after, auto body) {
    const StepScope scope(step.context());
    if (boundary) {
      const Output output = body(boundary->input());
      if (after) {
        return pass_boundary(step, **after->hyper, *after->norm, output, *boundary, after->to_lay);
      }
      last_streams(step, output.y, *boundary, streams);
      return show(step, "hc.streams", streams, step.rows);
    }
    ResidualMix mix;
    const Matrix before = streams;
    const Matrix u = residual_before(step, *own.hyper, layer.residual, streams, mix);
    const Matrix x = rms_norm(step, u, step.rows, *own.norm, eps);
    show(step, "norm", x, step.rows);
    if (*own.hyper) step.recompute(Recomputed::mixed, u.data);
    const Output output = body(Input{x});
    step.recompute(Recomputed::input, x.data);
    merge(mix, output.y);
    if (step.sublayer_idx % step.block_sublayers != 0)
      step.recompute(Recomputed::streams, before.data);
    ++step.sublayer_idx;
  };
  const bool lays = boundary && boundary->laid != nullptr;
  const bool is_last = next.weights == nullptr;
  const Before own_attention = before_attention(step, layer, weights, false);
  sublayer(own_attention, before_ffn(step, weights, lays), [&](Input input) {
    return attention(step, layer_idx, layer, weights.attn, input, boundary.has_value());
  });
  if (stores_window) step.waiting.push_back(window_rows(step, layer_idx));
  std::optional<Before> after;
  if (!is_last) after = before_attention(step, *next.config, *next.weights, lays);
  sublayer(before_ffn(step, weights, false), after, [&](Input input) {
    return ffn(step, layer_idx, weights.ffn, input, boundary && !is_last);
  });
  if (step.probe != nullptr && boundary && !is_last) {
    step.probe->on_streams(layer_idx, streams_on_host(step, *boundary).data(), step.rows);
  } else if (step.probe != nullptr) {
    const OnHost<float> values(step.exec, streams.data, step.rows * streams.stride);
    step.probe->on_streams(layer_idx, values.data(), step.rows);
  }
  return streams;
}

// Layers [first, last) of all layers.
struct LayerRun {
  std::span<const formats::LayerConfig> layers;
  int64_t first;
  int64_t last;
  const LayerWeights* first_weights;  // then the others'
};

// Whether what lies between their sublayers is in bf16, which halves its bytes: of many rows.
bool has_bf16_inputs(Step& step, const LayerRun& run) {
  constexpr int64_t kManyRows = 256;
  if (step.rows < kManyRows || step.probe != nullptr || step.tape != nullptr) return false;
  for (int64_t layer = run.first; layer < run.last; ++layer) {
    const LayerWeights& own = run.first_weights[layer - run.first];
    if (!attention_takes_bf16(step, own.attn) || !ffn_takes_bf16(step, own.ffn)) return false;
  }
  return true;
}

// Place for the weights of any of their sublayers, laid anew beside the boundary before it: of
// steps whose boundary leaves room for that. Null: each product lays its own.
std::byte* place_to_lay(Step& step, const LayerRun& run, const Boundary& boundary) {
  constexpr int64_t kVeryManyRows = 512;
  if (step.rows < kVeryManyRows || boundary.x_bf16 == nullptr) return nullptr;
  int64_t bytes = 0;
  for (int64_t layer = run.first; layer < run.last; ++layer) {
    const LayerWeights& own = run.first_weights[layer - run.first];
    const auto to_lay = attention_weights_to_lay(step, run.layers[layer], own.attn);
    bytes = std::max(
        {bytes, ops::laid_bytes(to_lay), ops::laid_bytes(ffn_weights_to_lay(step, own.ffn))});
  }
  if (bytes == 0) return nullptr;
  return step.exec.arena->allocate<std::byte>(bytes);
}

// Where one op fits between all their sublayers.
std::optional<Boundary> boundary_of(Step& step, const LayerRun& run) {
  for (int64_t layer = run.first; layer < run.last; ++layer) {
    const LayerWeights& own = run.first_weights[layer - run.first];
    if (!has_boundary_op(step, own.hc_attn, run.layers[layer].residual)) return {};
  }
  Boundary boundary = new_boundary(step, has_bf16_inputs(step, run));
  boundary.laid = place_to_lay(step, run, boundary);
  return boundary;
}

// Runs them, then moves their KV rows into the window rings, which later layers of the call still
// read. boundary: boundary_of, holding the streams; absent: `streams` does.
Matrix run_layers(Step& step, const LayerRun& run, const std::optional<Boundary>& boundary,
                  Matrix streams) {
  const auto [layers, first, last, first_weights] = run;
  if (boundary) {
    const bool lays = boundary->laid != nullptr;
    const Before before = before_attention(step, layers[first], *first_weights, lays);
    pass_boundary(step, **before.hyper, *before.norm, {}, *boundary, before.to_lay);
  }
  // Whether the layer's ring takes its rows as soon as its own attention has read the old ones: on
  // a GPU, with ops of the FFN. On a CPU nothing runs together, and waiting would take memory.
  const auto stores_window = [&, layers = layers, last = last](int64_t layer) {
    if (step.exec.gpu == nullptr || step.tape != nullptr || !has_window(layers[layer], layer))
      return false;
    for (int64_t later = layer + 1; later < last; ++later) {
      if (layers[later].kv_source == layer) return false;
    }
    return true;
  };
  for (int64_t layer = first; layer < last; ++layer) {
    const formats::LayerConfig& config = layers[layer];
    if (has_window(config, layer)) {
      const tensor::RowLayout layout = kv_layout(step);
      step.kv_rows[layer] = step.one_block(
          step.exec.arena->allocate<std::byte>(step.rows * layout.row_bytes()), layout);
    }
    if (config.attention == formats::AttentionKind::csa && config.index_source == layer) {
      step.selections[layer] = {
          step.exec.arena->allocate<int32_t>(step.rows * step.config.index_topk),
          step.exec.arena->allocate<int32_t>(step.rows)};
    }
    const LayerWeights* const weights = first_weights + (layer - first);
    NextLayer next;
    if (layer + 1 < last) next = {&layers[layer + 1], weights + 1};
    streams =
        run_layer(step, layer, config, *weights, next, boundary, stores_window(layer), streams);
  }
  ops::Together together(step.exec);
  for (int64_t layer = first; layer < last; ++layer) {
    if (has_window(layers[layer], layer) && !stores_window(layer))
      together.add(window_rows(step, layer));
  }
  return streams;
}

Matrix run_layers(Step& step, const LayerRun& run, Matrix streams) {
  const std::optional<Boundary> boundary = boundary_of(step, run);
  if (boundary) fill_streams(step, streams, *boundary);
  return run_layers(step, run, boundary, streams);
}

}  // namespace

int64_t Transformer::num_streams() const {
  return layers_[0].residual == formats::ResidualKind::plain ? 1 : config_.hc_mult;
}

Result<Transformer> Transformer::create(device::ExecContext& ctx, formats::ModelConfig config,
                                        const WeightProvider& source, Precision precision,
                                        PackedStore* store) {
  Transformer model;
  model.layers_ = formats::layer_configs(config);
  CACHALOT_ASSIGN_OR_RETURN(
      model.weights_, ctx.gpu == nullptr
                          ? load_weights(ctx, config, source, store)
                          : load_weights_on_gpu(ctx, config, source, store, precision.fp8_cores));
  const ops::YarnParams yarn{
      config.rope_scaling.factor,
      static_cast<double>(config.rope_scaling.original_max_position_embeddings),
      config.rope_scaling.beta_fast, config.rope_scaling.beta_slow};
  model.plain_frequencies_ = ops::rope_frequencies(config.qk_rope_head_dim, config.rope_theta, {});
  model.compressed_frequencies_ =
      ops::rope_frequencies(config.qk_rope_head_dim, config.compress_rope_theta, yarn);
  if (ctx.gpu != nullptr) {
    for (const auto* table : {&model.plain_frequencies_, &model.compressed_frequencies_})
      CACHALOT_RETURN_IF_ERROR(model.weights_->twins->add(std::span<const float>(*table)));
  }
  model.config_ = std::move(config);
  model.precision_ = precision;
  return model;
}

void Transformer::forward(device::ExecContext& ctx, const ForwardBatch& batch, float* streams,
                          ForwardProbe* probe) const {
  const device::ArenaScope scope(*ctx.arena);
  forward(ctx, batch, streams, probe, nullptr);
}

const float* Transformer::forward(autograd::Context ctx, const ForwardBatch& batch, float* streams,
                                  ForwardProbe* probe, TrainingTerms* terms) const {
  Step step = new_step(ctx, batch, probe, terms);
  const int64_t width = num_streams() * config_.hidden_size;
  const LayerRun run{layers_, 0, config_.num_hidden_layers, weights_->layers.data()};
  const std::optional<Boundary> boundary = boundary_of(step, run);
  embed_streams(step, boundary ? &*boundary : nullptr, streams);
  return run_layers(step, run, boundary, {streams, width, width}).data;
}

void Transformer::embed_streams(Step& step, const Boundary* boundary, float* streams) const {
  const autograd::Context ctx = step.context();
  const StepScope scope(ctx);
  const int64_t d = config_.hidden_size;
  const int64_t n = num_streams();
  float* rows = step.floats(step.rows * d);
  embed(step, weights_->embed, rows);
  if (boundary != nullptr) return fill_streams(step, {rows, d, d}, *boundary);
  autograd::copy(ctx, {rows, d, step.rows, d, streams, n * d, n});
}

void Transformer::rebuild_rings(device::ExecContext& ctx, const ForwardBatch& batch,
                                int64_t num_ring_rows, int64_t max_piece) const {
  CACHALOT_CHECK(batch.sequences.count == 1 && num_ring_rows >= config_.sliding_window);
  const device::ArenaScope scope(*ctx.arena);
  const auto total = static_cast<int64_t>(batch.tokens.size());
  const int64_t width = num_streams() * config_.hidden_size;
  auto* streams = ctx.arena->allocate<float>(total * width);
  // Runs `layers` (none: the embedding) over the batch's last num_rows rows.
  const auto run = [&](int64_t num_rows, auto&& layers) {
    for (int64_t at = total - std::min(num_rows, total); at < total; at += max_piece) {
      const device::ArenaScope piece_scope(*ctx.arena);
      const int64_t first_row[] = {0, std::min(max_piece, total - at)};
      const int64_t position = batch.sequences.first_position[0] + at;
      const ForwardBatch piece{
          batch.tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(first_row[1])),
          {1, first_row, &position},
          batch.layer_rows,
          true};
      Step step = new_step(ctx, piece, nullptr, nullptr);
      layers(step, streams + at * width);
    }
  };
  run(total, [&](Step& step, float* rows) { embed_streams(step, nullptr, rows); });
  const int64_t num_layers = config_.num_hidden_layers;
  for (int64_t first = 0, last = 0; first < num_layers; first = last) {
    // Layers that share rows or picks run over the same rows, in one call.
    last = end_of_shared(layers_, first, num_layers);
    run(num_ring_rows + (num_layers - 1 - first) * (config_.sliding_window - 1),
        [&](Step& step, float* rows) {
          run_layers(step, {layers_, first, last, &weights_->layers[first]}, {rows, width, width});
        });
  }
}

void Transformer::forward_layer(device::ExecContext& ctx, int64_t layer, const ForwardBatch& batch,
                                float* streams, ForwardProbe* probe) const {
  const device::ArenaScope scope(*ctx.arena);
  Step step = new_step(ctx, batch, probe, nullptr);
  const int64_t width = num_streams() * config_.hidden_size;
  run_layers(step, {layers_, layer, layer + 1, &weights_->layers[layer]}, {streams, width, width});
}

void Transformer::mtp_forward(device::ExecContext& ctx, int64_t depth, const ForwardBatch& batch,
                              const float* streams_in, float* streams_out,
                              ForwardProbe* probe) const {
  const device::ArenaScope scope(*ctx.arena);
  mtp_forward(ctx, depth, batch, streams_in, streams_out, probe, nullptr);
}

const float* Transformer::mtp_forward(autograd::Context ctx, int64_t depth,
                                      const ForwardBatch& batch, const float* streams_in,
                                      float* streams_out, ForwardProbe* probe,
                                      TrainingTerms* terms) const {
  Step step = new_step(ctx, batch, probe, terms);
  const MtpWeights& mtp = weights_->mtp[depth];
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t d = config_.hidden_size;
  const int64_t n = num_streams();
  const Matrix embedded = new_matrix(step, step.rows, d);
  embed(step, weights_->embed, embedded.data);
  const Matrix enormed = rms_norm(step, embedded, step.rows, mtp.enorm, eps);
  show(step, "enorm", enormed, step.rows);
  const Matrix e =
      linear(step, quantised_input(step, enormed, step.rows, mtp.e_proj), step.rows, mtp.e_proj);
  show(step, "e_proj", e, step.rows);
  // The projection and norm of a stream are the same for all n: they run as n * rows rows.
  const int64_t stream_rows = step.rows * n;
  const Matrix hnormed =
      rms_norm(step, {const_cast<float*>(streams_in), d, d}, stream_rows, mtp.hnorm, eps);
  show(step, "hnorm", hnormed, stream_rows);
  const Matrix projected = quantised_input(step, hnormed, stream_rows, mtp.h_proj);
  linear(step, projected, stream_rows, mtp.h_proj, {streams_out, d, d});
  show(step, "h_proj", {streams_out, d, d}, stream_rows);
  autograd::add(ctx, {streams_out, n * d, step.rows, d, e.data, d, n}, precision_.bf16);
  show(step, "mtp.streams", {streams_out, n * d, n * d}, step.rows);
  const int64_t layer_idx = config_.num_hidden_layers + depth;
  return run_layers(step, {layers_, layer_idx, layer_idx + 1, &mtp.layer},
                    {streams_out, n * d, n * d})
      .data;
}

Step Transformer::new_step(autograd::Context context, const ForwardBatch& given,
                           ForwardProbe* probe, TrainingTerms* terms) const {
  device::ExecContext& ctx = context.exec;
  const ForwardBatch batch = place_tables(ctx, given, layers_);
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t* row_positions = positions(ctx, batch);
  Step step{ctx,
            config_,
            precision_,
            batch,
            probe,
            context.tape,
            terms,
            rows,
            plain_frequencies_,
            compressed_frequencies_,
            ops::rope_table(ctx, plain_frequencies_, row_positions, rows),
            ops::rope_table(ctx, compressed_frequencies_, row_positions, rows),
            nullptr,
            nullptr,
            0,
            1};
  if (terms != nullptr) {
    const int64_t block = terms->recompute.block_sublayers;
    step.block_sublayers =
        block > 0 ? block : optimal_block_sublayers(num_streams(), 2 * config_.num_hidden_layers);
  }
  const auto num_layers = static_cast<int64_t>(layers_.size());
  step.selections = step.array<Selection>(num_layers);
  step.kv_rows = step.array<tensor::RowBlocks>(num_layers);
  return step;
}

void Transformer::head_logits(autograd::Context ctx, const std::optional<HyperWeights>& hc_head,
                              const std::vector<float>& norm, const float* streams,
                              std::span<const int64_t> rows, float* logits,
                              ForwardProbe* probe) const {
  const StepScope scope(ctx);
  const ForwardBatch no_tokens;
  Step step = new_step(ctx, no_tokens, probe, nullptr);
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t width = num_streams() * config_.hidden_size;
  const Matrix x = collapse_streams(step, hc_head, norm, streams, width, rows);
  const Matrix out{logits, config_.vocab_size, config_.vocab_size};
  linear_f32(step, x, num_rows, weights_->head, out);
  show(step, "norm", x, num_rows);
  show(step, "logits", out, num_rows);
}

void Transformer::logits(autograd::Context ctx, const float* streams, std::span<const int64_t> rows,
                         float* logits, ForwardProbe* probe) const {
  head_logits(ctx, weights_->hc_head, weights_->norm, streams, rows, logits, probe);
}

void Transformer::mtp_logits(autograd::Context ctx, int64_t depth, const float* streams,
                             std::span<const int64_t> rows, float* logits,
                             ForwardProbe* probe) const {
  head_logits(ctx, weights_->mtp[depth].hc_head, weights_->mtp[depth].norm, streams, rows, logits,
              probe);
}

}  // namespace cachalot::model
