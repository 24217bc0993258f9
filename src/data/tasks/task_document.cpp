#include "data/tasks/task_document.h"

#include <fmt/format.h>

#include "text/chat_encoding.h"

namespace cachalot::data {

Result<std::vector<int32_t>> task_document(const text::Tokenizer& tokenizer, const Task& task,
                                           text::PromptFamily family, bool with_reasoning) {
  const bool thinking = with_reasoning && !task.reasoning.empty();
  std::vector<text::Message> messages;
  if (!task.tools.empty()) {
    text::Message& system = messages.emplace_back();
    system.role = text::Role::system;
    system.tools = task.tools;
  }
  messages.emplace_back().content = task.prompt;
  const std::unique_ptr<ToolEnvironment> world = task.environment ? task.environment() : nullptr;
  for (size_t i = 0; i < task.answer.tool_calls.size(); ++i) {
    text::ToolCall call = task.answer.tool_calls[i];
    call.id = fmt::format("call_{}", i);
    text::Message& turn = messages.emplace_back();
    turn.role = text::Role::assistant;
    if (thinking && i == 0) turn.reasoning_content = task.reasoning;
    turn.tool_calls = {call};
    text::Message& result = messages.emplace_back();
    result.role = text::Role::tool;
    result.tool_call_id = call.id;
    result.content = world == nullptr ? "" : world->call(call);
  }
  text::Message& last = messages.emplace_back();
  last.role = text::Role::assistant;
  last.content = task.answer.content;
  if (thinking && task.answer.tool_calls.empty()) last.reasoning_content = task.reasoning;
  text::EncodeOptions options;
  options.family = family;
  options.thinking = thinking;
  CACHALOT_ASSIGN_OR_RETURN(const text::EncodedPrompt prompt, text::encode_chat(messages, options));
  return tokenizer.encode_segments(prompt.views());
}

}  // namespace cachalot::data
