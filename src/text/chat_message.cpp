#include "text/chat_message.h"

#include <fmt/format.h>

#include <array>

#include "base/python_json.h"

namespace cachalot::text {
namespace {

struct RoleName {
  Role role;
  std::string_view name;
};
constexpr std::array kRoleNames = {
    RoleName{Role::system, "system"}, RoleName{Role::developer, "developer"},
    RoleName{Role::user, "user"},     RoleName{Role::assistant, "assistant"},
    RoleName{Role::tool, "tool"},     RoleName{Role::latest_reminder, "latest_reminder"},
};

Status wrong_kind(std::string_view where, std::string_view expected, const json::value* found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", where, expected,
                                      found ? json_kind_name(*found) : "nothing"));
}

// The member, or nullptr if it is absent or null.
const json::value* find(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && !value->is_null() ? value : nullptr;
}

Status read_string(const json::object& object, std::string_view key, std::string_view where,
                   std::string& out) {
  const json::value* value = find(object, key);
  if (!value) return {};
  if (!value->is_string()) {
    return wrong_kind(fmt::format("{}.{}", where, key), "a string", value);
  }
  out = std::string_view(value->get_string());
  return {};
}

Status read_bool(const json::object& object, std::string_view key, std::string_view where,
                 bool& out) {
  const json::value* value = find(object, key);
  if (!value) return {};
  if (!value->is_bool()) {
    return wrong_kind(fmt::format("{}.{}", where, key), "true or false", value);
  }
  out = value->get_bool();
  return {};
}

std::string image_source(const json::object& part) {
  const json::value* image = find(part, "image_url");
  if (!image) image = find(part, "source");
  if (!image) image = find(part, "url");
  if (!image) image = find(part, "data");
  if (!image) return {};
  if (image->is_object()) {
    if (const json::value* url = find(image->get_object(), "url")) image = url;
  }
  return image->is_string() ? std::string(std::string_view(image->get_string()))
                            : python_json(*image);
}

// One element of a content list; appends to the message's parts or to its reasoning.
Status read_part(const json::value& value, const std::string& where, Message& message) {
  if (!value.is_object()) return wrong_kind(where, "an object with a type", &value);
  const json::object& object = value.get_object();
  ContentPart part;
  CACHALOT_RETURN_IF_ERROR(read_string(object, "type", where, part.type));
  if (part.type.empty()) return wrong_kind(where + ".type", "a string", find(object, "type"));
  if (part.type == "thinking") {
    std::string thinking;
    CACHALOT_RETURN_IF_ERROR(read_string(object, "thinking", where, thinking));
    // Several blocks of one message are joined in order (reference/chat 5.5).
    if (!message.reasoning_content.empty()) message.reasoning_content += '\n';
    message.reasoning_content += thinking;
    return {};
  }
  if (part.type == "redacted_thinking") return {};
  if (part.type == "text" || part.type == "input_text" || part.type == "output_text") {
    CACHALOT_RETURN_IF_ERROR(read_string(object, "text", where, part.text));
  } else if (part.type == "image_url" || part.type == "image" || part.type == "input_image") {
    part.kind = ContentPart::Kind::image;
    part.text = image_source(object);
  } else {
    part.kind = ContentPart::Kind::other;
  }
  message.parts.push_back(std::move(part));
  return {};
}

Status read_content(const json::object& object, const std::string& where, Message& message) {
  const json::value* content = find(object, "content");
  if (!content) return {};
  if (content->is_string()) {
    message.content = std::string_view(content->get_string());
    return {};
  }
  if (!content->is_array()) {
    return wrong_kind(where + ".content", "a string, null or a list of parts", content);
  }
  message.has_parts = true;
  for (size_t i = 0; i < content->get_array().size(); ++i) {
    CACHALOT_RETURN_IF_ERROR(
        read_part(content->get_array()[i], fmt::format("{}.content[{}]", where, i), message));
  }
  return {};
}

Status read_tool_call(const json::value& value, const std::string& where, ToolCall& call) {
  if (!value.is_object()) return wrong_kind(where, "an object", &value);
  const json::object& object = value.get_object();
  const json::value* function = find(object, "function");
  if (!function || !function->is_object()) {
    return wrong_kind(where + ".function", "an object", function);
  }
  const json::object& body = function->get_object();
  const std::string function_where = where + ".function";
  CACHALOT_RETURN_IF_ERROR(read_string(object, "id", where, call.id));
  if (call.id.empty()) CACHALOT_RETURN_IF_ERROR(read_string(body, "id", function_where, call.id));
  const json::value* name = find(body, "name");
  if (!name) return wrong_kind(function_where + ".name", "a string", name);
  CACHALOT_RETURN_IF_ERROR(read_string(body, "name", function_where, call.name));
  CACHALOT_RETURN_IF_ERROR(read_string(body, "namespace", function_where, call.name_space));
  CACHALOT_RETURN_IF_ERROR(read_string(object, "namespace", where, call.name_space));
  if (const json::value* arguments = find(body, "arguments")) {
    if (arguments->is_string()) {
      call.arguments = std::string_view(arguments->get_string());
    } else {
      call.arguments = python_json(*arguments);
      call.arguments_are_text = false;
    }
  }
  return {};
}

// OpenRouter's list of {"type": "reasoning.text", "text"}; what else stands there is no text.
void read_reasoning_details(const json::object& object, Message& message) {
  const json::value* details = find(object, "reasoning_details");
  if (!details || !details->is_array() || !message.reasoning_content.empty()) return;
  for (const json::value& detail : details->get_array()) {
    const json::value* text = detail.is_object() ? find(detail.get_object(), "text") : nullptr;
    if (text && text->is_string())
      message.reasoning_content += std::string_view(text->get_string());
  }
}

Status read_message(const json::value& value, const std::string& where, Message& message) {
  if (!value.is_object()) return wrong_kind(where, "an object", &value);
  const json::object& object = value.get_object();

  const json::value* role = find(object, "role");
  if (!role || !role->is_string()) return wrong_kind(where + ".role", "a string", role);
  const std::string_view spelled = role->get_string();
  const RoleName* known = nullptr;
  for (const RoleName& candidate : kRoleNames) {
    if (candidate.name == spelled) known = &candidate;
  }
  if (!known) {
    return invalid_argument(
        fmt::format("{}.role: expected system, developer, user, assistant, tool or "
                    "latest_reminder, found \"{}\"",
                    where, spelled));
  }
  message.role = known->role;

  CACHALOT_RETURN_IF_ERROR(read_content(object, where, message));
  for (const std::string_view name :
       {"reasoning_content", "reasoning", "reasoning_text", "thinking"}) {
    if (!message.reasoning_content.empty()) break;
    CACHALOT_RETURN_IF_ERROR(read_string(object, name, where, message.reasoning_content));
  }
  read_reasoning_details(object, message);
  if (const json::value* calls = find(object, "tool_calls")) {
    if (!calls->is_array()) return wrong_kind(where + ".tool_calls", "a list", calls);
    for (size_t i = 0; i < calls->get_array().size(); ++i) {
      CACHALOT_RETURN_IF_ERROR(read_tool_call(calls->get_array()[i],
                                              fmt::format("{}.tool_calls[{}]", where, i),
                                              message.tool_calls.emplace_back()));
    }
  }
  CACHALOT_RETURN_IF_ERROR(read_string(object, "tool_call_id", where, message.tool_call_id));
  if (const json::value* tools = find(object, "tools")) {
    CACHALOT_ASSIGN_OR_RETURN(message.tools, parse_tools(*tools, where + ".tools"));
  }
  if (const json::value* format = find(object, "response_format"))
    message.response_format = *format;
  if (find(object, "task")) {
    CACHALOT_RETURN_IF_ERROR(read_string(object, "task", where, message.task.emplace()));
  }
  CACHALOT_RETURN_IF_ERROR(read_bool(object, "wo_eos", where, message.wo_eos));
  return read_bool(object, "prefix", where, message.prefix);
}

}  // namespace

std::string_view prompt_family_name(PromptFamily family) {
  switch (family) {
    case PromptFamily::v4: return "v4";
    case PromptFamily::v4_0731: return "v4-0731";
    case PromptFamily::v4_1: return "v4.1";
  }
  return "";
}

Result<PromptFamily> parse_prompt_family(std::string_view name) {
  for (const PromptFamily family : {PromptFamily::v4, PromptFamily::v4_0731, PromptFamily::v4_1}) {
    if (name == prompt_family_name(family)) return family;
  }
  return invalid_argument(
      fmt::format("prompt family: expected v4, v4-0731 or v4.1, found \"{}\"", name));
}

std::string_view role_name(Role role) {
  for (const RoleName& known : kRoleNames) {
    if (known.role == role) return known.name;
  }
  return "";
}

std::string_view ToolDefinition::name() const {
  const json::value* value = function.if_contains("name");
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

Result<std::vector<ToolDefinition>> parse_tools(const json::value& tools, std::string_view where) {
  if (tools.is_null()) return std::vector<ToolDefinition>();
  if (!tools.is_array()) return wrong_kind(where, "a list", &tools);
  std::vector<ToolDefinition> out;
  for (size_t i = 0; i < tools.get_array().size(); ++i) {
    const std::string at = fmt::format("{}[{}]", where, i);
    const json::value& tool = tools.get_array()[i];
    if (!tool.is_object()) return wrong_kind(at, "an object", &tool);
    const json::value* function = find(tool.get_object(), "function");
    if (!function || !function->is_object()) {
      return wrong_kind(at + ".function", "an object", function);
    }
    const json::value* name = find(function->get_object(), "name");
    if (!name || !name->is_string()) return wrong_kind(at + ".function.name", "a string", name);
    ToolDefinition& definition = out.emplace_back();
    definition.function = function->get_object();
    if (const json::value* name_space = find(tool.get_object(), "namespace")) {
      definition.name_space = *name_space;
    }
  }
  return out;
}

Result<ChatRequest> parse_chat_request(const json::value& request) {
  const json::value* messages = &request;
  ChatRequest out;
  if (request.is_object()) {
    const json::object& object = request.get_object();
    messages = find(object, "messages");
    if (const json::value* tools = find(object, "tools")) {
      CACHALOT_ASSIGN_OR_RETURN(out.tools, parse_tools(*tools, "tools"));
    }
    if (const json::value* format = find(object, "response_format")) out.response_format = *format;
  }
  if (!messages || !messages->is_array()) return wrong_kind("messages", "a list", messages);
  for (size_t i = 0; i < messages->get_array().size(); ++i) {
    CACHALOT_RETURN_IF_ERROR(read_message(messages->get_array()[i], fmt::format("messages[{}]", i),
                                          out.messages.emplace_back()));
  }
  return out;
}

}  // namespace cachalot::text
