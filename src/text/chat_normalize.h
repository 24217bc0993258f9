// Requests of real clients brought into the shape that the encoder's reference was made for: the
// "do" column of reference/chat 2.13, with tools and structured output placed as 2.8 and 2.10 say.
#pragma once

#include <vector>

#include "base/status.h"
#include "text/chat_message.h"

namespace cachalot::text {

struct NormalizeOptions {
  PromptFamily family = PromptFamily::v4;

  // Clients use "developer" as the new name of system; the reference keeps it for an internal
  // search agent.
  enum class Developer { as_system, keep } developer = Developer::as_system;
  // Content parts that are no text, where the family has no place for them.
  enum class UnsupportedParts { reject, placeholder } unsupported_parts = UnsupportedParts::reject;
  // A conversation that ends in an assistant message with neither prefix nor task: an error, the
  // beginning of the answer (Anthropic's prefill), or left to the encoder, which then ends the
  // prompt after EOS.
  enum class TrailingAssistant {
    reject,
    continue_it,
    keep
  } trailing_assistant = TrailingAssistant::reject;
  // Tool results must answer the calls before them, each once.
  bool check_tool_ids = false;
  // Write a literal closing tag inside a tool result as &lt;/tool_result> (reference/chat 2.6).
  bool neutralise_tool_results = false;
};

// In order:
//   prefix on the last message opens it (wo_eos), its reasoning too if it has nothing else;
//   content lists become text, parts joined by blank lines (v4.1 keeps the lists of user messages
//   and tool results); leading system messages become one, later ones user text at their place
//   (v4.1 has its own token for them); a latest_reminder after user text moves before it;
//   tools and a JSON schema of the request go to the leading system message, made if there is none;
//   empty arguments become {}.
// Errors   invalid_argument naming the message, the field, what was expected and found. Message
//          numbers are the request's.
Result<std::vector<Message>> normalize_messages(ChatRequest request,
                                                const NormalizeOptions& options);

}  // namespace cachalot::text
