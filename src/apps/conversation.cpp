#include "apps/conversation.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "base/python_json.h"
#include "text/chat_json.h"

namespace cachalot::apps {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;

Result<json::value> read_json(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxFileBytes));
  return parse_json(text, path);
}

}  // namespace

text::Message make_message(text::Role role, std::string content) {
  text::Message message;
  message.role = role;
  message.content = std::move(content);
  return message;
}

text::ChatRequest Conversation::request() const {
  text::ChatRequest request;
  if (!system.empty()) request.messages.push_back(make_message(text::Role::system, system));
  request.messages.insert(request.messages.end(), messages.begin(), messages.end());
  request.tools = tools;
  return request;
}

bool Conversation::undo() {
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role != text::Role::user) continue;
    messages.resize(i);
    return true;
  }
  return false;
}

Status save_conversation(const Conversation& conversation, text::PromptFamily family,
                         const std::string& path) {
  json::array messages;
  for (const text::Message& message : conversation.request().messages)
    messages.push_back(text::message_json(message));
  json::object out{{"family", text::prompt_family_name(family)}, {"messages", std::move(messages)}};
  if (!conversation.tools.empty()) out["tools"] = text::tools_json(conversation.tools);
  return write_file_atomically(path, python_json(out) + "\n");
}

Result<Conversation> load_conversation(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, read_json(path));
  Result<text::ChatRequest> request = text::parse_chat_request(value);
  if (!request)
    return Status(request.error().code(), fmt::format("{}: {}", path, request.error().message()));
  Conversation conversation;
  conversation.tools = std::move(request->tools);
  conversation.messages = std::move(request->messages);
  if (!conversation.messages.empty() && conversation.messages.front().role == text::Role::system &&
      !conversation.messages.front().has_parts) {
    conversation.system = conversation.messages.front().content;
    conversation.messages.erase(conversation.messages.begin());
  }
  return conversation;
}

Result<std::vector<text::ToolDefinition>> load_tools(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, read_json(path));
  const json::value* tools = value.is_object() ? value.get_object().if_contains("tools") : &value;
  if (tools == nullptr)
    return invalid_argument(
        fmt::format("{}: expected an array, or an object with tools, found no tools", path));
  return text::parse_tools(*tools, path);
}

Result<std::string> attachment(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string whole, read_text_file(path, kMaxFileBytes));
  const std::string_view text = without_byte_order_mark(whole);
  if (text.find('\0') != std::string::npos) {
    return invalid_argument(fmt::format("{}: expected a text file, found bytes of value 0", path));
  }
  const std::string name = std::filesystem::path(path).filename().string();
  return fmt::format("[file name]: {}\n[file content begin]\n{}{}[file content end]\n", name, text,
                     text.ends_with('\n') ? "" : "\n");
}

}  // namespace cachalot::apps
