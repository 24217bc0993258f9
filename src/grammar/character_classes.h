// The characters of a grammar in classes: those that its large classes of characters do not tell
// apart. What one of a class does, each of it does; so a walk over a vocabulary need not tell
// apart words whose characters are of the same classes (class_trie.h).
// Told     A state whose edges the classes follow. From a set of such states each character of a
//          class leads to the same set. Not told are states that single out more characters than
//          are worth it, as the names of a schema do, and those that may leave their rule, or call
//          another, in the middle of a character.
// Threads  Immutable; concurrent calls are safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/automaton.h"

namespace cachalot::grammar {

class CharacterClasses {
 public:
  static constexpr uint32_t kMaxClasses = 64;

  explicit CharacterClasses(const Automaton& automaton);

  uint32_t num_classes() const { return static_cast<uint32_t>(examples_.size()); }
  // Not of surrogates.
  uint32_t of(uint32_t code_point) const {
    return code_point < basic_.size() ? basic_[code_point] : of_interval(code_point);
  }
  // One of the class, in UTF-8.
  const std::string& example(uint32_t cls) const { return examples_[cls]; }
  bool is_told(int32_t state) const { return is_told_[static_cast<size_t>(state)] != 0; }
  // Some state that is told takes many characters.
  bool is_useful() const { return is_useful_; }

 private:
  struct Interval {
    uint32_t first = 0;
    uint32_t cls = 0;
  };
  class Builder;

  uint32_t of_interval(uint32_t code_point) const;

  std::vector<Interval> intervals_ = {{0, 0}};  // each ends where the next begins
  std::vector<uint8_t> basic_;                  // by code point, below 0x10000
  std::vector<std::string> examples_;
  std::vector<char> is_told_;  // by state
  bool is_useful_ = false;
};

}  // namespace cachalot::grammar
