// Which tokens may come next, decided from outside: a grammar, a schema. One object follows one
// answer.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"

namespace cachalot::engine {

// Called on the engine's thread. Asked before every row that is sampled, those after drafts too:
// the drafts are taken one by one, each row is asked for, and what does not stand is rewound.
class TokenMask {
 public:
  virtual ~TokenMask() = default;
  // Adds to the set (ops::id_set_words) the tokens that may follow those taken so far. It is empty
  // before. An error ends the answer, as does a row that allows nothing.
  virtual Status allow(std::span<uint64_t> allowed) = 0;
  // The answer goes on with a token that was allowed.
  virtual void take(int32_t id) = 0;
  // As before the last `count` tokens were taken.
  virtual void rewind(int64_t count) = 0;
};

}  // namespace cachalot::engine
