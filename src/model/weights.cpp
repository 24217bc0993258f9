#include "model/weights.h"

#include <fmt/format.h>

#include "model/gpu_weights.h"

namespace cachalot::model {
namespace {

using formats::LayerConfig;
using formats::ModelConfig;

class Loader {
 public:
  // gpu: where matrices go; null: into the store, or memory of their own.
  Loader(device::ExecContext& ctx, const ModelConfig& config, const WeightProvider& source,
         PackedStore* store, GpuPlace* gpu, std::vector<WeightSlot>& slots)
      : ctx_(ctx), config_(config), source_(source), store_(store), gpu_(gpu), slots_(slots) {}

  Status load(ModelWeights& out) {
    out.layers.reserve(static_cast<size_t>(config_.num_hidden_layers));  // the slots point into it
    out.mtp.reserve(static_cast<size_t>(config_.num_nextn_predict_layers));
    const auto layers = formats::layer_configs(config_);
    CACHALOT_ASSIGN_OR_RETURN(out.embed, source_.tensor("embed.weight"));
    fingerprint("embed.weight", out.embed);
    source_.release(out.embed);
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      out.layers.emplace_back();
      CACHALOT_RETURN_IF_ERROR(
          load_layer(fmt::format("layers.{}", layer), layer, layers[layer], out.layers.back()));
    }
    CACHALOT_RETURN_IF_ERROR(vector("norm.weight", config_.hidden_size, out.norm));
    CACHALOT_RETURN_IF_ERROR(load_head("hc_head", layers[0], out.hc_head));
    CACHALOT_RETURN_IF_ERROR(
        matrix("head.weight", config_.vocab_size, config_.hidden_size, out.head, OnGpu::streamed));
    for (int64_t depth = 0; depth < config_.num_nextn_predict_layers; ++depth) {
      out.mtp.emplace_back();
      CACHALOT_RETURN_IF_ERROR(
          load_mtp(depth, layers[config_.num_hidden_layers + depth], out.mtp.back()));
    }
    return {};
  }

 private:
  using OnGpu = ops::PackedWeight::OnGpu;

  Status matrix(const std::string& name, int64_t rows, int64_t columns, ops::PackedWeight& out,
                OnGpu form = OnGpu::panels) {
    return matrix(name, rows, columns, out,
                  [&](const tensor::QuantTensor& quant) { return pack_dense(quant, form); });
  }
  template <typename Pack>
  Status matrix(const std::string& name, int64_t rows, int64_t columns, ops::PackedWeight& out,
                const Pack& pack_it) {
    CACHALOT_ASSIGN_OR_RETURN(const tensor::QuantTensor quant, source_.matrix(name));
    slots_.push_back({name, 0, &out, nullptr});
    return pack(name, quant, rows, columns, out, pack_it);
  }

  Result<ops::PackedWeight> pack_dense(const tensor::QuantTensor& quant, OnGpu form) {
    if (gpu_ != nullptr) return gpu_->pack(quant, form);
    return store_ == nullptr ? ops::PackedWeight::pack(ctx_, quant) : store_->next(ctx_, quant);
  }

  // The provider has checked the shape against the config; this one states what the model takes it
  // for.
  template <typename Pack>
  Status pack(const std::string& name, const tensor::QuantTensor& quant, int64_t rows,
              int64_t columns, ops::PackedWeight& out, const Pack& pack_it) {
    CACHALOT_CHECK_MSG(quant.rows == rows && quant.columns == columns, name);
    fingerprint(name, quant.weight);
    if (quant.has_scale()) fingerprint(name, quant.scale);
    Result<ops::PackedWeight> packed = pack_it(quant);
    if (!packed) return {packed.error().code(), name + ": " + packed.error().message()};
    out = *std::move(packed);
    source_.release(quant.weight);
    if (quant.has_scale()) source_.release(quant.scale);
    return {};
  }

  void fingerprint(const std::string& name, const tensor::TensorView& view) {
    if (store_ != nullptr) store_->count(ctx_, name, view.bytes());
  }

  Status matrix(const std::string& name, int64_t rows, int64_t columns,
                std::optional<ops::PackedWeight>& out, OnGpu form = OnGpu::panels) {
    return matrix(name, rows, columns, out.emplace(), form);
  }

  Status vector(const std::string& name, int64_t count, std::vector<float>& out) {
    CACHALOT_ASSIGN_OR_RETURN(const tensor::TensorView view, source_.tensor(name));
    CACHALOT_CHECK_MSG(view.num_elements() == count, name);
    out = tensor::to_floats(view);
    fingerprint(name, view);
    slots_.push_back({name, 0, nullptr, &out});
    return {};
  }

  Status load_hyper(const std::string& prefix, int64_t rows, int64_t num_scales,
                    HyperWeights& out) {
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "_fn", rows, config_.hc_dim(), out.fn));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "_base", rows, out.base));
    return vector(prefix + "_scale", num_scales, out.scale);
  }

  Status load_head(const std::string& prefix, const LayerConfig& layer,
                   std::optional<HyperWeights>& out) {
    if (layer.residual == formats::ResidualKind::plain) return {};
    return load_hyper(prefix, config_.hc_mult, 1, out.emplace());
  }

  Status load_compressor(const std::string& prefix, int64_t ratio, int64_t width,
                         CompressorWeights& out) {
    const int64_t columns =
        (ratio == 4 ? 2 : 1) * width;  // overlapped at ratio 4 (reference/forward 3.3)
    CACHALOT_RETURN_IF_ERROR(
        matrix(prefix + "wkv.weight", columns, config_.hidden_size, out.wkv, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(
        matrix(prefix + "wgate.weight", columns, config_.hidden_size, out.wgate, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "ape", ratio * columns, out.ape));
    return vector(prefix + "norm.weight", width, out.norm);
  }

  Status load_attention(const std::string& prefix, int64_t layer_idx, const LayerConfig& layer,
                        AttentionWeights& out) {
    const auto& c = config_;
    CACHALOT_RETURN_IF_ERROR(
        matrix(prefix + "wq_a.weight", c.q_lora_rank, c.hidden_size, out.wq_a, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "q_norm.weight", c.q_lora_rank, out.q_norm));
    CACHALOT_RETURN_IF_ERROR(
        matrix(prefix + "wq_b.weight", c.heads_dim(), c.q_lora_rank, out.wq_b, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "attn_sink", c.num_attention_heads, out.attn_sink));
    CACHALOT_RETURN_IF_ERROR(load_wo_a(prefix + "wo_a.weight", out.wo_a));
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "wo_b.weight", c.hidden_size,
                                    c.o_groups * c.o_lora_rank, out.wo_b, OnGpu::streamed));
    if (layer.kv_source == layer_idx) {
      CACHALOT_RETURN_IF_ERROR(
          matrix(prefix + "wkv.weight", c.head_dim, c.hidden_size, out.wkv, OnGpu::streamed));
      CACHALOT_RETURN_IF_ERROR(vector(prefix + "kv_norm.weight", c.head_dim, out.kv_norm));
      if (layer.ratio > 1) {
        CACHALOT_RETURN_IF_ERROR(load_compressor(prefix + "compressor.", layer.ratio, c.head_dim,
                                                 out.compressor.emplace()));
      }
    }
    if (layer.attention == formats::AttentionKind::csa && layer.index_source == layer_idx) {
      IndexerWeights& indexer = out.indexer.emplace();
      const std::string index = prefix + "indexer.";
      CACHALOT_RETURN_IF_ERROR(matrix(index + "wq_b.weight", c.index_n_heads * c.index_head_dim,
                                      c.q_lora_rank, indexer.wq_b, OnGpu::streamed));
      CACHALOT_RETURN_IF_ERROR(matrix(index + "weights_proj.weight", c.index_n_heads, c.hidden_size,
                                      indexer.weights_proj, OnGpu::streamed));
      CACHALOT_RETURN_IF_ERROR(load_compressor(index + "compressor.", layer.ratio, c.index_head_dim,
                                               indexer.compressor));
    }
    return {};
  }

  // One matrix per output group: rows g*R .. (g+1)*R of the stored one. A scale block of rows may
  // straddle two groups only in shapes no published model has; such a matrix is refused.
  Status load_wo_a(const std::string& name, std::vector<ops::PackedWeight>& out) {
    CACHALOT_ASSIGN_OR_RETURN(const tensor::QuantTensor whole, source_.matrix(name));
    const int64_t rank = config_.o_lora_rank;
    const int64_t columns = config_.heads_dim() / config_.o_groups;
    CACHALOT_CHECK_MSG(whole.rows == config_.o_groups * rank && whole.columns == columns, name);
    if (whole.has_scale() && rank % whole.block_rows != 0) {
      return unsupported(fmt::format(
          "{}: expected o_lora_rank to be a multiple of the scale block's {} rows, found {}", name,
          whole.block_rows, rank));
    }
    out.reserve(static_cast<size_t>(config_.o_groups));
    for (int64_t g = 0; g < config_.o_groups; ++g) {
      tensor::QuantTensor group = whole;
      group.rows = rank;
      group.weight.shape[0] = rank;
      group.weight.data += g * group.weight.num_bytes();
      if (whole.has_scale()) {
        group.scale.shape[0] = rank / whole.block_rows;
        group.scale.data += g * group.scale.num_bytes();
      }
      out.emplace_back();
      slots_.push_back({name, g * rank, &out.back(), nullptr});
      CACHALOT_RETURN_IF_ERROR(
          pack(name, group, rank, columns, out.back(), [&](const tensor::QuantTensor& quant) {
            return pack_dense(quant, OnGpu::streamed_bf16);
          }));
    }
    return {};
  }

  // pack_it(tensor)
  template <typename Pack>
  Status load_expert(const std::string& prefix, int64_t width, ExpertWeights& out,
                     const Pack& pack_it) {
    const int64_t d = config_.hidden_size;
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "w1.weight", width, d, out.w1, pack_it));
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "w3.weight", width, d, out.w3, pack_it));
    return matrix(prefix + "w2.weight", d, width, out.w2, pack_it);
  }

  Status load_ffn(const std::string& prefix, const LayerConfig& layer, FfnWeights& out) {
    const auto& c = config_;
    const bool dense = layer.ffn == formats::FfnKind::dense;
    const int64_t shared_width =
        dense ? c.dense_width() : c.n_shared_experts * c.moe_intermediate_size;
    CACHALOT_RETURN_IF_ERROR(load_expert(
        prefix + (dense ? "" : "shared_experts."), shared_width, out.shared_experts,
        [&](const tensor::QuantTensor& quant) { return pack_dense(quant, OnGpu::streamed); }));
    if (dense) return {};
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "gate.weight", c.n_routed_experts, c.hidden_size,
                                    out.gate, OnGpu::streamed));
    if (layer.ffn == formats::FfnKind::hash) {
      CACHALOT_ASSIGN_OR_RETURN(out.tid2eid, source_.expert_ids(prefix + "gate.tid2eid"));
      if (store_ != nullptr)
        store_->count(ctx_, prefix + "gate.tid2eid", std::as_bytes(std::span(out.tid2eid)));
    } else {
      CACHALOT_RETURN_IF_ERROR(vector(prefix + "gate.bias", c.n_routed_experts, out.bias));
    }
    out.experts.reserve(static_cast<size_t>(c.n_routed_experts));
    const auto pack_expert = [&](const tensor::QuantTensor& quant) {
      return gpu_ == nullptr ? pack_dense(quant, OnGpu::panels)
                             : gpu_->pack_expert(quant, 3 * c.n_routed_experts);
    };
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      out.experts.emplace_back();
      CACHALOT_RETURN_IF_ERROR(load_expert(fmt::format("{}experts.{}.", prefix, e),
                                           c.moe_intermediate_size, out.experts.back(),
                                           pack_expert));
    }
    return gpu_ == nullptr ? Status() : gpu_->finish_experts(out);
  }

  Status load_layer(const std::string& name, int64_t layer_idx, const LayerConfig& layer,
                    LayerWeights& out) {
    const std::string prefix = name + ".";
    if (layer.residual != formats::ResidualKind::plain) {
      CACHALOT_RETURN_IF_ERROR(
          load_hyper(prefix + "hc_attn", config_.hc_rows(), 3, out.hc_attn.emplace()));
      CACHALOT_RETURN_IF_ERROR(
          load_hyper(prefix + "hc_ffn", config_.hc_rows(), 3, out.hc_ffn.emplace()));
    }
    CACHALOT_RETURN_IF_ERROR(
        vector(prefix + "attn_norm.weight", config_.hidden_size, out.attn_norm));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "ffn_norm.weight", config_.hidden_size, out.ffn_norm));
    CACHALOT_RETURN_IF_ERROR(load_attention(prefix + "attn.", layer_idx, layer, out.attn));
    return load_ffn(prefix + "ffn.", layer, out.ffn);
  }

  Status load_mtp(int64_t depth, const LayerConfig& layer, MtpWeights& out) {
    const std::string prefix = fmt::format("mtp.{}.", depth);
    const int64_t d = config_.hidden_size;
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "e_proj.weight", d, d, out.e_proj, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(matrix(prefix + "h_proj.weight", d, d, out.h_proj, OnGpu::streamed));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "enorm.weight", d, out.enorm));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "hnorm.weight", d, out.hnorm));
    CACHALOT_RETURN_IF_ERROR(vector(prefix + "norm.weight", d, out.norm));
    CACHALOT_RETURN_IF_ERROR(load_head(prefix + "hc_head", layer, out.hc_head));
    return load_layer(fmt::format("mtp.{}", depth), config_.num_hidden_layers + depth, layer,
                      out.layer);
  }

  device::ExecContext& ctx_;
  const ModelConfig& config_;
  const WeightProvider& source_;
  PackedStore* store_;
  GpuPlace* gpu_;
  std::vector<WeightSlot>& slots_;
};

int64_t bytes(const std::optional<HyperWeights>& w) { return w ? w->fn.num_bytes() : 0; }
int64_t bytes(const CompressorWeights& w) { return w.wkv.num_bytes() + w.wgate.num_bytes(); }
int64_t bytes(const ExpertWeights& w) {
  return w.w1.num_bytes() + w.w3.num_bytes() + w.w2.num_bytes();
}

int64_t bytes(const LayerWeights& w) {
  const AttentionWeights& a = w.attn;
  int64_t total = bytes(w.hc_attn) + bytes(w.hc_ffn) + a.wq_a.num_bytes() + a.wq_b.num_bytes() +
                  a.wo_b.num_bytes();
  if (a.wkv) total += a.wkv->num_bytes();
  for (const auto& group : a.wo_a) total += group.num_bytes();
  if (a.compressor) total += bytes(*a.compressor);
  if (a.indexer) {
    total += a.indexer->wq_b.num_bytes() + a.indexer->weights_proj.num_bytes() +
             bytes(a.indexer->compressor);
  }
  if (w.ffn.gate) total += w.ffn.gate->num_bytes();
  for (const auto& expert : w.ffn.experts) total += bytes(expert);
  return total + bytes(w.ffn.shared_experts);
}

}  // namespace

int64_t ModelWeights::num_bytes() const {
  int64_t total = bytes(hc_head) + head.num_bytes();
  for (const LayerWeights& layer : layers) total += bytes(layer);
  for (const MtpWeights& block : mtp) {
    total += block.e_proj.num_bytes() + block.h_proj.num_bytes() + bytes(block.hc_head) +
             bytes(block.layer);
  }
  return total;
}

Result<std::unique_ptr<ModelWeights>> load_weights(device::ExecContext& ctx,
                                                   const ModelConfig& config,
                                                   const WeightProvider& source,
                                                   PackedStore* store) {
  auto weights = std::make_unique<ModelWeights>();
  CACHALOT_RETURN_IF_ERROR(
      Loader(ctx, config, source, store, nullptr, weights->slots).load(*weights));
  return weights;
}

Result<std::unique_ptr<ModelWeights>> load_weights_on_gpu(device::ExecContext& ctx,
                                                          const ModelConfig& config,
                                                          const WeightProvider& source,
                                                          PackedStore* store, bool fp8_cores) {
  auto weights = std::make_unique<ModelWeights>();
  GpuPlace gpu(ctx, fp8_cores);
  CACHALOT_RETURN_IF_ERROR(Loader(ctx, config, source, store, &gpu, weights->slots).load(*weights));
  CACHALOT_RETURN_IF_ERROR(place_constants(*ctx.gpu, *weights));
  return weights;
}

}  // namespace cachalot::model
