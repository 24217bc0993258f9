// Which states (window rows and the overlap of compressor tails) the prefix cache keeps beside the
// blocks. A hit goes as far as whole blocks reach, and from there needs the state: kept there, kept
// further back and run forward from, or made again.
// Source  reference/infrastructure 8.2.
#pragma once

#include <cstdint>

namespace cachalot::cache {

enum class StateStrategy {
  full,      // at every block: nothing runs again but the incomplete block
  periodic,  // at every period_tokens-th token: what lies after the last one runs again
  zero,      // never: the last sliding_window positions of every layer are made again
};

struct StatePolicy {
  StateStrategy strategy = StateStrategy::periodic;
  int64_t period_tokens = 8192;  // periodic alone; rounded up to whole blocks
  // Periodic: also at the last whole block of a prompt and of an answer, where a conversation goes
  // on.
  bool keeps_ends = true;
};

}  // namespace cachalot::cache
