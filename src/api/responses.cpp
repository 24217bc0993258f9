#include "api/responses.h"

#include <fmt/format.h>

#include "api/finite_json.h"
#include "api/logprob_text.h"
#include "api/messages.h"
#include "api/model_field.h"
#include "api/sse.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using Kind = text::CompletionEvent::Kind;

struct Shape {
  std::string id;
  int64_t created = 0;
  json::object asked;  // fields of the request that the response repeats
  bool summarises = false;
  bool encrypts = false;
  bool tells_logprobs = false;
  bool shows_reasoning = true;
  ClientTools tools;
};

json::value usage_json(const Usage& usage) {
  return json::object{
      {"input_tokens", usage.prompt_tokens},
      {"input_tokens_details", json::object{{"cached_tokens", usage.cached_tokens}}},
      {"output_tokens", usage.completion_tokens},
      {"output_tokens_details", json::object{{"reasoning_tokens", usage.reasoning_tokens}}},
      {"total_tokens", usage.total_tokens()}};
}

// The items of a response as they come into being; each is whole once its part of the answer has
// ended. Writes the events of a stream, where there is one.
class ItemWriter {
 public:
  ItemWriter(const ServedModel& model, const Shape& shape) : model_(model), shape_(shape) {}

  const json::array& items() const { return items_; }

  void write(std::string_view type, json::object fields, std::string* out) {
    if (out == nullptr) return;
    json::object data{{"type", type}, {"sequence_number", sequence_++}};
    for (auto& [key, value] : fields) data[key] = std::move(value);
    append_event(type, data, *out);
  }

  void take(const text::CompletionEvent& event, json::array logprobs, std::string* out) {
    switch (event.kind) {
      case Kind::reasoning:
        if (!shape_.shows_reasoning) return;
        if (open_ != Open::reasoning) open_reasoning(out);
        text_ += event.text;
        write_at(shape_.summarises ? "response.reasoning_summary_text.delta"
                                   : "response.reasoning_text.delta",
                 {{"delta", event.text}}, out);
        return;
      case Kind::content:
        if (open_ != Open::text) open_text(out);
        text_ += event.text;
        logprobs_.insert(logprobs_.end(), logprobs.begin(), logprobs.end());
        write_at("response.output_text.delta",
                 {{"delta", event.text}, {"logprobs", std::move(logprobs)}}, out);
        return;
      case Kind::call_start: open_call(event, out); return;
      case Kind::call_arguments:
        text_ += event.text;
        if (!is_custom_)
          write_at("response.function_call_arguments.delta", {{"delta", event.text}}, out);
        return;
      case Kind::call_end:
        // Clients run what is done: a call that broke off never is.
        if (event.complete) {
          close_call(out);
        } else {
          open_ = Open::nothing;
          text_.clear();
        }
        return;
    }
  }

  void close(std::string* out) {
    switch (open_) {
      case Open::reasoning: close_reasoning(out); break;
      case Open::text: close_text(out); break;
      case Open::call:
      case Open::nothing: break;
    }
    open_ = Open::nothing;
    text_.clear();
  }

 private:
  enum class Open { nothing, reasoning, text, call };

  void open(Open kind, std::string_view prefix, json::object item, std::string* out) {
    close(out);
    open_ = kind;
    id_ = model_.options().new_id(prefix);
    item_ = std::move(item);
    item_["id"] = id_;
    item_["status"] = "in_progress";
    write("response.output_item.added", {{"output_index", items_.size()}, {"item", item_}}, out);
  }
  void done(std::string* out) {
    item_["status"] = "completed";
    write("response.output_item.done", {{"output_index", items_.size()}, {"item", item_}}, out);
    items_.push_back(std::move(item_));
    open_ = Open::nothing;
    text_.clear();
  }
  // Of the open item's only part.
  void write_at(std::string_view type, json::object fields, std::string* out) {
    if (out == nullptr) return;
    json::object all{{"item_id", id_}, {"output_index", items_.size()}};
    if (open_ != Open::call) {
      const bool is_summary = open_ == Open::reasoning && shape_.summarises;
      all[is_summary ? "summary_index" : "content_index"] = 0;
    }
    for (auto& [key, value] : fields) all[key] = std::move(value);
    write(type, std::move(all), out);
  }

  json::object reasoning_part() const {
    return {{"type", shape_.summarises ? "summary_text" : "reasoning_text"}, {"text", text_}};
  }
  void open_reasoning(std::string* out) {
    open(Open::reasoning, "rs_",
         {{"type", "reasoning"}, {"summary", json::array()}, {"content", json::array()}}, out);
    write_at(
        shape_.summarises ? "response.reasoning_summary_part.added" : "response.content_part.added",
        {{"part", reasoning_part()}}, out);
  }
  void close_reasoning(std::string* out) {
    const json::object part = reasoning_part();
    write_at(
        shape_.summarises ? "response.reasoning_summary_text.done" : "response.reasoning_text.done",
        {{"text", text_}}, out);
    write_at(
        shape_.summarises ? "response.reasoning_summary_part.done" : "response.content_part.done",
        {{"part", part}}, out);
    item_[shape_.summarises ? "summary" : "content"] = json::array{part};
    if (shape_.encrypts) item_["encrypted_content"] = thinking_signature({}, text_);
    done(out);
  }

  json::object text_part() const {
    return {{"type", "output_text"},
            {"text", text_},
            {"annotations", json::array()},
            {"logprobs", logprobs_}};
  }
  void open_text(std::string* out) {
    open(Open::text, "msg_",
         {{"type", "message"}, {"role", "assistant"}, {"content", json::array()}}, out);
    write_at("response.content_part.added", {{"part", text_part()}}, out);
  }
  void close_text(std::string* out) {
    const json::object part = text_part();
    write_at("response.output_text.done", {{"text", text_}, {"logprobs", logprobs_}}, out);
    write_at("response.content_part.done", {{"part", part}}, out);
    item_["content"] = json::array{part};
    logprobs_.clear();
    done(out);
  }

  void open_call(const text::CompletionEvent& event, std::string* out) {
    const ClientTool* tool = shape_.tools.find(event.text);
    is_custom_ = tool != nullptr && tool->is_custom;
    json::object item{{"type", is_custom_ ? "custom_tool_call" : "function_call"},
                      {"call_id", event.id},
                      {"name", tool != nullptr ? tool->name : event.text},
                      {is_custom_ ? "input" : "arguments", ""}};
    if (tool != nullptr && !tool->name_space.empty()) item["namespace"] = tool->name_space;
    open(Open::call, is_custom_ ? "ctc_" : "fc_", std::move(item), out);
  }
  void close_call(std::string* out) {
    if (is_custom_) {
      const std::string input = custom_input(text_);
      item_["input"] = input;
      write_at("response.custom_tool_call_input.delta", {{"delta", input}}, out);
      write_at("response.custom_tool_call_input.done", {{"input", input}}, out);
    } else {
      item_["arguments"] = text_;
      write_at("response.function_call_arguments.done",
               {{"arguments", text_}, {"name", item_["name"]}}, out);
    }
    done(out);
  }

  const ServedModel& model_;
  const Shape& shape_;
  json::array items_;
  Open open_ = Open::nothing;
  std::string id_;
  json::object item_;  // the open one
  std::string text_;
  json::array logprobs_;
  bool is_custom_ = false;
  int64_t sequence_ = 0;
};

class ResponsesCall : public GeneratedCall {
 public:
  ResponsesCall(const ServedModel& model, Ask ask, bool streams, Shape shape)
      : GeneratedCall(model, only(std::move(ask)), streams, ErrorShape::openai),
        shape_(std::move(shape)),
        items_(model, shape_) {
    if (auto header = ignored_tools_header(shape_.tools)) add_header(*std::move(header));
  }

  std::string keep_alive() override {
    std::string out;
    items_.write("response.in_progress", {{"response", response("in_progress")}}, &out);
    return out;
  }

 protected:
  void write_head(std::string& out) override {
    items_.write("response.created", {{"response", response("in_progress")}}, &out);
    items_.write("response.in_progress", {{"response", response("in_progress")}}, &out);
  }
  void write_events(Answer& answer, std::span<const text::CompletionEvent> events,
                    std::string& out) override {
    take_events(answer, events, &out);
  }
  void write_finish(Answer&, std::string& out) override { items_.close(&out); }
  void write_end(std::string& out) override {
    const std::string_view status = this->status();
    items_.write(fmt::format("response.{}", status), {{"response", response(status)}}, &out);
  }
  void write_error(const ApiError& error, std::string& out) override {
    json::object failed = response("failed");
    failed["error"] = json::object{{"code", error.status < 500 ? "invalid_prompt" : "server_error"},
                                   {"message", error.message}};
    items_.write("response.failed", {{"response", std::move(failed)}}, &out);
  }
  std::string write_whole() override {
    items_.close(nullptr);
    return python_json(response(status()));
  }
  void take_whole(Answer& answer, std::span<const text::CompletionEvent> events) override {
    take_events(answer, events, nullptr);
  }

 private:
  void take_events(Answer& answer, std::span<const text::CompletionEvent> events,
                   std::string* out) {
    for (const text::CompletionEvent& event : events) {
      json::array logprobs;
      for (; shape_.tells_logprobs && has_untold(answer); ++answer.num_told) {
        const TokenInfo& info = answer.tokens[answer.num_told];
        if (event.kind == Kind::content)
          logprobs.push_back(chat_logprob(model().tokenizer(), info.token, info.logprob, info.top));
      }
      items_.take(event, std::move(logprobs), out);
    }
  }

  std::string_view status() {
    const Answer& answer = answers().front();
    return finish_reason(answer.text, answer.finish) == text::FinishReason::length ? "incomplete"
                                                                                   : "completed";
  }

  json::object response(std::string_view status) {
    json::object out{{"id", shape_.id},
                     {"object", "response"},
                     {"created_at", shape_.created},
                     {"status", status},
                     {"error", nullptr},
                     {"incomplete_details", nullptr},
                     {"model", model().options().name},
                     {"output", items_.items()},
                     {"previous_response_id", nullptr},
                     {"store", false},
                     {"truncation", "disabled"},
                     {"usage", nullptr}};
    if (status == "incomplete")
      out["incomplete_details"] = json::object{{"reason", "max_output_tokens"}};
    if (status != "in_progress") out["usage"] = usage_json(usage());
    for (const auto& [key, value] : shape_.asked) out[key] = value;
    return out;
  }

  Shape shape_;
  ItemWriter items_;
};

// What a response repeats of its request.
json::object repeated(const json::object& body) {
  json::object out{{"instructions", nullptr},
                   {"max_output_tokens", nullptr},
                   {"metadata", json::object()},
                   {"parallel_tool_calls", true},
                   {"reasoning", json::object{{"effort", nullptr}, {"summary", nullptr}}},
                   {"temperature", 1.0},
                   {"text", json::object{{"format", json::object{{"type", "text"}}}}},
                   {"tool_choice", "auto"},
                   {"tools", json::array()},
                   {"top_p", 1.0},
                   {"user", nullptr}};
  for (auto& [key, value] : out) {
    const json::value* asked = body.if_contains(key);
    if (asked != nullptr && !asked->is_null()) value = *asked;
    make_finite(value);
  }
  return out;
}

}  // namespace

Routed responses(const HttpRequest& request, const ServedModel& model) {
  const Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::openai);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::openai, model, &name))
    return error_answer(*error, ErrorShape::openai);
  Result<ResponsesAsk> ask = read_responses(*body, model, name.thinks);
  if (!ask) return error_answer(ask.error(), ErrorShape::openai);
  Result<text::ChatPrompt> prompt = render_chat(ask->chat, model);
  if (!prompt) return error_answer(prompt.error(), ErrorShape::openai);
  if (const auto error = check_context(prompt->ids.size(), "input", ErrorShape::openai, model))
    return error_answer(*error, ErrorShape::openai);
  Result<Ask> prepared = prepare_chat(ask->chat, *std::move(prompt), model);
  if (!prepared) return error_answer(prepared.error(), ErrorShape::openai);
  Shape shape;
  shape.id = model.options().new_id("resp_");
  shape.created = model.options().now();
  shape.asked = repeated(*body);
  shape.summarises = ask->summarises;
  shape.encrypts = ask->encrypts;
  shape.tells_logprobs = ask->tells_logprobs;
  shape.shows_reasoning = ask->chat.thinking.is_shown;
  shape.tools = std::move(ask->chat.tools);
  return std::make_unique<ResponsesCall>(model, *std::move(prepared), ask->chat.generation.streams,
                                         std::move(shape));
}

}  // namespace cachalot::api
