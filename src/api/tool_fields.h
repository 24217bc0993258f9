// Tools as the APIs' clients declare them, and which of them an answer may or must call.
// Source  reference/chat 2.8, 5.2, 5.5, 5.6, 6.1.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/fields.h"
#include "grammar/completion_grammar.h"
#include "text/chat_message.h"

namespace cachalot::api {

struct ClientTool {
  std::string shown;       // its name in the prompt: "space::name" where it has a namespace
  std::string name;        // the client's own
  std::string name_space;  // empty: none
  bool is_custom = false;  // takes a text, not JSON: shown as a function of one string, "input"
  bool is_strict = false;
  grammar::InputGrammar input = {};  // of a custom tool
};

struct ClientTools {
  std::vector<text::ToolDefinition> definitions;  // what the prompt shows
  std::vector<ClientTool> tools;                  // one for each
  // Types that run on somebody's server, as "web_search": accepted, not offered to the model.
  std::vector<std::string> hosted;

  const ClientTool* find(std::string_view shown) const;
};

// Functions in OpenAI's nested and flat form and in Anthropic's, custom tools, namespaces.
Result<ClientTools> read_tools(const json::array& list);

struct ToolSelection {
  grammar::ToolChoice choice = grammar::ToolChoice::automatic;
  std::vector<std::string> shown;  // those that may be called; empty: all
  bool parallel = true;
};

// tool_choice in any API's form. null: automatic. Errors: a tool that was not declared, or none
// where one must be called.
Result<ToolSelection> read_tool_choice(const json::value* choice, const ClientTools& tools);

Result<std::vector<grammar::CallableTool>> callable_tools(const ClientTools& tools,
                                                          const ToolSelection& selection,
                                                          text::PromptFamily family);

// The text of a custom tool's call from its JSON arguments, and the other way round.
std::string custom_input(std::string_view arguments);
std::string custom_arguments(std::string_view input);

}  // namespace cachalot::api
