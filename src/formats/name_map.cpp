#include "formats/name_map.h"

#include <array>
#include <charconv>
#include <span>
#include <utility>

namespace cachalot::formats {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;  // transformers, shipped

constexpr std::array kTopLevel = {Pair{"embed_tokens", "embed"}, Pair{"lm_head", "head"}};
constexpr std::array kLayerNorms = {Pair{"input_layernorm", "attn_norm"},
                                    Pair{"post_attention_layernorm", "ffn_norm"}};
constexpr std::array kAttention = {Pair{"q_a_proj", "wq_a"},  Pair{"q_b_proj", "wq_b"},
                                   Pair{"kv_proj", "wkv"},    Pair{"o_a_proj", "wo_a"},
                                   Pair{"o_b_proj", "wo_b"},  Pair{"q_a_norm", "q_norm"},
                                   Pair{"sinks", "attn_sink"}};
constexpr std::array kCompressor = {Pair{"kv_proj", "wkv"}, Pair{"gate_proj", "wgate"},
                                    Pair{"position_bias", "ape"}, Pair{"kv_norm", "norm"}};
constexpr std::array kIndexer = {Pair{"q_b_proj", "wq_b"}};
constexpr std::array kExpert = {Pair{"gate_proj", "w1"}, Pair{"down_proj", "w2"},
                                Pair{"up_proj", "w3"}};
constexpr std::array kGate = {Pair{"e_score_correction_bias", "bias"}};

// A cursor over a dotted name.
class Parts {
 public:
  explicit Parts(std::string_view text) : rest_(text) {}
  bool take(std::string_view part) {
    if (peek() != part) return false;
    next();
    return true;
  }
  std::string_view peek() const { return rest_.substr(0, rest_.find('.')); }
  std::string_view next() {
    const std::string_view part = peek();
    rest_ = part.size() < rest_.size() ? rest_.substr(part.size() + 1) : std::string_view();
    return part;
  }
  std::string_view rest() const { return rest_; }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= 9 &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string join(std::string_view a, std::string_view b) {
  if (b.empty()) return std::string(a);
  return std::string(a) + "." + std::string(b);
}

// The first part translated by a table (shipped spellings pass), the rest kept.
std::string translated(std::span<const Pair> table, Parts parts) {
  const std::string_view first = parts.next();
  for (const auto& [theirs, ours] : table) {
    if (first == theirs) return join(ours, parts.rest());
  }
  return join(first, parts.rest());
}

// Back: the first part of a shipped name into transformers'.
std::string translated_back(std::span<const Pair> table, Parts parts) {
  const std::string_view first = parts.next();
  for (const auto& [theirs, ours] : table) {
    if (first == ours) return join(theirs, parts.rest());
  }
  return join(first, parts.rest());
}

std::string canonical_indexer(Parts parts) {
  if (parts.take("compressor")) return "indexer.compressor." + translated(kCompressor, parts);
  if (parts.take("scorer")) return "indexer." + std::string(parts.rest());
  for (const auto& [theirs, ours] : kCompressor) {
    if (parts.peek() == theirs) return "indexer.compressor." + translated(kCompressor, parts);
  }
  return "indexer." + translated(kIndexer, parts);
}

std::string canonical_attention(Parts parts) {
  if (parts.take("indexer")) return "attn." + canonical_indexer(parts);
  if (parts.take("compressor")) {
    if (parts.take("indexer")) return "attn." + canonical_indexer(parts);
    return "attn.compressor." + translated(kCompressor, parts);
  }
  if (parts.take("norm")) return join("attn.kv_norm", parts.rest());  // as transformers 5 saves it
  return "attn." + translated(kAttention, parts);
}

CanonicalName canonical_experts(Parts parts) {
  using Stack = CanonicalName::Stack;
  constexpr std::array<std::pair<std::string_view, Stack>, 2> kStacks = {
      {{"gate_up_proj", Stack::gate_up}, {"down_proj", Stack::down}}};
  const std::string_view rest = parts.rest();
  for (const auto& [name, stack] : kStacks) {
    if (!rest.starts_with(name)) continue;
    const std::string_view suffix = rest.substr(name.size());
    if (suffix.empty() || suffix == ".weight") return {"ffn.experts.weight", stack};
    if (suffix == "_scale_inv" || suffix == ".scale") return {"ffn.experts.scale", stack};
  }
  if (!is_number(parts.peek())) return {"ffn.experts." + std::string(rest)};
  const std::string_view expert = parts.next();
  return {"ffn.experts." + join(expert, translated(kExpert, parts))};
}

CanonicalName canonical_ffn(Parts parts) {
  if (parts.take("gate")) return {"ffn.gate." + translated(kGate, parts)};
  if (parts.take("shared_experts")) return {"ffn.shared_experts." + translated(kExpert, parts)};
  if (parts.take("experts")) return canonical_experts(parts);
  return {"ffn." + translated(kExpert, parts)};
}

CanonicalName canonical_in_layer(Parts parts) {
  if (parts.take("self_attn") || parts.take("attn")) return {canonical_attention(parts)};
  if (parts.take("mlp") || parts.take("ffn")) return canonical_ffn(parts);
  if (parts.take("attn_hc")) return {"hc_attn_" + std::string(parts.rest())};
  if (parts.take("ffn_hc")) return {"hc_ffn_" + std::string(parts.rest())};
  if (parts.take("hc_head"))
    return {std::string(parts.rest().starts_with("hc_") ? "hc_head_" : "hc_head.") +
            std::string(parts.rest().substr(parts.rest().starts_with("hc_") ? 3 : 0))};
  return {translated(kLayerNorms, parts)};
}

std::string transformers_attention(Parts parts) {
  if (parts.take("indexer")) {
    if (parts.take("compressor"))
      return "compressor.indexer." + translated_back(kCompressor, parts);
    if (parts.peek() == "weights_proj")
      return "compressor.indexer.scorer." + std::string(parts.rest());
    return "compressor.indexer." + translated_back(kIndexer, parts);
  }
  if (parts.take("compressor")) return "compressor." + translated_back(kCompressor, parts);
  return translated_back(kAttention, parts);
}

std::string transformers_ffn(Parts parts) {
  if (parts.take("gate")) return "gate." + translated_back(kGate, parts);
  if (parts.take("shared_experts")) return "shared_experts." + translated_back(kExpert, parts);
  return translated_back(kExpert, parts);
}

std::string transformers_in_layer(Parts parts) {
  if (parts.take("attn")) return "self_attn." + transformers_attention(parts);
  if (parts.take("ffn")) return "mlp." + transformers_ffn(parts);
  const std::string_view first = parts.peek();
  if (first.starts_with("hc_attn_")) return "attn_hc." + std::string(first.substr(8));
  if (first.starts_with("hc_ffn_")) return "ffn_hc." + std::string(first.substr(7));
  return translated_back(kLayerNorms, parts);
}

// Replaces an ending, where it is there.
std::string with_ending(std::string name, std::string_view from, std::string_view to) {
  if (!name.ends_with(from)) return name;
  return name.substr(0, name.size() - from.size()) + std::string(to);
}

}  // namespace

CanonicalName canonical_name(std::string_view file_name) {
  // The scale's ending first, so that the rest of the name is translated once for weight and scale
  // alike.
  const std::string name = with_ending(std::string(file_name), ".weight_scale_inv", ".scale");
  Parts parts(name);
  parts.take("model");
  const std::string_view first = parts.peek();
  if (first == "layers" || first == "mtp") {
    parts.next();
    if (!is_number(parts.peek())) return {std::string(file_name)};
    const std::string prefix = join(first, parts.next());
    CanonicalName inner = canonical_in_layer(parts);
    return {join(prefix, inner.name), inner.stack};
  }
  if (first == "hc_head") {
    parts.next();
    if (parts.rest().starts_with("hc_")) return {"hc_head_" + std::string(parts.rest().substr(3))};
    return {std::string(file_name)};
  }
  return {translated(kTopLevel, parts)};
}

TransformersName transformers_name(std::string_view canonical) {
  using Stack = CanonicalName::Stack;
  Parts parts(canonical);
  const std::string_view first = parts.peek();
  if (first == "mtp") return {std::string(canonical)};
  if (const auto expert = parse_expert_name(canonical)) {
    Parts inner(expert->prefix);
    inner.next();
    const std::string layer(inner.next());
    TransformersName out;
    out.stack = expert->matrix == 2 ? Stack::down : Stack::gate_up;
    out.name = "model.layers." + layer + ".mlp.experts." +
               (out.stack == Stack::down ? "down_proj" : "gate_up_proj") +
               (expert->part == "scale" ? "_scale_inv" : "");
    out.expert = expert->expert;
    out.is_second_half = expert->matrix == 3;
    return out;
  }
  std::string name;
  if (first == "layers") {
    parts.next();
    const std::string layer(parts.next());
    name = "model.layers." + layer + "." + transformers_in_layer(parts);
  } else if (first.starts_with("hc_head_")) {
    name = "model.hc_head.hc_" + std::string(canonical.substr(8));
  } else {
    name = translated_back(kTopLevel, parts);
    if (first != "head") name = "model." + name;
  }
  // Of a quantised weight; attn_hc.scale and ffn_hc.scale are no such scales.
  if (!canonical.ends_with(".scale")) return {std::move(name)};
  return {with_ending(std::move(name), ".scale", ".weight_scale_inv")};
}

std::optional<ExpertTensor> parse_expert_name(std::string_view canonical) {
  constexpr std::string_view kMarker = ".ffn.experts.";
  const size_t at = canonical.find(kMarker);
  if (at == std::string_view::npos) return std::nullopt;
  Parts parts(canonical.substr(at + kMarker.size()));
  ExpertTensor out;
  out.prefix = canonical.substr(0, at + kMarker.size() - 1);
  const std::string_view number = parts.next();
  if (!is_number(number)) return std::nullopt;
  std::from_chars(number.data(), number.data() + number.size(), out.expert);
  const std::string_view matrix = parts.next();
  if (matrix != "w1" && matrix != "w2" && matrix != "w3") return std::nullopt;
  out.matrix = matrix[1] - '0';
  out.part = parts.rest();
  if (out.part != "weight" && out.part != "scale") return std::nullopt;
  return out;
}

}  // namespace cachalot::formats
