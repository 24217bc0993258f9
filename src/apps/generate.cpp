#include "apps/generate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "apps/conversation.h"
#include "apps/interrupts.h"
#include "apps/terminal.h"
#include "base/file.h"
#include "base/python_json.h"
#include "text/detokenizer.h"
#include "text/prompt_ids.h"

namespace cachalot::apps {
namespace {

using engine::Completion;
using engine::Event;
using engine::SequenceId;

double per_second(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

Result<std::string> prompt_text(const GenerateOptions& options) {
  if (options.prompt) return *options.prompt;
  std::string text;
  if (options.prompt_file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    CACHALOT_ASSIGN_OR_RETURN(text, read_text_file(options.prompt_file));
  }
  return std::string(without_byte_order_mark(text));
}

bool has_prompt(const GenerateOptions& options) {
  return options.prompt || !options.prompt_file.empty() || !options.prompt_ids.empty();
}

class Run {
 public:
  explicit Run(const GenerateOptions& options) : options_(options) {}

  Status run() {
    if (!has_prompt(options_) && options_.restore.empty()) {
      return invalid_argument(
          "generate: expected --prompt, --prompt-file, --prompt-ids or --restore, found none of "
          "them");
    }
    const bool needs_tokenizer =
        has_prompt(options_) ? options_.prompt_ids.empty() : !options_.json;
    CACHALOT_ASSIGN_OR_RETURN(sampling_, sampling_params(options_.run, 0));
    CACHALOT_ASSIGN_OR_RETURN(session_, open_session(options_.run, needs_tokenizer));
    if (session_.tokenizer != nullptr)
      detokenizer_.emplace(*session_.tokenizer, text::Detokenizer::Controls::hidden);
    CACHALOT_RETURN_IF_ERROR(read_prompt());
    CACHALOT_RETURN_IF_ERROR(place_prompt());
    CACHALOT_ASSIGN_OR_RETURN(const Completion completion, complete());
    if (!options_.save.empty()) CACHALOT_RETURN_IF_ERROR(engine().save(sequence_, options_.save));
    if (options_.json) {
      print_json(completion);
    } else {
      print_summary(completion);
    }
    return {};
  }

 private:
  engine::Engine& engine() { return *session_.engine; }

  Status read_prompt() {
    prompt_ids_ = options_.prompt_ids;
    if (!has_prompt(options_) || !prompt_ids_.empty()) return {};
    CACHALOT_ASSIGN_OR_RETURN(const std::string text, prompt_text(options_));
    if (!options_.chat) {
      prompt_ids_ = text::raw_prompt_ids(*session_.tokenizer, engine().config().bos_token_id, text);
      return {};
    }
    text::ChatStyle style;
    CACHALOT_ASSIGN_OR_RETURN(style.family,
                              text::prompt_family(*session_.tokenizer, options_.family));
    CACHALOT_ASSIGN_OR_RETURN(const ChatDefaults defaults, chat_defaults(options_.run.model));
    CACHALOT_ASSIGN_OR_RETURN(
        const text::ClientEffort effort,
        text::resolve_client_effort(options_.effort.empty() ? defaults.effort : options_.effort,
                                    style.family));
    style.thinking = effort.thinking;
    style.effort = effort.effort;
    text::ChatRequest request;
    if (!options_.system.empty())
      request.messages.push_back(make_message(text::Role::system, options_.system));
    request.messages.push_back(make_message(text::Role::user, text));
    CACHALOT_ASSIGN_OR_RETURN(text::ChatPrompt prompt,
                              text::chat_prompt(*session_.tokenizer, std::move(request), style));
    prompt_ids_ = std::move(prompt.ids);
    return {};
  }

  // Opens the sequence and leaves in to_append_ what it lacks of the prompt.
  Status place_prompt() {
    size_t reused = 0;
    if (options_.restore.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(sequence_, engine().open());
    } else {
      CACHALOT_ASSIGN_OR_RETURN(sequence_, engine().restore(options_.restore));
      if (!has_prompt(options_))
        prompt_ids_.assign(engine().tokens(sequence_).begin(), engine().tokens(sequence_).end());
      reused = common_prefix(engine().tokens(sequence_), prompt_ids_);
      // Also where all is kept: the last token has to run again, for its logits.
      CACHALOT_RETURN_IF_ERROR(engine().rewind(sequence_, static_cast<int64_t>(reused)));
    }
    to_append_ = std::span(prompt_ids_).subspan(reused);
    return {};
  }

  Result<int64_t> max_new_tokens() const {
    constexpr int64_t kDefault = 256;
    const auto prompt = static_cast<int64_t>(prompt_ids_.size());
    const int64_t context = session_.engine->max_context_tokens();
    const int64_t wanted = options_.max_tokens.value_or(prompt < context ? 0 : 1);
    if (prompt + wanted > context) {
      return invalid_argument(
          fmt::format("the prompt has {} tokens{} and the context holds {} (--context)", prompt,
                      options_.max_tokens ? fmt::format(", --max-tokens asks for {} more,", wanted)
                                          : std::string(", to which none can be added,"),
                      context));
    }
    return options_.max_tokens.value_or(std::min(kDefault, context - prompt));
  }

  Result<Completion> complete() {
    engine::Request request;
    request.prompt.assign(to_append_.begin(), to_append_.end());
    request.sampling = sampling_;
    CACHALOT_ASSIGN_OR_RETURN(request.max_new_tokens, max_new_tokens());
    request.num_drafts = options_.run.drafts;
    request.wants_model_logprobs = options_.json;
    if (!options_.ignore_eos) request.stop_tokens = session_.stop_tokens;

    watch_interrupts(1);
    PrefillProgress progress;
    request.on_event = [&](const Event& event) {
      if (event.kind == Event::Kind::prefill)
        progress.update(event.done_tokens, event.total_tokens);
      if (event.kind == Event::Kind::token) {
        progress.clear();
        take(event.token);
      }
      return interrupts() == 0;
    };
    Result<Completion> completion = engine().generate(sequence_, std::move(request));
    progress.clear();
    if (completion && detokenizer_) {
      std::string rest;
      detokenizer_->finish(rest);
      put(rest);
      if (!options_.json && is_terminal(STDOUT_FILENO) && !text_.empty() && text_.back() != '\n')
        std::fputc('\n', stdout);
    }
    return completion;
  }

  void take(int32_t id) {
    std::string piece;
    if (!detokenizer_) {
      if (!options_.json) std::printf("%d ", id);
      return;
    }
    // The model's vocabulary may be larger than the tokenizer's.
    if (!detokenizer_->push(id, piece).ok()) piece = "\xEF\xBF\xBD";
    put(piece);
  }

  void put(const std::string& piece) {
    text_ += piece;
    if (options_.json || piece.empty()) return;
    const std::string shown = is_terminal(STDOUT_FILENO) ? printable(piece) : piece;
    std::fwrite(shown.data(), 1, shown.size(), stdout);
    std::fflush(stdout);
  }

  // Of the prompt: restored, or found in the prefix cache. None where nothing has run.
  int64_t cached_tokens(const Completion& completion) const {
    const int64_t run = completion.prompt_tokens;
    return run == 0 ? 0 : static_cast<int64_t>(prompt_ids_.size()) - run;
  }

  void print_json(const Completion& completion) {
    const auto generated = static_cast<int64_t>(completion.ids.size());
    json::object out;
    out["ids"] = json::array(completion.ids.begin(), completion.ids.end());
    if (detokenizer_) out["text"] = text_;
    out["prompt_ids"] = json::array(prompt_ids_.begin(), prompt_ids_.end());
    out["finish"] = engine::finish_name(completion.finish);
    out["logprobs"] = json::array(completion.logprobs.begin(), completion.logprobs.end());
    out["timings"] =
        json::object{{"load_seconds", session_.load_seconds},
                     {"prefill_seconds", completion.prefill_seconds},
                     {"decode_seconds", completion.decode_seconds},
                     {"prompt_tokens", static_cast<int64_t>(prompt_ids_.size())},
                     {"cached_tokens", cached_tokens(completion)},
                     {"completion_tokens", generated},
                     {"prompt_tokens_per_second",
                      per_second(completion.prompt_tokens, completion.prefill_seconds)},
                     {"tokens_per_second", per_second(generated, completion.decode_seconds)}};
    out["drafts"] =
        json::object{{"drafted", completion.drafted}, {"accepted", completion.accepted}};
    out["precision"] = session_.precision;
    out["threads"] = engine().num_threads();
    out["seed"] = sampling_.seed;
    std::puts(python_json(out).c_str());
    std::fflush(stdout);  // the end may wait for packed weights to be written
  }

  void print_summary(const Completion& completion) {
    const auto generated = static_cast<int64_t>(completion.ids.size());
    std::string line = fmt::format("{} prompt tokens", prompt_ids_.size());
    const int64_t cached = cached_tokens(completion);
    if (cached > 0) line += fmt::format(", {} of them restored", cached);
    line += fmt::format(" ({:.1f}/s); {} generated ({:.1f}/s)",
                        per_second(completion.prompt_tokens, completion.prefill_seconds), generated,
                        per_second(generated, completion.decode_seconds));
    if (completion.drafted > 0)
      line += fmt::format("; {} of {} drafts accepted", completion.accepted, completion.drafted);
    line += fmt::format("; {}, {} threads, {}", session_.precision, engine().num_threads(),
                        engine::finish_name(completion.finish));
    if (!options_.run.greedy) line += fmt::format(", seed {}", sampling_.seed);
    std::fflush(stdout);
    std::fprintf(stderr, "\n%s\n", line.c_str());
  }

  const GenerateOptions& options_;
  Session session_;
  engine::SamplingParams sampling_;
  std::optional<text::Detokenizer> detokenizer_;
  SequenceId sequence_ = 0;
  std::vector<int32_t> prompt_ids_;
  std::span<const int32_t> to_append_;
  std::string text_;
};

}  // namespace

Status generate(const GenerateOptions& options) { return Run(options).run(); }

}  // namespace cachalot::apps
