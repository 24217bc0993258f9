// What a model of a given configuration costs: parameters, bytes on disk, cache bytes, FLOPs.
// Everything is derived from the tensor inventory, the layer kinds and the row formats; nothing is
// looked up.
// Source  reference/forward 1.4, 1.5, 3.5, 3.10, 8.1, 8.2.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "formats/config.h"
#include "formats/inventory.h"
#include "tensor/dtype.h"
#include "tensor/rows.h"

namespace cachalot::formats {

// Scales and hash tables are not parameters.
struct ParameterCount {
  std::array<int64_t, 13> by_component{};  // indexed by Component
  int64_t main = 0;                        // without MTP blocks
  int64_t mtp = 0;
  // Used for one token of the main network: num_experts_per_tok of the routed experts, the head,
  // not the embedding table.
  int64_t active = 0;
  int64_t embedding = 0;
  // Of the active ones, those in matrix products: at FP8/FP4 where the configuration quantises, at
  // bf16/fp32 elsewhere.
  int64_t active_quantised = 0;
  int64_t active_wide = 0;

  int64_t of(Component component) const { return by_component[static_cast<size_t>(component)]; }
};
ParameterCount count_parameters(const ModelConfig& config,
                                const std::vector<TensorInfo>& inventory);

struct StoredBytes {
  std::map<tensor::DType, int64_t> elements;  // FP4 counts codes, two per I8 byte
  std::map<tensor::DType, int64_t> bytes;
  int64_t total = 0;
  int64_t num_tensors = 0;
};
// FP4 tensors are the I8 ones.
StoredBytes count_stored_bytes(const std::vector<TensorSpec>& specs);

// Cache bytes that grow with the context, per token (decoder layers; MTP blocks keep a window
// only).
double kv_bytes_per_token(const ModelConfig& config, tensor::KvFormat kv,
                          tensor::IndexFormat index);

// Bytes per sequence that do not grow.
struct StateBytes {
  int64_t window = 0;  // rings of the decoder layers
  int64_t mtp_window = 0;
  int64_t compressor = 0;  // fp32 tails, with the indexers'
};
StateBytes state_bytes(const ModelConfig& config, tensor::KvFormat kv);

// FP8-equivalent operations for one generated token: a multiply-add is 2, weighted 1 at FP8 (or FP4
// weights), 2 at bf16 and fp32, 1/2 at FP4 x FP4. Choosing the top-k is not counted.
struct TokenFlops {
  double weights = 0;
  double window = 0;  // attention of window layers
  double csa = 0;
  double hca = 0;
  double full = 0;  // attention over every key: ablations, and V3.2's sparse attention
  double indexer = 0;
  double total() const { return weights + window + csa + hca + full + indexer; }
};
TokenFlops token_flops(const ModelConfig& config, const ParameterCount& parameters, double context);

// The yardstick of the report's Figure 1: DeepSeek-V3.2, from its published shapes.
TokenFlops v32_token_flops(double context);
double v32_kv_bytes_per_token();

}  // namespace cachalot::formats
