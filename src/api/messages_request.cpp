// What a body of Anthropic's messages asks.
#include <fmt/format.h>

#include "api/messages.h"
#include "base/python_json.h"
#include "text/dsml_arguments.h"

namespace cachalot::api {
namespace {

using text::ContentPart;
using text::Message;
using text::Role;

constexpr std::string_view kBillingHeader = "x-anthropic-billing-header:";

std::string_view without_billing_header(std::string_view system) {
  if (!system.starts_with(kBillingHeader)) return system;
  const size_t end = system.find('\n');
  return end == std::string_view::npos ? std::string_view() : system.substr(end + 1);
}

class MessageReader {
 public:
  explicit MessageReader(std::vector<Message>& out) : out_(out) {}

  Status read_system(const json::value& system) {
    Message message;
    message.role = Role::system;
    if (system.is_string()) {
      message.content = without_billing_header(system.get_string());
      out_.push_back(std::move(message));
      return {};
    }
    CACHALOT_ASSIGN_OR_RETURN(const json::array* blocks, blocks_of(system, "system"));
    message.has_parts = true;
    for (size_t i = 0; i < blocks->size(); ++i) {
      const std::string where = fmt::format("system[{}]", i);
      CACHALOT_ASSIGN_OR_RETURN(const Block block, block_of((*blocks)[i], where));
      if (block.type != "text") return wrong_type(where, "text", block.type);
      CACHALOT_ASSIGN_OR_RETURN(const std::string text, text_of(block, "text"));
      const std::string_view kept = without_billing_header(text);
      if (!kept.empty()) add_text(message, std::string(kept));
    }
    if (!message.parts.empty()) out_.push_back(std::move(message));
    return {};
  }

  Status read(const json::value& value, const std::string& where) {
    if (!value.is_object()) {
      return invalid_argument(fmt::format("{}: expected an object, found {}", where, shown(value)));
    }
    Fields fields(value.get_object(), where);
    std::string role;
    fields.text("role", &role);
    CACHALOT_RETURN_IF_ERROR(fields.status());
    if (role != "user" && role != "assistant" && role != "system") {
      return invalid_argument(
          fmt::format("{}.role: expected user, assistant or system, found \"{}\"", where,
                      std::string_view(role).substr(0, 64)));
    }
    const json::value* content = fields.find("content");
    const json::value empty("");
    if (content == nullptr) content = &empty;
    Message message;
    message.role = role == "user" ? Role::user : role == "system" ? Role::system : Role::assistant;
    if (content->is_string()) {
      message.content = std::string_view(content->get_string());
      out_.push_back(std::move(message));
      return {};
    }
    const std::string place = where + ".content";
    CACHALOT_ASSIGN_OR_RETURN(const json::array* blocks, blocks_of(*content, place));
    message.has_parts = true;
    bool has_results = false;
    for (size_t i = 0; i < blocks->size(); ++i) {
      const std::string at = fmt::format("{}[{}]", place, i);
      CACHALOT_ASSIGN_OR_RETURN(const Block block, block_of((*blocks)[i], at));
      if (message.role == Role::assistant) {
        CACHALOT_RETURN_IF_ERROR(read_answer_block(block, message));
      } else if (block.type == "tool_result" && message.role == Role::user) {
        // Results stand alone, in their place among the texts.
        flush(message);
        has_results = true;
        CACHALOT_RETURN_IF_ERROR(read_result(block));
      } else {
        CACHALOT_RETURN_IF_ERROR(read_text_block(block, message));
      }
    }
    if (!message.parts.empty() || !has_results) out_.push_back(std::move(message));
    return {};
  }

 private:
  struct Block {
    Fields fields;
    std::string type;
    std::string where;
  };

  static Result<const json::array*> blocks_of(const json::value& value, const std::string& where) {
    if (value.is_array()) return &value.get_array();
    return invalid_argument(
        fmt::format("{}: expected a string or a list of blocks, found {}", where, shown(value)));
  }
  static Result<Block> block_of(const json::value& value, const std::string& where) {
    if (!value.is_object()) {
      return invalid_argument(
          fmt::format("{}: expected an object with a type, found {}", where, shown(value)));
    }
    Block block{Fields(value.get_object(), where), {}, where};
    block.fields.text("type", &block.type);
    CACHALOT_RETURN_IF_ERROR(block.fields.status());
    if (block.type.empty())
      return invalid_argument(fmt::format("{}.type: expected a string, found nothing", where));
    return block;
  }
  static Status wrong_type(const std::string& where, std::string_view expected,
                           std::string_view found) {
    return unsupported(
        fmt::format("{}.type: expected {}, found \"{}\"", where, expected, found.substr(0, 64)));
  }
  static Result<std::string> text_of(const Block& block, std::string_view key) {
    std::string text;
    Fields fields = block.fields;
    fields.text(key, &text);
    CACHALOT_RETURN_IF_ERROR(fields.status());
    return text;
  }
  static void add_text(Message& message, std::string text) {
    ContentPart part;
    part.type = "text";
    part.text = std::move(text);
    message.parts.push_back(std::move(part));
  }

  void flush(Message& message) {
    if (message.parts.empty()) return;
    Message part;
    part.role = message.role;
    part.has_parts = true;
    part.parts = std::move(message.parts);
    message.parts.clear();
    out_.push_back(std::move(part));
  }

  // Of user and system messages.
  static Status read_text_block(const Block& block, Message& message) {
    if (block.type == "text") {
      CACHALOT_ASSIGN_OR_RETURN(std::string text, text_of(block, "text"));
      add_text(message, std::move(text));
      return {};
    }
    if (block.type == "document") {
      const json::value* source = block.fields.find("source");
      if (source != nullptr && source->is_object()) {
        const Fields inner(source->get_object());
        const json::value* type = inner.find("type");
        const json::value* data = inner.find("data");
        if (type != nullptr && *type == "text" && data != nullptr && data->is_string()) {
          add_text(message, std::string(std::string_view(data->get_string())));
          return {};
        }
      }
      return wrong_type(block.where, "text, or a document whose source is text", block.type);
    }
    return wrong_type(block.where, "text, tool_result or a document of text", block.type);
  }

  static Status read_answer_block(const Block& block, Message& message) {
    if (block.type == "text") {
      CACHALOT_ASSIGN_OR_RETURN(std::string text, text_of(block, "text"));
      add_text(message, std::move(text));
    } else if (block.type == "thinking") {
      CACHALOT_ASSIGN_OR_RETURN(std::string thinking, text_of(block, "thinking"));
      if (thinking.empty()) {
        CACHALOT_ASSIGN_OR_RETURN(const std::string signature, text_of(block, "signature"));
        thinking = text::valid_utf8(hidden_thinking(signature));
      }
      if (!message.reasoning_content.empty()) message.reasoning_content += '\n';
      message.reasoning_content += thinking;
    } else if (block.type == "tool_use") {
      text::ToolCall& call = message.tool_calls.emplace_back();
      CACHALOT_ASSIGN_OR_RETURN(call.id, text_of(block, "id"));
      CACHALOT_ASSIGN_OR_RETURN(call.name, text_of(block, "name"));
      const json::value* input = block.fields.find("input");
      call.arguments = input != nullptr ? python_json(*input) : "{}";
      call.arguments_are_text = false;
    }
    // Others are of servers that answered before: redacted_thinking, server_tool_use, ...
    return {};
  }

  Status read_result(const Block& block) {
    Message message;
    message.role = Role::tool;
    CACHALOT_ASSIGN_OR_RETURN(message.tool_call_id, text_of(block, "tool_use_id"));
    const json::value* content = block.fields.find("content");
    if (content != nullptr && content->is_string()) {
      message.content = std::string_view(content->get_string());
    } else if (content != nullptr) {
      const std::string place = block.where + ".content";
      CACHALOT_ASSIGN_OR_RETURN(const json::array* parts, blocks_of(*content, place));
      message.has_parts = true;
      for (size_t i = 0; i < parts->size(); ++i) {
        const std::string at = fmt::format("{}[{}]", place, i);
        CACHALOT_ASSIGN_OR_RETURN(const Block part, block_of((*parts)[i], at));
        if (part.type == "text") {
          CACHALOT_ASSIGN_OR_RETURN(std::string text, text_of(part, "text"));
          add_text(message, std::move(text));
        } else {
          // Shown as what it is (reference/chat 2.6): an agent's run does not end on a screenshot.
          ContentPart other;
          other.kind = ContentPart::Kind::other;
          other.type = part.type;
          message.parts.push_back(std::move(other));
        }
      }
    }
    out_.push_back(std::move(message));
    return {};
  }

  std::vector<Message>& out_;
};

Status read_tool_fields(Fields& fields, ChatAsk& ask) {
  if (const json::array* list = fields.array("tools")) {
    CACHALOT_ASSIGN_OR_RETURN(ask.tools, read_tools(*list));
  }
  // Of Anthropic's own machines, as the tools that run there.
  for (const char* name : {"mcp_servers", "container"}) {
    if (fields.filled(name) != nullptr) ask.tools.hosted.push_back(name);
  }
  CACHALOT_ASSIGN_OR_RETURN(ask.selection,
                            read_tool_choice(fields.filled("tool_choice"), ask.tools));
  return fields.status();
}

Result<AnswerConstraint> read_output_format(Fields& fields) {
  CACHALOT_ASSIGN_OR_RETURN(AnswerConstraint constraint, read_constraint(fields));
  if (const json::value* format = fields.filled("output_format"))
    CACHALOT_RETURN_IF_ERROR(add_constraint(constraint, read_format(*format, "output_format")));
  const json::object* config = fields.object("output_config");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (config != nullptr) {
    if (const json::value* format = Fields(*config).filled("format")) {
      CACHALOT_RETURN_IF_ERROR(
          add_constraint(constraint, read_format(*format, "output_config.format")));
    }
  }
  return constraint;
}

}  // namespace

Result<MessagesAsk> read_messages(const json::object& body, const ServedModel& model,
                                  bool thinks_otherwise) {
  Fields fields(body);
  MessagesAsk out;
  ChatAsk& ask = out.chat;
  ask.call_id_prefix = "toolu_";
  ask.generation = read_generation_fields(fields, model, 1);
  refuse_unknown_sampling(fields);
  for (const std::string_view name : {"logprobs", "top_logprobs"}) fields.refuse(name);
  ask.thinking = read_thinking(fields, model, thinks_otherwise);
  if (const json::value* thinking = fields.find("thinking"); thinking && thinking->is_object()) {
    std::string display;
    Fields inner(thinking->get_object(), "thinking");
    inner.text("display", &display);
    fields.fail(inner.status());
    out.omits_thinking = display == "omitted";
  }
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_RETURN_IF_ERROR(read_tool_fields(fields, ask));
  CACHALOT_ASSIGN_OR_RETURN(ask.constraint, read_output_format(fields));

  MessageReader reader(ask.messages);
  if (const json::value* system = fields.filled("system"))
    CACHALOT_RETURN_IF_ERROR(reader.read_system(*system));
  const json::array* list = fields.array("messages");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (list == nullptr) return invalid_argument("messages: expected at least one, found none");
  for (size_t i = 0; i < list->size(); ++i)
    CACHALOT_RETURN_IF_ERROR(reader.read((*list)[i], fmt::format("messages[{}]", i)));
  return out;
}

}  // namespace cachalot::api
