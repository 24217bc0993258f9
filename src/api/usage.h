// What a call has cost so far, all its prompts and answers together.
#pragma once

#include <cstdint>

namespace cachalot::api {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of the prompts: found in the cache, not run
  int64_t completion_tokens = 0;  // reasoning included, the token that ends a turn not
  int64_t reasoning_tokens = 0;

  int64_t total_tokens() const { return prompt_tokens + completion_tokens; }
};

}  // namespace cachalot::api
