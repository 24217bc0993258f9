#include "grammar/rule_automaton.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

namespace cachalot::grammar {
namespace {

// Partition refinement: all states begin as one class. A class is split by where its states lead,
// class by class; all but its largest part get new numbers, and only the states that lead into
// those are looked at again.
class Merger {
 public:
  explicit Merger(RuleAutomaton& rule) : rule_(rule) {}

  void run() {
    find_sources();
    const size_t size = rule_.states.size();
    class_of_.resize(size);
    place_.resize(size);
    is_open_.assign(size, 1);
    members_.resize(1);
    for (size_t state = 0; state < size; ++state) {
      place_[state] = state;
      members_[0].push_back(static_cast<int32_t>(state));
    }
    std::vector<int32_t> open = members_[0];
    while (!open.empty()) open = refine(std::move(open));
    build();
  }

 private:
  using Ways = std::vector<int32_t>;  // all that a state does, with classes for targets

  template <typename Visit>
  void for_targets(const RuleAutomaton::State& state, const Visit& visit) const {
    for (const ByteEdge& edge : state.bytes) visit(edge.target);
    for (const ControlEdge& edge : state.controls) visit(edge.target);
    for (const CallEdge& edge : state.calls) visit(edge.target);
  }
  void find_sources() {
    source_begin_.assign(rule_.states.size() + 1, 0);
    for (const auto& state : rule_.states) {
      for_targets(state, [&](int32_t to) { ++source_begin_[static_cast<size_t>(to) + 1]; });
    }
    for (size_t i = 1; i < source_begin_.size(); ++i) source_begin_[i] += source_begin_[i - 1];
    sources_.resize(source_begin_.back());
    std::vector<size_t> at(source_begin_.begin(), source_begin_.end() - 1);
    for (size_t from = 0; from < rule_.states.size(); ++from) {
      for_targets(rule_.states[from], [&](int32_t to) {
        sources_[at[static_cast<size_t>(to)]++] = static_cast<int32_t>(from);
      });
    }
  }

  int32_t class_of(int32_t state) const { return class_of_[static_cast<size_t>(state)]; }
  // A state with classes for targets.
  RuleAutomaton::State seen(int32_t id) const {
    RuleAutomaton::State state = rule_.states[static_cast<size_t>(id)];
    const auto tidy = [this](auto& edges) {
      for (auto& edge : edges) edge.target = class_of(edge.target);
      std::sort(edges.begin(), edges.end());
      edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    };
    tidy(state.controls);
    tidy(state.calls);
    for (ByteEdge& edge : state.bytes) edge.target = class_of(edge.target);
    std::ranges::sort(state.bytes, {},
                      [](const ByteEdge& edge) { return std::pair(edge.target, edge.first); });
    size_t kept = 0;
    for (const ByteEdge& edge : state.bytes) {
      if (kept > 0 && state.bytes[kept - 1].target == edge.target &&
          edge.first <= state.bytes[kept - 1].last + 1) {
        state.bytes[kept - 1].last = std::max(state.bytes[kept - 1].last, edge.last);
      } else {
        state.bytes[kept++] = edge;
      }
    }
    state.bytes.resize(kept);
    return state;
  }
  Ways ways_of(int32_t id) const {
    const RuleAutomaton::State state = seen(id);
    Ways ways = {state.is_final, static_cast<int32_t>(state.bytes.size()),
                 static_cast<int32_t>(state.controls.size())};
    for (const ByteEdge& edge : state.bytes)
      ways.insert(ways.end(), {edge.first << 8 | edge.last, edge.target});
    for (const ControlEdge& edge : state.controls)
      ways.insert(ways.end(), {edge.token, edge.target});
    for (const CallEdge& edge : state.calls)
      ways.insert(ways.end(), {edge.rule, edge.min, edge.max, edge.target});
    return ways;
  }

  // The states to look at next.
  std::vector<int32_t> refine(std::vector<int32_t> open) {
    // All is seen before anything is split: what is not open still goes on as its class does.
    std::map<int32_t, std::map<Ways, std::vector<int32_t>>> parts;  // by class
    for (const int32_t state : open) {
      if (members_[static_cast<size_t>(class_of(state))].size() > 1)
        parts[class_of(state)][ways_of(state)].push_back(state);
    }
    std::vector<std::pair<int32_t, std::vector<int32_t>>> moved;  // and the class they leave
    for (auto& [cls, by_ways] : parts) {
      const auto& members = members_[static_cast<size_t>(cls)];
      const auto is_closed = [this](int32_t s) { return is_open_[static_cast<size_t>(s)] == 0; };
      size_t num_closed = members.size();
      for (const auto& [ways, states] : by_ways) num_closed -= states.size();
      std::vector<int32_t>* closed = nullptr;  // the part that they belong to
      if (num_closed > 0) closed = &by_ways[ways_of(*std::ranges::find_if(members, is_closed))];
      const auto size = [&](const std::vector<int32_t>& part) {
        return part.size() + (&part == closed ? num_closed : 0);
      };
      const std::vector<int32_t>* stay = nullptr;
      for (const auto& [ways, states] : by_ways) {
        if (stay == nullptr || size(states) > size(*stay)) stay = &states;
      }
      if (closed != nullptr && closed != stay)
        std::ranges::copy_if(members, std::back_inserter(*closed), is_closed);
      for (auto& [ways, states] : by_ways) {
        if (&states != stay) moved.emplace_back(cls, std::move(states));
      }
    }
    for (const int32_t state : open) is_open_[static_cast<size_t>(state)] = 0;
    open.clear();
    for (const auto& [cls, states] : moved) {
      for (const int32_t state : states) move(state, cls, static_cast<int32_t>(members_.size()));
      members_.push_back(states);
      for (size_t i = 0; i < states.size(); ++i) place_[static_cast<size_t>(states[i])] = i;
      for (const int32_t state : states) open_sources(state, open);
    }
    return open;
  }
  void move(int32_t state, int32_t from, int32_t to) {
    auto& members = members_[static_cast<size_t>(from)];
    const size_t at = place_[static_cast<size_t>(state)];
    members[at] = members.back();
    place_[static_cast<size_t>(members[at])] = at;
    members.pop_back();
    class_of_[static_cast<size_t>(state)] = to;
  }
  void open_sources(int32_t state, std::vector<int32_t>& open) {
    const auto at = static_cast<size_t>(state);
    for (size_t i = source_begin_[at]; i < source_begin_[at + 1]; ++i) {
      char& is_open = is_open_[static_cast<size_t>(sources_[i])];
      if (is_open == 0) open.push_back(sources_[i]);
      is_open = 1;
    }
  }

  void build() {
    // States keep their order, so that the start stays the first.
    std::vector<int32_t> id(members_.size(), -1), first;
    for (size_t state = 0; state < rule_.states.size(); ++state) {
      int32_t& to = id[static_cast<size_t>(class_of_[state])];
      if (to >= 0) continue;
      to = static_cast<int32_t>(first.size());
      first.push_back(static_cast<int32_t>(state));
    }
    for (int32_t& cls : class_of_) cls = id[static_cast<size_t>(cls)];
    RuleAutomaton merged;
    for (const int32_t state : first) {
      merged.states.push_back(seen(state));
      std::ranges::sort(merged.states.back().bytes);
    }
    rule_ = std::move(merged);
  }

  RuleAutomaton& rule_;
  std::vector<size_t> source_begin_;  // by state, in sources_
  std::vector<int32_t> sources_, class_of_;
  std::vector<size_t> place_;  // by state, in the members of its class
  std::vector<std::vector<int32_t>> members_;
  std::vector<char> is_open_;
};

}  // namespace

void merge_alike(RuleAutomaton& rule) { Merger(rule).run(); }

}  // namespace cachalot::grammar
