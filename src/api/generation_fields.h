// The fields of a body that say how tokens are drawn and where an answer ends: common to the APIs,
// under every spelling that clients use (reference/chat 5.2).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/error.h"
#include "api/fields.h"
#include "api/grammar_cache.h"
#include "api/served_model.h"
#include "engine/request.h"

namespace cachalot::api {

struct GenerationFields {
  engine::SamplingParams sampling;
  int64_t max_tokens = -1;  // -1: what the context leaves
  int64_t num_answers = 1;
  std::vector<std::string> stops;
  bool keeps_stop = false;
  std::vector<int32_t> stop_tokens;
  bool ignores_end = false;
  std::string cache_salt;
  int64_t min_tokens = 0;
  bool shows_controls = false;
  bool streams = false;
  bool includes_usage = false;
  int64_t num_top_logprobs = -1;  // -1: no log-probabilities
};

inline constexpr int64_t kMaxTopLogprobs = 20;

// temperature, top_p, top_k, min_p, the penalties, logit_bias, seed, n, stop, stop_token_ids,
// max_tokens and its spellings, min_tokens, ignore_eos, stream, stream_options,
// skip_special_tokens, include_stop_str_in_output, cache_salt. Defaults are the model's.
// `max_answers`: of n; 1 where the API's answer has no place for more.
GenerationFields read_generation_fields(Fields& fields, const ServedModel& model,
                                        int64_t max_answers);

// The prompt and one token fit; otherwise the error, in which `param` is the prompt's field.
std::optional<ApiError> check_context(size_t prompt_tokens, std::string_view param,
                                      ErrorShape shape, const ServedModel& model);

// Fields that are known to change an answer, and that nothing here does: refused by name where they
// ask for something.
void refuse_unknown_sampling(Fields& fields);

// The engine's request. `grammar` may be null.
engine::Request make_request(const GenerationFields& asked, std::vector<int32_t> prompt,
                             std::shared_ptr<CachedGrammar> grammar, const ServedModel& model);

}  // namespace cachalot::api
