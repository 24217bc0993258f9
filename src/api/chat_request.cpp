// What a body of chat completions asks.
#include <fmt/format.h>

#include <algorithm>

#include "api/chat_completions.h"

namespace cachalot::api {
namespace {

// Calls of custom tools, and refusals, in the words that text/chat_message.h reads.
void rewrite_message(json::object& message) {
  if (json::value* calls = message.if_contains("tool_calls"); calls && calls->is_array()) {
    for (json::value& call : calls->get_array()) {
      if (!call.is_object()) continue;
      json::object& object = call.get_object();
      const json::value* custom = object.if_contains("custom");
      if (custom == nullptr || !custom->is_object() || object.contains("function")) continue;
      json::object function;
      if (const json::value* name = custom->get_object().if_contains("name"))
        function["name"] = *name;
      const json::value* input = custom->get_object().if_contains("input");
      if (input != nullptr && input->is_string())
        function["arguments"] = custom_arguments(input->get_string());
      object["function"] = std::move(function);
    }
  }
  if (json::value* parts = message.if_contains("content"); parts && parts->is_array()) {
    for (json::value& part : parts->get_array()) {
      if (!part.is_object()) continue;
      json::object& object = part.get_object();
      const json::value* type = object.if_contains("type");
      const json::value* refusal = object.if_contains("refusal");
      if (type == nullptr || *type != "refusal" || refusal == nullptr) continue;
      json::value text = *refusal;
      object["type"] = "text";
      object["text"] = std::move(text);
    }
  }
}

void read_logprobs(Fields& fields, GenerationFields* out) {
  bool wants = false;
  fields.boolean("logprobs", &wants);
  int64_t top = 0;
  fields.integer("top_logprobs", &top, 0, kMaxTopLogprobs);
  if (wants) out->num_top_logprobs = top;
  if (!wants && top > 0) {
    fields.fail(invalid_argument(
        fmt::format("top_logprobs: expected logprobs to be true beside it, found {} alone", top)));
  }
}

void refuse_unknown(Fields& fields) {
  refuse_unknown_sampling(fields);
  // Each changes the answer, and has a newer name or no place here.
  for (const std::string_view name : {"functions", "function_call", "audio", "chat_template",
                                      "documents", "response_prefix", "suffix", "echo"})
    fields.refuse(name);
  std::vector<std::string> modalities;
  fields.texts("modalities", &modalities);
  for (const std::string& modality : modalities) {
    if (modality != "text") fields.fail("modalities", "text", json::value(modality));
  }
}

// An answer that ends the messages is continued, and nothing else is.
Status check_end(Fields& fields, const std::vector<text::Message>& messages) {
  bool begins_answer = true, continues = false;
  fields.boolean("add_generation_prompt", &begins_answer);
  fields.boolean("continue_final_message", &continues);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (messages.empty() || messages.back().role == text::Role::assistant) return {};
  if (!begins_answer) return not_done("add_generation_prompt", false);
  if (continues) return not_done("continue_final_message", true);
  return {};
}

}  // namespace

Result<ChatAsk> read_chat(json::object& body, const ServedModel& model, bool thinks_otherwise) {
  if (json::value* messages = body.if_contains("messages"); messages && messages->is_array()) {
    for (json::value& message : messages->get_array()) {
      if (message.is_object()) rewrite_message(message.get_object());
    }
  }
  Fields fields(body);
  ChatAsk ask;
  ask.generation = read_generation_fields(fields, model, model.options().max_answers);
  read_logprobs(fields, &ask.generation);
  ask.thinking = read_thinking(fields, model, thinks_otherwise);
  refuse_unknown(fields);
  if (const json::array* list = fields.array("tools")) {
    CACHALOT_ASSIGN_OR_RETURN(ask.tools, read_tools(*list));
  }
  if (fields.filled("web_search_options") != nullptr) ask.tools.hosted.push_back("web_search");
  CACHALOT_ASSIGN_OR_RETURN(ask.selection,
                            read_tool_choice(fields.filled("tool_choice"), ask.tools));
  fields.boolean("parallel_tool_calls", &ask.selection.parallel);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_ASSIGN_OR_RETURN(ask.constraint, read_constraint(fields));
  const json::value* messages = fields.find("messages");
  const json::value none;
  CACHALOT_ASSIGN_OR_RETURN(text::ChatRequest request,
                            text::parse_chat_request(messages != nullptr ? *messages : none));
  ask.messages = std::move(request.messages);
  for (size_t i = 0; i < ask.messages.size(); ++i) {
    if (ask.messages[i].tools.empty() && !ask.messages[i].response_format) continue;
    return unsupported(fmt::format(
        "messages[{}]: expected tools and response_format beside the messages, found them in one",
        i));
  }
  CACHALOT_RETURN_IF_ERROR(check_end(fields, ask.messages));
  return ask;
}

}  // namespace cachalot::api
