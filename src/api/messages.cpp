#include "api/messages.h"

#include <fmt/format.h>

#include "api/finite_json.h"
#include "api/model_field.h"
#include "api/sse.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using Kind = text::CompletionEvent::Kind;

json::object usage_json(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.completion_tokens}};
}

struct Shape {
  std::string id;
  std::string request_id;
  std::string model;  // as the client named it
  bool omits_thinking = false;
  bool shows_thinking = true;
};

class MessagesCall : public GeneratedCall {
 public:
  MessagesCall(const ServedModel& model, Ask ask, bool streams, Shape shape,
               const ClientTools& tools)
      : GeneratedCall(model, only(std::move(ask)), streams, ErrorShape::anthropic),
        shape_(std::move(shape)) {
    if (auto header = ignored_tools_header(tools)) add_header(*std::move(header));
  }

  std::string keep_alive() override {
    std::string out;
    append_event("ping", json::object{{"type", "ping"}}, out);
    return out;
  }

 protected:
  void write_start(std::string& out) override {
    json::object message = this->message();
    message["content"] = json::array();
    message["stop_reason"] = nullptr;
    message["usage"] = usage_json(usage());
    write("message_start", {{"message", std::move(message)}}, out);
  }
  void write_events(Answer&, std::span<const text::CompletionEvent> events,
                    std::string& out) override {
    for (const text::CompletionEvent& event : events) write_event(event, out);
  }
  void write_finish(Answer& answer, std::string& out) override {
    close_block(out);
    write("message_delta",
          {{"delta", json::object{{"stop_reason", stop_reason(answer)},
                                  {"stop_sequence", stop_sequence(answer)}}},
           {"usage", usage_json(usage())}},
          out);
  }
  void write_end(std::string& out) override { write("message_stop", {}, out); }
  void write_error(const ApiError& error, std::string& out) override {
    json::value body = error_body(error, ErrorShape::anthropic);
    if (!shape_.request_id.empty()) body.get_object()["request_id"] = shape_.request_id;
    append_event("error", body, out);
  }
  std::string write_whole() override {
    const Answer& answer = answers().front();
    const AnswerText& text = answer.text;
    json::array content;
    if (!text.reasoning().empty() && shape_.shows_thinking) {
      content.push_back(
          json::object{{"type", "thinking"},
                       {"thinking", shape_.omits_thinking ? std::string() : text.reasoning()},
                       {"signature", signature(text.reasoning())}});
    }
    if (!text.content().empty())
      content.push_back(json::object{{"type", "text"}, {"text", text.content()}});
    for (const text::ParsedCall& call : text.calls()) {
      if (!call.complete) continue;
      auto input = parse_json(call.arguments, "arguments", 1024);
      if (input) make_finite(*input);
      content.push_back(json::object{{"type", "tool_use"},
                                     {"id", call.id},
                                     {"name", call.name},
                                     {"input", input ? *input : json::value(json::object())}});
    }
    json::object message = this->message();
    message["content"] = std::move(content);
    message["stop_reason"] = stop_reason(answer);
    message["stop_sequence"] = stop_sequence(answer);
    message["usage"] = usage_json(usage());
    return python_json(message);
  }

 private:
  enum class Open { nothing, thinking, text, call };

  json::object message() const {
    return {{"id", shape_.id},         {"type", "message"},  {"role", "assistant"},
            {"model", shape_.model},   {"content", nullptr}, {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }
  std::string signature(std::string_view reasoning) const {
    return thinking_signature(model().options().new_id("sig_"),
                              shape_.omits_thinking ? reasoning : std::string_view());
  }
  static std::string_view stop_reason(const Answer& answer) {
    if (answer.text.is_stopped()) return "stop_sequence";
    switch (finish_reason(answer.text, answer.finish)) {
      case text::FinishReason::tool_calls: return "tool_use";
      case text::FinishReason::length: return "max_tokens";
      case text::FinishReason::stop: break;
    }
    return "end_turn";
  }
  static json::value stop_sequence(const Answer& answer) {
    return answer.text.is_stopped() ? json::value(answer.text.stopped_by()) : json::value(nullptr);
  }

  static void write(std::string_view type, json::object fields, std::string& out) {
    json::object data{{"type", type}};
    for (auto& [key, value] : fields) data[key] = std::move(value);
    append_event(type, data, out);
  }
  void open_block(Open kind, json::object block, std::string& out) {
    open_ = kind;
    write("content_block_start", {{"index", index_}, {"content_block", std::move(block)}}, out);
  }
  void write_delta(json::object delta, std::string& out) const {
    write("content_block_delta", {{"index", index_}, {"delta", std::move(delta)}}, out);
  }
  void close_block(std::string& out) {
    if (open_ == Open::nothing) return;
    if (open_ == Open::thinking) {
      write_delta({{"type", "signature_delta"}, {"signature", signature(thinking_)}}, out);
      thinking_.clear();
    }
    write("content_block_stop", {{"index", index_}}, out);
    open_ = Open::nothing;
    ++index_;
  }

  void write_event(const text::CompletionEvent& event, std::string& out) {
    switch (event.kind) {
      case Kind::reasoning:
        if (!shape_.shows_thinking) return;
        if (open_ != Open::thinking) {
          close_block(out);
          open_block(Open::thinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}},
                     out);
        }
        thinking_ += event.text;
        if (!shape_.omits_thinking)
          write_delta({{"type", "thinking_delta"}, {"thinking", event.text}}, out);
        return;
      case Kind::content:
        if (open_ != Open::text) {
          close_block(out);
          open_block(Open::text, {{"type", "text"}, {"text", ""}}, out);
        }
        write_delta({{"type", "text_delta"}, {"text", event.text}}, out);
        return;
      case Kind::call_start:
        close_block(out);
        open_block(Open::call,
                   {{"type", "tool_use"},
                    {"id", event.id},
                    {"name", event.text},
                    {"input", json::object()}},
                   out);
        return;
      case Kind::call_arguments:
        write_delta({{"type", "input_json_delta"}, {"partial_json", event.text}}, out);
        return;
      case Kind::call_end: close_block(out); return;
    }
  }

  Shape shape_;
  Open open_ = Open::nothing;
  int64_t index_ = 0;
  std::string thinking_;
};

}  // namespace

Routed messages(const HttpRequest& request, const ServedModel& model) {
  const Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::anthropic);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::anthropic, model, &name))
    return error_answer(*error, ErrorShape::anthropic);
  Result<MessagesAsk> ask = read_messages(*body, model, name.thinks);
  if (!ask) return error_answer(ask.error(), ErrorShape::anthropic);
  Result<text::ChatPrompt> prompt = render_chat(ask->chat, model);
  if (!prompt) return error_answer(prompt.error(), ErrorShape::anthropic);
  if (const auto error =
          check_context(prompt->ids.size(), "messages", ErrorShape::anthropic, model))
    return error_answer(*error, ErrorShape::anthropic);
  Result<Ask> prepared = prepare_chat(ask->chat, *std::move(prompt), model);
  if (!prepared) return error_answer(prepared.error(), ErrorShape::anthropic);
  Shape shape;
  shape.id = model.options().new_id("msg_");
  shape.request_id = request.header("request-id");
  shape.model = model.options().name;
  fields.text("model", &shape.model);
  shape.omits_thinking = ask->omits_thinking;
  shape.shows_thinking = ask->chat.thinking.is_shown;
  return std::make_unique<MessagesCall>(model, *std::move(prepared), ask->chat.generation.streams,
                                        std::move(shape), ask->chat.tools);
}

Routed count_message_tokens(const HttpRequest& request, const ServedModel& model) {
  const Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::anthropic);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::anthropic, model, &name))
    return error_answer(*error, ErrorShape::anthropic);
  const Result<MessagesAsk> ask = read_messages(*body, model, name.thinks);
  if (!ask) return error_answer(ask.error(), ErrorShape::anthropic);
  const Result<text::ChatPrompt> prompt = render_chat(ask->chat, model);
  if (!prompt) return error_answer(prompt.error(), ErrorShape::anthropic);
  HttpAnswer answer;
  answer.body = python_json(json::object{{"input_tokens", prompt->ids.size()}});
  return answer;
}

}  // namespace cachalot::api
