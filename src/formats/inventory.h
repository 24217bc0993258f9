// Every tensor that a checkpoint of a given configuration holds: canonical name, shape, and what
// precision it is kept in. The loader, the accounting, the quantiser and random initialisation all
// read this one list.
// Source  reference/forward 2.1, 3.3, 5.1, 7.2. Canonical names are the shipped ones
//         ("layers.0.attn.wq_a.weight").
// Ablations: dense FFNs are ffn.w1/w2/w3.weight; full attention has no compressor; plain residuals
// have no hc_* tensors; a layer that reads another's KV rows has no wkv, kv_norm and compressor,
// one that reads another's selection no indexer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/config.h"
#include "formats/safetensors_writer.h"

namespace cachalot::formats {

// What a tensor is stored as, by the checkpoint's precision layout.
enum class TensorClass {
  linear,  // a matrix that is FP8 in a quantised checkpoint; else torch_dtype
  expert,  // a routed expert's matrix: expert_dtype in a quantised checkpoint; else torch_dtype
  plain,   // never quantised: torch_dtype (BF16 in the public files)
  f32,     // F32 in the public files
  table    // tid2eid: I64 in the public files
};

// The rows of reference/forward 1.4.
enum class Component {
  routed_experts,
  shared_experts,
  dense_ffn,
  attention,  // projections, norms, sinks
  compressor,
  indexer,  // with its compressor
  router,   // matrices and biases
  mhc,      // of the layers and the final head
  norms,    // layer norms and the final norm
  embedding,
  head,
  mtp,        // everything in an MTP block
  hash_table  // not a parameter
};
std::string_view component_name(Component component);

struct TensorInfo {
  std::string name;  // a linear's or expert's ends in ".weight"; its scale is named by scale_name()
  tensor::Shape shape;  // of the values: [out, in] for matrices, whatever the packing
  TensorClass tensor_class = TensorClass::plain;
  Component component = Component::attention;
  // As in layer_configs(): MTP blocks after the decoder layers; -1 outside layers.
  int64_t layer = -1;
};

// In the order of the public shards: embedding, layers, head, MTP.
std::vector<TensorInfo> tensor_inventory(const ModelConfig& config);

// "x.weight" -> "x.scale".
std::string scale_name(std::string_view weight_name);

// The tensors as the checkpoint's own layout stores them, scales next to their weights. Follows
// config.quantization_config, expert_dtype and torch_dtype.
std::vector<TensorSpec> stored_tensors(const ModelConfig& config, const TensorInfo& info);
std::vector<TensorSpec> stored_tensors(const ModelConfig& config);

}  // namespace cachalot::formats
