// A conversation that wants an answer, whatever API it came by: its prompt, and what is asked of
// the engine.
#pragma once

#include "api/answer_constraint.h"
#include "api/generated_call.h"
#include "api/generation_fields.h"
#include "api/thinking_fields.h"
#include "api/tool_fields.h"
#include "text/prompt_ids.h"

namespace cachalot::api {

struct ChatAsk {
  std::vector<text::Message> messages;
  ClientTools tools;
  ToolSelection selection;
  ThinkingFields thinking;
  AnswerConstraint constraint;
  GenerationFields generation;
  std::string call_id_prefix = "call_";
};

// What the messages of the answer's API are rendered to. Errors: as text/chat_encoding.h, and an
// assistant message with calls at the end, whose results are missing.
Result<text::ChatPrompt> render_chat(const ChatAsk& ask, const ServedModel& model);

Result<Ask> prepare_chat(const ChatAsk& ask, text::ChatPrompt prompt, const ServedModel& model);

// Names what is accepted and not offered to the model.
std::optional<HttpHeader> ignored_tools_header(const ClientTools& tools);

// stop, tool_calls or length: a call that the limit cut ends as length.
text::FinishReason finish_reason(const AnswerText& text, engine::Finish finish);

}  // namespace cachalot::api
