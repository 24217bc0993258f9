// The text of a completion, as it streams in, told apart: reasoning, content and tool calls
// (reference/chat 3).
// Input    Text deltas, cut anywhere, even inside a character. Decisions rest on text alone; the
//          results do not depend on the cuts.
// Promise  No byte is lost, invented or taken back: spans() tile the input; reasoning and content
//          are exactly the bytes of their spans; every call keeps its raw markup; what is dropped
//          is a marker or discarded span. The argument fragments of a call concatenate to its JSON,
//          which is valid whatever happens.
// Memory   A few times the completion.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/chat_message.h"

namespace cachalot::text {

struct OfferedTool {
  std::string name;         // as the prompt shows it: qualified in v4.1
  json::object parameters;  // JSON schema; empty: none known
};
Result<std::vector<OfferedTool>> offered_tools(const std::vector<ToolDefinition>& tools,
                                               PromptFamily family);

struct CompletionParserOptions {
  PromptFamily family = PromptFamily::v4;
  // EncodedPrompt::ends_in_reasoning.
  bool starts_in_reasoning = true;
  // None: tool markup is plain text.
  std::vector<OfferedTool> tools = {};
  // Once reasoning has ended, all that comes is content: a grammar made it, so that think marks in
  // it are text. Only without tools.
  bool content_is_plain = false;
  // The feeder knows think marks by their tokens, and leaves out those that stand in content: what
  // spells one there is text. (<think> before all content still begins reasoning.)
  bool spelled_marks_are_text = false;
  // The text may carry the end-of-sentence string, which then ends the completion.
  bool text_has_eos = false;
  // Text after the calls: dropped (and reported), or more content.
  bool keep_text_after_calls = false;
  // Ids of calls; by default "call_" and 24 random hexadecimal digits.
  std::function<std::string()> new_call_id = {};
};

struct CompletionEvent {
  enum class Kind { reasoning, content, call_start, call_arguments, call_end };
  Kind kind = Kind::content;
  int call_idx = -1;
  std::string text;  // reasoning, content, argument fragment; of call_start the tool's name
  std::string id;    // of call_start
  // of call_end: false if the call broke off or broke the format; it must not be executed
  bool complete = true;

  bool operator==(const CompletionEvent&) const = default;
};

struct ParsedCall {
  std::string id;
  std::string name;
  std::string arguments;  // valid JSON
  // its markup, as sampled: replaying it keeps a cached prefix (reference/chat 5.8)
  std::string raw;
  bool complete = false;
};

// Where the completion left the grammar of reference/chat 3.1, and what was made of it (3.2).
enum class Deviation {
  missing_think_end,  // the completion ended inside reasoning
  repeated_think,     // <think> inside reasoning, or before content: dropped
  stray_think_end,    // </think> inside content: dropped
  call_in_reasoning,  // a complete block inside reasoning ended it
  block_separator,    // other white space than one blank line before the block: dropped
  // a call outside a block: taken, since it is complete and fits an offered tool
  missing_block_start,
  missing_block_end,  // the block did not close; its complete calls count
  empty_block,        // a block without calls: dropped
  tag_variant,        // tags without the first bar, or without DSML
  tag_spacing,        // other white space than one line break between tags
  unknown_tool,       // no tool of that name was offered: passed on
  truncated_call,     // broke off: the call does not count
  malformed_call,  // markup that makes no call: discarded, or left as text where nothing was sent
  unclosed_parameter,        // ended by the tag after it
  duplicate_parameter,       // both stand in the arguments: the last one counts
  missing_string_attribute,  // decided by schema and value
  bad_json_value,            // string="false" with something else: by schema, else a string
  json_body,                 // a JSON object in place of parameters
  wrapped_arguments,         // all arguments inside one parameter: unwrapped
  text_after_calls,
  missing_end,  // text_has_eos, but it did not come
};
std::string_view deviation_name(Deviation deviation);

struct ParserReport {
  Deviation what;
  int64_t offset;      // into the completion
  std::string detail;  // a tool or parameter name

  bool operator==(const ParserReport&) const = default;
};

struct ParserSpan {
  enum class Kind { reasoning, content, marker, call, discarded };
  Kind kind;
  int64_t begin, end;  // into the completion
  int call_idx = -1;

  bool operator==(const ParserSpan&) const = default;
};

enum class FinishCause { end_of_turn, length_limit };
enum class FinishReason { stop, tool_calls, length };

class CompletionParser {
 public:
  explicit CompletionParser(CompletionParserOptions options);
  ~CompletionParser();
  CompletionParser(CompletionParser&&) noexcept;
  CompletionParser& operator=(CompletionParser&&) noexcept;

  // Appends what is certain now. Neighbouring events of one kind and call are joined.
  void feed(std::string_view delta, std::vector<CompletionEvent>& events);
  // Once, at the end.
  void finish(FinishCause cause, std::vector<CompletionEvent>& events);

  // Neither in reasoning nor in a call.
  bool is_in_content() const;
  const std::string& reasoning() const;
  const std::string& content() const;
  const std::vector<ParsedCall>& calls() const;  // incomplete ones included
  const std::vector<ParserSpan>& spans() const;  // ascending, without gaps; whole after finish
  const std::vector<ParserReport>& reports() const;
  // tool_calls if at least one call is complete. After finish.
  FinishReason finish_reason() const;
  // After finish: ok exactly if the completion is well-formed, else the first deviation.
  Status well_formed() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cachalot::text
