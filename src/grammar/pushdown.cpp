#include "grammar/pushdown.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <tuple>

namespace cachalot::grammar {
namespace {

template <typename T>
uint64_t hash_of(std::span<const T> items, uint64_t hash) {
  static_assert(sizeof(T) % sizeof(int32_t) == 0 && std::is_trivially_copyable_v<T>);
  const auto* words = reinterpret_cast<const uint32_t*>(items.data());
  for (size_t i = 0; i < items.size() * (sizeof(T) / sizeof(uint32_t)); ++i) {
    hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

int64_t one_less(int32_t rounds) { return rounds == kUnbounded ? kUnbounded : rounds - 1; }

}  // namespace

Pushdown::Pushdown(std::shared_ptr<const Automaton> automaton) : automaton_(std::move(automaton)) {
  node_ids_.reserve(2 * kUsualSets);
  set_ids_.reserve(2 * kUsualSets);
  within_.reserve(2 * kUsualSets);
  sets_.resize(2);  // kDead, kEnded
  seen_.resize(kMaxSeen);
  const Continuation cut = {kCutMark, -1};
  cut_ = intern_node(std::span(&cut, 1));
  find_byte_classes();
  step_.may_end = automaton_->rule(automaton_->root()).may_be_empty;
  push_call(automaton_->root(), {kEndMark, -1});
  start_ = close();
}

void Pushdown::reserve() {
  const auto make_room = [](auto& table) { table.reserve(2 * (table.size() + kUsualSets)); };
  make_room(continuations_);
  make_room(configurations_);
  make_room(nodes_);
  make_room(sets_);
  make_room(node_ids_);
  make_room(set_ids_);
  make_room(within_);
  make_room(cuts_);
}

NodeId Pushdown::intern_node(std::span<const Continuation> continuations) {
  const uint64_t hash = hash_of(continuations, 1);
  const NodeId known = node_ids_.find(
      hash, [&](NodeId id) { return std::ranges::equal(this->continuations(id), continuations); });
  if (known >= 0) return known;
  Node node;
  node.begin = static_cast<uint32_t>(continuations_.size());
  node.size = static_cast<uint32_t>(continuations.size());
  for (const Continuation& continuation : continuations) {
    if (continuation.target >= 0) node.depth = std::max(node.depth, depth(continuation.below) + 1);
  }
  continuations_.insert(continuations_.end(), continuations.begin(), continuations.end());
  nodes_.push_back(node);
  const auto id = static_cast<NodeId>(nodes_.size() - 1);
  node_ids_.add(hash, id);
  bytes_ += continuations.size_bytes() + sizeof(Node) + 48;
  return id;
}

SetId Pushdown::intern_set(std::vector<Configuration>& set, bool may_end, bool left_cut) {
  if (set.empty() && !may_end && !left_cut) return kDead;
  if (!std::ranges::is_sorted(set)) std::ranges::sort(set);
  const std::span<const Configuration> items(set);
  const uint64_t hash = hash_of(items, 2 + may_end + 2 * left_cut);
  const SetId known = set_ids_.find(hash, [&](SetId id) {
    const Set& other = sets_[static_cast<size_t>(id)];
    return other.may_end == may_end && other.left_cut == left_cut &&
           std::ranges::equal(configurations(id), items);
  });
  if (known >= 0) return known;
  Set made;
  made.begin = static_cast<uint32_t>(configurations_.size());
  made.size = static_cast<uint32_t>(set.size());
  made.may_end = may_end;
  made.left_cut = left_cut;
  for (const Configuration& c : set)
    made.nesting = std::max(made.nesting, depth(c.node) + automaton_->state(c.state).nesting);
  if (set.size() == 1) {
    const auto edges = automaton_->byte_edges(automaton_->state(set[0].state));
    made.has_one_way = edges.size() == 1;
  }
  configurations_.insert(configurations_.end(), set.begin(), set.end());
  sets_.push_back(made);
  const auto id = static_cast<SetId>(sets_.size() - 1);
  set_ids_.add(hash, id);
  bytes_ += items.size_bytes() + sizeof(Set) + 48;
  return id;
}

// A configuration whose rule could not be ended within the allowed nesting leads nowhere.
void Pushdown::reach(int32_t state, NodeId node) {
  if (depth(node) + automaton_->state(state).nesting >= automaton_->max_nesting()) return;
  const Configuration c = {state, node};
  // Steps are small: looking through what there is costs less than a table.
  constexpr size_t kLookThrough = 32;
  auto& reached = step_.reached;
  if (reached.size() < kLookThrough) {
    if (std::find(reached.begin(), reached.end(), c) == reached.end()) reached.push_back(c);
    return;
  }
  if (reached.size() == kLookThrough) {
    for (size_t i = 0; i < kLookThrough; ++i) see(static_cast<uint32_t>(i));
  }
  reached.push_back(c);
  if (!see(static_cast<uint32_t>(reached.size() - 1))) reached.pop_back();
  too_large_ |= reached.size() > kMaxConfigurations;
}

// Whether step_.reached[i] is new in the table of those.
bool Pushdown::see(uint32_t i) {
  const Configuration c = step_.reached[i];
  const uint64_t key = static_cast<uint64_t>(c.node) << 32 | static_cast<uint32_t>(c.state);
  constexpr int kShift = 64 - std::countr_zero(kMaxSeen);
  for (size_t slot = (key * 0x9E3779B97F4A7C15u) >> kShift;; slot = (slot + 1) & (kMaxSeen - 1)) {
    Seen& seen = seen_[slot];
    if (seen.step != num_steps_) {
      seen = {num_steps_, i};
      return true;
    }
    if (step_.reached[seen.at] == c) return false;
  }
}

Pushdown::Continuation Pushdown::rounds(Continuation continuation, int64_t least, int64_t most) {
  continuation.least = static_cast<int32_t>(least);
  continuation.most = static_cast<int32_t>(most);
  if (most == 0) continuation.rule = -1;
  return continuation;
}

void Pushdown::return_to(const Continuation& continuation) {
  if (continuation.target == kEndMark) step_.may_end = true;
  if (continuation.target == kCutMark) step_.left_cut = true;
  if (continuation.target < 0) return;
  if (continuation.least == 0) reach(continuation.target, continuation.below);
  if (continuation.most == 0) return;
  push_call(continuation.rule,
            rounds(continuation, std::max(continuation.least - 1, 0), one_less(continuation.most)));
}

void Pushdown::return_from(NodeId node) {
  // By index: returning may make nodes.
  const Node n = nodes_[static_cast<size_t>(node)];
  for (uint32_t i = 0; i < n.size; ++i) return_to(continuations_[n.begin + i]);
}

void Pushdown::push_call(RuleId rule, Continuation continuation) {
  if (step_.calls.size() > kMaxConfigurations) {
    too_large_ = true;
    return;
  }
  step_.calls.push_back({automaton_->rule(rule).rank, rule, continuation});
}

void Pushdown::call_from(const Automaton::State& state, NodeId node) {
  for (uint32_t id = state.call_begin; id < state.call_end; ++id) {
    const CallEdge& edge = automaton_->call_edge(static_cast<int32_t>(id));
    if (automaton_->is_tail(edge)) {
      for (const Continuation& continuation : continuations(node))
        push_call(edge.rule, continuation);
    } else if (depth(node) + automaton_->state(edge.target).nesting < automaton_->max_nesting()) {
      push_call(edge.rule,
                rounds({edge.target, node, edge.rule}, edge.min - 1, one_less(edge.max)));
    }
  }
}

// Ranges of rounds that meet become one.
void Pushdown::tidy(std::vector<Continuation>& continuations) {
  std::sort(continuations.begin(), continuations.end());
  const auto meet = [](const Continuation& a, const Continuation& b) {
    return a.target == b.target && a.below == b.below && (a.rule == b.rule || a.most == 0) &&
           b.least <= int64_t{a.most} + 1;
  };
  size_t kept = 0;
  for (const Continuation& c : continuations) {
    if (kept > 0 && meet(continuations[kept - 1], c)) {
      Continuation& last = continuations[kept - 1];
      last.rule = c.rule;
      last.most = std::max(last.most, c.most);
    } else {
      continuations[kept++] = c;
    }
  }
  continuations.resize(kept);
}

// Depths stay apart, for each has its own way to the limit on nesting.
void Pushdown::unite(std::vector<Configuration>& configurations) {
  const auto place = [this](const Configuration& c) { return std::pair(c.state, depth(c.node)); };
  // Most often, and where sets are large, the states rise.
  const auto falls = [](const Configuration& a, const Configuration& b) {
    return a.state >= b.state;
  };
  if (std::ranges::adjacent_find(configurations, falls) == configurations.end()) return;
  std::ranges::sort(configurations, {}, place);
  std::vector<Continuation> all;
  auto kept = configurations.begin();
  for (auto at = kept; at != configurations.end();) {
    const auto end = std::find_if(at, configurations.end(),
                                  [&](const Configuration& c) { return place(c) != place(*at); });
    Configuration united = *at;
    if (end - at > 1) {
      all.clear();
      for (; at != end; ++at)
        all.insert(all.end(), continuations(at->node).begin(), continuations(at->node).end());
      tidy(all);
      united.node = intern_node(all);
    }
    *kept++ = united;
    at = end;
  }
  configurations.erase(kept, configurations.end());
}

// From what was reached to the whole set: returns first, then calls, rank by rank, so that every
// continuation of a node is known when the node is made.
SetId Pushdown::close() {
  Step& step = step_;
  for (size_t i = 0; i < step.reached.size() && !too_large_; ++i) {  // it grows
    const Configuration c = step.reached[i];
    if (automaton_->state(c.state).is_final) return_from(c.node);
  }
  unite(step.reached);
  const auto add = [&](const Configuration& c) {
    const Automaton::State& state = automaton_->state(c.state);
    call_from(state, c.node);
    if (state.byte_begin < state.byte_end || state.control_begin < state.control_end)
      step.set.push_back(c);
    if (step.set.size() > kMaxConfigurations) too_large_ = true;
  };
  for (const Configuration& c : step.reached) add(c);
  std::vector<Continuation> continuations;
  while (!step.calls.empty() && !too_large_) {
    const int32_t rank =
        std::min_element(step.calls.begin(), step.calls.end(), [](const auto& a, const auto& b) {
          return a.rank < b.rank;
        })->rank;
    RuleId rule = 0;
    continuations.clear();
    std::erase_if(step.calls, [&](const Pending& call) {
      if (call.rank != rank) return false;
      rule = call.rule;
      continuations.push_back(call.continuation);
      return true;
    });
    tidy(continuations);
    work_ += continuations.size();
    const NodeId node = intern_node(continuations);
    const int32_t start = automaton_->rule(rule).start;
    if (depth(node) + automaton_->state(start).nesting < automaton_->max_nesting())
      add({start, node});
  }
  work_ += step.reached.size() + step.set.size() + 1;
  SetId made = kDead;
  if (!too_large_) unite(step.set);
  if (!too_large_ && !is_full()) made = intern_set(step.set, step.may_end, step.left_cut);
  step.reached.clear();
  step.set.clear();
  step.calls.clear();
  ++num_steps_;
  step.may_end = step.left_cut = too_large_ = false;
  return made;
}

void Pushdown::find_byte_classes() {
  std::array<bool, 257> begins{};
  for (const Automaton::State& state : automaton_->states()) {
    for (const ByteEdge& edge : automaton_->byte_edges(state))
      begins[edge.first] = begins[edge.last + 1u] = true;
  }
  for (size_t byte = 0; byte < class_of_.size(); ++byte) {
    num_classes_ += byte == 0 || begins[byte];
    class_of_[byte] = static_cast<uint8_t>(num_classes_ - 1);
  }
}

// Most bytes are in no edge: they are found together.
SetId* Pushdown::steps_of(SetId set) {
  if (SetId* known = sets_[static_cast<size_t>(set)].steps) return known;
  if (num_tables_ == kMaxTables) forget_steps();
  if (num_tables_ % kTablesOfSlab == 0)
    slabs_.push_back(std::make_unique_for_overwrite<SetId[]>(kTablesOfSlab * num_classes_));
  SetId* steps = slabs_.back().get() + num_tables_++ % kTablesOfSlab * num_classes_;
  sets_[static_cast<size_t>(set)].steps = steps;
  bytes_ += num_classes_ * sizeof(SetId);
  std::fill_n(steps, num_classes_, kDead);
  for (const Configuration& c : configurations(set)) {
    for (const ByteEdge& edge : automaton_->byte_edges(automaton_->state(c.state)))
      std::fill(steps + class_of_[edge.first], steps + class_of_[edge.last] + 1, -1);
  }
  return steps;
}

SetId Pushdown::make_step(SetId set, uint8_t byte) {
  if (const Set& from = sets_[static_cast<size_t>(set)]; from.has_one_way) {
    const Configuration& c = configurations_[from.begin];
    const ByteEdge& edge = automaton_->byte_edges(automaton_->state(c.state))[0];
    if (byte < edge.first || byte > edge.last) return kDead;
    if (from.next >= 0) return from.next;
    reach(edge.target, c.node);
    const SetId next = close();
    return sets_[static_cast<size_t>(set)].next = next;
  }
  if (steps_of(set)[class_of_[byte]] == kDead) return kDead;
  // Bytes that are in the same edges lead to the same set.
  uint8_t first = 0, last = 255;
  ways_.clear();
  size_t num_from = 0;
  for (const Configuration& c : configurations(set)) {
    const size_t num_before = ways_.size();
    for (const ByteEdge& edge : automaton_->byte_edges(automaton_->state(c.state))) {
      if (edge.last < byte) {
        first = std::max<uint8_t>(first, edge.last + 1);
      } else if (edge.first > byte) {
        last = std::min<uint8_t>(last, edge.first - 1);
        break;  // they are sorted by their first bytes
      } else {
        first = std::max(first, edge.first);
        last = std::min(last, edge.last);
        ways_.push_back({edge.target, c.node});
      }
    }
    if (ways_.size() > num_before && ++num_from == 1) from_ = c;
  }
  SetId next = kDead;
  // Many ways of one configuration are gone once, whatever is beside it.
  constexpr size_t kManyWays = 8;
  if (num_from == 1 && ways_.size() >= kManyWays && configurations(set).size() > 1) {
    std::vector<Configuration> alone = {from_};
    next = step(intern_set(alone, false, false), byte);
  } else {
    for (const Configuration& way : ways_) reach(way.state, way.node);
    next = close();
  }
  SetId* steps = steps_of(set);
  std::fill(steps + class_of_[first], steps + class_of_[last] + 1, next);
  return next;
}

// Steps can be made again.
void Pushdown::forget_steps() {
  for (Set& set : sets_) set.steps = nullptr;
  bytes_ -= num_tables_ * num_classes_ * sizeof(SetId);
  slabs_.clear();
  num_tables_ = 0;
}

SetId Pushdown::step_control(SetId set, int32_t token) {
  const int64_t key = int64_t{set} << 32 | token;
  if (const auto it = control_steps_.find(key); it != control_steps_.end()) return it->second;
  for (const Configuration& c : configurations(set)) {
    for (const ControlEdge& edge : automaton_->control_edges(automaton_->state(c.state))) {
      if (edge.token == token) reach(edge.target, c.node);
    }
  }
  const SetId next = close();
  control_steps_.emplace(key, next);
  bytes_ += 48;
  return next;
}

std::vector<int32_t> Pushdown::controls(SetId set) {
  std::vector<int32_t> tokens;
  for (const Configuration& c : configurations(set)) {
    for (const ControlEdge& edge : automaton_->control_edges(automaton_->state(c.state)))
      tokens.push_back(edge.token);
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  std::erase_if(tokens, [&](int32_t token) { return step_control(set, token) == kDead; });
  return tokens;
}

SetId Pushdown::after(NodeId base) {
  if (const SetId known = nodes_[static_cast<size_t>(base)].after; known >= 0) return known;
  return_from(base);
  const SetId made = close();
  nodes_[static_cast<size_t>(base)].after = made;
  return made;
}

// Rounds beyond the horizon are as one.
NodeId Pushdown::node_within(NodeId node, int32_t horizon) {
  const uint64_t key = static_cast<uint64_t>(node) << 32 | static_cast<uint32_t>(horizon);
  if (const auto it = within_.find(key); it != within_.end()) return it->second;
  const Node n = nodes_[static_cast<size_t>(node)];
  std::vector<Continuation> seen;
  for (uint32_t i = 0; i < n.size; ++i) {
    Continuation c = continuations_[n.begin + i];
    if (c.target >= 0) {
      c.below = node_within(c.below, horizon);
      c = rounds(c, std::min(c.least, horizon + 1), c.most > horizon ? kUnbounded : c.most);
    }
    seen.push_back(c);
  }
  tidy(seen);
  const NodeId made = intern_node(seen);
  within_.emplace(key, made);
  bytes_ += 48;
  return made;
}

SetId Pushdown::within_horizon(SetId set, int32_t horizon) {
  std::vector<Configuration> seen(configurations(set).begin(), configurations(set).end());
  for (Configuration& c : seen) c.node = node_within(c.node, horizon);
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  const bool may_end = sets_[static_cast<size_t>(set)].may_end;
  const bool left_cut = sets_[static_cast<size_t>(set)].left_cut;
  return intern_set(seen, may_end, left_cut);
}

// The rounds of counted calls stay, with what they are counted in, where all of a node's lead down
// to one node that is called otherwise.
Pushdown::Cut Pushdown::cut_of(NodeId node) {
  if (const auto it = cuts_.find(node); it != cuts_.end()) return it->second;
  const Node n = nodes_[static_cast<size_t>(node)];
  Cut cut = {cut_, node};
  std::vector<Continuation> counted;
  for (uint32_t i = 0; i < n.size; ++i) {  // by index: cutting makes nodes
    const Continuation c = continuations_[n.begin + i];
    if (c.target < 0 || c.most == 0) break;
    const Cut below = cut_of(c.below);
    if (i > 0 && below.base != cut.base) break;
    cut.base = below.base;
    counted.push_back(c);
    counted.back().below = below.top;
  }
  if (counted.size() == n.size) {
    std::sort(counted.begin(), counted.end());
    counted.erase(std::unique(counted.begin(), counted.end()), counted.end());
    cut.top = intern_node(counted);
  } else {
    cut = {cut_, node};
  }
  bytes_ += 48;
  return cuts_[node] = cut;
}

std::vector<Pushdown::Part> Pushdown::parts(SetId set, bool with_rounds) {
  struct Piece {
    NodeId base;
    Configuration cut;
    auto operator<=>(const Piece&) const = default;
  };
  std::vector<Piece> pieces;
  for (const Configuration& c :
       std::vector(configurations(set).begin(), configurations(set).end())) {
    const Cut cut = with_rounds ? cut_of(c.node) : Cut{cut_, c.node};
    pieces.push_back({cut.base, {c.state, cut.top}});
  }
  std::sort(pieces.begin(), pieces.end());
  std::vector<Part> parts;
  std::vector<Configuration> cut;
  for (size_t i = 0; i < pieces.size();) {
    Part part = {kDead, pieces[i].base};
    cut.clear();
    for (; i < pieces.size() && pieces[i].base == part.base; ++i) cut.push_back(pieces[i].cut);
    cut.erase(std::unique(cut.begin(), cut.end()), cut.end());
    part.cut = intern_set(cut, false, false);
    parts.push_back(part);
  }
  return parts;
}

}  // namespace cachalot::grammar
