#include "api/chat_completions.h"

#include "api/logprob_text.h"
#include "api/model_field.h"
#include "api/openai_call.h"
#include "api/openai_usage.h"
#include "api/sse.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using Kind = text::CompletionEvent::Kind;

struct Shape {
  std::string id;
  int64_t created = 0;
  bool shows_reasoning = true;
  ClientTools tools;
};

std::string_view reason_name(text::FinishReason reason) {
  switch (reason) {
    case text::FinishReason::stop: return "stop";
    case text::FinishReason::tool_calls: return "tool_calls";
    case text::FinishReason::length: return "length";
  }
  return "stop";
}

class ChatCall : public OpenAiCall {
 public:
  ChatCall(const ServedModel& model, Ask ask, bool streams, bool tells_usage, Shape shape)
      : OpenAiCall(model, only(std::move(ask)), streams, tells_usage), shape_(std::move(shape)) {
    if (auto header = ignored_tools_header(shape_.tools)) add_header(*std::move(header));
  }

 protected:
  void write_head(std::string& out) override {
    for (const Answer& answer : answers())
      write_delta(answer, {{"role", "assistant"}, {"content", ""}}, nullptr, out);
  }
  void write_events(Answer& answer, std::span<const text::CompletionEvent> events,
                    std::string& out) override {
    for (const text::CompletionEvent& event : events) {
      json::object delta = this->delta(answer, event);
      if (!delta.empty()) write_delta(answer, std::move(delta), logprobs(answer), out);
    }
  }
  void write_finish(Answer& answer, std::string& out) override {
    if (has_untold(answer)) write_delta(answer, {{"content", ""}}, logprobs(answer), out);
    append_last({{"index", answer.index},
                 {"delta", json::object{}},
                 {"logprobs", nullptr},
                 {"finish_reason", reason_name(finish_reason(answer.text, answer.finish))}},
                out);
  }
  json::object chunk(json::array choices) const override {
    json::object chunk = frame("chat.completion.chunk", std::move(choices));
    if (tells_usage()) chunk["usage"] = nullptr;
    return chunk;
  }
  std::string write_whole() override {
    json::array choices;
    for (Answer& answer : answers()) {
      choices.push_back(
          json::object{{"index", answer.index},
                       {"message", message(answer.text)},
                       {"logprobs", logprobs(answer)},
                       {"finish_reason", reason_name(finish_reason(answer.text, answer.finish))}});
    }
    json::object whole = frame("chat.completion", std::move(choices));
    whole["usage"] = openai_usage(usage());
    return python_json(whole);
  }

 private:
  json::object frame(std::string_view object, json::array choices) const {
    return {{"id", shape_.id},
            {"object", object},
            {"created", shape_.created},
            {"model", model().options().name},
            {"system_fingerprint", "cachalot"},
            {"choices", std::move(choices)}};
  }
  void write_delta(const Answer& answer, json::object delta, json::value logprobs,
                   std::string& out) const {
    append_data(chunk(json::array{json::object{{"index", answer.index},
                                               {"delta", std::move(delta)},
                                               {"logprobs", std::move(logprobs)},
                                               {"finish_reason", nullptr}}}),
                out);
  }

  // Empty where the event shows nothing.
  json::object delta(const Answer& answer, const text::CompletionEvent& event) const {
    switch (event.kind) {
      case Kind::reasoning:
        if (!shape_.shows_reasoning) return {};
        return {{"reasoning_content", event.text}, {"reasoning", event.text}};
      case Kind::content: return {{"content", event.text}};
      case Kind::call_start: {
        json::object call = call_header(event.id, event.text, "");
        call["index"] = event.call_idx;
        return {{"tool_calls", json::array{std::move(call)}}};
      }
      case Kind::call_arguments:
        if (is_custom(answer, event.call_idx)) return {};
        return {{"tool_calls",
                 json::array{json::object{{"index", event.call_idx},
                                          {"function", json::object{{"arguments", event.text}}}}}}};
      case Kind::call_end: {
        if (!is_custom(answer, event.call_idx) || !event.complete) return {};
        const std::string& arguments =
            answer.text.calls()[static_cast<size_t>(event.call_idx)].arguments;
        return {{"tool_calls", json::array{json::object{
                                   {"index", event.call_idx},
                                   {"custom", json::object{{"input", custom_input(arguments)}}}}}}};
      }
    }
    return {};
  }
  bool is_custom(const Answer& answer, int call_idx) const {
    const ClientTool* tool =
        shape_.tools.find(answer.text.calls()[static_cast<size_t>(call_idx)].name);
    return tool != nullptr && tool->is_custom;
  }
  json::object call_header(const std::string& id, const std::string& name,
                           const std::string& arguments) const {
    const ClientTool* tool = shape_.tools.find(name);
    if (tool != nullptr && tool->is_custom) {
      return {{"id", id},
              {"type", "custom"},
              {"custom", json::object{{"name", name},
                                      {"input", arguments.empty() ? std::string()
                                                                  : custom_input(arguments)}}}};
    }
    return {{"id", id},
            {"type", "function"},
            {"function", json::object{{"name", name}, {"arguments", arguments}}}};
  }

  json::value message(const AnswerText& text) const {
    json::object message{{"role", "assistant"}};
    const bool has_call = text.has_complete_call();
    message["content"] =
        has_call && text.content().empty() ? json::value(nullptr) : json::value(text.content());
    if (shape_.shows_reasoning && !text.reasoning().empty()) {
      message["reasoning_content"] = text.reasoning();
      message["reasoning"] = text.reasoning();
    }
    if (!has_call) return message;
    json::array calls;
    for (const text::ParsedCall& call : text.calls()) {
      if (call.complete) calls.push_back(call_header(call.id, call.name, call.arguments));
    }
    message["tool_calls"] = std::move(calls);
    return message;
  }

  // Of the tokens that none was told of.
  json::value logprobs(Answer& answer) const {
    if (prompts()[answer.request].num_top_logprobs < 0) return nullptr;
    json::array content;
    for (; answer.num_told < answer.tokens.size(); ++answer.num_told) {
      const TokenInfo& info = answer.tokens[answer.num_told];
      content.push_back(chat_logprob(model().tokenizer(), info.token, info.logprob, info.top));
    }
    return json::object{{"content", std::move(content)}};
  }

  Shape shape_;
};

}  // namespace

Routed chat_completions(const HttpRequest& request, const ServedModel& model) {
  Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::openai);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::openai, model, &name))
    return error_answer(*error, ErrorShape::openai);
  Result<ChatAsk> ask = read_chat(*body, model, name.thinks);
  if (!ask) return error_answer(ask.error(), ErrorShape::openai);
  Result<text::ChatPrompt> prompt = render_chat(*ask, model);
  if (!prompt) return error_answer(prompt.error(), ErrorShape::openai);
  if (const auto error = check_context(prompt->ids.size(), "messages", ErrorShape::openai, model))
    return error_answer(*error, ErrorShape::openai);
  Result<Ask> prepared = prepare_chat(*ask, *std::move(prompt), model);
  if (!prepared) return error_answer(prepared.error(), ErrorShape::openai);
  if (const auto error = check_total({&*prepared, 1}))
    return error_answer(*error, ErrorShape::openai);
  Shape shape;
  shape.id = model.options().new_id("chatcmpl-");
  shape.created = model.options().now();
  shape.shows_reasoning = ask->thinking.is_shown;
  shape.tools = std::move(ask->tools);
  return std::make_unique<ChatCall>(model, *std::move(prepared), ask->generation.streams,
                                    ask->generation.includes_usage, std::move(shape));
}

}  // namespace cachalot::api
