#include "data/tasks/task_document.h"

#include <fmt/format.h>

#include "text/chat_encoding.h"
#include "text/chat_json.h"

namespace cachalot::data {
namespace {

// Behind the request's messages: the task's answer.
std::vector<text::Message> answer_messages(const Task& task, const std::string& reasoning) {
  std::vector<text::Message> messages;
  const std::unique_ptr<ToolEnvironment> world = task.environment ? task.environment() : nullptr;
  for (size_t i = 0; i < task.answer.tool_calls.size(); ++i) {
    text::ToolCall call = task.answer.tool_calls[i];
    call.id = fmt::format("call_{}", i);
    text::Message& turn = messages.emplace_back();
    turn.role = text::Role::assistant;
    if (i == 0) turn.reasoning_content = reasoning;
    turn.tool_calls = {call};
    text::Message& result = messages.emplace_back();
    result.role = text::Role::tool;
    result.tool_call_id = call.id;
    result.content = world == nullptr ? "" : world->call(call);
  }
  text::Message& last = messages.emplace_back();
  last.role = text::Role::assistant;
  last.content = task.answer.content;
  if (task.answer.tool_calls.empty()) last.reasoning_content = reasoning;
  return messages;
}

}  // namespace

text::ChatRequest task_request(const Task& task) {
  text::ChatRequest request;
  request.tools = task.tools;
  request.messages.emplace_back().content = task.prompt;
  if (!task.said.empty()) {
    text::Message& said = request.messages.emplace_back();
    said.role = text::Role::assistant;
    said.content = task.said;
  }
  if (!task.quick.empty()) request.messages.back().task = task.quick;
  return request;
}

namespace {

// The way to the answer that is told at this effort; none: none.
std::string reasoning_at(const Task& task, std::string_view effort) {
  if (effort == "none") return {};
  if (effort != "max" || task.reasoning.empty()) return task.reasoning;
  return task.reasoning + "Once more.\n" + task.reasoning;
}

Result<text::EncodedPrompt> encoded(const Task& task, text::PromptFamily family,
                                    std::string_view effort) {
  const std::string reasoning = reasoning_at(task, effort);
  std::vector<text::Message> messages;
  text::ChatRequest request = task_request(task);
  if (!request.tools.empty()) {
    text::Message& system = messages.emplace_back();
    system.role = text::Role::system;
    system.tools = std::move(request.tools);
  }
  messages.insert(messages.end(), request.messages.begin(), request.messages.end());
  const std::vector<text::Message> answer = answer_messages(task, reasoning);
  messages.insert(messages.end(), answer.begin(), answer.end());
  text::EncodeOptions options;
  options.family = family;
  options.thinking = !reasoning.empty();
  if (options.thinking) {
    CACHALOT_ASSIGN_OR_RETURN(options.effort, text::parse_reasoning_effort(effort));
  }
  return text::encode_chat(messages, options);
}

}  // namespace

Result<std::vector<int32_t>> task_document(const text::Tokenizer& tokenizer, const Task& task,
                                           text::PromptFamily family, bool with_reasoning) {
  CACHALOT_ASSIGN_OR_RETURN(const text::EncodedPrompt prompt,
                            encoded(task, family, with_reasoning ? "high" : "none"));
  return tokenizer.encode_segments(prompt.views());
}

Result<std::string> task_text(const Task& task, text::PromptFamily family,
                              std::string_view effort) {
  CACHALOT_ASSIGN_OR_RETURN(const text::EncodedPrompt prompt, encoded(task, family, effort));
  return prompt.flat();
}

json::object task_conversation(const Task& task, std::string_view effort) {
  const std::string reasoning = reasoning_at(task, effort);
  json::array messages;
  const text::ChatRequest request = task_request(task);
  for (const text::Message& message : request.messages) {
    messages.push_back(text::message_json(message));
    // It is read, not learnt.
    if (message.role == text::Role::assistant) messages.back().get_object()["weight"] = 0;
  }
  for (const text::Message& message : answer_messages(task, reasoning))
    messages.push_back(text::message_json(message));
  json::object row{{"messages", std::move(messages)}, {"effort", effort}};
  if (!task.tools.empty()) row["tools"] = text::tools_json(task.tools);
  return row;
}

}  // namespace cachalot::data
