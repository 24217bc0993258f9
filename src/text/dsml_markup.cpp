#include "text/dsml_markup.h"

#include <fmt/format.h>

#include "text/chat_literals.h"

namespace cachalot::text {
namespace {

constexpr std::string_view kNamespaceSeparator = "::";

struct QualifiedName {
  std::string name_space;
  std::string name;

  std::string joined() const {
    return name_space.empty() ? name : name_space + std::string(kNamespaceSeparator) + name;
  }
};

Result<QualifiedName> qualify(std::string_view name, std::string_view name_space,
                              std::string_view where) {
  QualifiedName out{std::string(name_space), std::string(name)};
  if (const size_t at = name.find(kNamespaceSeparator); at != std::string_view::npos) {
    const std::string_view prefix = name.substr(0, at);
    if (!name_space.empty() && name_space != prefix) {
      return invalid_argument(fmt::format("{}: expected namespace \"{}\" in the name, found \"{}\"",
                                          where, name_space, name));
    }
    out = {std::string(prefix), std::string(name.substr(at + kNamespaceSeparator.size()))};
  }
  for (const std::string& part : {out.name, out.name_space}) {
    if (part.find(kNamespaceSeparator) != std::string::npos) {
      return invalid_argument(fmt::format(
          "{}: expected at most one namespace before \"::\", found \"{}\"", where, name));
    }
  }
  return out;
}

// <｜DSML｜NAME, </｜DSML｜NAME>
void open_tag(std::string_view name, PromptWriter& out) {
  out.text("<");
  out.control(kDsml);
  out.text(name);
}
void close_tag(std::string_view name, PromptWriter& out) {
  out.text("</");
  out.control(kDsml);
  out.text(name);
  out.text(">");
}

void write_call(const ToolCall& call, std::string_view name, const DsmlTagNames& tags,
                PromptWriter& out) {
  open_tag(tags.invoke, out);
  out.text(" name=\"");
  out.text(name);
  out.text("\">\n");
  std::string_view separator;
  for (const PythonJsonMember& parameter : dsml_parameters(call)) {
    out.text(separator);
    open_tag(tags.parameter, out);
    out.text(" name=\"");
    out.text(parameter.key);
    out.text(parameter.is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    out.text(parameter.text);
    close_tag(tags.parameter, out);
    separator = "\n";
  }
  out.text("\n");
  close_tag(tags.invoke, out);
}

// The reference's tool instructions; {c}, {i} and {p} stand for the family's tag names, {S} for the
// schemas.
constexpr std::string_view kToolsBlock =
    "## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by "
    "writing a "
    "\"<｜DSML｜{c}>\" block like the following:\n\n"
    "<｜DSML｜{c}>\n"
    "<｜DSML｜{i} name=\"$TOOL_NAME\">\n"
    "<｜DSML｜{p} name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜{p}>\n"
    "...\n"
    "</｜DSML｜{i}>\n"
    "<｜DSML｜{i} name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</｜DSML｜{i}>\n"
    "</｜DSML｜{c}>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types "
    "(numbers, "
    "booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning "
    "inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n"
    "{S}\n\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to invoke tool "
    "calls.\n";

std::string with_tag_names(std::string_view block, const DsmlTagNames& tags) {
  std::string out;
  for (size_t at = 0; at < block.size();) {
    const std::string_view mark = block.substr(at, 3);
    std::string_view replacement;
    if (mark == "{c}") replacement = tags.calls;
    if (mark == "{i}") replacement = tags.invoke;
    if (mark == "{p}") replacement = tags.parameter;
    out += replacement.empty() ? block.substr(at, 1) : replacement;
    at += replacement.empty() ? 1 : mark.size();
  }
  return out;
}

}  // namespace

const DsmlTagNames& dsml_tag_names(PromptFamily family) {
  static constexpr DsmlTagNames kV4 = {"tool_calls", "invoke", "parameter"};
  static constexpr DsmlTagNames kV41 = {" calls", " invoke", " parameter"};
  return family == PromptFamily::v4_1 ? kV41 : kV4;
}

std::vector<PythonJsonMember> dsml_parameters(const ToolCall& call) {
  if (auto object = parse_python_object(call.arguments, "arguments")) return *std::move(object);
  if (call.arguments_are_text) {
    const auto value = parse_json(call.arguments, "arguments");
    if (value.has_value() && value->is_string()) {
      if (auto object = parse_python_object(value->get_string(), "arguments"))
        return *std::move(object);
    }
  }
  return {{"arguments", call.arguments_are_text, call.arguments}};
}

Result<std::string> dsml_tool_name(const ToolCall& call, PromptFamily family,
                                   std::string_view where) {
  if (family != PromptFamily::v4_1) return call.name;
  CACHALOT_ASSIGN_OR_RETURN(const QualifiedName qualified,
                            qualify(call.name, call.name_space, where));
  return qualified.joined();
}

Result<json::object> dsml_tool_schema(const ToolDefinition& tool, PromptFamily family,
                                      std::string_view where) {
  if (family != PromptFamily::v4_1) return tool.function;
  const json::value* name_space =
      tool.name_space.is_null() ? tool.function.if_contains("namespace") : &tool.name_space;
  std::string_view prefix;
  std::string description;
  if (name_space && name_space->is_string()) {
    prefix = name_space->get_string();
  } else if (name_space && name_space->is_object()) {
    const json::value* name = name_space->get_object().if_contains("name");
    if (!name || !name->is_string()) {
      return invalid_argument(fmt::format("{}.namespace.name: expected a string, found {}", where,
                                          name ? json_kind_name(*name) : "nothing"));
    }
    prefix = name->get_string();
    const json::value* text = name_space->get_object().if_contains("description");
    if (text && text->is_string()) description = std::string_view(text->get_string());
  } else if (name_space && !name_space->is_null()) {
    return invalid_argument(fmt::format("{}.namespace: expected a string or an object, found {}",
                                        where, json_kind_name(*name_space)));
  }
  CACHALOT_ASSIGN_OR_RETURN(const QualifiedName qualified, qualify(tool.name(), prefix, where));

  json::object schema;
  for (const auto& [key, value] : tool.function) {
    if (key != "namespace") schema[key] = value;
  }
  schema["name"] = qualified.joined();
  if (!description.empty()) {
    description += '\n';
    const json::value* own = schema.if_contains("description");
    if (own && own->is_string()) description += std::string_view(own->get_string());
    schema["description"] = description;
  }
  return schema;
}

Status write_dsml_calls(const std::vector<ToolCall>& calls, PromptFamily family,
                        std::string_view where, PromptWriter& out) {
  if (calls.empty()) return {};
  const DsmlTagNames& tags = dsml_tag_names(family);
  out.text("\n\n");
  open_tag(tags.calls, out);
  out.text(">\n");
  for (size_t i = 0; i < calls.size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(
        const std::string name,
        dsml_tool_name(calls[i], family, fmt::format("{}.tool_calls[{}].function.name", where, i)));
    write_call(calls[i], name, tags, out);
    out.text("\n");
  }
  close_tag(tags.calls, out);
  return {};
}

Status write_dsml_tools(const std::vector<ToolDefinition>& tools, PromptFamily family,
                        std::string_view where, PromptWriter& out) {
  const std::string block = with_tag_names(kToolsBlock, dsml_tag_names(family));
  const size_t schemas_at = block.find("{S}");
  out.literal(std::string_view(block).substr(0, schemas_at));
  for (size_t i = 0; i < tools.size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(
        const json::object schema,
        dsml_tool_schema(tools[i], family, fmt::format("{}.tools[{}]", where, i)));
    if (i > 0) out.text("\n");
    out.text(python_json(schema));
  }
  out.literal(std::string_view(block).substr(schemas_at + 3));
  return {};
}

}  // namespace cachalot::text
