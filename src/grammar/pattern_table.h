// Finds any of several texts in a stream of bytes: the automaton of Aho and Corasick.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cachalot::grammar {

class PatternTable {
 public:
  // Patterns are not empty.
  explicit PatternTable(std::span<const std::string> patterns);

  // The first is where nothing has been read.
  int32_t num_states() const { return static_cast<int32_t>(next_.size()); }
  int32_t next(int32_t state, uint8_t byte) const {
    return next_[static_cast<size_t>(state)][byte];
  }
  // What was read ends in a pattern.
  bool is_found(int32_t state) const { return is_found_[static_cast<size_t>(state)] != 0; }

 private:
  std::vector<std::array<int32_t, 256>> next_;
  std::vector<char> is_found_;
};

}  // namespace cachalot::grammar
