// The two public families of tensor names, and how to get from one to the other.
// Source  reference/forward 7.4; docs/formats/names.md.
// Canonical names are the shipped ones: "layers.3.attn.wq_a.weight", "layers.3.attn.wq_a.scale",
// "mtp.0.e_proj.weight".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cachalot::formats {

enum class NameFamily { official, transformers };

// What a tensor of a file is, in canonical terms. transformers stacks the experts of a layer into
// one tensor; then `stack` says which: gate_up is [E, 2 f, d] (w1's rows first, then w3's), down is
// [E, d, f] (w2), and `name` is the layer's "layers.N.ffn.experts" followed by ".weight" or
// ".scale".
struct CanonicalName {
  enum class Stack { none, gate_up, down };
  std::string name;
  Stack stack = Stack::none;
};

// Reads any accepted spelling: the shipped names, transformers' (with both places of the indexer's
// weights_proj), an optional "model." prefix, self_attn/mlp with either family's inner names,
// weight_scale_inv, e_score_correction_bias. A name that is none of these comes back as it is.
CanonicalName canonical_name(std::string_view file_name);

// Where transformers keeps a canonical tensor. For experts: the stacked tensor, the expert's index,
// and for gate_up which half.
struct TransformersName {
  std::string name;
  CanonicalName::Stack stack = CanonicalName::Stack::none;
  int64_t expert = 0;
  bool is_second_half = false;  // w3
};
// MTP tensors, which transformers drops, keep their shipped names (it ignores them when loading),
// so that nothing is lost.
TransformersName transformers_name(std::string_view canonical);

// "layers.3.ffn.experts.17.w2.scale" -> {"layers.3.ffn.experts", 17, 2, "scale"}.
struct ExpertTensor {
  std::string_view prefix;  // up to and with "experts"
  int64_t expert = 0;
  int matrix = 0;         // 1, 2, 3
  std::string_view part;  // "weight" or "scale"
};
std::optional<ExpertTensor> parse_expert_name(std::string_view canonical);

}  // namespace cachalot::formats
