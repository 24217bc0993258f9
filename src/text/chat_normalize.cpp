#include "text/chat_normalize.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace cachalot::text {
namespace {

using Options = NormalizeOptions;
using Messages = std::vector<Message>;

Status resolve_prefix(Messages& messages, const Options& options) {
  for (size_t i = 0; i + 1 < messages.size(); ++i) {
    if (messages[i].prefix) {
      return invalid_argument(
          fmt::format("messages[{}].prefix: expected only on the last message, found on one of {}",
                      i, messages.size()));
    }
  }
  Message& last = messages.back();
  if (last.prefix && last.role != Role::assistant) {
    return invalid_argument(
        fmt::format("messages[{}].prefix: expected an assistant message, found {}",
                    messages.size() - 1, role_name(last.role)));
  }
  if (last.role == Role::assistant && !last.prefix && !last.wo_eos && !last.task) {
    if (options.trailing_assistant == Options::TrailingAssistant::reject) {
      return invalid_argument(fmt::format(
          "messages[{}]: expected the conversation to end in a user or tool message, or in an "
          "assistant message with prefix, found an assistant message",
          messages.size() - 1));
    }
    last.prefix = options.trailing_assistant == Options::TrailingAssistant::continue_it;
  }
  if (last.prefix) {
    last.prefix = false;
    last.wo_eos = true;
    last.open_reasoning = last.content.empty() && last.parts.empty() && last.tool_calls.empty() &&
                          !last.reasoning_content.empty();
  }
  return {};
}

Status flatten_parts(Message& message, size_t idx, const Options& options) {
  if (!message.has_parts) return {};
  // The encoder knows what to do with these lists.
  if (message.role == Role::tool) return {};
  if (options.family == PromptFamily::v4_1 && message.role == Role::user) return {};
  std::string joined;
  bool first = true;
  for (size_t i = 0; i < message.parts.size(); ++i) {
    const ContentPart& part = message.parts[i];
    std::string text = part.text;
    if (part.kind != ContentPart::Kind::text) {
      if (options.unsupported_parts == Options::UnsupportedParts::reject) {
        return invalid_argument(fmt::format(
            "messages[{}].content[{}].type: expected text in a {} message of family {}, found "
            "\"{}\"",
            idx, i, role_name(message.role), prompt_family_name(options.family), part.type));
      }
      text = fmt::format("[Unsupported {}]", part.type);
    }
    if (!first) joined += "\n\n";
    joined += text;
    first = false;
  }
  message.content = std::move(joined);
  message.parts.clear();
  message.has_parts = false;
  return {};
}

// Several leading system messages as one: the reference would glue them together.
void join_leading_systems(Messages& messages) {
  if (messages.empty() || messages.front().role != Role::system) return;
  Message& first = messages.front();
  size_t num_leading = 1;
  for (; num_leading < messages.size() && messages[num_leading].role == Role::system;
       ++num_leading) {
    Message& next = messages[num_leading];
    if (!first.content.empty() && !next.content.empty()) first.content += "\n\n";
    first.content += next.content;
    std::move(next.tools.begin(), next.tools.end(), std::back_inserter(first.tools));
    if (next.response_format) first.response_format = std::move(next.response_format);
  }
  messages.erase(messages.begin() + 1, messages.begin() + static_cast<ptrdiff_t>(num_leading));
}

// System messages in mid-conversation become user text where they stand, so that what came before
// stays a cached prefix. What they declare goes to the front.
void convert_later_systems(Messages& messages, ChatRequest& request) {
  for (size_t i = 1; i < messages.size(); ++i) {
    Message& message = messages[i];
    if (message.role != Role::system) continue;
    message.role = Role::user;
    std::move(message.tools.begin(), message.tools.end(), std::back_inserter(request.tools));
    message.tools.clear();
    if (message.response_format && !request.response_format) {
      request.response_format = std::move(message.response_format);
    }
    message.response_format.reset();
  }
}

// A reminder after a user turn would follow that turn's assistant header: it goes before the whole
// run of user messages and tool results, which become one turn.
void move_reminders(Messages& messages) {
  Messages moved;
  moved.reserve(messages.size());
  Messages run;
  const auto flush = [&] {
    std::move(run.begin(), run.end(), std::back_inserter(moved));
    run.clear();
  };
  for (Message& message : messages) {
    if (message.role == Role::user || message.role == Role::tool) {
      run.push_back(std::move(message));
      continue;
    }
    if (message.role != Role::latest_reminder) flush();
    moved.push_back(std::move(message));
  }
  flush();
  messages = std::move(moved);
}

// Only a schema is written into the prompt; json_object and text are left to the sampler.
std::optional<json::value> prompt_format(const std::optional<json::value>& format) {
  if (!format || !format->is_object()) return std::nullopt;
  const json::object& object = format->get_object();
  const json::value* type = object.if_contains("type");
  if (!type || *type != "json_schema") return std::nullopt;
  const json::value* wrapped = object.if_contains("json_schema");
  if (!wrapped) wrapped = object.if_contains("schema");
  if (!wrapped) return std::nullopt;
  if (wrapped->is_object()) {
    if (const json::value* schema = wrapped->get_object().if_contains("schema")) return *schema;
  }
  return *wrapped;
}

void attach_to_front(Messages& messages, ChatRequest& request) {
  const std::optional<json::value> format = prompt_format(request.response_format);
  if (request.tools.empty() && !format) return;
  const bool has_front =
      messages.front().role == Role::system || messages.front().role == Role::developer;
  if (!has_front) messages.emplace(messages.begin())->role = Role::system;
  Message& front = messages.front();
  std::move(request.tools.begin(), request.tools.end(), std::back_inserter(front.tools));
  if (format) front.response_format = format;
}

// Names enter the markup raw.
Status check_tool_names(const Messages& messages) {
  for (const Message& message : messages) {
    for (const ToolDefinition& tool : message.tools) {
      const std::string_view name = tool.name();
      const bool is_plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '.' || c == ':' || c == '-';
      });
      if (!is_plain) {
        return invalid_argument(fmt::format(
            "tools: expected a function name of letters, digits and _.:-, found \"{}\"", name));
      }
    }
  }
  return {};
}

// A name that the model made up may be anything its markup can carry: only what would end the
// attribute is refused.
Status check_calls(Messages& messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    for (size_t k = 0; k < messages[i].tool_calls.size(); ++k) {
      ToolCall& call = messages[i].tool_calls[k];
      if (call.name.empty() || call.name.find_first_of("\"\n") != std::string::npos) {
        return invalid_argument(fmt::format(
            "messages[{}].tool_calls[{}].function.name: expected a name without quotes and line "
            "breaks, found \"{}\"",
            i, k, call.name));
      }
      if (call.arguments.find_first_not_of(" \t\r\n") == std::string::npos) call.arguments = "{}";
    }
  }
  return {};
}

Status check_tool_ids(const Messages& messages) {
  std::set<std::string> open;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == Role::tool) {
      if (open.erase(message.tool_call_id) == 0) {
        return invalid_argument(
            fmt::format("messages[{}].tool_call_id: expected the id of an unanswered call before "
                        "it, found \"{}\"",
                        i, message.tool_call_id));
      }
      continue;
    }
    if (!open.empty()) {
      return invalid_argument(fmt::format(
          "messages[{}]: expected the result of tool call \"{}\" first, found a {} message", i,
          *open.begin(), role_name(message.role)));
    }
    for (const ToolCall& call : message.tool_calls) open.insert(call.id);
  }
  return {};
}

void neutralise(std::string& text) {
  constexpr std::string_view kClose = "</tool_result>";
  constexpr std::string_view kHarmless = "&lt;/tool_result>";
  for (size_t at = text.find(kClose); at != std::string::npos; at = text.find(kClose, at)) {
    text.replace(at, kClose.size(), kHarmless);
    at += kHarmless.size();
  }
}

}  // namespace

Result<std::vector<Message>> normalize_messages(ChatRequest request,
                                                const NormalizeOptions& options) {
  Messages messages = std::move(request.messages);
  if (messages.empty()) return invalid_argument("messages: expected at least one, found none");
  CACHALOT_RETURN_IF_ERROR(resolve_prefix(messages, options));
  CACHALOT_RETURN_IF_ERROR(check_calls(messages));
  if (options.check_tool_ids) CACHALOT_RETURN_IF_ERROR(check_tool_ids(messages));
  for (size_t i = 0; i < messages.size(); ++i) {
    Message& message = messages[i];
    CACHALOT_RETURN_IF_ERROR(flatten_parts(message, i, options));
    if (message.role == Role::developer && options.developer == Options::Developer::as_system) {
      message.role = Role::system;
    }
    if (message.role == Role::tool && options.neutralise_tool_results) {
      neutralise(message.content);
      for (ContentPart& part : message.parts) neutralise(part.text);
    }
  }
  if (options.family != PromptFamily::v4_1) {
    join_leading_systems(messages);
    convert_later_systems(messages, request);
  }
  move_reminders(messages);
  attach_to_front(messages, request);
  CACHALOT_RETURN_IF_ERROR(check_tool_names(messages));
  return messages;
}

}  // namespace cachalot::text
