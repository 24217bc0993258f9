// A task with its answer as a training document: the conversation in a model's chat format, tools
// called and answered, to the end token of the last turn.
// Source  reference/chat 2.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "data/tasks/task.h"
#include "text/chat_message.h"
#include "text/tokenizer.h"

namespace cachalot::data {

// with_reasoning: in thinking mode, if the task tells a way to its answer. What the task says stays
// text, whatever it spells.
// Errors  the encoder's.
Result<std::vector<int32_t>> task_document(const text::Tokenizer& tokenizer, const Task& task,
                                           text::PromptFamily family, bool with_reasoning);

}  // namespace cachalot::data
