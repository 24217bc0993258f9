// How much of a prompt has been computed before: what the engine asks of a prefix cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/status.h"
#include "cache/sequence_cache.h"

namespace cachalot::engine {

// Borrows the pool that its sequences live in; replaced with it when the weights change. Threads:
// the engine's owner.
class PrefixSource {
 public:
  virtual ~PrefixSource() = default;

  // A sequence with the rows of the longest start of `tokens` that is there, and the state at its
  // end, with the bits that a run would give; none where there is none, or no room for it.
  virtual std::optional<cache::SequenceCache> find(std::span<const int32_t> tokens) = 0;
  // The rows of the first sequence.num_tokens() of `tokens` have been computed: at the end of a
  // prompt, and when an answer ends or pauses.
  virtual void keep(std::span<const int32_t> tokens, const cache::SequenceCache& sequence) = 0;

  // Of the pool, what it alone holds and can give back.
  struct Idle {
    int64_t blocks = 0;
    int64_t states = 0;
  };
  virtual Idle idle() const = 0;
  // Gives back at least this much, which is at most idle().
  virtual void release(const Idle& wanted) = 0;
};

using MakePrefixSource = std::function<std::unique_ptr<PrefixSource>(cache::BlockPool&)>;

}  // namespace cachalot::engine
