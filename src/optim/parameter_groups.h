// Which optimizer a parameter gets, and which independent matrices its storage holds: decided by
// its public name and its shape.
// Source  reference/training 3.1; names and layouts of reference/forward 2.1, 3.3, 7.2. Where the
//         report is silent (3.1, "[?]") the options say what is chosen.
//         muon         every matrix but the embedding and the head
//         adamw_decay  embedding, head, RMSNorm weights
//         adamw        without decay: mHC biases and gates, attention sinks, compressor position
//                      biases
//         none         no gradient: router selection biases, hash tables
// Cuts    hc_*_fn into pre, post and comb rows; the compressors of ratio 4 into their two series;
//         wo_a into o_groups blocks; with split_heads wq_b (of the indexer too) into heads. Gate
//         and up are stored apart (w1, w3), and so is every expert. All cuts are between rows, so a
//         logical matrix is contiguous.
// Errors  invalid_argument with the name: one that no tensor of the architecture has, or a shape
//         that its cut does not divide.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::optim {

enum class ParameterGroup { muon, adamw_decay, adamw, none };
std::string_view parameter_group_name(ParameterGroup group);

// The fields of config.json that the cuts need, and the choices that the report leaves open.
struct GroupingOptions {
  int64_t hc_mult = 4;
  int64_t head_dim = 512;
  int64_t index_head_dim = 128;
  int64_t num_attention_heads = 64;
  int64_t index_n_heads = 64;
  int64_t o_groups = 8;
  bool split_heads = false;
  bool muon = true;  // false: the matrices too are adamw_decay (baselines, golden AdamW runs)
  // true: what would be `adamw` is adamw_decay (torch's default of one group)
  bool decay_vectors = false;
};

struct RowRange {
  int64_t first_row, rows;
  bool operator==(const RowRange&) const = default;
};

struct ParameterRule {
  ParameterGroup group = ParameterGroup::none;
  std::vector<RowRange> matrices;  // of the whole tensor in order; empty unless muon
};
Result<ParameterRule> parameter_rule(std::string_view name, std::span<const int64_t> shape,
                                     const GroupingOptions& options);

// Rows cut into equal parts: fused tensors that have no public name ([gate; up] for one).
std::vector<RowRange> cut_evenly(int64_t rows, int64_t parts);

// Parameters of the lightning indexer, which its warm-up alone trains (reference/training 6.3).
bool is_indexer_parameter(std::string_view name);

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};

// Every parameter with its rule; each is in one group.
// Errors  also a name that comes twice.
struct ParameterAudit {
  struct Row {
    std::string name;
    std::vector<int64_t> shape;
    ParameterRule rule;
  };
  std::vector<Row> rows;
  // One line per group (tensors, logical matrices, elements), then one per tensor where `details`.
  std::string to_table(bool details) const;
};
Result<ParameterAudit> audit_parameters(std::span<const NamedShape> parameters,
                                        const GroupingOptions& options);

}  // namespace cachalot::optim
