// What a token of a long context costs, counted by the ops that run it.
// Source  reference/forward 8.1, 8.2; reference/infrastructure 2.3, F2.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/work.h"
#include "engine/loaded_model.h"

namespace cachalot::engine {

struct TokenWork {
  device::Work layers;  // of the token that makes the context whole
  device::Work head;    // of its logits
  double cache_bytes;   // that a token adds to the rows that grow: of the context's last block
};
// The rows of the tokens before are zeros. invalid_argument: a context that is no multiple of the
// cache's block; resource_exhausted: memory for its rows.
Result<TokenWork> count_token_work(LoadedModel& model, int64_t context);

}  // namespace cachalot::engine
