// A conversation and its file: what /save writes and /load reads, OpenAI's messages with the family
// beside them.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "text/chat_message.h"

namespace cachalot::apps {

text::Message make_message(text::Role role, std::string content);

struct Conversation {
  std::string system;
  std::vector<text::Message> messages;  // user, assistant and tool turns
  std::vector<text::ToolDefinition> tools;

  text::ChatRequest request() const;
  // Takes back the last user message and all that follows; false where there is none.
  bool undo();
};

Status save_conversation(const Conversation& conversation, text::PromptFamily family,
                         const std::string& path);
// Errors  name the file, the place in it, what was expected and what was found. System messages
//         after the first stay where they are.
Result<Conversation> load_conversation(const std::string& path);
// A JSON array of tools, or an object with one under "tools".
Result<std::vector<text::ToolDefinition>> load_tools(const std::string& path);

// A file's text as the beginning of a user message.
Result<std::string> attachment(const std::string& path);

}  // namespace cachalot::apps
