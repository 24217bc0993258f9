#include "train/pass_memory.h"

#include <algorithm>
#include <vector>

namespace cachalot::train {
namespace {

using formats::LayerConfig;
using formats::ModelConfig;
using model::Recomputed;

// What a sublayer allocates, in floats per position. Names are those of model/attention.cpp and
// model/moe.cpp.
struct Sublayer {
  double kept = 0;
  double made_again = 0;
  double maps = 0;       // the weights by which streams are mixed; part of either
  double gradients = 0;  // the most at once, but for the streams', the maps' and the early ones
  // made by forward already, where the indexer's and the balance loss end
  double early_gradients = 0;
};

class Counter {
 public:
  Counter(const ModelConfig& config, const TrainingPrecision& precision,
          const model::RecomputePlan& plan)
      : c_(config),
        is_fp8_(precision.level == TrainingPrecision::Level::fp8),
        plan_(plan),
        d_(static_cast<double>(config.hidden_size)) {}

  Sublayer attention(const LayerConfig& layer, int64_t layer_idx) {
    begin(layer);
    const auto q_lora = real(c_.q_lora_rank), head = real(c_.head_dim);
    const auto heads = real(c_.heads_dim()), low = real(c_.o_groups * c_.o_lora_rank);
    keep(quantised(d_ + q_lora) + q_lora);
    make(Recomputed::norms, q_lora);
    keep(heads);
    make(Recomputed::queries, heads);
    double at_core = 2 * heads, at_compressor = 0;  // gradients
    if (layer.kv_source == layer_idx) {
      keep(head);
      make(Recomputed::norms, head);
      at_core += head;
      at_compressor = compressor(layer, head, &at_core);
    }
    if (layer.attention == formats::AttentionKind::csa && layer.index_source == layer_idx) {
      const auto index_heads = real(c_.index_n_heads), index_head = real(c_.index_head_dim);
      compressor(layer, index_head, &now_.early_gradients);
      keep(quantised(q_lora) + index_heads * index_head + index_heads);
      now_.early_gradients += index_heads * index_head + index_heads;
    }
    keep(heads + low + quantised(low) + d_);
    now_.gradients =
        std::max({at_core, heads + head + at_compressor + d_, 2 * heads + d_ + quantised(d_)});
    return now_;
  }

  Sublayer ffn(const LayerConfig& layer) {
    begin(layer);
    const bool is_dense = layer.ffn == formats::FfnKind::dense;
    const double width =
        real(is_dense ? c_.dense_width() : c_.n_shared_experts * c_.moe_intermediate_size);
    keep(quantised(d_) + 2 * width + quantised(width) + d_);
    make(Recomputed::swiglu, width);
    const double at_shared = std::max(d_ + (1 + quantised(1)) * width, 3 * width);
    now_.gradients = d_ + quantised(d_) + at_shared;
    if (is_dense) return now_;
    const auto k = real(c_.num_experts_per_tok), experts = real(c_.n_routed_experts);
    const double chosen = k * real(c_.moe_intermediate_size);
    keep(2 * experts + 2 * k + quantised(d_) + 2 * chosen + quantised(chosen) + k * d_ + d_);
    make(Recomputed::swiglu, chosen);
    const double at_routed = std::max(k * d_ + (1 + quantised(1)) * chosen, 3 * chosen + k);
    now_.gradients =
        d_ + quantised(d_) + std::max({k * d_ + at_shared, at_routed + k, k * d_ + 2 * d_});
    if (layer.ffn == formats::FfnKind::routed) now_.early_gradients = experts;
    return now_;
  }

 private:
  static double real(int64_t value) { return static_cast<double>(value); }
  double quantised(double floats) const { return is_fp8_ ? floats : 0; }  // a copy of them
  void keep(double floats) { now_.kept += floats; }
  void make(Recomputed which, double floats) {
    (plan_.has(which) ? now_.made_again : now_.kept) += floats;
  }
  void begin(const LayerConfig& layer) {
    now_ = {};
    if (layer.residual != formats::ResidualKind::plain) {
      const auto n = real(c_.hc_mult);
      keep(real(c_.hc_rows()) + 1);  // products, norms of the streams
      now_.maps = 2 * n + n * n;
      make(Recomputed::maps, now_.maps);
      make(Recomputed::mixed, d_);
    }
    make(Recomputed::input, d_);
  }
  // Adds the gradients of its entries; returns those while it runs backward.
  double compressor(const LayerConfig& layer, double width, double* of_entries) {
    if (layer.ratio <= 1) return 0;
    const double rows = (layer.attention == formats::AttentionKind::csa ? 4 : 2) * width;
    const double entries = width / real(layer.ratio);
    keep(rows + 2 * entries);
    *of_entries += entries;
    return rows + entries;
  }

  const ModelConfig& c_;
  const bool is_fp8_;
  const model::RecomputePlan& plan_;
  const double d_;
  Sublayer now_;
};

// Sublayers from streams to streams, on a tape of their own.
struct Stack {
  double kept = 0;
  double made_again = 0;
  double gradients = 0;        // where they and what is made again are the most
  double early_gradients = 0;  // of all sublayers

  void add(const Sublayer& sublayer, const model::RecomputePlan& plan, double streams,
           double hidden) {
    const int64_t place = num_sublayers_++ % plan.block_sublayers;
    const bool made_again_before = plan.has(Recomputed::streams) && place != 0;
    if (place == 0) before_ = 0;
    if (made_again_before) before_ += streams;
    kept += sublayer.kept + (made_again_before ? 0 : streams);
    early_gradients += sublayer.early_gradients;
    // Backward begins with both streams' gradients and goes on with those before it alone.
    const double all_gradients =
        early_gradients + sublayer.maps + streams + std::max(streams + hidden, sublayer.gradients);
    const double all_made = before_ + sublayer.made_again;
    if (all_made + all_gradients > made_again + gradients) {
      made_again = all_made;
      gradients = all_gradients;
    }
    if (plan.has(Recomputed::streams) && plan.has(Recomputed::maps)) before_ += sublayer.maps;
  }

 private:
  int64_t num_sublayers_ = 0;
  double before_ = 0;  // in this block
};

}  // namespace

PassMemory pass_memory(const ModelConfig& config, const TrainingPrecision& precision,
                       const model::RecomputePlan& given, int64_t positions) {
  const std::vector<LayerConfig> layers = formats::layer_configs(config);
  const int64_t num_streams =
      layers[0].residual == formats::ResidualKind::plain ? 1 : config.hc_mult;
  model::RecomputePlan plan = given;
  if (plan.block_sublayers == 0) {
    plan.block_sublayers =
        model::optimal_block_sublayers(num_streams, 2 * config.num_hidden_layers);
  }
  const auto d = static_cast<double>(config.hidden_size);
  const double streams = static_cast<double>(num_streams) * d;
  Counter counter(config, precision, plan);
  const auto add_layer = [&](Stack& stack, int64_t layer) {
    stack.add(counter.attention(layers[layer], layer), plan, streams, d);
    stack.add(counter.ffn(layers[layer]), plan, streams, d);
  };
  Stack main;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) add_layer(main, layer);
  main.kept += d + streams;  // embeddings, and the last streams

  const double bytes = static_cast<double>(positions) * sizeof(float);
  const auto rows = std::min(positions, plan.rows_of_logits(config.vocab_size));
  const double lot = static_cast<double>(rows) * sizeof(float) *
                     (2 * static_cast<double>(config.vocab_size) + 2 * streams + 3 * d);
  const auto at = [&](double kept, double made_again, double gradients, double logits) {
    return PassMemory{bytes * kept, bytes * made_again, bytes * gradients, logits};
  };
  const double early = main.early_gradients + streams;  // the last streams' from the logits on
  std::vector<PassMemory> moments = {at(main.kept, main.made_again, main.gradients, 0),
                                     at(main.kept, 0, early, lot)};
  if (config.num_nextn_predict_layers > 0) {
    // The block runs, backward too, before the main model's backward and beside its activations.
    Stack mtp;
    add_layer(mtp, config.num_hidden_layers);
    const bool is_fp8 = precision.level == TrainingPrecision::Level::fp8;
    // Streams that come in, their norms, their projections (counted as the block's), the last; the
    // embeddings, their norms and products.
    mtp.kept += 3 * streams + 3 * d + (is_fp8 ? streams + d : 0);
    moments.push_back(at(main.kept + mtp.kept, mtp.made_again, early + mtp.gradients, 0));
    moments.push_back(at(main.kept + mtp.kept, 0, early + mtp.early_gradients + streams, lot));
  }
  return *std::max_element(moments.begin(), moments.end(),
                           [](const auto& a, const auto& b) { return a.total() < b.total(); });
}

}  // namespace cachalot::train
