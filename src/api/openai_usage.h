// Usage in the form of OpenAI's chat completions and completions, with DeepSeek's names beside.
#pragma once

#include "api/usage.h"
#include "base/json.h"

namespace cachalot::api {

json::value openai_usage(const Usage& usage);

}  // namespace cachalot::api
