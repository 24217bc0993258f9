#include "grammar/pattern_table.h"

#include <map>

namespace cachalot::grammar {

PatternTable::PatternTable(std::span<const std::string> patterns) {
  // A state is the longest beginning of a pattern that the text ends in.
  struct State {
    std::map<uint8_t, int32_t> next;
    int32_t fallback = 0;
  };
  std::vector<State> states(1);
  is_found_.resize(1);
  for (const std::string& pattern : patterns) {
    int32_t at = 0;
    for (const char c : pattern) {
      const auto [it, is_new] = states[static_cast<size_t>(at)].next.try_emplace(
          static_cast<uint8_t>(c), static_cast<int32_t>(states.size()));
      at = it->second;
      if (is_new) states.emplace_back();
    }
    is_found_.resize(states.size());
    is_found_[static_cast<size_t>(at)] = 1;
  }
  next_.resize(states.size());
  std::vector<int32_t> order = {0};  // shorter ones first: what a state falls back to is complete
  for (size_t done = 0; done < order.size(); ++done) {
    const auto at = static_cast<size_t>(order[done]);
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const int32_t other = at == 0 ? 0 : next_[static_cast<size_t>(states[at].fallback)][byte];
      const auto it = states[at].next.find(static_cast<uint8_t>(byte));
      next_[at][byte] = it == states[at].next.end() ? other : it->second;
      if (it == states[at].next.end()) continue;
      const auto child = static_cast<size_t>(it->second);
      states[child].fallback = other;
      is_found_[child] |= is_found_[static_cast<size_t>(other)];
      order.push_back(it->second);
    }
  }
}

}  // namespace cachalot::grammar
