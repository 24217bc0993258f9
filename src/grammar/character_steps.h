// Whether a set of configurations takes every character of a class, and where they lead.
#pragma once

#include <vector>

#include "grammar/pushdown.h"
#include "grammar/vocabulary.h"

namespace cachalot::grammar {

class CharacterSteps {
 public:
  CharacterSteps(Pushdown& pushdown, CharacterClass c) : pushdown_(pushdown), class_(c) {}

  // Adds the sets that the characters lead to, each once. False where one of them leads nowhere.
  bool take_any(SetId set, std::vector<SetId>& reached);

 private:
  // Continuation bytes from `first` to `last`, then any `more` of them; `code_point` is what the
  // bytes before say.
  bool take_rest(SetId set, uint32_t code_point, uint8_t first, uint8_t last, int more,
                 std::vector<SetId>& reached);
  bool add(SetId set, std::vector<SetId>& reached);

  Pushdown& pushdown_;
  const CharacterClass class_;
  std::vector<std::pair<SetId, int>> done_;  // sets that took any continuation bytes
};

}  // namespace cachalot::grammar
