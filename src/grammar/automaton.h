// A grammar compiled: one automaton per rule, over bytes, control tokens and calls of rules. It has
// no empty moves, and from each of its states the end of the rule can be reached.
// Errors   invalid_argument: a rule calls itself before it reads anything (left recursion), or no
//          text satisfies the root; resource_exhausted: the limits below, or nesting that the
//          source's max_nesting forbids. Each names the rule.
// Threads  Immutable once compiled.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "grammar/expression.h"

namespace cachalot::grammar {

inline constexpr size_t kMaxStates = size_t{1} << 17;
inline constexpr size_t kMaxEdges = size_t{1} << 20;

struct ByteEdge {
  uint8_t first = 0, last = 0;
  int32_t target = 0;

  auto operator<=>(const ByteEdge&) const = default;
};
struct ControlEdge {
  int32_t token = 0;
  int32_t target = 0;

  auto operator<=>(const ControlEdge&) const = default;
};
// Reads rule texts that are not empty, min to max of them, one after the other.
struct CallEdge {
  RuleId rule = 0;
  int32_t target = 0;
  int32_t min = 1, max = 1;

  auto operator<=>(const CallEdge&) const = default;
};

class Automaton {
 public:
  static Result<Automaton> compile(const GrammarSource& source);

  struct State {
    uint32_t byte_begin = 0, byte_end = 0;
    uint32_t control_begin = 0, control_end = 0;
    uint32_t call_begin = 0, call_end = 0;
    bool is_final = false;
    int32_t nesting = 0;  // calls that must be open at once before the rule can end
  };
  struct Rule {
    int32_t start = 0;
    int32_t rank = 0;  // above the ranks of the rules that may call it before reading anything
    bool may_be_empty = false;
  };

  const State& state(int32_t id) const { return states_[static_cast<size_t>(id)]; }
  std::span<const State> states() const { return states_; }
  std::span<const ByteEdge> byte_edges(const State& s) const {
    return std::span(byte_edges_).subspan(s.byte_begin, s.byte_end - s.byte_begin);
  }
  std::span<const ControlEdge> control_edges(const State& s) const {
    return std::span(control_edges_).subspan(s.control_begin, s.control_end - s.control_begin);
  }
  std::span<const CallEdge> call_edges(const State& s) const {
    return std::span(call_edges_).subspan(s.call_begin, s.call_end - s.call_begin);
  }
  const CallEdge& call_edge(int32_t id) const { return call_edges_[static_cast<size_t>(id)]; }
  // The rule's text ends wherever the called one's does, and is not read on: such calls need no
  // place to return to.
  bool is_tail(const CallEdge& edge) const;
  const Rule& rule(RuleId id) const { return rules_[static_cast<size_t>(id)]; }
  std::span<const Rule> rules() const { return rules_; }
  RuleId root() const { return root_; }
  int32_t max_nesting() const { return max_nesting_; }

 private:
  std::vector<State> states_;
  std::vector<ByteEdge> byte_edges_;
  std::vector<ControlEdge> control_edges_;
  std::vector<CallEdge> call_edges_;
  std::vector<Rule> rules_;
  RuleId root_ = 0;
  int32_t max_nesting_ = 0;
};

}  // namespace cachalot::grammar
