// A grammar as data: rules, each an expression over bytes and control tokens. Front ends write it;
// automaton.h compiles it.
// Text     Byte-level: code points stand for their UTF-8 bytes.
// Nodes    Equal expressions are one node.
// Limits   kMaxExpressions nodes; past that every call gives the same node and overflowed() holds,
//          which compiling reports.
// Threads  One at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/id_table.h"

namespace cachalot::grammar {

using Expression = int32_t;
using RuleId = int32_t;

inline constexpr int64_t kUnbounded = INT32_MAX;
inline constexpr size_t kMaxExpressions = size_t{1} << 20;
inline constexpr uint32_t kMaxCodePoint = 0x10FFFF;

struct CodePointRange {
  uint32_t first = 0;
  uint32_t last = 0;  // included

  bool operator==(const CodePointRange&) const = default;
};
// Sorted, disjoint, not touching.
using CodePoints = std::vector<CodePointRange>;
CodePoints merged(CodePoints ranges);  // any order, overlapping
CodePoints complement(const CodePoints& set);
CodePoints without(const CodePoints& set, const CodePoints& removed);
CodePoints intersection(const CodePoints& a, const CodePoints& b);

class GrammarSource {
 public:
  enum class Kind { empty, never, bytes, control, sequence, choice, repeat, rule, graph };
  struct GraphEdge {
    int32_t from = 0;
    Expression label = 0;
    int32_t to = 0;

    bool operator==(const GraphEdge&) const = default;
  };
  struct Node {
    Kind kind = Kind::empty;
    // bytes: first, last; control: the token id; repeat: min, max; rule: its id; graph: states,
    // final
    int32_t a = 0, b = 0;
    std::vector<Expression> children;
    std::vector<GraphEdge> edges;

    bool operator==(const Node&) const = default;
  };
  struct Rule {
    std::string name;
    Expression body = 0;
  };

  GrammarSource();

  Expression empty() const { return 0; }
  Expression never() const { return 1; }  // matches nothing, not even the empty text
  Expression literal(std::string_view bytes);
  Expression bytes(uint8_t first, uint8_t last);
  // One character of the set. Surrogates are left out: they have no UTF-8.
  Expression code_points(const CodePoints& set);
  Expression control(int32_t token);
  Expression sequence(std::vector<Expression> parts);
  Expression choice(std::vector<Expression> options);
  // max = kUnbounded: any number. 0 <= min <= max; larger bounds count as unbounded. Of a
  // repetition, where any number from a least to a most one comes out: one repetition.
  Expression repeat(Expression part, int64_t min, int64_t max);
  Expression optional(Expression part) { return repeat(part, 0, 1); }
  // An automaton whose edges are expressions, from state 0 to state `final`.
  Expression graph(int32_t num_states, int32_t final, std::vector<GraphEdge> edges);
  // Any bytes in which none of the patterns occurs. Patterns are not empty.
  Expression text_without(std::span<const std::string> patterns);

  // Characters of the set, any number of them, that do not spell one of these.
  Expression other_than(std::span<const std::string> texts, const CodePoints& set);
  // Items in this order, those that are not required at will, then any number of `others`;
  // a separator between any two.
  struct Item {
    Expression item = 0;
    bool is_required = false;
  };
  Expression ordered(std::span<const Item> items, Expression others, Expression separator);

  // The body is set later, so that rules may refer to each other. The first rule is the root, until
  // another is made it.
  RuleId add_rule(std::string name);
  RuleId root() const { return root_; }
  void set_root(RuleId rule) { root_ = rule; }
  void set_body(RuleId rule, Expression body) { rules_[static_cast<size_t>(rule)].body = body; }
  Expression call(RuleId rule);
  // All of another grammar, whose nesting counts on its own: a call of its root.
  Expression include(const GrammarSource& other);

  const Node& node(Expression e) const { return nodes_[static_cast<size_t>(e)]; }
  std::span<const Node> nodes() const { return nodes_; }
  std::span<const Rule> rules() const { return rules_; }
  bool overflowed() const { return overflowed_; }
  // How deep rules may nest while text is matched.
  int32_t max_nesting() const { return max_nesting_; }
  void set_max_nesting(int32_t calls) { max_nesting_ = calls; }

 private:
  Expression add(Node node);

  std::vector<Node> nodes_;
  IdTable ids_;  // of nodes
  std::vector<Rule> rules_;
  RuleId root_ = 0;
  size_t weight_ = 0;
  bool overflowed_ = false;
  int32_t max_nesting_ = 256;
};

}  // namespace cachalot::grammar
