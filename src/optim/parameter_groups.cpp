#include "optim/parameter_groups.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/check.h"

namespace cachalot::optim {
namespace {

enum class Kind {
  matrix,
  heads,          // matrix, rows by attention head
  index_heads,    // matrix, rows by indexer head
  output_groups,  // matrix, rows by o_group
  series,         // matrix, one or two compression series of head_dim rows
  index_series,   // the same of index_head_dim
  hyper_map,      // matrix, pre, post and comb rows
  decayed,        // embedding, head, norms
  plain,          // biases, gates, sinks
  untrained
};

struct Entry {
  std::string_view pattern;
  Kind kind;
};

// A number between dots is '*'.
constexpr Entry kTop[] = {
    {"embed.weight", Kind::decayed}, {"head.weight", Kind::decayed}, {"norm.weight", Kind::decayed},
    {"hc_head_fn", Kind::matrix},    {"hc_head_base", Kind::plain},  {"hc_head_scale", Kind::plain},
};

// After "layers.*." or "mtp.*.".
constexpr Entry kLayer[] = {
    {"attn_norm.weight", Kind::decayed},
    {"ffn_norm.weight", Kind::decayed},
    {"hc_attn_fn", Kind::hyper_map},
    {"hc_attn_base", Kind::plain},
    {"hc_attn_scale", Kind::plain},
    {"hc_ffn_fn", Kind::hyper_map},
    {"hc_ffn_base", Kind::plain},
    {"hc_ffn_scale", Kind::plain},
    {"attn.wq_a.weight", Kind::matrix},
    {"attn.q_norm.weight", Kind::decayed},
    {"attn.wq_b.weight", Kind::heads},
    {"attn.wkv.weight", Kind::matrix},
    {"attn.kv_norm.weight", Kind::decayed},
    {"attn.attn_sink", Kind::plain},
    {"attn.wo_a.weight", Kind::output_groups},
    {"attn.wo_b.weight", Kind::matrix},
    {"attn.compressor.wkv.weight", Kind::series},
    {"attn.compressor.wgate.weight", Kind::series},
    {"attn.compressor.ape", Kind::plain},
    {"attn.compressor.norm.weight", Kind::decayed},
    {"attn.indexer.wq_b.weight", Kind::index_heads},
    {"attn.indexer.weights_proj.weight", Kind::matrix},
    {"attn.indexer.compressor.wkv.weight", Kind::index_series},
    {"attn.indexer.compressor.wgate.weight", Kind::index_series},
    {"attn.indexer.compressor.ape", Kind::plain},
    {"attn.indexer.compressor.norm.weight", Kind::decayed},
    {"ffn.gate.weight", Kind::matrix},
    {"ffn.gate.bias", Kind::untrained},
    {"ffn.gate.tid2eid", Kind::untrained},
    {"ffn.experts.*.w1.weight", Kind::matrix},
    {"ffn.experts.*.w2.weight", Kind::matrix},
    {"ffn.experts.*.w3.weight", Kind::matrix},
    {"ffn.shared_experts.w1.weight", Kind::matrix},
    {"ffn.shared_experts.w2.weight", Kind::matrix},
    {"ffn.shared_experts.w3.weight", Kind::matrix},
    {"ffn.w1.weight", Kind::matrix},  // dense FFN of the ablations
    {"ffn.w2.weight", Kind::matrix},
    {"ffn.w3.weight", Kind::matrix},
};

// Only in MTP blocks, beside a layer's.
constexpr Entry kMtp[] = {
    {"e_proj.weight", Kind::matrix}, {"h_proj.weight", Kind::matrix},
    {"enorm.weight", Kind::decayed}, {"hnorm.weight", Kind::decayed},
    {"norm.weight", Kind::decayed},  {"hc_head_fn", Kind::matrix},
    {"hc_head_base", Kind::plain},   {"hc_head_scale", Kind::plain},
};

std::string with_stars(std::string_view name) {
  std::string pattern;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    if (begin > 0) pattern += '.';
    pattern += number ? "*" : part;
    begin = end + 1;
  }
  return pattern;
}

std::optional<Kind> find(std::span<const Entry> entries, std::string_view pattern) {
  for (const Entry& entry : entries) {
    if (entry.pattern == pattern) return entry.kind;
  }
  return std::nullopt;
}

std::optional<Kind> kind_of(std::string_view name) {
  constexpr std::string_view kLayerPrefix = "layers.*.", kMtpPrefix = "mtp.*.";
  const std::string pattern = with_stars(name);
  const std::string_view rest = pattern;
  if (rest.starts_with(kLayerPrefix)) return find(kLayer, rest.substr(kLayerPrefix.size()));
  if (rest.starts_with(kMtpPrefix)) {
    const std::string_view inner = rest.substr(kMtpPrefix.size());
    const std::optional<Kind> kind = find(kMtp, inner);
    return kind.has_value() ? kind : find(kLayer, inner);
  }
  return find(kTop, rest);
}

bool is_matrix(Kind kind) {
  return kind != Kind::decayed && kind != Kind::plain && kind != Kind::untrained;
}

Status wrong_rows(std::string_view name, std::string_view expected, int64_t rows) {
  return invalid_argument(fmt::format("{}: expected {}, found {} rows", name, expected, rows));
}

// Equal parts, of which there are `parts` (the option `option`).
Result<std::vector<RowRange>> cut_by(std::string_view name, int64_t rows, std::string_view option,
                                     int64_t parts) {
  if (parts <= 0 || rows % parts != 0) {
    return wrong_rows(name, fmt::format("a multiple of {} = {} rows", option, parts), rows);
  }
  return cut_evenly(rows, parts);
}

Result<std::vector<RowRange>> cut_series(std::string_view name, int64_t rows,
                                         std::string_view option, int64_t width) {
  if (width <= 0 || (rows != width && rows != 2 * width)) {
    return wrong_rows(name, fmt::format("{} = {} rows or twice as many", option, width), rows);
  }
  return cut_evenly(rows, rows / width);
}

Result<std::vector<RowRange>> cut_matrix(std::string_view name, Kind kind, int64_t rows,
                                         const GroupingOptions& o) {
  switch (kind) {
    case Kind::heads:
      if (o.split_heads) return cut_by(name, rows, "num_attention_heads", o.num_attention_heads);
      break;
    case Kind::index_heads:
      if (o.split_heads) return cut_by(name, rows, "index_n_heads", o.index_n_heads);
      break;
    case Kind::output_groups: return cut_by(name, rows, "o_groups", o.o_groups);
    case Kind::series: return cut_series(name, rows, "head_dim", o.head_dim);
    case Kind::index_series: return cut_series(name, rows, "index_head_dim", o.index_head_dim);
    case Kind::hyper_map: {
      const int64_t n = o.hc_mult;
      if (rows != (2 + n) * n) {
        return wrong_rows(name, fmt::format("(2 + hc_mult) hc_mult = {} rows", (2 + n) * n), rows);
      }
      return std::vector<RowRange>{{0, n}, {n, n}, {2 * n, n * n}};
    }
    default: break;
  }
  return std::vector<RowRange>{{0, rows}};
}

constexpr ParameterGroup kGroups[] = {ParameterGroup::muon, ParameterGroup::adamw_decay,
                                      ParameterGroup::adamw, ParameterGroup::none};

}  // namespace

std::string_view parameter_group_name(ParameterGroup group) {
  switch (group) {
    case ParameterGroup::muon: return "muon";
    case ParameterGroup::adamw_decay: return "adamw_decay";
    case ParameterGroup::adamw: return "adamw";
    case ParameterGroup::none: return "none";
  }
  return "?";
}

std::vector<RowRange> cut_evenly(int64_t rows, int64_t parts) {
  CACHALOT_CHECK(parts > 0 && rows % parts == 0);
  std::vector<RowRange> cuts;
  for (int64_t i = 0; i < parts; ++i) cuts.push_back({i * (rows / parts), rows / parts});
  return cuts;
}

Result<ParameterRule> parameter_rule(std::string_view name, std::span<const int64_t> shape,
                                     const GroupingOptions& options) {
  const std::optional<Kind> kind = kind_of(name);
  if (!kind.has_value()) {
    return invalid_argument(fmt::format(
        "{}: expected the name of a trainable tensor, found one that no group knows", name));
  }
  if (*kind == Kind::untrained) return ParameterRule{};
  if (*kind == Kind::decayed) return ParameterRule{ParameterGroup::adamw_decay, {}};
  if (*kind == Kind::plain) {
    return ParameterRule{
        options.decay_vectors ? ParameterGroup::adamw_decay : ParameterGroup::adamw, {}};
  }
  CACHALOT_CHECK(is_matrix(*kind));
  if (shape.size() != 2) {
    return invalid_argument(
        fmt::format("{}: expected a matrix, found shape [{}]", name, fmt::join(shape, ", ")));
  }
  if (!options.muon) return ParameterRule{ParameterGroup::adamw_decay, {}};
  CACHALOT_ASSIGN_OR_RETURN(std::vector<RowRange> cuts, cut_matrix(name, *kind, shape[0], options));
  return ParameterRule{ParameterGroup::muon, std::move(cuts)};
}

bool is_indexer_parameter(std::string_view name) {
  return name.find(".attn.indexer.") != name.npos;
}

Result<ParameterAudit> audit_parameters(std::span<const NamedShape> parameters,
                                        const GroupingOptions& options) {
  ParameterAudit audit;
  std::set<std::string_view> names;
  for (const NamedShape& p : parameters) {
    if (!names.insert(p.name).second) {
      return invalid_argument(
          fmt::format("{}: expected each parameter once, found it twice", p.name));
    }
    CACHALOT_ASSIGN_OR_RETURN(ParameterRule rule, parameter_rule(p.name, p.shape, options));
    audit.rows.push_back({p.name, p.shape, std::move(rule)});
  }
  return audit;
}

std::string ParameterAudit::to_table(bool details) const {
  std::string text =
      fmt::format("{:<12} {:>8} {:>9} {:>15}\n", "group", "tensors", "matrices", "elements");
  for (const ParameterGroup group : kGroups) {
    int64_t tensors = 0, matrices = 0, elements = 0;
    for (const Row& row : rows) {
      if (row.rule.group != group) continue;
      int64_t size = 1;
      for (const int64_t n : row.shape) size *= n;
      ++tensors, elements += size;
      matrices += static_cast<int64_t>(row.rule.matrices.size());
    }
    text += fmt::format("{:<12} {:>8} {:>9} {:>15}\n", parameter_group_name(group), tensors,
                        matrices, elements);
  }
  for (const Row& row : rows) {
    if (!details) break;
    text += fmt::format("{:<12} {} [{}]", parameter_group_name(row.rule.group), row.name,
                        fmt::join(row.shape, ", "));
    if (row.rule.matrices.size() > 1) {
      text += " rows";
      for (const RowRange& cut : row.rule.matrices) text += fmt::format(" {}", cut.rows);
    }
    text += '\n';
  }
  return text;
}

}  // namespace cachalot::optim
