// DSML: the markup of tool definitions and tool calls in prompts (reference/chat 2.7, 2.8, 2.12).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/python_json.h"
#include "base/status.h"
#include "text/chat_message.h"
#include "text/chat_segments.h"

namespace cachalot::text {

// Tag names as they follow the DSML token: v4.1 has a leading space in each.
struct DsmlTagNames {
  std::string_view calls;
  std::string_view invoke;
  std::string_view parameter;
};
const DsmlTagNames& dsml_tag_names(PromptFamily family);

// The parameters of a call as the prompt shows them. Arguments that are no JSON object, even after
// undoing one more level of JSON quoting, become one parameter "arguments" that holds them as they
// are.
std::vector<PythonJsonMember> dsml_parameters(const ToolCall& call);

// "ns::name" in v4.1, the bare name otherwise. Errors: conflicting or repeated namespaces.
Result<std::string> dsml_tool_name(const ToolCall& call, PromptFamily family,
                                   std::string_view where);

// The function object as its schema line shows it: in v4.1 the qualified name, and the namespace's
// description before the function's own.
Result<json::object> dsml_tool_schema(const ToolDefinition& tool, PromptFamily family,
                                      std::string_view where);

// "\n\n<｜DSML｜tool_calls>...": nothing if `calls` is empty. `where` names the message in errors.
Status write_dsml_calls(const std::vector<ToolCall>& calls, PromptFamily family,
                        std::string_view where, PromptWriter& out);

// The "## Tools" block, without the blank line before it.
Status write_dsml_tools(const std::vector<ToolDefinition>& tools, PromptFamily family,
                        std::string_view where, PromptWriter& out);

}  // namespace cachalot::text
