// A grammar over a vocabulary: which tokens may come next, as rows of bits, and what each leads to.
// Exact    A bit is set exactly if the token's bytes, read one by one from the set, lead somewhere
//          (or the grammar names the control token there). End tokens are set exactly where the
//          text may end.
// Cost     A row that was made before is copied. Otherwise the parts of a set that do not depend on
//          what surrounds them are walked once for the grammar, and a row walks the tokens that
//          leave such a part. Words whose characters the grammar does not tell apart are walked as
//          one (class_trie.h); where it tells too many apart, tokens of a set's usual characters
//          are not walked (character_runs.h). kMaxRowWork bounds a row, whatever the grammar.
//          prepare() does the first of it.
// Memory   kMaxRowBytes of rows and kMaxStoreBytes of sets (pushdown.h).
// Errors   invalid_argument for a token that the grammar does not allow; resource_exhausted where a
//          bound above is reached. A row without any bit is an error, too.
// Threads  One at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "grammar/character_classes.h"
#include "grammar/character_runs.h"
#include "grammar/class_trie.h"
#include "grammar/pushdown.h"
#include "grammar/vocabulary.h"

namespace cachalot::grammar {

inline constexpr uint64_t kMaxRowWork = uint64_t{1} << 16;
inline constexpr size_t kMaxRowBytes = size_t{48} << 20;

class TokenAutomaton {
 public:
  TokenAutomaton(std::shared_ptr<const Automaton> automaton,
                 std::shared_ptr<const Vocabulary> vocabulary);
  // Compiles the source first.
  static Result<std::shared_ptr<TokenAutomaton>> create(
      const GrammarSource& source, std::shared_ptr<const Vocabulary> vocabulary);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  SetId start() const { return pushdown_.start(); }
  bool may_end(SetId set) const { return pushdown_.may_end(set); }
  // kDead where the token is not allowed.
  SetId step(SetId set, int32_t token);
  Status status() const;

  // Makes rows, and what rows are made of, for sets that are near the start, before they are asked
  // for: milliseconds that somebody should spend who is not waited for. Fails where one of them is
  // too much work.
  Status prepare();

  // `row` has vocabulary().row_words() words.
  Status fill_row(SetId set, std::span<uint32_t> row);

  // For texts, byte by byte.
  Pushdown& pushdown() { return pushdown_; }
  // Rows that were not there to copy.
  size_t num_rows_made() const { return num_rows_made_; }
  size_t memory_bytes() const {
    return pushdown_.memory_bytes() + rows_.size() * row_bytes() + part_bytes_ +
           (class_trie_ ? class_trie_->memory_bytes() : 0);
  }

 private:
  // What the tokens do in a part that is cut off: which end inside, and the trie nodes at which
  // they leave it: where the part was walked by classes, nodes of the trie over those.
  struct PartWalk {
    // A row, or, where they are few, the tokens themselves.
    std::vector<uint32_t> row;
    std::vector<int32_t> tokens;
    std::vector<uint32_t> leaves, class_leaves;
    // It is left nearly anywhere, and so no use alone; the rest of this is not filled in.
    bool is_open = false;
    int32_t nesting = 0;
    size_t num_configurations = 0;
  };
  struct Walk {
    std::span<uint32_t> row;
    std::vector<uint32_t>* leaves = nullptr;
    std::vector<uint32_t>* class_leaves = nullptr;
    bool is_open = false;
    int32_t nesting = 0;
    size_t num_configurations = 0;
    SetId noted = Pushdown::kDead;
  };

  // The configurations of a set in states that the classes tell, and the others.
  struct Halves {
    SetId told = -1, others = -1;  // -1: not known yet
  };
  // Below a node of the trie over classes a set goes on that the classes tell.
  struct Entry {
    uint32_t node = 0;
    SetId set = Pushdown::kDead;

    auto operator<=>(const Entry&) const = default;
  };
  // Sets that go on beside each other at one depth, in class_sets_.
  struct ClassPlace {
    size_t begin = 0, end = 0;
    size_t num_others = 0;
    uint32_t until = 0;  // where there are none: entries alone before this node
  };

  // Grows with what walks cost, in nanoseconds or so.
  uint64_t work() const { return 8 * num_walked_ + 256 * pushdown_.work(); }
  size_t row_bytes() const { return vocabulary_->row_words() * sizeof(uint32_t); }
  uint32_t num_nodes() const { return static_cast<uint32_t>(vocabulary_->trie().size() - 1); }
  Status prepare_rows();
  void note(SetId set, Walk& walk) const;
  Status too_much_work() const;
  // Trie nodes from begin to end, the children of one place and what is below them. `set` is the
  // set there.
  Status walk(uint32_t begin, uint32_t end, SetId set, Walk& walk);
  // The whole trie, by classes of characters as far as they are told.
  Status walk_all(SetId set, Walk& walk);
  // From the root, where a set is given, and from the entries, which are sorted. `most` nodes are
  // walked; then the walk is open.
  Status walk_classes(SetId set, std::span<const Entry> entries, uint64_t most, Walk& walk);
  void add_to(ClassPlace& place, SetId set);
  // At the sets with which a node is reached, of which those that are told stay.
  Status look_at(uint32_t node, ClassPlace& here, Walk& walk);
  // As walk_all, once for each set.
  Status add_walk(SetId set, Walk& walk);
  static void add_row(const PartWalk& part, std::span<uint32_t> row);
  Halves halves_of(SetId set);
  SetId step_all(SetId set, std::string_view bytes) {
    for (const char byte : bytes) set = pushdown_.step(set, static_cast<uint8_t>(byte));
    return set;
  }
  static void add_leave(uint32_t node, std::vector<uint32_t>& leaves, Walk& walk);
  Status walk_nodes(uint32_t begin, uint32_t end, SetId set, Walk& walk);
  Status walk_run(uint32_t begin, uint32_t end, SetId set, const CharacterRun& run, Walk& walk);
  // The nodes of the list that are in range and come after characters of the run alone; goes_on:
  // and what lies below them.
  Status walk_after_run(std::span<const uint32_t> nodes, bool goes_on, uint32_t begin, uint32_t end,
                        SetId set, const CharacterRun& run, Walk& walk);
  Result<const PartWalk*> part_walk(SetId cut);
  Status make_row(SetId set, std::span<uint32_t> row);
  // Of the trie, below the places at which the parts are left.
  Result<size_t> num_nodes_below(std::span<const Pushdown::Part> parts);
  // False where the limits on nesting and size may tell the parts from the whole, or it costs more.
  Result<bool> make_row_of_parts(std::span<const Pushdown::Part> parts, std::span<uint32_t> row);

  std::shared_ptr<const Vocabulary> vocabulary_;
  Pushdown pushdown_;
  CharacterClasses classes_;
  std::optional<ClassTrie> class_trie_;
  CharacterRuns runs_;
  std::vector<SetId> path_;
  std::vector<ClassPlace> class_path_;
  std::vector<SetId> class_sets_;
  std::vector<Entry> entries_;
  std::vector<std::pair<uint32_t, uint32_t>> class_tokens_;
  std::vector<uint64_t> seen_in_;  // by set: the last walk by classes that saw it
  uint64_t num_class_walks_ = 0;
  std::vector<Halves> halves_;  // by set
  std::unordered_map<SetId, size_t> row_of_;
  std::vector<std::vector<uint32_t>> rows_;
  std::unordered_map<SetId, PartWalk> part_walks_;
  size_t part_bytes_ = 0;
  std::vector<uint32_t> run_row_;
  uint64_t work_limit_ = 0;
  size_t num_rows_made_ = 0;
  uint64_t num_walked_ = 0;  // nodes of tries
};

}  // namespace cachalot::grammar
