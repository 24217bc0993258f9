#include "api/openai_usage.h"

namespace cachalot::api {

json::value openai_usage(const Usage& usage) {
  return json::object{
      {"prompt_tokens", usage.prompt_tokens},
      {"completion_tokens", usage.completion_tokens},
      {"total_tokens", usage.total_tokens()},
      {"prompt_tokens_details", json::object{{"cached_tokens", usage.cached_tokens}}},
      {"prompt_cache_hit_tokens", usage.cached_tokens},
      {"prompt_cache_miss_tokens", usage.prompt_tokens - usage.cached_tokens},
      {"completion_tokens_details", json::object{{"reasoning_tokens", usage.reasoning_tokens}}}};
}

}  // namespace cachalot::api
