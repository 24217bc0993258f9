// The pushdown automaton at work: sets of configurations, made as they are needed and kept, so that
// each (set, byte) is worked out once.
// Model    A configuration is a state and a stack node; a node is a set of continuations (where to
//          go on after the rule, how often a counted call has been done, the node below). Equal
//          sets are one set with one id, wherever in the text they come up: a set says all that
//          matters about the text before it.
// Merging  Configurations in one state at one depth become one, whose node continues as all do. Of
//          a counted call over one node the numbers of rounds that may follow are kept as ranges:
//          where a text can be cut into rounds in many ways, that is one or two.
// Cost     A step is at most kMaxConfigurations; ambiguity merges stacks instead of multiplying
//          them. Where a step would need more, or more nesting than the grammar allows, the byte is
//          refused. Sets that are kept take at most kMaxStoreBytes; then is_full() holds and every
//          new step is refused.
// Threads  One at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/id_table.h"

namespace cachalot::grammar {

using SetId = int32_t;
using NodeId = int32_t;

inline constexpr size_t kMaxConfigurations = 4096;  // of a set, and continuations made in one step
inline constexpr size_t kMaxStoreBytes = size_t{96} << 20;
// Tables of sets begin so large, so that hardly any step has to make one larger.
inline constexpr size_t kUsualSets = size_t{1} << 13;

struct Configuration {
  int32_t state = 0;
  NodeId node = 0;

  auto operator<=>(const Configuration&) const = default;
};

class Pushdown {
 public:
  static constexpr SetId kDead = 0;   // no text goes on from here
  static constexpr SetId kEnded = 1;  // after the end of the sequence

  explicit Pushdown(std::shared_ptr<const Automaton> automaton);

  SetId start() const { return start_; }
  SetId step(SetId set, uint8_t byte) {
    if (const SetId* steps = sets_[static_cast<size_t>(set)].steps) {
      const SetId next = steps[class_of_[byte]];
      if (next >= 0) return next;
    }
    return make_step(set, byte);
  }
  SetId step_control(SetId set, int32_t token);
  // The text may end here.
  bool may_end(SetId set) const { return sets_[static_cast<size_t>(set)].may_end; }
  // Control tokens that may come next, sorted.
  std::vector<int32_t> controls(SetId set);
  bool is_full() const { return bytes_ > kMaxStoreBytes; }
  size_t memory_bytes() const { return bytes_; }
  // Makes room for as many sets again, so that hardly any step has to.
  void reserve();
  // Grows with what steps cost; who takes many of them watches it.
  uint64_t work() const { return work_; }

  // For token masks: a set seen as parts that share a stack node, each cut off above what follows
  // that node. The cut set reads the same text as the part until it leaves the node (left_cut), and
  // then after(base) goes on. `horizon` is how many bytes are looked ahead: counts that cannot run
  // out within it are as one.
  struct Part {
    SetId cut = kDead;
    NodeId base = 0;
  };
  SetId within_horizon(SetId set, int32_t horizon);
  // with_rounds: a part ends after all rounds of a counted call, not after each.
  std::vector<Part> parts(SetId set, bool with_rounds);
  // Nothing but the end of the text comes after the node.
  bool is_bottom(NodeId node) const {
    const auto ways = continuations(node);
    return ways.size() == 1 && ways[0].target == kEndMark;
  }
  bool left_cut(SetId set) const { return sets_[static_cast<size_t>(set)].left_cut; }
  SetId after(NodeId base);
  int32_t depth(NodeId node) const { return nodes_[static_cast<size_t>(node)].depth; }
  // Highest nesting that a set needs to be finished, counted from its cut.
  int32_t nesting(SetId set) const { return sets_[static_cast<size_t>(set)].nesting; }
  int32_t max_nesting() const { return automaton_->max_nesting(); }
  size_t num_configurations(SetId set) const { return sets_[static_cast<size_t>(set)].size; }
  std::span<const Configuration> configurations(SetId set) const {
    const Set& s = sets_[static_cast<size_t>(set)];
    return std::span(configurations_).subspan(s.begin, s.size);
  }
  // The set of those configurations alone that are kept; whether the text may end is not kept.
  template <typename Keep>
  SetId some_of(SetId set, const Keep& keep) {
    std::vector<Configuration> kept;
    std::ranges::copy_if(configurations(set), std::back_inserter(kept), keep);
    return intern_set(kept, false, false);
  }

 private:
  // After the rule, first any number of rounds of a counted call, from the least to the most.
  struct Continuation {
    int32_t target = 0;  // a state, or one of the two marks below
    NodeId below = 0;
    RuleId rule = -1;  // of the rounds, if there are any
    int32_t least = 0, most = 0;

    auto operator<=>(const Continuation&) const = default;
  };
  static constexpr int32_t kEndMark = -1;  // below the root: the text ends
  static constexpr int32_t kCutMark = -2;  // below a part that is cut off
  struct Node {
    uint32_t begin = 0, size = 0;  // in continuations_
    int32_t depth = 0;
    SetId after = -1;
  };
  struct Set {
    uint32_t begin = 0, size = 0;  // in configurations_
    bool may_end = false, left_cut = false;
    // One configuration with one edge, as inside words: no table, but the set that it leads to.
    bool has_one_way = false;
    int32_t nesting = 0;
    SetId next = -1;
    SetId* steps = nullptr;  // by class of bytes
  };
  struct Pending {
    int32_t rank;
    RuleId rule;
    Continuation continuation;
  };
  // What one step makes, before it is a set.
  struct Step {
    std::vector<Configuration> reached;  // by reading or returning
    std::vector<Configuration> set;
    std::vector<Pending> calls;
    bool may_end = false, left_cut = false;
  };

  // A node cut off above another, down to which counted calls alone lead.
  struct Cut {
    NodeId top = 0, base = 0;
  };

  struct Seen {
    uint64_t step = 0;  // that it was seen in
    uint32_t at = 0;    // in its step_.reached
  };

  static constexpr size_t kMaxSeen = 4 * kMaxConfigurations;
  static constexpr size_t kMaxTables = size_t{1} << 15, kTablesOfSlab = 64;

  void find_byte_classes();
  SetId* steps_of(SetId set);
  SetId make_step(SetId set, uint8_t byte);
  void forget_steps();
  SetId intern_set(std::vector<Configuration>& set, bool may_end, bool left_cut);
  NodeId intern_node(std::span<const Continuation> continuations);
  NodeId node_within(NodeId node, int32_t horizon);
  Cut cut_of(NodeId node);
  static void tidy(std::vector<Continuation>& continuations);
  void unite(std::vector<Configuration>& configurations);
  static Continuation rounds(Continuation continuation, int64_t least, int64_t most);
  void return_to(const Continuation& continuation);
  void return_from(NodeId node);
  void reach(int32_t state, NodeId node);
  bool see(uint32_t i);
  void call_from(const Automaton::State& state, NodeId node);
  void push_call(RuleId rule, Continuation continuation);
  SetId close();
  std::span<const Continuation> continuations(NodeId node) const {
    const Node& n = nodes_[static_cast<size_t>(node)];
    return std::span(continuations_).subspan(n.begin, n.size);
  }

  std::shared_ptr<const Automaton> automaton_;
  std::vector<Continuation> continuations_;
  std::vector<Configuration> configurations_;
  std::vector<Node> nodes_;
  std::vector<Set> sets_;
  // Bytes that no edge tells apart, numbered from the lowest on.
  std::array<uint8_t, 256> class_of_{};
  size_t num_classes_ = 0;
  std::vector<std::unique_ptr<SetId[]>> slabs_;  // of tables of steps
  size_t num_tables_ = 0;
  IdTable node_ids_, set_ids_;
  std::unordered_map<uint64_t, NodeId> within_;  // by node and horizon
  std::unordered_map<NodeId, Cut> cuts_;
  std::unordered_map<int64_t, SetId> control_steps_;
  std::vector<Seen> seen_;  // step_.reached, where that is long, by hash
  uint64_t num_steps_ = 1;
  size_t bytes_ = 0;
  uint64_t work_ = 0;
  SetId start_ = kDead;
  NodeId cut_ = 0;
  std::vector<Configuration> ways_;  // of one step, and one that has them
  Configuration from_;
  Step step_;
  bool too_large_ = false;
};

}  // namespace cachalot::grammar
