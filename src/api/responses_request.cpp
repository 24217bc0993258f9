// What a body of Responses asks.
#include <fmt/format.h>

#include <algorithm>

#include "api/messages.h"
#include "api/responses.h"
#include "text/dsml_arguments.h"

namespace cachalot::api {
namespace {

using text::Message;
using text::Role;

// Items in, messages out: reasoning, text and calls of one turn become one message.
class ItemReader {
 public:
  explicit ItemReader(std::vector<Message>& out) : out_(out) {}

  void add(Role role, std::string text) {
    flush();
    Message& message = out_.emplace_back();
    message.role = role;
    message.content = std::move(text);
  }

  Status read(const json::value& value, const std::string& where) {
    if (!value.is_object()) {
      return invalid_argument(fmt::format("{}: expected an object, found {}", where, shown(value)));
    }
    Fields item(value.get_object(), where);
    std::string type;
    item.text("type", &type);
    CACHALOT_RETURN_IF_ERROR(item.status());
    if (type == "message" || (type.empty() && item.find("role") != nullptr))
      return read_message(item);
    if (type == "reasoning") return read_reasoning(item);
    if (type == "function_call" || type == "custom_tool_call")
      return read_call(item, type == "custom_tool_call");
    if (type == "function_call_output" || type == "custom_tool_call_output")
      return read_output(item);
    if (type == "item_reference") {
      return unsupported(fmt::format(
          "{}.type: expected an item itself, as nothing is stored here, found item_reference",
          where));
    }
    if (type.empty()) {
      return invalid_argument(fmt::format("{}.type: expected a string, found nothing", where));
    }
    return {};  // of tools that run elsewhere
  }

  void flush() {
    if (!has_turn_) return;
    has_turn_ = false;
    out_.push_back(std::move(turn_));
  }

 private:
  Message& turn() {
    if (!has_turn_) {
      turn_ = {};
      turn_.role = Role::assistant;
      has_turn_ = true;
    }
    return turn_;
  }

  // The text of a string, or of parts; `where` is the list's place.
  static Status read_parts(const json::value& value, const std::string& where, bool is_output,
                           Message& message) {
    if (value.is_string()) {
      message.content += std::string_view(value.get_string());
      return {};
    }
    if (!value.is_array()) {
      return invalid_argument(
          fmt::format("{}: expected a string or a list of parts, found {}", where, shown(value)));
    }
    message.has_parts = true;
    for (size_t i = 0; i < value.get_array().size(); ++i) {
      const json::value& one = value.get_array()[i];
      const std::string at = fmt::format("{}[{}]", where, i);
      if (!one.is_object())
        return invalid_argument(fmt::format("{}: expected an object, found {}", at, shown(one)));
      Fields part(one.get_object(), at);
      text::ContentPart out;
      part.text("type", &out.type);
      CACHALOT_RETURN_IF_ERROR(part.status());
      if (out.type == "input_text" || out.type == "output_text" || out.type == "text") {
        part.text("text", &out.text);
      } else if (out.type == "refusal") {
        part.text("refusal", &out.text);
      } else if (is_output) {
        out.kind = text::ContentPart::Kind::other;
      } else {
        return unsupported(fmt::format("{}.type: expected text, found \"{}\"", at,
                                       std::string_view(out.type).substr(0, 64)));
      }
      CACHALOT_RETURN_IF_ERROR(part.status());
      message.parts.push_back(std::move(out));
    }
    return {};
  }

  Status read_message(Fields& item) {
    std::string role;
    item.text("role", &role);
    CACHALOT_RETURN_IF_ERROR(item.status());
    const json::value none("");
    const json::value* content = item.find("content");
    if (content == nullptr) content = &none;
    const std::string where = item.place("content");
    if (role == "assistant") {
      if (has_turn_ && (!turn_.tool_calls.empty() || turn_.has_parts || !turn_.content.empty()))
        flush();
      return read_parts(*content, where, false, turn());
    }
    if (role != "user" && role != "system" && role != "developer") {
      return invalid_argument(
          fmt::format("{}: expected user, assistant, system or developer, found \"{}\"",
                      item.place("role"), std::string_view(role).substr(0, 64)));
    }
    add(role == "user" ? Role::user : Role::system, {});
    return read_parts(*content, where, false, out_.back());
  }

  Status read_reasoning(Fields& item) {
    if (has_turn_ && (!turn_.tool_calls.empty() || turn_.has_parts || !turn_.content.empty()))
      flush();
    std::string text = texts_of(item, "content");
    std::string encrypted;
    item.text("encrypted_content", &encrypted);
    CACHALOT_RETURN_IF_ERROR(item.status());
    if (text.empty()) text = text::valid_utf8(hidden_thinking(encrypted));
    if (text.empty()) text = texts_of(item, "summary");
    Message& turn = this->turn();
    if (!turn.reasoning_content.empty() && !text.empty()) turn.reasoning_content += '\n';
    turn.reasoning_content += text;
    return {};
  }
  static std::string texts_of(const Fields& item, std::string_view key) {
    std::string out;
    const json::value* list = item.find(key);
    if (list == nullptr || !list->is_array()) return out;
    for (const json::value& one : list->get_array()) {
      const json::value* text = one.is_object() ? one.get_object().if_contains("text") : nullptr;
      if (text == nullptr || !text->is_string()) continue;
      if (!out.empty()) out += '\n';
      out += std::string_view(text->get_string());
    }
    return out;
  }

  Status read_call(Fields& item, bool is_custom) {
    text::ToolCall call;
    std::string name_space, input;
    item.text("call_id", &call.id);
    item.text("name", &call.name);
    item.text("namespace", &name_space);
    item.text(is_custom ? "input" : "arguments", &input);
    CACHALOT_RETURN_IF_ERROR(item.status());
    if (!name_space.empty()) call.name = fmt::format("{}::{}", name_space, call.name);
    call.arguments = is_custom ? custom_arguments(input) : input;
    turn().tool_calls.push_back(std::move(call));
    return {};
  }

  Status read_output(Fields& item) {
    add(Role::tool, {});
    item.text("call_id", &out_.back().tool_call_id);
    CACHALOT_RETURN_IF_ERROR(item.status());
    const json::value* output = item.find("output");
    if (output == nullptr) return {};
    return read_parts(*output, item.place("output"), true, out_.back());
  }

  std::vector<Message>& out_;
  Message turn_;
  bool has_turn_ = false;
};

Status read_input(Fields& fields, std::vector<Message>& messages) {
  ItemReader reader(messages);
  std::string instructions;
  fields.text("instructions", &instructions);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (!instructions.empty()) reader.add(Role::system, std::move(instructions));
  const json::value* input = fields.find("input");
  if (input != nullptr && input->is_string()) {
    reader.add(Role::user, std::string(std::string_view(input->get_string())));
  } else if (input != nullptr && input->is_array()) {
    for (size_t i = 0; i < input->get_array().size(); ++i)
      CACHALOT_RETURN_IF_ERROR(reader.read(input->get_array()[i], fmt::format("input[{}]", i)));
  } else {
    return invalid_argument(fmt::format("input: expected a string or a list of items, found {}",
                                        input != nullptr ? shown(*input) : "nothing"));
  }
  reader.flush();
  // Clients probe with empty inputs.
  for (const Message& message : messages) {
    if (message.role != Role::system) return {};
  }
  reader.add(Role::user, {});
  return {};
}

// What is not stored here, and what is asked for by `include`.
void refuse_unknown(Fields& fields) {
  for (const std::string_view name :
       {"previous_response_id", "conversation", "background", "prompt", "logprobs"})
    fields.refuse(name);
}

}  // namespace

Result<ResponsesAsk> read_responses(const json::object& body, const ServedModel& model,
                                    bool thinks_otherwise) {
  Fields fields(body);
  ResponsesAsk out;
  ChatAsk& ask = out.chat;
  ask.generation = read_generation_fields(fields, model, 1);
  refuse_unknown_sampling(fields);
  refuse_unknown(fields);
  ask.thinking = read_thinking(fields, model, thinks_otherwise);
  if (const json::object* reasoning = fields.object("reasoning")) {
    Fields inner(*reasoning, "reasoning");
    std::string summary;
    inner.text("generate_summary", &summary);
    inner.text("summary", &summary);
    fields.fail(inner.status());
    out.summarises = !summary.empty() && summary != "none";
  }
  std::vector<std::string> includes;
  fields.texts("include", &includes);
  for (const std::string& include : includes) {
    if (include == "reasoning.encrypted_content") out.encrypts = true;
    if (include == "message.output_text.logprobs") out.tells_logprobs = true;
  }
  int64_t top = -1;
  fields.integer("top_logprobs", &top, 0, kMaxTopLogprobs);
  if (top > 0) out.tells_logprobs = true;
  if (out.tells_logprobs) ask.generation.num_top_logprobs = std::max<int64_t>(top, 0);
  if (const json::array* list = fields.array("tools")) {
    CACHALOT_ASSIGN_OR_RETURN(ask.tools, read_tools(*list));
  }
  CACHALOT_ASSIGN_OR_RETURN(ask.selection,
                            read_tool_choice(fields.filled("tool_choice"), ask.tools));
  fields.boolean("parallel_tool_calls", &ask.selection.parallel);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_ASSIGN_OR_RETURN(ask.constraint, read_constraint(fields));
  const json::object* text = fields.object("text");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (text != nullptr) {
    // Only verbosity may be there, which says nothing here.
    if (const json::value* format = Fields(*text).filled("format"))
      CACHALOT_RETURN_IF_ERROR(add_constraint(ask.constraint, read_format(*format, "text.format")));
  }
  CACHALOT_RETURN_IF_ERROR(read_input(fields, ask.messages));
  return out;
}

}  // namespace cachalot::api
