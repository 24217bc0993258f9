#include "api/tool_fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/python_json.h"

namespace cachalot::api {
namespace {

using Syntax = grammar::InputGrammar::Syntax;

std::string text_of(const Fields& fields, std::string_view key) {
  const json::value* value = fields.find(key);
  return value != nullptr && value->is_string() ? std::string(std::string_view(value->get_string()))
                                                : std::string();
}

json::object custom_function(const Fields& body, const ClientTool& tool) {
  std::string description = text_of(body, "description");
  if (!tool.input.text.empty()) {
    description +=
        fmt::format("\n\nThe input is written in this {} grammar:\n{}",
                    tool.input.syntax == Syntax::lark ? "lark" : "regex", tool.input.text);
  }
  return {{"name", tool.shown},
          {"description", description},
          {"parameters",
           json::object{{"type", "object"},
                        {"properties", json::object{{"input", json::object{{"type", "string"}}}}},
                        {"required", json::array{"input"}}}}};
}

// {"type": "text"}, or {"type": "grammar", "syntax", "definition"} with the last two, in chat
// completions, one level down.
Status read_input_format(Fields& body, ClientTool& tool) {
  const json::object* format = body.object("format");
  CACHALOT_RETURN_IF_ERROR(body.status());
  if (format == nullptr) return {};
  Fields fields(*format, body.place("format"));
  std::string type;
  fields.text("type", &type);
  const json::object* inner = fields.object("grammar");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (type.empty() || type == "text") return {};
  if (type != "grammar") {
    return invalid_argument(fmt::format("{}: expected text or grammar, found \"{}\"",
                                        fields.place("type"), type.substr(0, 64)));
  }
  Fields grammar(inner != nullptr ? *inner : *format,
                 inner != nullptr ? fields.place("grammar") : body.place("format"));
  std::string syntax;
  grammar.text("syntax", &syntax);
  grammar.text("definition", &tool.input.text);
  CACHALOT_RETURN_IF_ERROR(grammar.status());
  if (syntax != "lark" && syntax != "regex") {
    return invalid_argument(fmt::format("{}: expected lark or regex, found \"{}\"",
                                        grammar.place("syntax"), syntax.substr(0, 64)));
  }
  const std::string place = grammar.place("definition");
  if (tool.input.text.empty())
    return invalid_argument(fmt::format("{}: expected a grammar, found nothing", place));
  tool.input.syntax = syntax == "lark" ? Syntax::lark : Syntax::regex;
  const Status error = grammar::input_source(tool.input).error();
  if (error.ok()) return {};
  return Status(error.code() == StatusCode::unsupported ? StatusCode::unsupported
                                                        : StatusCode::invalid_argument,
                fmt::format("{}: {}", place, error.message()));
}

class ToolReader {
 public:
  explicit ToolReader(ClientTools& out) : out_(out) {}

  Status read(const json::value& tool, const std::string& where, const std::string& name_space) {
    if (!tool.is_object()) {
      return invalid_argument(fmt::format("{}: expected an object, found {}", where, shown(tool)));
    }
    Fields fields(tool.get_object(), where);
    std::string type;
    fields.text("type", &type);
    CACHALOT_RETURN_IF_ERROR(fields.status());
    if (type == "namespace") return read_namespace(fields, where);
    const bool has_schema = fields.find("input_schema") != nullptr;
    if (type.empty() || type == "function" || has_schema)
      return add(fields, "function", where, name_space, false);
    if (type == "custom") return add(fields, "custom", where, name_space, true);
    if (std::find(out_.hosted.begin(), out_.hosted.end(), type) == out_.hosted.end())
      out_.hosted.push_back(type);
    return {};
  }

 private:
  Status read_namespace(Fields& fields, const std::string& where) {
    std::string name;
    fields.text("name", &name);
    const json::array* tools = fields.array("tools");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    if (name.empty())
      return invalid_argument(fmt::format("{}.name: expected a name, found nothing", where));
    if (tools == nullptr) return {};
    for (size_t i = 0; i < tools->size(); ++i) {
      const json::value& tool = (*tools)[i];
      // No namespace inside a namespace: the reading ends.
      const bool is_nested =
          tool.is_object() && text_of(Fields(tool.get_object()), "type") == "namespace";
      const std::string place = fmt::format("{}.tools[{}]", where, i);
      if (is_nested) {
        return invalid_argument(
            fmt::format("{}.type: expected a tool in a namespace, found \"namespace\"", place));
      }
      CACHALOT_RETURN_IF_ERROR(read(tool, place, name));
    }
    return {};
  }

  // `key`: where the nested form has the tool's body.
  Status add(Fields& fields, std::string_view key, const std::string& where,
             const std::string& name_space, bool is_custom) {
    const json::value* inside = fields.find(key);
    if (inside != nullptr && !inside->is_object()) {
      return invalid_argument(
          fmt::format("{}: expected an object, found {}", fields.place(key), shown(*inside)));
    }
    const json::object* nested = inside != nullptr ? &inside->get_object() : nullptr;
    const std::string place = nested != nullptr ? fmt::format("{}.{}", where, key) : where;
    Fields body(nested != nullptr ? *nested : fields.object(), place);
    ClientTool tool;
    body.text("name", &tool.name);
    CACHALOT_RETURN_IF_ERROR(body.status());
    if (tool.name.empty())
      return invalid_argument(fmt::format("{}.name: expected a name, found nothing", place));
    tool.name_space = name_space;
    tool.shown = name_space.empty() ? tool.name : fmt::format("{}::{}", name_space, tool.name);
    tool.is_custom = is_custom;
    body.boolean("strict", &tool.is_strict);
    CACHALOT_RETURN_IF_ERROR(body.status());
    text::ToolDefinition definition;
    if (is_custom) {
      CACHALOT_RETURN_IF_ERROR(read_input_format(body, tool));
      definition.function = custom_function(body, tool);
    } else if (nested != nullptr) {
      definition.function = *nested;
      definition.function["name"] = tool.shown;
    } else {
      CACHALOT_ASSIGN_OR_RETURN(definition.function, flat_function(body, tool.shown));
    }
    CACHALOT_RETURN_IF_ERROR(check_parameters(definition.function, place));
    out_.tools.push_back(std::move(tool));
    out_.definitions.push_back(std::move(definition));
    return {};
  }

  static Result<json::object> flat_function(const Fields& body, const std::string& shown_name) {
    json::object function{{"name", shown_name}};
    if (const json::value* description = body.find("description"))
      function["description"] = *description;
    const json::value* parameters = body.find("parameters");
    if (parameters == nullptr) parameters = body.find("input_schema");
    if (parameters != nullptr) function["parameters"] = *parameters;
    if (const json::value* strict = body.find("strict")) function["strict"] = *strict;
    return function;
  }

  static Status check_parameters(json::object& function, const std::string& where) {
    json::value* parameters = function.if_contains("parameters");
    if (parameters == nullptr || parameters->is_object()) return {};
    if (parameters->is_null()) {
      function.erase("parameters");
      return {};
    }
    return invalid_argument(
        fmt::format("{}.parameters: expected a JSON schema, found {}", where, shown(*parameters)));
  }

  ClientTools& out_;
};

class ChoiceReader {
 public:
  ChoiceReader(const ClientTools& tools, ToolSelection& out) : tools_(tools), out_(out) {}

  Status read(const json::value& choice) {
    if (choice.is_string()) return read_mode(choice.get_string());
    if (!choice.is_object()) {
      return invalid_argument(
          fmt::format("tool_choice: expected a string or an object, found {}", shown(choice)));
    }
    Fields fields(choice.get_object(), "tool_choice");
    std::string type;
    fields.text("type", &type);
    const bool is_named = type == "function" || type == "custom" || type == "tool";
    // A tool that is named is called once, unless the client says otherwise.
    bool is_serial = is_named;
    fields.boolean("disable_parallel_tool_use", &is_serial);
    CACHALOT_RETURN_IF_ERROR(fields.status());
    out_.parallel = !is_serial;
    if (is_named) {
      out_.choice = grammar::ToolChoice::required;
      return name(fields, "tool_choice");
    }
    if (type == "allowed_tools") return read_allowed(fields);
    return read_mode(type);
  }

 private:
  Status read_mode(std::string_view mode) {
    if (mode.empty() || mode == "auto") return {};
    if (mode == "none") {
      out_.choice = grammar::ToolChoice::none;
      return {};
    }
    if (mode == "required" || mode == "any") {
      out_.choice = grammar::ToolChoice::required;
      return {};
    }
    return invalid_argument(fmt::format(
        "tool_choice: expected auto, none, required, a tool or allowed_tools, found \"{}\"",
        mode.substr(0, 64)));
  }

  // {"type": "allowed_tools", "mode", "tools"}, or with the last two one level down.
  Status read_allowed(const Fields& fields) {
    const json::value* inner = fields.find("allowed_tools");
    const bool is_nested = inner != nullptr && inner->is_object();
    Fields list(is_nested ? inner->get_object() : fields.object(),
                is_nested ? "tool_choice.allowed_tools" : "tool_choice");
    CACHALOT_RETURN_IF_ERROR(read_mode(text_of(list, "mode")));
    const json::array* tools = list.array("tools");
    CACHALOT_RETURN_IF_ERROR(list.status());
    const std::string place = list.place("tools");
    if (tools == nullptr)
      return invalid_argument(fmt::format("{}: expected at least one tool, found none", place));
    for (size_t i = 0; i < tools->size(); ++i) {
      const json::value& tool = (*tools)[i];
      const std::string where = fmt::format("{}[{}]", place, i);
      if (!tool.is_object())
        return invalid_argument(fmt::format("{}: expected a tool, found {}", where, shown(tool)));
      const Fields one(tool.get_object(), where);
      const std::string type = text_of(one, "type");
      const auto& hosted = tools_.hosted;
      if (std::find(hosted.begin(), hosted.end(), type) != hosted.end()) continue;
      CACHALOT_RETURN_IF_ERROR(name(one, where));
    }
    return {};
  }

  Status name(const Fields& fields, const std::string& where) {
    std::string asked = text_of(fields, "name");
    for (const std::string_view key : {"function", "custom"}) {
      const json::value* nested = fields.find(key);
      if (asked.empty() && nested != nullptr && nested->is_object())
        asked = text_of(Fields(nested->get_object()), "name");
    }
    const std::string name_space = text_of(fields, "namespace");
    for (const ClientTool& tool : tools_.tools) {
      if (tool.shown == asked ||
          (tool.name == asked && (name_space.empty() || tool.name_space == name_space))) {
        out_.shown.push_back(tool.shown);
        return {};
      }
    }
    return invalid_argument(
        fmt::format("{}: expected the name of a tool that is offered, found \"{}\"", where,
                    std::string_view(asked).substr(0, 64)));
  }

  const ClientTools& tools_;
  ToolSelection& out_;
};

}  // namespace

const ClientTool* ClientTools::find(std::string_view shown_name) const {
  for (const ClientTool& tool : tools) {
    if (tool.shown == shown_name) return &tool;
  }
  return nullptr;
}

Result<ClientTools> read_tools(const json::array& list) {
  ClientTools out;
  ToolReader reader(out);
  for (size_t i = 0; i < list.size(); ++i)
    CACHALOT_RETURN_IF_ERROR(reader.read(list[i], fmt::format("tools[{}]", i), {}));
  return out;
}

Result<ToolSelection> read_tool_choice(const json::value* choice, const ClientTools& tools) {
  ToolSelection out;
  if (choice != nullptr) CACHALOT_RETURN_IF_ERROR(ChoiceReader(tools, out).read(*choice));
  if (out.choice == grammar::ToolChoice::required && tools.tools.empty()) {
    return invalid_argument(
        "tool_choice: expected tools beside it, as one of them must be called, found none");
  }
  return out;
}

Result<std::vector<grammar::CallableTool>> callable_tools(const ClientTools& tools,
                                                          const ToolSelection& selection,
                                                          text::PromptFamily family) {
  CACHALOT_ASSIGN_OR_RETURN(std::vector<text::OfferedTool> offered,
                            text::offered_tools(tools.definitions, family));
  std::vector<grammar::CallableTool> out;
  for (size_t i = 0; i < offered.size(); ++i) {
    const std::vector<std::string>& shown = selection.shown;
    const bool may_be_called =
        shown.empty() || std::find(shown.begin(), shown.end(), tools.tools[i].shown) != shown.end();
    const ClientTool& tool = tools.tools[i];
    if (may_be_called) out.push_back({std::move(offered[i]), tool.is_strict, tool.input});
  }
  return out;
}

std::string custom_input(std::string_view arguments) {
  const auto value = parse_json(arguments, "arguments", 128);
  if (value && value->is_object()) {
    const json::value* input = value->get_object().if_contains("input");
    if (input != nullptr && input->is_string()) return std::string(input->get_string());
  }
  return std::string(arguments);
}

std::string custom_arguments(std::string_view input) {
  return python_json(json::object{{"input", input}});
}

}  // namespace cachalot::api
