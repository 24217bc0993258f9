// `cachalot chat`: a conversation in the terminal, or line by line through pipes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "apps/run_options.h"
#include "base/status.h"

namespace cachalot::apps {

struct ChatOptions {
  RunOptions run;
  std::string family;  // empty: prompt_family()
  std::string system;
  std::string effort;                 // none, low, high or max; empty: chat_defaults()
  std::string tools;                  // JSON file with tools to offer
  std::string load;                   // conversation to go on with
  std::optional<int64_t> max_tokens;  // of an answer, 0: what the context leaves; else likewise
};

// Returns at /exit, at the end of the input or after a second Ctrl-C at the prompt.
Status chat(const ChatOptions& options);

}  // namespace cachalot::apps
