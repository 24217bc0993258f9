#include "api/completions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "api/answer_constraint.h"
#include "api/fields.h"
#include "api/generation_fields.h"
#include "api/logprob_text.h"
#include "api/model_field.h"
#include "api/openai_call.h"
#include "api/openai_usage.h"
#include "api/sse.h"
#include "base/python_json.h"
#include "text/chat_literals.h"
#include "text/prompt_ids.h"

namespace cachalot::api {
namespace {

constexpr size_t kMaxPrompts = 256;
constexpr int64_t kDefaultMaxTokens = 16;  // as OpenAI has it

struct TextPrompt {
  std::vector<int32_t> ids;
  std::string echo;  // what it shows as
};

struct Shape {
  std::string id;
  int64_t created = 0;
  std::string model;
  bool echoes = false;
  std::vector<std::string> echoed;  // by prompt
};

// Counted as Python counts a string's places.
int64_t num_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

class CompletionsCall : public OpenAiCall {
 public:
  CompletionsCall(const ServedModel& model, std::vector<Ask> asks, bool streams, bool tells_usage,
                  Shape shape)
      : OpenAiCall(model, std::move(asks), streams, tells_usage),
        shape_(std::move(shape)),
        progress_(answers().size()) {}

 protected:
  void write_events(Answer& answer, std::span<const text::CompletionEvent> events,
                    std::string& out) override {
    Progress& progress = this->progress(answer);
    for (const text::CompletionEvent& event : events) progress.untold += event.text;
    // What the prompt's log-probabilities are is known at the end.
    const bool waits = shape_.echoes && prompts()[answer.request].num_top_logprobs >= 0;
    if (!waits) write_text(answer, out);
  }
  void write_finish(Answer& answer, std::string& out) override {
    if (shape_.echoes && !progress(answer).is_begun) write_text(answer, out);
    append_last(choice(answer, "", nullptr, finish_reason(answer)), out);
  }
  json::object chunk(json::array choices) const override {
    return {{"id", shape_.id},
            {"object", "text_completion"},
            {"created", shape_.created},
            {"model", shape_.model},
            {"choices", std::move(choices)}};
  }
  std::string write_whole() override {
    json::array choices;
    for (Answer& answer : answers()) {
      std::string text = begin(answer) + answer.text.content();
      json::value logprobs = this->logprobs(answer);
      choices.push_back(
          choice(answer, std::move(text), std::move(logprobs), finish_reason(answer)));
    }
    json::object whole = chunk(std::move(choices));
    whole["usage"] = openai_usage(usage());
    return python_json(whole);
  }

 private:
  // Of an answer: what has been told of it.
  struct Progress {
    bool is_begun = false;
    std::string untold;
    int64_t offset = 0;  // in characters, of the next token
  };
  Progress& progress(const Answer& answer) { return progress_[static_cast<size_t>(answer.index)]; }

  // What stands before the answer's own text.
  std::string begin(const Answer& answer) {
    return shape_.echoes && !progress(answer).is_begun ? shape_.echoed[answer.request]
                                                       : std::string();
  }
  void write_text(Answer& answer, std::string& out) {
    std::string text = begin(answer) + std::move(progress(answer).untold);
    progress(answer).untold.clear();
    json::value logprobs = this->logprobs(answer);
    append_data(chunk(json::array{choice(answer, std::move(text), std::move(logprobs), nullptr)}),
                out);
  }
  static json::value finish_reason(const Answer& answer) {
    return answer.finish == engine::Finish::stop ? "stop" : "length";
  }

  static json::object choice(const Answer& answer, std::string text, json::value logprobs,
                             json::value finish) {
    return {{"index", answer.index},
            {"text", std::move(text)},
            {"logprobs", std::move(logprobs)},
            {"finish_reason", std::move(finish)}};
  }

  // Of the prompt, if it is echoed, and of the tokens that none was told of.
  json::value logprobs(Answer& answer) {
    const bool is_first = !progress(answer).is_begun;
    progress(answer).is_begun = true;
    const Prompt& prompt = prompts()[answer.request];
    if (prompt.num_top_logprobs < 0) return nullptr;
    Table table;
    table.offset = progress(answer).offset;
    const auto num_top = static_cast<size_t>(prompt.num_top_logprobs);
    if (is_first && shape_.echoes) {
      for (size_t i = 0; i < prompt.ids.size(); ++i) {
        const bool is_known =
            i < answer.prompt_logprobs.size() && !std::isnan(answer.prompt_logprobs[i]);
        const std::span<const ops::TokenLogprob> top =
            std::span(answer.prompt_top)
                .subspan(is_known ? i * num_top : 0, is_known ? num_top : 0);
        add(table, prompt.ids[i], is_known ? answer.prompt_logprobs[i] : NAN, top, num_top);
      }
    }
    for (; answer.num_told < answer.tokens.size(); ++answer.num_told) {
      const TokenInfo& info = answer.tokens[answer.num_told];
      add(table, info.token, info.logprob, info.top, num_top);
    }
    progress(answer).offset = table.offset;
    return json::object{
        {"tokens", std::move(table.tokens)},
        {"token_logprobs", std::move(table.logprobs)},
        {"top_logprobs", num_top == 0 ? json::value(nullptr) : json::value(std::move(table.tops))},
        {"text_offset", std::move(table.offsets)}};
  }

  struct Table {
    json::array tokens, logprobs, tops, offsets;
    int64_t offset = 0;
  };
  void add(Table& table, int32_t token, double logprob, std::span<const ops::TokenLogprob> top,
           size_t num_top) {
    const text::Tokenizer& tokenizer = model().tokenizer();
    table.tokens.push_back(json::value(token_key(tokenizer, token)));
    table.offsets.push_back(table.offset);
    table.offset += num_characters(token_text(tokenizer, token));
    if (std::isnan(logprob)) {
      table.logprobs.push_back(nullptr);
      table.tops.push_back(nullptr);
      return;
    }
    table.logprobs.push_back(shown_logprob(logprob));
    if (num_top == 0) return;
    json::object likeliest;
    for (const ops::TokenLogprob& other : top) {
      if (other.id >= 0) likeliest[token_key(tokenizer, other.id)] = shown_logprob(other.logprob);
    }
    likeliest[token_key(tokenizer, token)] = shown_logprob(logprob);
    table.tops.push_back(std::move(likeliest));
  }

  Shape shape_;
  std::vector<Progress> progress_;
};

Result<TextPrompt> text_prompt(std::string_view text, const std::string& suffix,
                               const ServedModel& model) {
  const text::Tokenizer& tokenizer = model.tokenizer();
  TextPrompt prompt{{}, std::string(text)};
  if (suffix.empty()) {
    prompt.ids = text::raw_prompt_ids(tokenizer, model.options().bos_token, text);
    return prompt;
  }
  for (const std::string_view token : {text::kFimBegin, text::kFimHole, text::kFimEnd}) {
    if (!tokenizer.token_id(token)) {
      return unsupported(
          "suffix: expected a model whose tokenizer has fill-in-the-middle tokens, found one "
          "without them");
    }
  }
  prompt.ids = tokenizer.encode_segments(text::encode_fim(text, suffix).views());
  return prompt;
}

Result<TextPrompt> id_prompt(const json::array& list, const std::string& suffix,
                             const ServedModel& model) {
  if (!suffix.empty()) {
    return unsupported("suffix: expected a prompt of text beside it, found token ids");
  }
  const int64_t vocab_size = model.options().vocab_size;
  TextPrompt prompt;
  for (const json::value& one : list) {
    int64_t id = 0;
    if (!whole_number(one, &id) || id < 0 || id >= vocab_size) {
      return invalid_argument(fmt::format("prompt: expected token ids of 0 to {}, found {}",
                                          vocab_size - 1, shown(one)));
    }
    prompt.ids.push_back(static_cast<int32_t>(id));
  }
  text::Detokenizer detokenizer(model.tokenizer(), text::Detokenizer::Controls::hidden);
  for (const int32_t id : prompt.ids) {
    if (!detokenizer.push(id, prompt.echo).ok()) prompt.echo += "\uFFFD";
  }
  detokenizer.finish(prompt.echo);
  return prompt;
}

Result<std::vector<TextPrompt>> read_prompts(const Fields& fields, const std::string& suffix,
                                             const ServedModel& model) {
  std::vector<TextPrompt> prompts;
  const auto wrong = [](std::string_view found) {
    return invalid_argument(fmt::format(
        "prompt: expected a string, a list of strings, token ids or a list of them, found {}",
        found));
  };
  const json::value* value = fields.find("prompt");
  if (value == nullptr) return wrong("nothing");
  if (value->is_string()) {
    CACHALOT_ASSIGN_OR_RETURN(TextPrompt prompt, text_prompt(value->get_string(), suffix, model));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  if (!value->is_array()) return wrong(shown(*value));
  const json::array& list = value->get_array();
  if (list.empty()) return wrong("an empty list");
  if (list.front().is_number()) {
    CACHALOT_ASSIGN_OR_RETURN(TextPrompt prompt, id_prompt(list, suffix, model));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  if (list.size() > kMaxPrompts) {
    return invalid_argument(
        fmt::format("prompt: expected at most {} of them, found {}", kMaxPrompts, list.size()));
  }
  for (const json::value& one : list) {
    if (one.is_string()) {
      CACHALOT_ASSIGN_OR_RETURN(TextPrompt prompt, text_prompt(one.get_string(), suffix, model));
      prompts.push_back(std::move(prompt));
    } else if (one.is_array() && !one.get_array().empty()) {
      CACHALOT_ASSIGN_OR_RETURN(TextPrompt prompt, id_prompt(one.get_array(), suffix, model));
      prompts.push_back(std::move(prompt));
    } else {
      return wrong(shown(one));
    }
  }
  return prompts;
}

}  // namespace

Routed completions(const HttpRequest& request, const ServedModel& model) {
  const Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::openai);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::openai, model, &name))
    return error_answer(*error, ErrorShape::openai);
  GenerationFields asked = read_generation_fields(fields, model, model.options().max_answers);
  const bool says_most = fields.find("max_tokens") || fields.find("max_completion_tokens") ||
                         fields.find("max_output_tokens") || fields.find("n_predict");
  if (!says_most) asked.max_tokens = kDefaultMaxTokens;
  fields.integer("logprobs", &asked.num_top_logprobs, 0, kMaxTopLogprobs);
  Shape shape;
  fields.boolean("echo", &shape.echoes);
  std::string suffix;
  fields.text("suffix", &suffix);
  refuse_unknown_sampling(fields);
  if (!fields.status().ok()) return error_answer(fields.status(), ErrorShape::openai);
  const Result<AnswerConstraint> constraint = read_constraint(fields);
  if (!constraint) return error_answer(constraint.error(), ErrorShape::openai);
  const Result<std::shared_ptr<CachedGrammar>> grammar =
      answer_grammar(*constraint, {}, asked, model);
  if (!grammar) return error_answer(grammar.error(), ErrorShape::openai);
  Result<std::vector<TextPrompt>> prompts = read_prompts(fields, suffix, model);
  if (!prompts) return error_answer(prompts.error(), ErrorShape::openai);

  std::vector<Ask> asks;
  for (TextPrompt& prompt : *prompts) {
    if (auto error = check_context(prompt.ids.size(), "prompt", ErrorShape::openai, model))
      return error_answer(*error, ErrorShape::openai);
    Ask& ask = asks.emplace_back();
    ask.request = make_request(asked, std::move(prompt.ids), *grammar, model);
    ask.request.wants_prompt_logprobs = shape.echoes && asked.num_top_logprobs >= 0;
    // Who scores a text asks for one token and leaves the last one out: it has to be there, even
    // where it is one that ends a text.
    if (ask.request.wants_prompt_logprobs && asked.max_tokens == 1) ask.request.stop_tokens.clear();
    ask.text.stops = asked.stops;
    ask.text.keeps_stop = asked.keeps_stop;
    ask.text.shows_controls = asked.shows_controls;
    shape.echoed.push_back(std::move(prompt.echo));
  }
  if (const auto error = check_total(asks)) return error_answer(*error, ErrorShape::openai);
  shape.id = model.options().new_id("cmpl-");
  shape.created = model.options().now();
  shape.model = model.options().name;
  return std::make_unique<CompletionsCall>(model, std::move(asks), asked.streams,
                                           asked.includes_usage, std::move(shape));
}

}  // namespace cachalot::api
