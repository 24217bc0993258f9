// Shared by the config_*.cpp files only: limits, and the derivation of layer kinds that can fail.
#pragma once

#include "base/json.h"
#include "formats/config.h"
#include "formats/json_fields.h"

namespace cachalot::formats {

// Limits. Their products bound every element count of a model: the largest, a decoder's wo_b
// matrices, stays below 2^10 layers * 2^18 * 2^28 = 2^56 elements, and the experts below 2^18 * 3 *
// 2^38 < 2^58, so bytes fit in 63 bits.
inline constexpr size_t kMaxConfigBytes = size_t{16} << 20;
inline constexpr int64_t kMaxLayers = 1 << 10;
inline constexpr int64_t kMaxMtpLayers = 16;
inline constexpr int64_t kMaxVocab = 1 << 24;
inline constexpr int64_t kMaxHidden = 1 << 18;
inline constexpr int64_t kMaxHeads = 1 << 14;
inline constexpr int64_t kMaxHeadDim = 1 << 14;
inline constexpr int64_t kMaxRank = 1 << 18;
inline constexpr int64_t kMaxOutputRank = 1 << 14;
inline constexpr int64_t kMaxExperts = 1 << 16;
// (layers + MTP blocks) * experts: bounds the list of tensors.
inline constexpr int64_t kMaxLayerExperts = 1 << 18;
inline constexpr int64_t kMaxExpertsPerToken = 1 << 10;
inline constexpr int64_t kMaxExpertWidth = 1 << 20;
inline constexpr int64_t kMaxDenseWidth = 1 << 22;
inline constexpr int64_t kMaxStreams = 64;
inline constexpr int64_t kMaxSinkhornIters = 10000;
inline constexpr int64_t kMaxTokens = int64_t{1} << 40;
inline constexpr int64_t kMaxWindow = 1 << 24;
inline constexpr int64_t kMaxRatio = 1 << 20;
inline constexpr size_t kMaxEndTokens = 64;
inline constexpr double kMaxTheta = 1e12;
inline constexpr int64_t kCsaRatio = 4;  // the ratio with an indexer and overlapped entries

Result<std::vector<LayerConfig>> derive_layers(const ModelConfig& config, std::string_view origin);

// factor, original_max_position_embeddings, beta_fast, beta_slow.
void read_rope_scaling(JsonFields& fields, RopeScaling& rope);
// rope_scaling and rope_parameters: what YaRN stands under, by the version of transformers that
// wrote the file. rope_parameters is flat, with rope_theta, or one object for each of the two
// embeddings (main, compress). Where a value stands in two places, both must say the same.
// rope_theta and compress_rope_theta have been read.
void read_rope(JsonFields& fields, std::string_view origin, ModelConfig& config);

// What transformers' save_pretrained writes of version 5 on: kinds of layers by name instead of
// ratios and counts.
bool is_transformers_layout(const json::object& object);
// Layers and dtype of that layout; all other fields are spelled as published.
// There are no MTP blocks, whatever num_nextn_predict_layers says: transformers has none and drops
// them on loading.
// Errors  as parse_config; also one or both of layer_types and mlp_layer_types with a length that
//         is not num_hidden_layers, or hash layers after others (unsupported).
void read_transformers_layout(JsonFields& fields, std::string_view origin, ModelConfig& config);

}  // namespace cachalot::formats
