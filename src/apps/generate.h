// `cachalot generate`: a prompt in, its continuation out.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/run_options.h"
#include "base/status.h"

namespace cachalot::apps {

struct GenerateOptions {
  RunOptions run;
  std::optional<std::string> prompt;
  std::string prompt_file;  // "-": standard input
  std::vector<int32_t> prompt_ids;
  std::optional<int64_t> max_tokens;  // otherwise 256, or what the context leaves
  bool ignore_eos = false;
  bool chat = false;  // the prompt is a user message
  std::string system;
  std::string family;
  std::string effort;
  std::string save;     // file that gets the cached sequence, completion included
  std::string restore;  // file whose sequence is continued, or whose first tokens the prompt shares
  bool json = false;
};

// Writes the text (or the JSON object) to standard output, a summary to standard error.
Status generate(const GenerateOptions& options);

}  // namespace cachalot::apps
