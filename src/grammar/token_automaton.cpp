#include "grammar/token_automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <unordered_set>
#include <utility>

#include "base/check.h"

namespace cachalot::grammar {
namespace {

// Fewer nodes of the trie than this are walked rather than looked at as a run of characters.
constexpr uint32_t kManyNodes = 2048;
// More nodes of the trie than this below the places at which a round is left: it is no part. Where
// putting parts together has walked so many, the whole is walked instead, by classes for less.
constexpr size_t kManyBelow = 4096;
// Parts with so many tokens, which most are, do without a row.
constexpr size_t kFewTokens = 512;
// So many configurations that the classes do not tell are walked one by one.
constexpr size_t kMaxAlone = 8;
// Of preparing, as work() counts. A row, a part or a run costs so many nodes besides.
constexpr uint64_t kMaxPreparedWork = 60'000'000, kNodesOfRow = 2048, kNodesOfRun = 16384;

void set_bit(std::span<uint32_t> row, int32_t token) {
  row[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}
size_t num_bits(std::span<const uint32_t> row) {
  size_t count = 0;
  for (const uint32_t word : row) {
    if (word != 0) count += static_cast<size_t>(std::popcount(word));
  }
  return count;
}

}  // namespace

TokenAutomaton::TokenAutomaton(std::shared_ptr<const Automaton> automaton,
                               std::shared_ptr<const Vocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)),
      pushdown_(automaton),
      classes_(*automaton),
      runs_(pushdown_, vocabulary_->contents()),
      path_(static_cast<size_t>(vocabulary_->longest_token()) + 1) {
  if (classes_.is_useful()) {
    class_trie_.emplace(*vocabulary_, classes_);
    class_path_.resize(class_trie_->longest() + 1);
  }
  row_of_.reserve(kUsualSets);
  part_walks_.reserve(kUsualSets);
}

Result<std::shared_ptr<TokenAutomaton>> TokenAutomaton::create(
    const GrammarSource& source, std::shared_ptr<const Vocabulary> vocabulary) {
  CACHALOT_ASSIGN_OR_RETURN(Automaton automaton, Automaton::compile(source));
  return std::make_shared<TokenAutomaton>(std::make_shared<const Automaton>(std::move(automaton)),
                                          std::move(vocabulary));
}

Status TokenAutomaton::status() const {
  if (!pushdown_.is_full()) return {};
  return resource_exhausted(
      fmt::format("grammar: expected its states to fit {} MiB, found more", kMaxStoreBytes >> 20));
}

SetId TokenAutomaton::step(SetId set, int32_t token) {
  if (vocabulary_->is_end(token))
    return pushdown_.may_end(set) ? Pushdown::kEnded : Pushdown::kDead;
  if (vocabulary_->is_control(token)) return pushdown_.step_control(set, token);
  const std::string_view bytes = vocabulary_->text_bytes(token);
  if (bytes.empty()) return Pushdown::kDead;
  return step_all(set, bytes);
}

Status TokenAutomaton::fill_row(SetId set, std::span<uint32_t> row) {
  CACHALOT_CHECK(row.size() == vocabulary_->row_words());
  auto known = row_of_.find(set);
  if (known == row_of_.end()) {
    const SetId seen = pushdown_.within_horizon(set, vocabulary_->longest_token());
    if (rows_.size() * row_bytes() > kMaxRowBytes || row_of_.size() > kMaxRowBytes / 64) {
      rows_.clear();
      row_of_.clear();
    }
    const auto same = row_of_.find(seen);
    if (same == row_of_.end()) {
      std::vector<uint32_t> made(row.size());
      CACHALOT_RETURN_IF_ERROR(make_row(seen, made));
      row_of_[seen] = rows_.size();
      known = row_of_.emplace(set, rows_.size()).first;
      rows_.push_back(std::move(made));
    } else {
      known = row_of_.emplace(set, same->second).first;
    }
  }
  std::ranges::copy(rows_[known->second], row.begin());
  return {};
}

Status TokenAutomaton::prepare() {
  CACHALOT_RETURN_IF_ERROR(prepare_rows());
  pushdown_.reserve();
  return {};
}

Status TokenAutomaton::prepare_rows() {
  std::vector<SetId> sets;
  std::unordered_set<SetId> known;
  const auto add = [&](SetId set) {
    if (set == Pushdown::kDead || set == Pushdown::kEnded) return;
    set = pushdown_.within_horizon(set, vocabulary_->longest_token());
    if (known.insert(set).second) sets.push_back(set);
  };
  std::vector<uint32_t> row(vocabulary_->row_words());
  add(start());
  const uint64_t begin = work();
  for (size_t i = 0; i < sets.size() && work() - begin < kMaxPreparedWork; ++i) {
    const SetId set = sets[i];
    work_limit_ = pushdown_.work() + kMaxRowWork;
    // What lies within parts that were walked before was seen there; no part that is open is.
    bool has_new = false, has_open = false;
    for (const Pushdown::Part& part : pushdown_.parts(set, true)) {
      const size_t num_before = part_walks_.size();
      CACHALOT_ASSIGN_OR_RETURN(const PartWalk* walked, part_walk(part.cut));
      has_new |= part_walks_.size() != num_before;
      has_open |= walked->is_open;
      add(pushdown_.after(part.base));
    }
    if (has_open) CACHALOT_RETURN_IF_ERROR(fill_row(set, row));
    if (!has_new && !has_open) continue;
    for (const Pushdown::Part& part : pushdown_.parts(set, false))
      CACHALOT_RETURN_IF_ERROR(part_walk(part.cut).error());
    for (uint8_t byte = 0; byte < 0x80; ++byte) add(pushdown_.step(set, byte));
    for (uint32_t cls = 0; cls < classes_.num_classes(); ++cls)
      add(step_all(set, classes_.example(cls)));
    for (const int32_t token : pushdown_.controls(set)) add(pushdown_.step_control(set, token));
  }
  return {};
}

Status TokenAutomaton::make_row(SetId set, std::span<uint32_t> row) {
  ++num_rows_made_;
  num_walked_ += kNodesOfRow;
  work_limit_ = pushdown_.work() + kMaxRowWork;
  // A round of a counted call is the same part whatever the count: where the parts with all rounds
  // are not there yet, those without them are tried first.
  const std::vector<Pushdown::Part> parts = pushdown_.parts(set, true);
  const bool is_known = std::ranges::all_of(
      parts, [this](const Pushdown::Part& part) { return part_walks_.contains(part.cut); });
  bool is_whole = false;
  if (!is_known) {
    const std::vector<Pushdown::Part> rounds = pushdown_.parts(set, false);
    CACHALOT_ASSIGN_OR_RETURN(const size_t num_below, num_nodes_below(rounds));
    if (num_below <= kManyBelow) {
      CACHALOT_ASSIGN_OR_RETURN(is_whole, make_row_of_parts(rounds, row));
    }
  }
  if (!is_whole) {
    std::fill(row.begin(), row.end(), 0);
    CACHALOT_ASSIGN_OR_RETURN(is_whole, make_row_of_parts(parts, row));
  }
  if (!is_whole) {
    std::fill(row.begin(), row.end(), 0);
    Walk whole = {.row = row};
    CACHALOT_RETURN_IF_ERROR(walk_all(set, whole));
  }
  for (const int32_t token : pushdown_.controls(set)) set_bit(row, token);
  if (pushdown_.may_end(set)) {
    for (const int32_t token : vocabulary_->end_tokens()) set_bit(row, token);
  }
  CACHALOT_RETURN_IF_ERROR(status());
  if (std::all_of(row.begin(), row.end(), [](uint32_t word) { return word == 0; })) {
    return resource_exhausted(fmt::format(
        "grammar: expected a step of at most {} configurations here, found every token to need "
        "more",
        kMaxConfigurations));
  }
  return {};
}

void TokenAutomaton::note(SetId set, Walk& walk) const {
  walk.noted = set;
  walk.nesting = std::max(walk.nesting, pushdown_.nesting(set));
  walk.num_configurations = std::max(walk.num_configurations, pushdown_.num_configurations(set));
}

Status TokenAutomaton::too_much_work() const {
  return resource_exhausted(fmt::format(
      "grammar: expected a mask to cost at most {} configurations, found more", kMaxRowWork));
}

Status TokenAutomaton::walk(uint32_t begin, uint32_t end, SetId set, Walk& walk) {
  if (end - begin >= kManyNodes) {
    const TokenContents::Before& before = vocabulary_->contents(begin, end).before(begin);
    const CharacterRun run = runs_.find(set, work_limit_);
    if (run.count > 0 && !before.is_odd && !before.is_cut &&
        before.characters.is_within(run.inside))
      return walk_run(begin, end, set, run, walk);
  }
  return walk_nodes(begin, end, set, walk);
}

Status TokenAutomaton::walk_all(SetId set, Walk& walk) {
  const Halves halves = class_trie_ ? halves_of(set) : Halves{Pushdown::kDead, set};
  const size_t num_others = pushdown_.num_configurations(halves.others);
  if (halves.told != Pushdown::kDead && num_others == 0)
    return walk_classes(set, {}, UINT32_MAX, walk);
  if (num_others > kMaxAlone || pushdown_.num_configurations(set) == 1)
    return this->walk(0, num_nodes(), set, walk);
  // What sets allow one by one is what they do together, but for the limit on what is in a set; and
  // the same ones come up beside others.
  if (halves.told != Pushdown::kDead) CACHALOT_RETURN_IF_ERROR(add_walk(halves.told, walk));
  for (size_t i = 0; i < num_others; ++i) {
    const Configuration one = pushdown_.configurations(halves.others)[i];
    const SetId alone =
        pushdown_.some_of(halves.others, [&](const Configuration& c) { return c == one; });
    CACHALOT_RETURN_IF_ERROR(add_walk(alone, walk));
  }
  if (walk.num_configurations < kMaxConfigurations) return {};
  walk.is_open = false;
  std::ranges::fill(walk.row, 0);
  if (walk.leaves) {
    walk.leaves->clear();
    walk.class_leaves->clear();
  }
  return this->walk(0, num_nodes(), set, walk);
}

Status TokenAutomaton::add_walk(SetId set, Walk& walk) {
  CACHALOT_ASSIGN_OR_RETURN(const PartWalk* part, part_walk(set));
  walk.is_open |= part->is_open;
  walk.nesting = std::max(walk.nesting, part->nesting);
  walk.num_configurations += part->num_configurations;
  add_row(*part, walk.row);
  for (const uint32_t leave : part->leaves) add_leave(leave, *walk.leaves, walk);
  for (const uint32_t leave : part->class_leaves) add_leave(leave, *walk.class_leaves, walk);
  return {};
}

void TokenAutomaton::add_row(const PartWalk& part, std::span<uint32_t> row) {
  for (size_t word = 0; word < part.row.size(); ++word) row[word] |= part.row[word];
  for (const int32_t token : part.tokens) set_bit(row, token);
}

Status TokenAutomaton::walk_classes(SetId set, std::span<const Entry> entries, uint64_t most,
                                    Walk& walk) {
  const auto nodes = class_trie_->nodes();
  const auto num_nodes = static_cast<uint32_t>(nodes.size() - 1);
  const uint64_t last_walked = num_walked_ + most;
  class_sets_.resize(std::max<size_t>(class_sets_.size(), 1));
  class_sets_[0] = set;
  class_path_[0] = {0, set == Pushdown::kDead ? 0u : 1u, 0, num_nodes};
  class_tokens_.clear();
  ++num_class_walks_;
  size_t entry = 0;
  for (uint32_t i = 0; i < num_nodes && !walk.is_open;) {
    const ClassNode& node = nodes[i];
    const ClassPlace& from = class_path_[node.depth];
    ClassPlace& here = class_path_[node.depth + 1u];
    here = {from.end, from.end, from.num_others, 0};
    const std::string_view bytes = class_trie_->bytes(node.symbol);
    for (size_t at = from.begin; at < from.end; ++at)
      add_to(here, step_all(class_sets_[at], bytes));
    num_walked_ += std::max<size_t>(from.end - from.begin, 1);
    if (here.begin < here.end) {
      if (class_tokens_.empty() || class_tokens_.back().second != node.tokens) {
        class_tokens_.emplace_back(node.tokens, nodes[i + 1].tokens);
      } else {
        class_tokens_.back().second = nodes[i + 1].tokens;
      }
      const auto only = static_cast<size_t>(class_sets_[here.begin]);
      const bool is_seen = here.end == here.begin + 1 && here.num_others == 0 &&
                           only < seen_in_.size() && seen_in_[only] == num_class_walks_;
      if (!is_seen) {
        if (num_walked_ > last_walked) walk.is_open = true;
        CACHALOT_RETURN_IF_ERROR(look_at(i, here, walk));
      }
    }
    for (; entry < entries.size() && entries[entry].node == i; ++entry)
      add_to(here, entries[entry].set);
    if (here.begin < here.end) {
      ++i;
      continue;
    }
    const uint32_t until = from.begin < from.end ? node.skip : from.until;
    const uint32_t next = entry < entries.size() ? std::min(entries[entry].node, until) : until;
    for (uint32_t depth = node.depth + 1u; next < until && depth <= nodes[next].depth; ++depth)
      class_path_[depth] = {from.end, from.end, 0, until};
    i = next;
  }
  class_trie_->add_tokens(class_tokens_, walk.row);
  return {};
}

void TokenAutomaton::add_to(ClassPlace& place, SetId set) {
  if (set == Pushdown::kDead) return;
  for (size_t i = place.begin; i < place.end; ++i) {
    if (class_sets_[i] == set) return;
  }
  if (place.end == class_sets_.size()) class_sets_.resize(2 * place.end);
  class_sets_[place.end++] = set;
}

// Few sets come up again and again, and most of them need to be looked at once.
Status TokenAutomaton::look_at(uint32_t node, ClassPlace& here, Walk& walk) {
  size_t num_configurations = 0, kept = here.begin;
  for (size_t i = here.begin; i < here.end; ++i) {
    const SetId set = class_sets_[i];
    const auto at = static_cast<size_t>(set);
    if (seen_in_.size() <= at) seen_in_.resize(2 * at + 2);
    num_configurations += pushdown_.num_configurations(set);
    if (seen_in_[at] == num_class_walks_ && here.num_others == 0) {
      class_sets_[kept++] = set;
      continue;
    }
    if (pushdown_.work() > work_limit_) return too_much_work();
    note(set, walk);
    const bool is_left = walk.leaves && pushdown_.left_cut(set);
    if (is_left) add_leave(node, *walk.class_leaves, walk);
    const auto [told, others] = halves_of(set);
    if (others != Pushdown::kDead) {
      const auto places = vocabulary_->trie();
      const size_t num_before = std::exchange(walk.num_configurations, 0);
      for (const uint32_t place : class_trie_->places(node))
        CACHALOT_RETURN_IF_ERROR(walk_nodes(place + 1, places[place].skip, others, walk));
      here.num_others += walk.num_configurations;
      walk.num_configurations = std::max(num_before, walk.num_configurations);
    } else if (!is_left && here.num_others == 0) {
      seen_in_[at] = num_class_walks_;
    }
    if (told != Pushdown::kDead) class_sets_[kept++] = told;
  }
  here.end = kept;
  walk.num_configurations = std::max(walk.num_configurations, num_configurations + here.num_others);
  return {};
}

TokenAutomaton::Halves TokenAutomaton::halves_of(SetId set) {
  const auto at = static_cast<size_t>(set);
  if (halves_.size() <= at) halves_.resize(2 * at + 2);
  if (halves_[at].told < 0) {
    const auto is_told = [this](const Configuration& c) { return classes_.is_told(c.state); };
    const auto all = pushdown_.configurations(set);
    const auto num_told = static_cast<size_t>(std::ranges::count_if(all, is_told));
    if (num_told == all.size()) {
      halves_[at] = {set, Pushdown::kDead};
    } else if (num_told == 0) {
      halves_[at] = {Pushdown::kDead, set};
    } else {
      const SetId told = pushdown_.some_of(set, is_told);
      const SetId others = pushdown_.some_of(set, std::not_fn(is_told));
      halves_[at] = {told, others};
    }
  }
  return halves_[at];
}

void TokenAutomaton::add_leave(uint32_t node, std::vector<uint32_t>& leaves, Walk& walk) {
  walk.is_open |= leaves.size() == kManyNodes;
  if (!walk.is_open) leaves.push_back(node);
}

Status TokenAutomaton::walk_nodes(uint32_t begin, uint32_t end, SetId set, Walk& walk) {
  const auto nodes = vocabulary_->trie();
  const auto tokens = vocabulary_->trie_tokens();
  if (begin == end) return {};
  path_[nodes[begin].depth] = set;
  for (uint32_t i = begin; i < end && !walk.is_open;) {
    const TrieNode& node = nodes[i];
    ++num_walked_;
    const SetId next = pushdown_.step(path_[node.depth], node.byte);
    if (pushdown_.work() > work_limit_) return too_much_work();
    if (next == Pushdown::kDead) {
      i = node.skip;
      continue;
    }
    path_[node.depth + 1] = next;
    if (next != walk.noted) note(next, walk);
    for (uint32_t t = node.tokens; t < nodes[i + 1].tokens; ++t) set_bit(walk.row, tokens[t]);
    ++i;
    if (walk.leaves && i < node.skip && pushdown_.left_cut(next))
      add_leave(i - 1, *walk.leaves, walk);
    if (i < end && node.skip - i >= kManyNodes) {
      CACHALOT_RETURN_IF_ERROR(this->walk(i, node.skip, next, walk));
      i = node.skip;
    }
  }
  return {};
}

Status TokenAutomaton::walk_run(uint32_t begin, uint32_t end, SetId set, const CharacterRun& run,
                                Walk& walk) {
  const auto nodes = vocabulary_->trie();
  const TokenContents& contents = vocabulary_->contents(begin, end);
  const int count = std::min(run.count + contents.before(begin).count, kMaxShortBytes);
  num_walked_ += kNodesOfRun;
  run_row_.assign(walk.row.size(), 0);
  contents.add_tokens_of(run.inside, count, run_row_);

  std::vector<std::span<const uint32_t>> ends;  // nodes at which a token may leave the run
  for (uint8_t c = 0; c < 0x80; ++c) {
    if (run.taken[c] && !run.inside.has(c)) ends.push_back(contents.first_with(c));
  }
  for (uint64_t left = run.groups & ~run.inside.groups; left != 0; left &= left - 1)
    ends.push_back(contents.first_with_group(static_cast<size_t>(std::countr_zero(left))));
  ends.insert(ends.end(), {contents.first_odd(), contents.first_long()});

  if (begin == contents.begin() && end == contents.end()) {
    size_t num_ends = 0;
    for (const auto& list : ends) num_ends += list.size();
    // Where most tokens die early, walking all of them is less.
    if (num_ends > kManyNodes && num_ends > num_bits(run_row_))
      return walk_nodes(begin, end, set, walk);
    for (size_t word = 0; word < run_row_.size(); ++word) walk.row[word] |= run_row_[word];
  } else {
    const auto tokens = vocabulary_->trie_tokens();
    for (uint32_t t = nodes[begin].tokens; t < nodes[end].tokens; ++t) {
      const auto token = static_cast<size_t>(tokens[t]);
      walk.row[token / 32] |= run_row_[token / 32] & (1u << (token % 32));
    }
  }
  walk.is_open |= walk.leaves && run.leaves_cut;
  walk.nesting = std::max(walk.nesting, run.nesting);
  walk.num_configurations = std::max(walk.num_configurations, run.num_configurations);
  for (const auto& list : ends)
    CACHALOT_RETURN_IF_ERROR(walk_after_run(list, true, begin, end, set, run, walk));
  if (!(run.taken >> 0x80).any()) return {};
  return walk_after_run(contents.open(), false, begin, end, set, run, walk);
}

Status TokenAutomaton::walk_after_run(std::span<const uint32_t> list, bool goes_on, uint32_t begin,
                                      uint32_t end, SetId set, const CharacterRun& run,
                                      Walk& walk) {
  const auto nodes = vocabulary_->trie();
  const TokenContents& contents = vocabulary_->contents(begin, end);
  const size_t depth = nodes[begin].depth;
  path_[depth] = set;
  std::string_view way;  // to the last node, from the trie's root
  size_t known = depth;  // so many of its bytes lead to path_[known]
  for (auto it = std::ranges::lower_bound(list, begin); it != list.end() && *it < end; ++it) {
    const TrieNode& node = nodes[*it];
    const TokenContents::Before& before = contents.before(*it);
    if (before.is_odd || !before.characters.is_within(run.inside)) continue;
    // The first of the tokens at or below the node spells the way to it.
    const int32_t token = vocabulary_->trie_tokens()[node.tokens];
    const std::string_view here = vocabulary_->text_bytes(token).substr(0, node.depth);
    size_t at = std::min(depth, here.size());
    while (at < std::min(way.size(), here.size()) && way[at] == here[at]) ++at;
    if (known < way.size() && at > known) continue;  // it died there
    known = std::min(known, at);
    way = here;
    while (known < here.size()) {
      const SetId next = pushdown_.step(path_[known], static_cast<uint8_t>(here[known]));
      if (next == Pushdown::kDead) break;
      if (next != walk.noted) note(next, walk);
      walk.is_open |= walk.leaves && pushdown_.left_cut(next);
      path_[++known] = next;
    }
    if (known < here.size()) continue;
    CACHALOT_RETURN_IF_ERROR(walk_nodes(*it, goes_on ? node.skip : *it + 1, path_[known], walk));
  }
  return {};
}

Result<const TokenAutomaton::PartWalk*> TokenAutomaton::part_walk(SetId cut) {
  if (const auto it = part_walks_.find(cut); it != part_walks_.end()) return &it->second;
  if (part_bytes_ > kMaxRowBytes) {
    part_walks_.clear();
    part_bytes_ = 0;
  }
  num_walked_ += kNodesOfRow;
  PartWalk made;
  made.row.resize(vocabulary_->row_words());
  Walk inside = {.row = made.row, .leaves = &made.leaves, .class_leaves = &made.class_leaves};
  CACHALOT_RETURN_IF_ERROR(walk_all(cut, inside));
  made.is_open = inside.is_open;
  made.nesting = inside.nesting;
  made.num_configurations = inside.num_configurations;
  if (num_bits(made.row) <= kFewTokens) {
    for (size_t i = 0; i < made.row.size(); ++i) {
      for (uint32_t left = made.row[i]; left != 0; left &= left - 1)
        made.tokens.push_back(static_cast<int32_t>(i) * 32 + std::countr_zero(left));
    }
    made.row = {};
  }
  part_bytes_ += sizeof made + 4 * (made.row.size() + made.tokens.size() + made.leaves.size() +
                                    made.class_leaves.size());
  return &(part_walks_[cut] = std::move(made));
}

Result<size_t> TokenAutomaton::num_nodes_below(std::span<const Pushdown::Part> parts) {
  const auto nodes = vocabulary_->trie();
  size_t count = 0;
  for (const Pushdown::Part& part : parts) {
    CACHALOT_ASSIGN_OR_RETURN(const PartWalk* inside, part_walk(part.cut));
    if (inside->is_open) return SIZE_MAX;
    for (const uint32_t leave : inside->leaves) count += nodes[leave].skip - leave - 1;
    for (const uint32_t leave : inside->class_leaves)
      count += class_trie_->nodes()[leave].skip - leave - 1;
  }
  return count;
}

Result<bool> TokenAutomaton::make_row_of_parts(std::span<const Pushdown::Part> parts,
                                               std::span<uint32_t> row) {
  const auto nodes = vocabulary_->trie();
  for (const Pushdown::Part& part : parts) {
    // No other set has such a part: it would be walked for this row alone.
    if (pushdown_.is_bottom(part.base) && !part_walks_.contains(part.cut)) return false;
    CACHALOT_ASSIGN_OR_RETURN(const PartWalk* inside, part_walk(part.cut));
    if (inside->is_open || pushdown_.depth(part.base) + inside->nesting >= pushdown_.max_nesting())
      return false;
  }
  Walk outside = {.row = row};
  const uint64_t num_before = num_walked_;
  size_t num_configurations = 0;
  entries_.clear();
  for (const Pushdown::Part& part : parts) {
    CACHALOT_ASSIGN_OR_RETURN(const PartWalk* inside, part_walk(part.cut));
    num_configurations += inside->num_configurations;
    add_row(*inside, row);
    if (inside->leaves.empty() && inside->class_leaves.empty()) continue;
    const SetId after = pushdown_.after(part.base);
    if (after == Pushdown::kDead) return false;
    const auto walk_below = [&](SetId set, std::span<const uint32_t> leaves) -> Result<bool> {
      for (const uint32_t leave : leaves) {
        CACHALOT_RETURN_IF_ERROR(walk(leave + 1, nodes[leave].skip, set, outside));
        if (num_walked_ - num_before > kManyBelow) return false;
      }
      return true;
    };
    CACHALOT_ASSIGN_OR_RETURN(bool is_done, walk_below(after, inside->leaves));
    const Halves halves =
        inside->class_leaves.empty() ? Halves{Pushdown::kDead, Pushdown::kDead} : halves_of(after);
    for (const uint32_t leave : inside->class_leaves) {
      if (halves.told != Pushdown::kDead) entries_.push_back({leave, halves.told});
      if (halves.others == Pushdown::kDead || !is_done) continue;
      CACHALOT_ASSIGN_OR_RETURN(is_done, walk_below(halves.others, class_trie_->places(leave)));
    }
    if (!is_done) return false;
    num_configurations += outside.num_configurations;
  }
  if (!entries_.empty()) {
    std::ranges::sort(entries_);
    Walk below = {.row = row};
    CACHALOT_RETURN_IF_ERROR(walk_classes(Pushdown::kDead, entries_, kManyBelow, below));
    if (below.is_open) return false;
    num_configurations += below.num_configurations;
  }
  return num_configurations < kMaxConfigurations;
}

}  // namespace cachalot::grammar
