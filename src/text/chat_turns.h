// The first half of encoding: messages become turns, with tool results inside user turns and
// dropped reasoning gone (reference/chat 2.2, steps 1 to 4).
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "text/chat_encoding.h"
#include "text/chat_message.h"

namespace cachalot::text {

// Text in which each image stands as its placeholder. Without images, a placeholder in it is only
// text.
struct TurnText {
  std::string text;
  std::vector<std::string> images;  // their sources, in order
};

// A piece of a user turn; pieces are joined by blank lines.
struct TurnBlock {
  bool is_tool_result = false;
  std::string tool_call_id;
  TurnText content;
};

struct Turn {
  // role, tools, calls, ...; null for a turn made of tool results alone
  const Message* message = nullptr;
  size_t message_idx = 0;  // for errors: where it stands in the request
  Role role = Role::user;
  TurnText content;               // system, developer, assistant, reminder
  std::string reasoning_content;  // empty where dropped
  std::vector<TurnBlock> blocks;  // user
  bool has_tools = false;         // as the family's merge step keeps them

  const std::string* task() const { return message && message->task ? &*message->task : nullptr; }
};

struct Turns {
  std::vector<Turn> turns;
  size_t num_context = 0;  // leading turns that are not written
  bool drop_thinking = false;
  size_t last_user = 0;  // index of the last turn that asks; turns.size() if there is none
};

// True for the roles that a generation header follows: user, developer; in v4.1 also a system turn
// that is not the first.
bool asks(const Turn& turn, size_t turn_idx, PromptFamily family);

Result<Turns> build_turns(const std::vector<Message>& messages, const EncodeOptions& options);

}  // namespace cachalot::text
