#include "text/chat_json.h"

namespace cachalot::text {

json::object message_json(const Message& message) {
  json::object out{{"role", role_name(message.role)}, {"content", message.content}};
  if (!message.reasoning_content.empty()) out["reasoning_content"] = message.reasoning_content;
  if (!message.tool_call_id.empty()) out["tool_call_id"] = message.tool_call_id;
  if (message.task) out["task"] = *message.task;
  if (!message.tool_calls.empty()) {
    json::array calls;
    for (const ToolCall& call : message.tool_calls) {
      calls.push_back(json::object{
          {"id", call.id},
          {"type", "function"},
          {"function", json::object{{"name", call.name}, {"arguments", call.arguments}}}});
    }
    out["tool_calls"] = std::move(calls);
  }
  return out;
}

json::array tools_json(const std::vector<ToolDefinition>& tools) {
  json::array out;
  for (const ToolDefinition& tool : tools) {
    json::object entry{{"type", "function"}, {"function", tool.function}};
    if (!tool.name_space.is_null()) entry["namespace"] = tool.name_space;
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace cachalot::text
