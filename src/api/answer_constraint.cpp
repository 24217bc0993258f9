#include "api/answer_constraint.h"

#include <fmt/format.h>

#include <array>

#include "base/python_json.h"
#include "base/sha256.h"
#include "grammar/grammar_text.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"

namespace cachalot::api {
namespace {

using Kind = AnswerConstraint::Kind;
using grammar::GrammarSource;

Status wrong(std::string_view where, std::string_view expected, const json::value& found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", where, expected, shown(found)));
}

// A schema may come as its JSON text.
Result<json::value> schema_of(const json::value& value, const std::string& where) {
  if (!value.is_string()) {
    if (value.is_object() || value.is_bool()) return value;
    return wrong(where, "a JSON schema", value);
  }
  return parse_json(std::string_view(value.get_string()), where);
}

Result<AnswerConstraint> constraint_of(Kind kind, const json::value& value,
                                       const std::string& where) {
  AnswerConstraint out;
  out.kind = kind;
  out.where = where;
  out.value = value;
  switch (kind) {
    case Kind::json_schema: {
      CACHALOT_ASSIGN_OR_RETURN(out.value, schema_of(value, where));
      break;
    }
    case Kind::regex:
    case Kind::grammar:
      if (!value.is_string()) return wrong(where, "a string", value);
      break;
    case Kind::choice:
      if (!value.is_array()) return wrong(where, "a list of strings", value);
      for (const json::value& one : value.get_array()) {
        if (!one.is_string()) return wrong(where, "a list of strings", one);
      }
      break;
    case Kind::json_object:
      if (!value.is_bool()) return wrong(where, "true or false", value);
      if (!value.get_bool()) out.kind = Kind::none;
      break;
    case Kind::none: break;
  }
  return out;
}

struct Spelling {
  std::string_view name;
  Kind kind;
};
constexpr std::array kTopLevel = {
    Spelling{"guided_json", Kind::json_schema},
    Spelling{"guided_regex", Kind::regex},
    Spelling{"guided_choice", Kind::choice},
    Spelling{"guided_grammar", Kind::grammar},
    Spelling{"guided_json_object", Kind::json_object},
    Spelling{"json_schema", Kind::json_schema},
    Spelling{"regex", Kind::regex},
    Spelling{"grammar", Kind::grammar},
    Spelling{"ebnf", Kind::grammar},
};
constexpr std::array kStructured = {
    Spelling{"json", Kind::json_schema},        Spelling{"regex", Kind::regex},
    Spelling{"choice", Kind::choice},           Spelling{"grammar", Kind::grammar},
    Spelling{"json_object", Kind::json_object},
};

Status read_structured(Fields& fields, AnswerConstraint& all) {
  const json::object* structured = fields.object("structured_outputs");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (structured == nullptr) return {};
  const Fields inner(*structured, "structured_outputs");
  for (const Spelling& spelling : kStructured) {
    const json::value* value = inner.filled(spelling.name);
    if (value == nullptr) continue;
    CACHALOT_RETURN_IF_ERROR(
        add_constraint(all, constraint_of(spelling.kind, *value, inner.place(spelling.name))));
  }
  for (const std::string_view name : {"structural_tag", "whitespace_pattern"}) {
    if (const json::value* value = inner.filled(name)) {
      return not_done(inner.place(name), *value);
    }
  }
  return {};
}

Result<GrammarSource> regex_source(std::string_view pattern) {
  GrammarSource source;
  const grammar::RuleId root = source.add_rule("regex");
  CACHALOT_ASSIGN_OR_RETURN(const grammar::Regex regex, grammar::parse_regex(pattern, source));
  source.set_body(root, regex.expression);
  return source;
}

GrammarSource choice_source(const json::array& texts) {
  GrammarSource source;
  const grammar::RuleId root = source.add_rule("choice");
  std::vector<grammar::Expression> options;
  for (const json::value& text : texts) options.push_back(source.literal(text.get_string()));
  source.set_body(root, source.choice(std::move(options)));
  return source;
}

Result<GrammarSource> content_source(const AnswerConstraint& constraint) {
  switch (constraint.kind) {
    case Kind::json_schema: return grammar::json_schema_grammar(constraint.value);
    case Kind::regex: return regex_source(constraint.value.get_string());
    case Kind::choice: return choice_source(constraint.value.get_array());
    case Kind::grammar: return grammar::parse_grammar_text(constraint.value.get_string());
    case Kind::json_object:
    case Kind::none: break;
  }
  return grammar::json_object_grammar();
}

Result<GrammarSource> answer_source(const AnswerConstraint& constraint, const AnswerTools& tools,
                                    const grammar::Vocabulary& vocabulary) {
  GrammarSource content;
  if (constraint.kind != Kind::none) {
    CACHALOT_ASSIGN_OR_RETURN(content, content_source(constraint));
    if (!tools.is_offered) {
      if (tools.starts_in_reasoning)
        grammar::add_reasoning(content, vocabulary, tools.family, false);
      return content;
    }
  }
  grammar::ToolGrammarOptions options;
  options.family = tools.family;
  options.starts_in_reasoning = tools.starts_in_reasoning;
  options.choice = tools.choice;
  options.parallel = tools.parallel;
  options.tools = tools.tools;
  if (constraint.kind != Kind::none) options.content = &content;
  return grammar::tool_grammar(options, vocabulary);
}

// All that decides what the grammar says.
std::string grammar_text(const AnswerConstraint& constraint, const AnswerTools& tools) {
  std::string text =
      fmt::format("{} {} {} {} {} {} {}", static_cast<int>(constraint.kind),
                  static_cast<int>(tools.family), tools.starts_in_reasoning, tools.is_offered,
                  static_cast<int>(tools.choice), tools.parallel, python_json(constraint.value));
  for (const grammar::CallableTool& tool : tools.tools) {
    text +=
        fmt::format("\n{} {} {} {} {}", tool.is_strict, tool.tool.name,
                    python_json(json::value(tool.tool.parameters)),
                    static_cast<int>(tool.input.syntax), python_json(json::value(tool.input.text)));
  }
  return text;
}

}  // namespace

Status add_constraint(AnswerConstraint& all, Result<AnswerConstraint> one) {
  if (!one) return one.error();
  if (one->kind == Kind::none) return {};
  if (all.kind != Kind::none) {
    return invalid_argument(fmt::format(
        "{}: expected one constraint of the answer, found {} beside", one->where, all.where));
  }
  all = *std::move(one);
  return {};
}

Result<AnswerConstraint> read_format(const json::value& format, const std::string& where) {
  if (!format.is_object()) return wrong(where, "an object with a type", format);
  Fields fields(format.get_object(), where);
  std::string type;
  fields.text("type", &type);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (type.empty() || type == "text") return AnswerConstraint{};
  if (type == "json_object") {
    // llama.cpp's form has a schema beside the type.
    if (const json::value* schema = fields.filled("schema"))
      return constraint_of(Kind::json_schema, *schema, where + ".schema");
    return constraint_of(Kind::json_object, true, where);
  }
  if (type == "json_schema") {
    std::string place = where;
    const json::object* around = &format.get_object();
    if (const json::object* inner = fields.object("json_schema")) {
      place += ".json_schema";
      around = inner;
    }
    const json::value* schema = Fields(*around).find("schema");
    if (schema == nullptr)
      return invalid_argument(
          fmt::format("{}.schema: expected a JSON schema, found nothing", place));
    CACHALOT_ASSIGN_OR_RETURN(AnswerConstraint out,
                              constraint_of(Kind::json_schema, *schema, place + ".schema"));
    out.is_shown = true;
    return out;
  }
  if (type == "grammar" || type == "regex") {
    const std::string_view key = type == "grammar" ? "grammar" : "pattern";
    const json::value* value = fields.find(key);
    if (value != nullptr) {
      return constraint_of(type == "grammar" ? Kind::grammar : Kind::regex, *value,
                           fields.place(key));
    }
  }
  return invalid_argument(
      fmt::format("{}.type: expected text, json_object or json_schema, found \"{}\"", where, type));
}

Result<AnswerConstraint> read_constraint(Fields& fields) {
  AnswerConstraint all;
  if (const json::value* format = fields.filled("response_format"))
    CACHALOT_RETURN_IF_ERROR(add_constraint(all, read_format(*format, "response_format")));
  CACHALOT_RETURN_IF_ERROR(read_structured(fields, all));
  for (const Spelling& spelling : kTopLevel) {
    const json::value* value = fields.filled(spelling.name);
    if (value == nullptr) continue;
    CACHALOT_RETURN_IF_ERROR(
        add_constraint(all, constraint_of(spelling.kind, *value, std::string(spelling.name))));
  }
  for (const std::string_view name : {"guided_whitespace_pattern", "structural_tag"}) {
    if (const json::value* value = fields.filled(name)) {
      return not_done(name, *value);
    }
  }
  return all;
}

Result<std::shared_ptr<CachedGrammar>> answer_grammar(const AnswerConstraint& constraint,
                                                      const AnswerTools& tools,
                                                      const GenerationFields& asked,
                                                      const ServedModel& model) {
  if (constraint.kind == Kind::none && !tools.is_offered) return std::shared_ptr<CachedGrammar>();
  if (asked.ignores_end) {
    return invalid_argument(
        "ignore_eos: expected false where a grammar or tools decide where the answer ends, found "
        "true");
  }
  auto found = model.grammars().find(sha256_hex(grammar_text(constraint, tools)), [&] {
    return answer_source(constraint, tools, *model.vocabulary());
  });
  if (found) return found;
  const Status& error = found.error();
  const std::string message = constraint.where.empty()
                                  ? error.message()
                                  : fmt::format("{}: {}", constraint.where, error.message());
  // Whatever it is, it is what the client sent.
  return Status(error.code() == StatusCode::unsupported ? StatusCode::unsupported
                                                        : StatusCode::invalid_argument,
                message);
}

}  // namespace cachalot::api
