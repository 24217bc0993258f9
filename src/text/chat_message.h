// A conversation as data: what a client sends, before any prompt is made of it (reference/chat
// 2.1). The JSON shape is OpenAI's, with the extra message fields of the reference encoder (tools,
// response_format, task, wo_eos).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::text {

// Chosen by the checkpoint's metadata, never guessed from a model's name (reference/chat 0).
enum class PromptFamily { v4, v4_0731, v4_1 };

// "v4", "v4-0731", "v4.1".
std::string_view prompt_family_name(PromptFamily family);
Result<PromptFamily> parse_prompt_family(std::string_view name);

enum class Role { system, developer, user, assistant, tool, latest_reminder };
std::string_view role_name(Role role);

struct ContentPart {
  enum class Kind { text, image, other };
  Kind kind = Kind::text;
  std::string type;  // as the client spelled it: "text", "image_url", "input_audio", ...
  std::string text;  // text: the text; image: its URL, data URL or source; other: empty
};

struct ToolCall {
  std::string id;
  std::string name;        // may be qualified, "namespace::name" (v4.1)
  std::string name_space;  // empty: none, or inside `name`
  std::string arguments;   // JSON text of an object, or whatever text the client sent
  // False if the client sent a JSON value instead of a string; `arguments` is then its Python
  // spelling.
  bool arguments_are_text = true;
};

struct ToolDefinition {
  json::object function;   // name, description, parameters, ...: all keys, in the client's order
  json::value name_space;  // of the tool: null, a string, or {"name", "description"}

  std::string_view name() const;  // function.name, without the namespace
};

struct Message {
  Role role = Role::user;
  std::string content;             // when the client sent a string, or nothing
  std::vector<ContentPart> parts;  // when the client sent a list
  bool has_parts = false;
  std::string reasoning_content;
  std::vector<ToolCall> tool_calls;
  std::string tool_call_id;
  std::vector<ToolDefinition> tools;
  std::optional<json::value> response_format;
  std::optional<std::string> task;  // quick instruction (reference/chat 2.9)
  bool wo_eos = false;              // the turn stays open: generation continues it
  bool prefix = false;  // the client's spelling of wo_eos; normalize_messages resolves it
  // With wo_eos: the reasoning block stays open too, so that generation continues the reasoning.
  bool open_reasoning = false;
};

struct ChatRequest {
  std::vector<Message> messages;
  std::vector<ToolDefinition> tools;
  std::optional<json::value> response_format;
};

// Reads {"messages": [...], "tools": [...], "response_format": ...}, or a bare array of messages.
// Unknown fields are ignored. Reasoning is taken from reasoning_content, reasoning, reasoning_text,
// thinking, reasoning_details, or parts of type "thinking". Empty lists and null count as absent.
// Errors   invalid_argument naming the place ("messages[2].tool_calls[0].function.name"), what was
//          expected and found.
Result<ChatRequest> parse_chat_request(const json::value& request);
Result<std::vector<ToolDefinition>> parse_tools(const json::value& tools, std::string_view where);

}  // namespace cachalot::text
