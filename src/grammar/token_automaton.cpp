#include "grammar/token_automaton.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "grammar/character_steps.h"

namespace cachalot::grammar {
namespace {

void set_bit(std::span<uint32_t> row, int32_t token) {
  row[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}

}  // namespace

TokenAutomaton::TokenAutomaton(std::shared_ptr<const Automaton> automaton,
                               std::shared_ptr<const Vocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)),
      pushdown_(std::move(automaton)),
      path_(static_cast<size_t>(vocabulary_->longest_token()) + 1) {}

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
  for (const char byte : bytes) {
    set = pushdown_.step(set, static_cast<uint8_t>(byte));
    if (set == Pushdown::kDead) break;
  }
  return set;
}

Status TokenAutomaton::fill_row(SetId set, std::span<uint32_t> row) {
  CACHALOT_CHECK(row.size() == vocabulary_->row_words());
  auto known = row_of_.find(set);
  if (known == row_of_.end()) {
    const SetId seen = pushdown_.within_horizon(set, vocabulary_->longest_token());
    if (rows_.size() * sizeof(uint32_t) > kMaxRowBytes || row_of_.size() > kMaxRowBytes / 64) {
      rows_.clear();
      row_of_.clear();
    }
    const auto same = row_of_.find(seen);
    if (same == row_of_.end()) {
      const size_t at = rows_.size();
      rows_.resize(at + row.size());
      if (const Status made = make_row(seen, std::span(rows_).subspan(at)); !made.ok()) {
        rows_.resize(at);
        return made;
      }
      row_of_[seen] = at;
      known = row_of_.emplace(set, at).first;
    } else {
      known = row_of_.emplace(set, same->second).first;
    }
  }
  std::copy_n(rows_.begin() + static_cast<int64_t>(known->second), row.size(), row.begin());
  return {};
}

Status TokenAutomaton::make_row(SetId set, std::span<uint32_t> row) {
  ++num_rows_made_;
  work_limit_ = pushdown_.work() + kMaxRowWork;
  CACHALOT_ASSIGN_OR_RETURN(const bool is_whole, make_row_of_parts(set, row));
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

Status TokenAutomaton::walk(uint32_t begin, uint32_t end, SetId set, Walk& walk) {
  const auto nodes = vocabulary_->trie();
  const auto tokens = vocabulary_->trie_tokens();
  if (begin == end) return {};
  path_[nodes[begin].depth] = set;
  for (uint32_t i = begin; i < end;) {
    const Vocabulary::Node& node = nodes[i];
    if (walk.done_characters >= 0 && walk.class_characters[i] <= walk.done_characters) {
      i = node.skip;
      continue;
    }
    const SetId next = pushdown_.step(path_[node.depth], node.byte);
    if (pushdown_.work() > work_limit_) {
      return resource_exhausted(fmt::format(
          "grammar: expected a mask to cost at most {} configurations, found more", kMaxRowWork));
    }
    if (next == Pushdown::kDead) {
      i = node.skip;
      continue;
    }
    path_[node.depth + 1] = next;
    if (next != walk.noted) note(next, walk);
    for (uint32_t t = node.tokens; t < nodes[i + 1].tokens; ++t) set_bit(walk.row, tokens[t]);
    if (walk.leaves && pushdown_.left_cut(next)) walk.leaves->push_back(i);
    ++i;
  }
  return {};
}

Status TokenAutomaton::walk_all(SetId set, Walk& walk) {
  for (const CharacterClass c : kCharacterClasses) {
    const int count = count_taken(set, c, walk);
    if (count <= walk.done_characters || count == 0) continue;
    walk.done_characters = count;
    walk.class_characters = vocabulary_->class_characters(c);
    const auto known = vocabulary_->class_row(c, count);
    for (size_t word = 0; word < known.size(); ++word) walk.row[word] |= known[word];
    if (count == kMaxClassCharacters) break;
  }
  return this->walk(0, static_cast<uint32_t>(vocabulary_->trie().size() - 1), set, walk);
}

const std::vector<SetId>& TokenAutomaton::after_any(SetId set, CharacterClass c) {
  constexpr size_t kMaxKnown = size_t{1} << 16;
  if (after_any_.size() > kMaxKnown) after_any_.clear();
  const auto [it, is_new] =
      after_any_.try_emplace(static_cast<uint64_t>(set) << 2 | static_cast<uint64_t>(c));
  if (is_new && !CharacterSteps(pushdown_, c).take_any(set, it->second)) it->second.clear();
  return it->second;
}

int TokenAutomaton::count_taken(SetId set, CharacterClass c, Walk& walk) {
  constexpr size_t kMaxSets = 12;  // after one count of characters
  std::vector<SetId> layer = {set}, next;
  for (int count = 0; count < kMaxClassCharacters; ++count) {
    next.clear();
    for (const SetId from : layer) {
      const std::vector<SetId>& after = after_any(from, c);
      next.insert(next.end(), after.begin(), after.end());
      if (after.empty() || pushdown_.work() > work_limit_) return count;
    }
    std::sort(next.begin(), next.end());
    next.erase(std::unique(next.begin(), next.end()), next.end());
    if (next.size() > kMaxSets) return count;
    for (const SetId reached : next) note(reached, walk);
    if (next == layer) return kMaxClassCharacters;
    std::swap(layer, next);
  }
  return kMaxClassCharacters;
}

Result<const TokenAutomaton::PartWalk*> TokenAutomaton::part_walk(SetId cut) {
  if (const auto it = part_walks_.find(cut); it != part_walks_.end()) return &it->second;
  const size_t words = vocabulary_->row_words();
  if (part_rows_.size() * sizeof(uint32_t) > kMaxRowBytes) {
    part_rows_.clear();
    part_walks_.clear();
  }
  PartWalk made;
  made.row = part_rows_.size();
  part_rows_.resize(made.row + words);
  Walk inside = {.row = std::span(part_rows_).subspan(made.row), .leaves = &made.leaves};
  const Status walked = walk_all(cut, inside);
  if (!walked.ok()) {
    part_rows_.resize(made.row);
    return walked;
  }
  made.nesting = inside.nesting;
  made.num_configurations = inside.num_configurations;
  return &(part_walks_[cut] = std::move(made));
}

Result<bool> TokenAutomaton::make_row_of_parts(SetId set, std::span<uint32_t> row) {
  const auto nodes = vocabulary_->trie();
  Walk outside = {.row = row};
  size_t num_configurations = 0;
  for (const Pushdown::Part& part : pushdown_.parts(set)) {
    CACHALOT_ASSIGN_OR_RETURN(const PartWalk* inside, part_walk(part.cut));
    if (pushdown_.depth(part.base) + inside->nesting >= pushdown_.max_nesting()) return false;
    num_configurations += inside->num_configurations;
    const uint32_t* bits = part_rows_.data() + inside->row;
    for (size_t word = 0; word < row.size(); ++word) row[word] |= bits[word];
    if (inside->leaves.empty()) continue;
    const SetId after = pushdown_.after(part.base);
    if (after == Pushdown::kDead) return false;
    for (const uint32_t leave : inside->leaves)
      CACHALOT_RETURN_IF_ERROR(walk(leave + 1, nodes[leave].skip, after, outside));
    num_configurations += outside.num_configurations;
  }
  return num_configurations < kMaxConfigurations;
}

}  // namespace cachalot::grammar
