// A model's weights, packed for the matmuls. Names follow the checkpoint's tensors
// (reference/forward 7.2). Ownership: packed copies, or views into a store, which must outlive
// this; the embedding table stays a view into the source, which must too.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/exec_context.h"
#include "formats/config.h"
#include "model/packed_store.h"
#include "model/weight_provider.h"
#include "ops/matmul/packed_weight.h"
#include "ops/moe/streamed_experts.h"
#include "tensor/tensor_view.h"

namespace cachalot::model {

struct HyperWeights {  // hc_attn_*, hc_ffn_* or hc_head_*
  ops::PackedWeight fn;
  std::vector<float> base;
  std::vector<float> scale;
};

struct CompressorWeights {
  ops::PackedWeight wkv;
  ops::PackedWeight wgate;
  std::vector<float> ape;   // [ratio, z * width]
  std::vector<float> norm;  // [width]
};

struct IndexerWeights {
  ops::PackedWeight wq_b;
  ops::PackedWeight weights_proj;
  CompressorWeights compressor;
};

struct AttentionWeights {
  ops::PackedWeight wq_a;
  std::vector<float> q_norm;
  ops::PackedWeight wq_b;
  std::optional<ops::PackedWeight> wkv;  // absent where the layer reads another layer's KV
  std::vector<float> kv_norm;
  std::vector<float> attn_sink;
  std::vector<ops::PackedWeight> wo_a;  // one per output group
  ops::PackedWeight wo_b;
  std::optional<CompressorWeights> compressor;
  std::optional<IndexerWeights> indexer;
};

struct ExpertWeights {
  ops::PackedWeight w1;  // gate
  ops::PackedWeight w3;  // up
  ops::PackedWeight w2;  // down
};

struct FfnWeights {
  std::optional<ops::PackedWeight> gate;  // absent in a dense layer
  std::vector<float> bias;                // scored layers
  std::vector<int32_t> tid2eid;           // hash layers: [vocab_size, num_experts_per_tok]
  std::vector<ExpertWeights> experts;
  std::unique_ptr<ops::StreamedExperts> streamed;  // what a GPU has instead of their bytes
  ExpertWeights shared_experts;                    // of a dense layer: its whole FFN
};

struct LayerWeights {
  std::optional<HyperWeights> hc_attn;  // absent with plain residuals
  std::optional<HyperWeights> hc_ffn;
  std::vector<float> attn_norm;
  std::vector<float> ffn_norm;
  AttentionWeights attn;
  FfnWeights ffn;
};

struct MtpWeights {
  ops::PackedWeight e_proj;
  ops::PackedWeight h_proj;
  std::vector<float> enorm;
  std::vector<float> hnorm;
  std::vector<float> norm;
  LayerWeights layer;
  std::optional<HyperWeights> hc_head;
};

// Where a stored tensor, or the rows from first_row on of one that is cut (wo_a), lies among the
// weights. One of the two is not null.
struct WeightSlot {
  std::string name;
  int64_t first_row = 0;
  ops::PackedWeight* matrix = nullptr;
  std::vector<float>* values = nullptr;
};

struct ModelWeights {
  ModelWeights() = default;
  ModelWeights(const ModelWeights&) = delete;  // the slots point into it
  ModelWeights& operator=(const ModelWeights&) = delete;

  tensor::TensorView embed;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;
  std::vector<float> norm;
  std::optional<HyperWeights> hc_head;
  ops::PackedWeight head;
  std::vector<MtpWeights> mtp;
  std::vector<WeightSlot> slots;                 // all but the embedding and the hash tables
  std::unique_ptr<device::ConstantTwins> twins;  // where a GPU runs the model

  int64_t num_bytes() const;  // of the packed matrices
};

// With a store the matrices lie there, their source is released once it is packed, and the store
// knows the fingerprint of the weights afterwards. Without one, each matrix owns its memory.
// Errors are the provider's, and those of packing with the tensor's name before them.
Result<std::unique_ptr<ModelWeights>> load_weights(device::ExecContext& ctx,
                                                   const formats::ModelConfig& config,
                                                   const WeightProvider& source,
                                                   PackedStore* store = nullptr);

}  // namespace cachalot::model
