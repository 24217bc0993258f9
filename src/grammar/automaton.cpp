#include "grammar/automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <tuple>

#include "base/check.h"
#include "grammar/rule_automaton.h"

namespace cachalot::grammar {
namespace {

// Up to this many bytes or calls, a counted repetition is written out; more of them are counted
// while text is matched, where one count stands for many.
constexpr int64_t kMaxWrittenOut = 8;
constexpr int32_t kNever = INT32_MAX;
// What joined states may hold, for each state that there was and some more.
constexpr size_t kMaxJoined = 16, kFewStates = 256;

using Kind = GrammarSource::Kind;

// Thompson's automaton of one rule: empty moves and edges of all kinds.
struct Draft {
  struct State {
    std::vector<int32_t> empty_moves;
    std::vector<ByteEdge> bytes;
    std::vector<ControlEdge> controls;
    std::vector<CallEdge> calls;
  };
  std::vector<State> states;
  int32_t final = 0;
};

// Cuts edges, which are sorted, at each other's ends: visits each stretch of bytes with the edges
// that are there.
template <typename Visit>
void for_stretches(std::span<const ByteEdge> edges, const Visit& visit) {
  std::vector<ByteEdge> here;
  for (size_t next = 0, at = 0; next < edges.size() || !here.empty();) {
    if (here.empty()) at = edges[next].first;
    for (; next < edges.size() && edges[next].first == at; ++next) here.push_back(edges[next]);
    size_t end = next < edges.size() ? edges[next].first : 256;
    for (const ByteEdge& edge : here) end = std::min<size_t>(end, edge.last + 1u);
    visit(static_cast<uint8_t>(at), static_cast<uint8_t>(end - 1), here);
    std::erase_if(here, [&](const ByteEdge& edge) { return edge.last < end; });
    at = end;
  }
}

class Compiler {
 public:
  explicit Compiler(const GrammarSource& source) : source_(source) {
    bodies_.reserve(source.rules().size());
    for (const GrammarSource::Rule& rule : source.rules()) bodies_.push_back(rule.body);
  }

  Status run() {
    if (source_.overflowed()) {
      return resource_exhausted(
          fmt::format("grammar: expected at most {} expressions, found more", kMaxExpressions));
    }
    find_sizes();
    find_empty();
    // Counted repetitions add rules to the end.
    for (size_t rule = 0; rule < bodies_.size(); ++rule) {
      Draft draft;
      new_state(draft);
      draft.final = new_state(draft);
      add(draft, bodies_[rule], 0, draft.final);
      if (num_states_ > kMaxStates || num_edges_ > kMaxEdges) return too_large(rule);
      CACHALOT_RETURN_IF_ERROR(compact(draft, rule));
    }
    return {};
  }

  std::string name(size_t rule) const {
    return rule < source_.rules().size() ? source_.rules()[rule].name : "a repetition";
  }
  Status too_large(size_t rule) const {
    return resource_exhausted(
        fmt::format("grammar: rule \"{}\": expected at most {} states and {} edges in all, found "
                    "more",
                    name(rule), kMaxStates, kMaxEdges));
  }

  std::vector<RuleAutomaton> rules;
  std::vector<char> may_be_empty;  // by rule

 private:
  bool is_empty(Expression e) const { return empty_[static_cast<size_t>(e)] != 0; }

  // Bytes, controls and calls of an expression, written out.
  void find_sizes() {
    sizes_.resize(source_.nodes().size());
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const GrammarSource::Node& node = source_.nodes()[i];
      int64_t size =
          node.kind == Kind::bytes || node.kind == Kind::control || node.kind == Kind::rule;
      // Children come before their parents.
      for (const Expression child : node.children) size += sizes_[static_cast<size_t>(child)];
      for (const auto& edge : node.edges) size += sizes_[static_cast<size_t>(edge.label)];
      if (node.kind == Kind::repeat)
        size = std::min(kMaxWrittenOut, size * (node.b == kUnbounded ? node.a + 1 : node.b));
      sizes_[i] = std::min<int64_t>(size, kMaxStates);
    }
  }

  // The least fixed point of "may be empty": a node is looked at again when one that it holds, or
  // the rule that it calls, turns out to be.
  void find_empty() {
    const auto nodes = source_.nodes();
    std::vector<std::vector<int32_t>> users(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
      const auto use = [&](Expression e) {
        users[static_cast<size_t>(e)].push_back(static_cast<int32_t>(i));
      };
      for (const Expression child : nodes[i].children) use(child);
      for (const auto& edge : nodes[i].edges) use(edge.label);
      if (nodes[i].kind == Kind::rule) use(bodies_[static_cast<size_t>(nodes[i].a)]);
    }
    empty_.assign(nodes.size(), 0);
    std::vector<int32_t> work(nodes.size());
    for (size_t i = 0; i < work.size(); ++i) work[work.size() - 1 - i] = static_cast<int32_t>(i);
    while (!work.empty()) {
      const auto i = static_cast<size_t>(work.back());
      work.pop_back();
      if (empty_[i] || !empty_now(nodes[i])) continue;
      empty_[i] = 1;
      work.insert(work.end(), users[i].begin(), users[i].end());
    }
    may_be_empty.resize(bodies_.size());
    for (size_t rule = 0; rule < bodies_.size(); ++rule)
      may_be_empty[rule] = is_empty(bodies_[rule]);
  }
  bool empty_now(const GrammarSource::Node& node) const {
    const auto is = [this](Expression e) { return is_empty(e); };
    switch (node.kind) {
      case Kind::empty: return true;
      case Kind::never:
      case Kind::bytes:
      case Kind::control: return false;
      case Kind::sequence: return std::all_of(node.children.begin(), node.children.end(), is);
      case Kind::choice: return std::any_of(node.children.begin(), node.children.end(), is);
      case Kind::repeat: return node.a == 0 || is(node.children[0]);
      case Kind::rule: return is(bodies_[static_cast<size_t>(node.a)]);
      case Kind::graph: {
        std::vector<char> reached(static_cast<size_t>(node.a));
        reached[0] = 1;
        for (bool changed = true; changed;) {
          changed = false;
          for (const auto& edge : node.edges) {
            char& to = reached[static_cast<size_t>(edge.to)];
            if (to || !reached[static_cast<size_t>(edge.from)] || !is(edge.label)) continue;
            to = 1;
            changed = true;
          }
        }
        return reached[static_cast<size_t>(node.b)] != 0;
      }
    }
    return false;
  }

  int32_t new_state(Draft& draft) {
    ++num_states_;
    draft.states.emplace_back();
    return static_cast<int32_t>(draft.states.size() - 1);
  }
  Draft::State& at(Draft& draft, int32_t state) {
    ++num_edges_;
    return draft.states[static_cast<size_t>(state)];
  }

  void add(Draft& draft, Expression e, int32_t from, int32_t to) {
    if (num_states_ > kMaxStates || num_edges_ > kMaxEdges) return;
    const GrammarSource::Node& node = source_.node(e);
    switch (node.kind) {
      case Kind::empty: at(draft, from).empty_moves.push_back(to); break;
      case Kind::never: break;
      case Kind::bytes:
        at(draft, from)
            .bytes.push_back({static_cast<uint8_t>(node.a), static_cast<uint8_t>(node.b), to});
        break;
      case Kind::control: at(draft, from).controls.push_back({node.a, to}); break;
      case Kind::sequence:
        for (size_t i = 0; i + 1 < node.children.size(); ++i) {
          const int32_t middle = new_state(draft);
          add(draft, node.children[i], from, middle);
          from = middle;
        }
        add(draft, node.children.back(), from, to);
        break;
      case Kind::choice:
        for (const Expression child : node.children) add(draft, child, from, to);
        break;
      case Kind::repeat: add_repeat(draft, node, from, to); break;
      case Kind::rule: add_call(draft, {node.a, to, 1, 1}, from); break;
      case Kind::graph: {
        std::vector<int32_t> states(static_cast<size_t>(node.a));
        for (int32_t& state : states) state = new_state(draft);
        at(draft, from).empty_moves.push_back(states[0]);
        at(draft, states[static_cast<size_t>(node.b)]).empty_moves.push_back(to);
        for (const auto& edge : node.edges) {
          add(draft, edge.label, states[static_cast<size_t>(edge.from)],
              states[static_cast<size_t>(edge.to)]);
        }
        break;
      }
    }
  }

  void add_call(Draft& draft, CallEdge edge, int32_t from) {
    if (may_be_empty[static_cast<size_t>(edge.rule)]) {
      at(draft, from).empty_moves.push_back(edge.target);
      edge.min = std::min(edge.min, 1);
    }
    at(draft, from).calls.push_back(edge);
  }

  void add_repeat(Draft& draft, const GrammarSource::Node& node, int32_t from, int32_t to) {
    const Expression child = node.children[0];
    const int32_t min = node.a, max = node.b;
    const int64_t copies = max == kUnbounded ? int64_t{min} + 1 : max;
    const int64_t size = std::max<int64_t>(1, sizes_[static_cast<size_t>(child)]);
    if (copies > 1 && copies * size > kMaxWrittenOut) {
      // The rule of this repetition: its body once.
      const auto [it, is_new] = counted_.try_emplace(child, static_cast<RuleId>(bodies_.size()));
      if (is_new) {
        bodies_.push_back(child);
        may_be_empty.push_back(is_empty(child));
      }
      if (min == 0) at(draft, from).empty_moves.push_back(to);
      add_call(draft, {it->second, to, std::max(min, 1), max}, from);
      return;
    }
    for (int32_t i = 0; i < min; ++i) {
      const int32_t next = new_state(draft);
      add(draft, child, from, next);
      from = next;
    }
    if (max == kUnbounded) {
      const int32_t loop = new_state(draft);
      at(draft, from).empty_moves.push_back(loop);
      add(draft, child, loop, loop);
      at(draft, loop).empty_moves.push_back(to);
      return;
    }
    for (int32_t i = min; i < max; ++i) {
      at(draft, from).empty_moves.push_back(to);
      const int32_t next = new_state(draft);
      add(draft, child, from, next);
      from = next;
    }
    at(draft, from).empty_moves.push_back(to);
  }

  // Removes the empty moves. States to which the same byte, token or call leads from one state are
  // joined, so that of thousands of words one way is followed, not each. That could make many
  // states of few; then each way stays alone. Last, states that go on alike become one.
  Status compact(const Draft& draft, size_t rule) {
    RuleAutomaton out;
    const size_t work_before = work_;
    if (!compact(draft, true, out)) {
      out = {};
      work_ = work_before;
      if (!compact(draft, false, out)) return too_large(rule);
    }
    merge_alike(out);
    for (const RuleAutomaton::State& state : out.states)
      num_compact_edges_ += state.bytes.size() + state.controls.size() + state.calls.size();
    if (num_compact_edges_ > kMaxEdges) return too_large(rule);
    rules.push_back(std::move(out));
    return {};
  }
  // False where it makes too much.
  bool compact(const Draft& draft, bool joins, RuleAutomaton& out) {
    std::vector<std::vector<int32_t>> closures;    // of the states that are kept
    std::map<std::vector<int32_t>, int32_t> kept;  // closure: state
    std::vector<int32_t> mark(draft.states.size(), -1);
    std::vector<int32_t> known(draft.states.size(), -1);
    std::vector<int32_t> targets;
    int32_t stamp = 0;
    size_t num_members = 0;
    const auto keep_all = [&](std::span<const int32_t> states) {
      std::vector<int32_t> stack(states.begin(), states.end()), closure;
      for (const int32_t state : states) mark[static_cast<size_t>(state)] = stamp;
      while (!stack.empty()) {
        const int32_t top = stack.back();
        stack.pop_back();
        const Draft::State& s = draft.states[static_cast<size_t>(top)];
        if (top == draft.final || !s.bytes.empty() || !s.controls.empty() || !s.calls.empty())
          closure.push_back(top);
        for (const int32_t next : s.empty_moves) {
          ++work_;
          if (mark[static_cast<size_t>(next)] == stamp) continue;
          mark[static_cast<size_t>(next)] = stamp;
          stack.push_back(next);
        }
      }
      ++stamp;
      std::sort(closure.begin(), closure.end());
      work_ += closure.size();
      const auto [it, is_new] = kept.try_emplace(closure, static_cast<int32_t>(closures.size()));
      if (is_new) {
        num_members += closure.size();
        closures.push_back(std::move(closure));
      }
      return it->second;
    };
    const auto keep = [&](int32_t state) {
      int32_t& id = known[static_cast<size_t>(state)];
      if (id < 0) id = keep_all(std::span(&state, 1));
      return id;
    };
    // One edge to all targets of these, or each to its own.
    const auto join = [&](std::span<int32_t> targets, const auto& add) {
      std::sort(targets.begin(), targets.end());
      const auto end = std::unique(targets.begin(), targets.end());
      work_ += targets.size();
      if (joins && end - targets.begin() > 1) {
        add(keep_all({targets.begin(), end}));
      } else {
        for (auto to = targets.begin(); to != end; ++to) add(keep(*to));
      }
    };
    // Those of equal labels follow each other.
    const auto join_equal = [&](const auto& edges, const auto& is_equal, auto& joined) {
      for (size_t first = 0, next = 0; first < edges.size(); first = next) {
        targets.clear();
        for (; next < edges.size() && is_equal(edges[first], edges[next]); ++next)
          targets.push_back(edges[next].target);
        join(targets, [&](int32_t target) {
          joined.push_back(edges[first]);
          joined.back().target = target;
        });
      }
    };
    keep(0);
    std::vector<ByteEdge> bytes;
    std::vector<ControlEdge> controls;
    std::vector<CallEdge> calls;
    size_t num_edges = 0;
    for (size_t i = 0; i < closures.size(); ++i) {
      RuleAutomaton::State& state = out.states.emplace_back();
      bytes.clear();
      controls.clear();
      calls.clear();
      for (const int32_t member : closures[i]) {
        const Draft::State& s = draft.states[static_cast<size_t>(member)];
        state.is_final |= member == draft.final;
        bytes.insert(bytes.end(), s.bytes.begin(), s.bytes.end());
        controls.insert(controls.end(), s.controls.begin(), s.controls.end());
        calls.insert(calls.end(), s.calls.begin(), s.calls.end());
      }
      std::sort(bytes.begin(), bytes.end());
      std::sort(controls.begin(), controls.end());
      const auto label = [](const CallEdge& edge) {
        return std::tuple(edge.rule, edge.min, edge.max);
      };
      std::ranges::sort(calls, {}, label);
      if (joins) {
        for_stretches(bytes, [&](uint8_t first, uint8_t last, std::span<const ByteEdge> edges) {
          targets.clear();
          for (const ByteEdge& edge : edges) targets.push_back(edge.target);
          join(targets, [&](int32_t target) { state.bytes.push_back({first, last, target}); });
        });
      } else {
        for (const ByteEdge& edge : bytes)
          state.bytes.push_back({edge.first, edge.last, keep(edge.target)});
      }
      join_equal(
          controls, [](const auto& a, const auto& b) { return a.token == b.token; },
          state.controls);
      join_equal(
          calls, [&](const auto& a, const auto& b) { return label(a) == label(b); }, state.calls);
      num_edges += state.bytes.size() + state.controls.size() + state.calls.size();
      if (joins && num_members + num_edges > kMaxJoined * (draft.states.size() + kFewStates))
        return false;
      if (work_ > 64 * kMaxEdges || num_compact_edges_ + num_edges > kMaxEdges) return false;
    }
    return true;
  }

  const GrammarSource& source_;
  std::vector<Expression> bodies_;
  std::vector<int64_t> sizes_;
  std::vector<char> empty_;
  std::map<Expression, RuleId> counted_;
  size_t num_states_ = 0, num_edges_ = 0, num_compact_edges_ = 0, work_ = 0;
};

// As Automaton::is_tail.
bool is_tail(const CallEdge& edge, const RuleAutomaton::State& target) {
  return edge.min == 1 && edge.max == 1 && target.is_final && target.bytes.empty() &&
         target.controls.empty() && target.calls.empty();
}

// For each state, the calls that must be open at once to reach the end of its rule; kNever where
// nothing reaches it. As Dijkstra's shortest paths: a state's number is never below those it
// depends on, so states are settled in rising order.
class NestingFinder {
 public:
  explicit NestingFinder(const std::vector<RuleAutomaton>& rules) {
    int32_t first = 0;
    for (const RuleAutomaton& rule : rules) {
      starts_.push_back(first);
      first += static_cast<int32_t>(rule.states.size());
    }
    nesting_.assign(static_cast<size_t>(first), kNever);
    by_target_.resize(nesting_.size());
    by_rule_.resize(rules.size());
    rule_of_.resize(nesting_.size(), -1);
    for (size_t r = 0; r < rules.size(); ++r) {
      rule_of_[static_cast<size_t>(starts_[r])] = static_cast<int32_t>(r);
      for (size_t s = 0; s < rules[r].states.size(); ++s) {
        const int32_t from = starts_[r] + static_cast<int32_t>(s);
        const RuleAutomaton::State& state = rules[r].states[s];
        const auto by_target = [&](int32_t target) -> auto& {
          return by_target_[static_cast<size_t>(starts_[r] + target)];
        };
        for (const ByteEdge& edge : state.bytes) by_target(edge.target).push_back({from, -1, 0});
        for (const ControlEdge& edge : state.controls)
          by_target(edge.target).push_back({from, -1, 0});
        for (const CallEdge& edge : state.calls) {
          const int32_t cost =
              is_tail(edge, rules[r].states[static_cast<size_t>(edge.target)]) ? 0 : 1;
          by_target(edge.target).push_back({from, edge.rule, cost});
          by_rule_[static_cast<size_t>(edge.rule)].push_back(
              {from, starts_[r] + edge.target, cost});
        }
        if (state.is_final) queue_.push({0, from});
      }
    }
    run();
  }
  const std::vector<int32_t>& nesting() const { return nesting_; }
  const std::vector<int32_t>& starts() const { return starts_; }

 private:
  void run() {
    while (!queue_.empty()) {
      const auto [value, state] = queue_.top();
      queue_.pop();
      if (nesting_[static_cast<size_t>(state)] != kNever) continue;
      nesting_[static_cast<size_t>(state)] = value;
      for (const Use& use : by_target_[static_cast<size_t>(state)]) {
        if (use.other < 0) {
          queue_.push({value, use.from});
        } else if (const int32_t inner = of_rule(use.other); inner != kNever) {
          queue_.push({std::max(value, inner + use.cost), use.from});
        }
      }
      const int32_t rule = rule_of_[static_cast<size_t>(state)];
      if (rule < 0) continue;
      for (const Use& use : by_rule_[static_cast<size_t>(rule)]) {
        const int32_t after = nesting_[static_cast<size_t>(use.other)];
        if (after != kNever) queue_.push({std::max(after, value + use.cost), use.from});
      }
    }
  }
  int32_t of_rule(RuleId rule) const {
    return nesting_[static_cast<size_t>(starts_[static_cast<size_t>(rule)])];
  }

  struct Use {
    int32_t from;
    int32_t other;  // by_target_: the rule called, or -1; by_rule_: the state after the call
    int32_t cost;   // of the call
  };
  using Entry = std::pair<int32_t, int32_t>;  // nesting, state
  std::vector<int32_t> starts_, nesting_, rule_of_;
  std::vector<std::vector<Use>> by_target_, by_rule_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
};

// Orders the rules so that each comes after those that may call it before reading anything; -1 and
// a rule of the circle if there is none.
struct Ranks {
  std::vector<int32_t> ranks;
  int32_t circle = -1;
};
Ranks rank(const std::vector<RuleAutomaton>& rules) {
  std::vector<int32_t> num_callers(rules.size());
  const auto for_called = [&rules](size_t rule, const auto& visit) {
    for (const CallEdge& edge : rules[rule].states[0].calls) visit(static_cast<size_t>(edge.rule));
  };
  for (size_t rule = 0; rule < rules.size(); ++rule)
    for_called(rule, [&](size_t called) { ++num_callers[called]; });
  Ranks out;
  out.ranks.resize(rules.size(), -1);
  std::vector<size_t> ready;
  for (size_t rule = 0; rule < rules.size(); ++rule) {
    if (num_callers[rule] == 0) ready.push_back(rule);
  }
  int32_t next = 0;
  while (!ready.empty()) {
    const size_t rule = ready.back();
    ready.pop_back();
    out.ranks[rule] = next++;
    for_called(rule, [&](size_t called) {
      if (--num_callers[called] == 0) ready.push_back(called);
    });
  }
  // What is left hangs on a circle; going back from caller to caller ends up in one.
  const auto left = std::find(out.ranks.begin(), out.ranks.end(), -1);
  if (left == out.ranks.end()) return out;
  std::vector<int32_t> caller(rules.size(), -1);
  for (size_t rule = 0; rule < rules.size(); ++rule) {
    if (out.ranks[rule] < 0)
      for_called(rule, [&](size_t called) { caller[called] = static_cast<int32_t>(rule); });
  }
  out.circle = static_cast<int32_t>(left - out.ranks.begin());
  for (size_t step = 0; step < rules.size(); ++step)
    out.circle = caller[static_cast<size_t>(out.circle)];
  return out;
}

}  // namespace

bool Automaton::is_tail(const CallEdge& edge) const {
  const State& s = state(edge.target);
  return edge.min == 1 && edge.max == 1 && s.is_final && s.byte_begin == s.byte_end &&
         s.control_begin == s.control_end && s.call_begin == s.call_end;
}

Result<Automaton> Automaton::compile(const GrammarSource& source) {
  CACHALOT_CHECK(!source.rules().empty());
  Compiler compiler(source);
  CACHALOT_RETURN_IF_ERROR(compiler.run());
  const NestingFinder finder(compiler.rules);
  const auto nesting_of = [&](size_t rule, int32_t state) {
    return finder.nesting()[static_cast<size_t>(finder.starts()[rule] + state)];
  };

  Automaton out;
  out.root_ = source.root();
  out.max_nesting_ = source.max_nesting();
  const auto root = static_cast<size_t>(out.root_);
  if (nesting_of(root, 0) == kNever) {
    return invalid_argument(
        fmt::format("grammar: rule \"{}\": expected some text that satisfies it, found none",
                    compiler.name(root)));
  }
  if (nesting_of(root, 0) >= out.max_nesting_) {
    return resource_exhausted(
        fmt::format("grammar: rule \"{}\": expected calls nested less than {} deep, found {}",
                    compiler.name(root), out.max_nesting_, nesting_of(root, 0)));
  }
  // Edges that lead nowhere go, with those that call what no text satisfies.
  for (size_t r = 0; r < compiler.rules.size(); ++r) {
    for (RuleAutomaton::State& state : compiler.rules[r].states) {
      const auto is_dead = [&](const auto& edge) { return nesting_of(r, edge.target) == kNever; };
      std::erase_if(state.bytes, is_dead);
      std::erase_if(state.controls, is_dead);
      std::erase_if(state.calls, [&](const CallEdge& edge) {
        return is_dead(edge) || nesting_of(static_cast<size_t>(edge.rule), 0) == kNever;
      });
    }
  }
  const Ranks ranks = rank(compiler.rules);
  if (ranks.circle >= 0) {
    return invalid_argument(
        fmt::format("grammar: rule \"{}\": expected it to read something before it calls itself "
                    "again, found left recursion",
                    compiler.name(static_cast<size_t>(ranks.circle))));
  }
  for (size_t r = 0; r < compiler.rules.size(); ++r) {
    const int32_t first = finder.starts()[r];
    out.rules_.push_back({first, ranks.ranks[r], compiler.may_be_empty[r] != 0});
    const auto append = [first](auto& edges, const auto& more, uint32_t& begin, uint32_t& end) {
      begin = static_cast<uint32_t>(edges.size());
      for (auto edge : more) {
        edge.target += first;
        edges.push_back(edge);
      }
      end = static_cast<uint32_t>(edges.size());
    };
    for (size_t s = 0; s < compiler.rules[r].states.size(); ++s) {
      const RuleAutomaton::State& from = compiler.rules[r].states[s];
      State state;
      append(out.byte_edges_, from.bytes, state.byte_begin, state.byte_end);
      append(out.control_edges_, from.controls, state.control_begin, state.control_end);
      append(out.call_edges_, from.calls, state.call_begin, state.call_end);
      state.is_final = from.is_final;
      state.nesting = nesting_of(r, static_cast<int32_t>(s));
      out.states_.push_back(state);
    }
  }
  return out;
}

}  // namespace cachalot::grammar
