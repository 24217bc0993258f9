// A conversation's parts as the JSON that clients send, which text/chat_message.h reads again.
#pragma once

#include "base/json.h"
#include "text/chat_message.h"

namespace cachalot::text {

json::object message_json(const Message& message);  // without parts, which no message made here has
json::array tools_json(const std::vector<ToolDefinition>& tools);

}  // namespace cachalot::text
