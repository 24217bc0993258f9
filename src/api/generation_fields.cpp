#include "api/generation_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "api/grammar_mask.h"

namespace cachalot::api {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxSaltBytes = 1024;
constexpr double kMaxAdjustment = 1e6;

// A field that nothing here does, and a number beside 0 at which it asks for nothing.
struct Unknown {
  std::string_view name;
  double neutral = 0;
};
constexpr std::array kUnknown = {
    Unknown{"best_of", 1},
    Unknown{"use_beam_search"},
    Unknown{"length_penalty", 1},
    Unknown{"early_stopping"},
    Unknown{"logits_processors"},
    Unknown{"n_probs"},
    Unknown{"logprob_token_ids"},
    Unknown{"return_token_ids"},
    Unknown{"return_tokens_as_token_ids"},
    Unknown{"prompt_embeds"},
    Unknown{"truncate_prompt_tokens"},
    Unknown{"typical_p", 1},
    Unknown{"top_a"},
    Unknown{"top_n_sigma", -1},
    Unknown{"tfs_z", 1},
    Unknown{"epsilon_cutoff"},
    Unknown{"eta_cutoff"},
    Unknown{"mirostat"},
    Unknown{"mirostat_mode"},
    Unknown{"dry_multiplier"},
    Unknown{"xtc_probability"},
    Unknown{"dynatemp_range"},
    Unknown{"no_repeat_ngram_size"},
    Unknown{"stop_regex"},
    Unknown{"bad_words"},
    Unknown{"allowed_token_ids"},
    Unknown{"lora"},
    Unknown{"lora_path"},
    Unknown{"adapters"},
    Unknown{"custom_logit_processor"},
};

void read_logit_bias(Fields& fields, int64_t vocab_size, engine::SamplingParams* sampling) {
  const json::object* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  for (const auto& [key, value] : *biases) {
    int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 ||
        id >= vocab_size) {
      return fields.fail(invalid_argument(
          fmt::format("logit_bias: expected token ids of 0 to {} as keys, found \"{}\"",
                      vocab_size - 1, std::string_view(key).substr(0, 64))));
    }
    if (!value.is_number() || !(std::abs(value.to_number<double>()) <= kMaxAdjustment))
      return fields.fail("logit_bias", "numbers from -1e6 to 1e6", value);
    sampling->logit_bias[static_cast<int32_t>(id)] = value.to_number<double>();
  }
}

void read_sampling(Fields& fields, const ServedModel& model, engine::SamplingParams* sampling) {
  sampling->seed = 0;
  fields.number("temperature", &sampling->temperature, 0, kMaxAdjustment);
  fields.number("top_p", &sampling->top_p, 0, 1);
  // Nothing but the likeliest token.
  if (sampling->top_p == 0) sampling->top_p = std::numeric_limits<double>::min();
  int64_t top_k = sampling->top_k;
  fields.integer("top_k", &top_k, -1, std::numeric_limits<int32_t>::max());
  sampling->top_k = static_cast<int32_t>(std::max<int64_t>(top_k, 0));
  fields.number("min_p", &sampling->min_p, 0, 1);
  fields.number("repetition_penalty", &sampling->repetition_penalty, 1 / kMaxAdjustment,
                kMaxAdjustment);
  fields.number("repeat_penalty", &sampling->repetition_penalty, 1 / kMaxAdjustment,
                kMaxAdjustment);
  fields.number("frequency_penalty", &sampling->frequency_penalty, -kMaxAdjustment, kMaxAdjustment);
  fields.number("presence_penalty", &sampling->presence_penalty, -kMaxAdjustment, kMaxAdjustment);
  read_logit_bias(fields, model.options().vocab_size, sampling);
  const json::value* seed_field = fields.find("seed");
  if (seed_field != nullptr && seed_field->is_uint64()) {
    sampling->seed = seed_field->get_uint64();
  } else if (seed_field != nullptr) {
    int64_t seed = 0;
    fields.integer("seed", &seed, std::numeric_limits<int64_t>::min(),
                   std::numeric_limits<int64_t>::max());
    sampling->seed = static_cast<uint64_t>(seed);
  } else {
    sampling->seed = model.options().new_seed();
  }
}

void read_ends(Fields& fields, const ServedModel& model, GenerationFields* out) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  // The later spelling wins.
  for (const std::string_view key :
       {"n_predict", "max_tokens", "max_output_tokens", "max_completion_tokens"})
    fields.integer(key, &out->max_tokens, -1, kMost);
  fields.integer("min_tokens", &out->min_tokens, 0, kMost);
  fields.boolean("ignore_eos", &out->ignores_end);
  for (const std::string_view key : {"stop", "stop_sequences"}) {
    fields.texts(key, &out->stops);
    if (out->stops.size() > kMaxStops) {
      fields.fail(invalid_argument(fmt::format("{}: expected at most {} strings, found {}", key,
                                               kMaxStops, out->stops.size())));
    }
    for (const std::string& stop : out->stops) {
      if (stop.size() > kMaxStopBytes)
        fields.fail(
            invalid_argument(fmt::format("{}: expected strings of at most {} bytes, found {}", key,
                                         kMaxStopBytes, stop.size())));
    }
  }
  std::erase(out->stops, std::string());
  fields.ids("stop_token_ids", model.options().vocab_size, &out->stop_tokens);
  fields.boolean("include_stop_str_in_output", &out->keeps_stop);
}

}  // namespace

GenerationFields read_generation_fields(Fields& fields, const ServedModel& model,
                                        int64_t max_answers) {
  GenerationFields out;
  out.sampling = model.options().sampling;
  if (model.options().max_tokens > 0) out.max_tokens = model.options().max_tokens;
  read_sampling(fields, model, &out.sampling);
  read_ends(fields, model, &out);
  fields.integer("n", &out.num_answers, 1, max_answers);
  bool skips_controls = true;
  fields.boolean("skip_special_tokens", &skips_controls);
  out.shows_controls = !skips_controls;
  fields.text("cache_salt", &out.cache_salt);
  if (out.cache_salt.size() > kMaxSaltBytes) {
    fields.fail(invalid_argument(fmt::format("cache_salt: expected at most {} bytes, found {}",
                                             kMaxSaltBytes, out.cache_salt.size())));
  }
  fields.boolean("stream", &out.streams);
  if (const json::object* options = fields.object("stream_options")) {
    Fields inner(*options, "stream_options");
    inner.boolean("include_usage", &out.includes_usage);
    fields.fail(inner.status());
  }
  return out;
}

std::optional<ApiError> check_context(size_t prompt_tokens, std::string_view param,
                                      ErrorShape shape, const ServedModel& model) {
  const auto tokens = static_cast<int64_t>(prompt_tokens);
  if (tokens < model.options().context_tokens) return std::nullopt;
  return context_overflow(tokens, model.options().context_tokens, param, shape);
}

void refuse_unknown_sampling(Fields& fields) {
  for (const Unknown& unknown : kUnknown) fields.refuse(unknown.name, unknown.neutral);
  // At 0 too: those of the prompt's tokens and no others.
  const json::value* of_prompt = fields.filled("prompt_logprobs");
  if (of_prompt != nullptr) fields.fail(not_done("prompt_logprobs", *of_prompt));
}

engine::Request make_request(const GenerationFields& asked, std::vector<int32_t> prompt,
                             std::shared_ptr<CachedGrammar> grammar, const ServedModel& model) {
  const ServedModelOptions& options = model.options();
  engine::Request request;
  request.sampling = asked.sampling;
  const int64_t room = options.context_tokens - static_cast<int64_t>(prompt.size());
  request.max_new_tokens = asked.max_tokens >= 0 ? std::min(asked.max_tokens, room) : room;
  request.prompt = std::move(prompt);
  request.stop_tokens = asked.stop_tokens;
  // Ends that are ignored are never drawn: what follows one means nothing.
  for (const int32_t id : options.stop_tokens) {
    if (asked.ignores_end) {
      request.sampling.logit_bias[id] = -std::numeric_limits<double>::infinity();
    } else {
      request.stop_tokens.push_back(id);
    }
  }
  request.num_answers = asked.num_answers;
  request.cache_salt = asked.cache_salt;
  request.num_drafts = options.num_drafts;
  request.num_top_logprobs = asked.num_top_logprobs;
  if (grammar != nullptr || (asked.min_tokens > 0 && !request.stop_tokens.empty())) {
    request.make_mask = [mask = GrammarMask::Options{std::move(grammar), request.stop_tokens,
                                                     asked.min_tokens, options.vocab_size}] {
      return std::make_unique<GrammarMask>(mask);
    };
  }
  return request;
}

}  // namespace cachalot::api
