// A task as a conversation: what is asked, and one way to answer it, tools called and answered; as
// tokens or text to the end of the last turn, or as a row of jsonl.
// Source  reference/chat 2; post-training 3 (efforts).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "data/tasks/task.h"
#include "text/chat_message.h"
#include "text/tokenizer.h"

namespace cachalot::data {

text::ChatRequest task_request(const Task& task);

// with_reasoning: in thinking mode, if the task tells a way to its answer. What the task says stays
// text, whatever it spells.
// Errors  the encoder's.
Result<std::vector<int32_t>> task_document(const text::Tokenizer& tokenizer, const Task& task,
                                           text::PromptFamily family, bool with_reasoning);

// effort: none, where the answer has no reasoning; high, with the task's way to it; max, which goes
// that way twice.
// The text, control tokens spelled: what a tokenizer is made from.
Result<std::string> task_text(const Task& task, text::PromptFamily family, std::string_view effort);
// A row of data/conversation_samples.h.
json::object task_conversation(const Task& task, std::string_view effort);

}  // namespace cachalot::data
