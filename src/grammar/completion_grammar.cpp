#include "grammar/completion_grammar.h"

#include <fmt/format.h>

#include <list>

#include "grammar/content_text.h"
#include "grammar/json_schema.h"
#include "grammar/json_text.h"
#include "grammar/lark_text.h"
#include "grammar/regex.h"
#include "text/chat_literals.h"
#include "text/dsml_tags.h"

namespace cachalot::grammar {
namespace {

// The bar of the DSML mark. Text without it spells no tag, as long as the text around it has none.
constexpr uint32_t kBar = 0xFF5C;
constexpr size_t kMaxTools = 1024;

// Text of the prompt format: the control token in it is one, where the vocabulary has it.
Expression written(GrammarSource& source, const Vocabulary& vocabulary, std::string_view control,
                   std::string_view text) {
  const size_t at = text.find(control);
  const auto token = vocabulary.control(control);
  if (at == std::string_view::npos || !token) return source.literal(text);
  return source.sequence({source.literal(text.substr(0, at)), source.control(*token),
                          source.literal(text.substr(at + control.size()))});
}

// What the parser takes for the beginning of calls, wherever it looks for it.
std::vector<std::string> markers(text::PromptFamily family) {
  const auto dsml = text::DsmlTags::with_dsml(family);
  const auto plain = text::DsmlTags::plain(family);
  std::vector<std::string> out = {std::string(text::kThinkStart), std::string(text::kThinkEnd)};
  for (const text::TagSpellings* tag : {&dsml.calls_open, &dsml.invoke_open, &plain.calls_open}) {
    for (const std::string& spelling : tag->spellings) {
      if (!spelling.empty()) out.push_back(spelling);
    }
  }
  return out;
}

class ToolWriter {
 public:
  ToolWriter(GrammarSource& source, const ToolGrammarOptions& options, const Vocabulary& vocabulary)
      : source_(source),
        options_(options),
        vocabulary_(vocabulary),
        tags_(text::DsmlTags::with_dsml(options.family)),
        text_(source, {{kBar, kBar}}) {
    std::vector<std::string> ends(tags_.parameter_close.spellings.begin(),
                                  tags_.parameter_close.spellings.end());
    for (const text::TagSpellings* tag : {&tags_.parameter_open, &tags_.invoke_close}) {
      for (const std::string& spelling : tag->spellings) ends.push_back("\n" + spelling);
    }
    bare_.any = source.text_without(ends);
    bare_.character = [&source](const CodePoints& set) {
      return source.code_points(without(set, {{kBar, kBar}}));
    };
    bare_.text = [&source](std::string_view text) {
      return text.find("｜") == std::string_view::npos ? source.literal(text) : source.never();
    };
  }

  Result<Expression> calls() {
    std::vector<Expression> tools;
    for (const CallableTool& tool : options_.tools) {
      CACHALOT_ASSIGN_OR_RETURN(const Expression one, invoke(tool));
      tools.push_back(one);
    }
    const RuleId rule = source_.add_rule("call");
    source_.set_body(rule, source_.choice(std::move(tools)));
    const Expression call = source_.call(rule);
    const Expression more =
        options_.parallel
            ? source_.repeat(source_.sequence({source_.literal("\n"), call}), 0, kUnbounded)
            : source_.empty();
    return source_.sequence({source_.literal("\n\n"), tag(tags_.calls_open.spellings[0] + "\n"),
                             call, more, tag("\n" + tags_.calls_close.spellings[0])});
  }

 private:
  Expression tag(std::string_view text) { return written(source_, vocabulary_, text::kDsml, text); }

  // Names stand in tags as they are.
  static Status check_name(std::string_view name, const std::string& where) {
    constexpr size_t kMaxNameBytes = 1024;
    if (!name.empty() && name.size() <= kMaxNameBytes &&
        name.find_first_of("\"\n") == std::string_view::npos &&
        name.find("｜") == std::string_view::npos) {
      return {};
    }
    return invalid_argument(
        fmt::format("{}: expected a name of 1 to {} bytes without quotes, line "
                    "breaks and ｜, found \"{}\"",
                    where, kMaxNameBytes, name.substr(0, 64)));
  }

  Result<Expression> invoke(const CallableTool& tool) {
    const std::string where = fmt::format("tool \"{}\"", tool.tool.name.substr(0, 64));
    CACHALOT_RETURN_IF_ERROR(check_name(tool.tool.name, where));
    CACHALOT_ASSIGN_OR_RETURN(const Expression parameters, this->parameters(tool, where));
    return source_.sequence(
        {tag(fmt::format("{} name=\"{}\">\n", tags_.invoke_open.spellings[0], tool.tool.name)),
         parameters, tag("\n" + tags_.invoke_close.spellings[0])});
  }

  Result<Expression> parameters(const CallableTool& tool, const std::string& where) {
    if (tool.tool.parameters.empty()) return source_.empty();
    if (!tool.input.text.empty()) return bound_input(tool, where);
    schemas_.push_back(tool.tool.parameters);
    const json::value& schema = schemas_.back();
    JsonSchemaWriter writer(source_, text_, schema);
    auto properties = writer.properties(schema, where);
    if (!properties) {
      if (tool.is_strict || properties.error().code() != StatusCode::unsupported)
        return properties.error();
      return source_.ordered({}, other_parameter({}, any_value()), source_.literal("\n"));
    }
    if (properties->is_never) {
      return invalid_argument(
          fmt::format("{}: expected parameters that some object satisfies, found none", where));
    }
    std::vector<GrammarSource::Item> items;
    std::vector<std::string> names;
    for (const JsonSchemaWriter::Property& property : properties->declared) {
      CACHALOT_RETURN_IF_ERROR(check_name(property.name, property.where));
      CACHALOT_ASSIGN_OR_RETURN(const Value value, this->value(writer, property, schema, tool));
      items.push_back({parameter(source_.literal(property.name), value), property.is_required});
      names.push_back(property.name);
    }
    Expression others = source_.never();
    if (properties->others && properties->others_are_asked_for) {
      CACHALOT_ASSIGN_OR_RETURN(const Value value,
                                this->value(writer, *properties->others, schema, tool));
      others = other_parameter(names, value);
    }
    CACHALOT_RETURN_IF_ERROR(writer.finish());
    return source_.ordered(items, others, source_.literal("\n"));
  }

  Result<Expression> bound_input(const CallableTool& tool, const std::string& where) {
    const auto input = input_source(tool.input);
    if (!input) {
      return Status(input.error().code(), fmt::format("{}: {}", where, input.error().message()));
    }
    const std::string& name = tool.tool.parameters.at("properties").as_object().begin()->key();
    return parameter(source_.literal(name), {source_.include(*input), source_.never()});
  }

  struct Value {
    Expression string = 0, json = 0;
  };
  Value any_value() { return {bare_.any, text_.any_value()}; }

  // Strings stand bare, everything else as JSON.
  Result<Value> value(JsonSchemaWriter& writer, const JsonSchemaWriter::Property& property,
                      const json::value& document, const CallableTool& tool) {
    if (!tool.is_strict) {
      // Whether it can be enforced shows only when all of it is written.
      GrammarSource trial;
      JsonText text(trial);
      JsonSchemaWriter alone(trial, text, document);
      Status status = alone.write(property, kAllKinds, nullptr).error();
      if (status.ok()) status = alone.finish();
      if (status.code() == StatusCode::unsupported) return any_value();
      CACHALOT_RETURN_IF_ERROR(status);
    }
    Value out;
    CACHALOT_ASSIGN_OR_RETURN(out.string, writer.write(property, kString, &bare_));
    CACHALOT_ASSIGN_OR_RETURN(out.json, writer.write(property, kAllKinds & ~kString, nullptr));
    return out;
  }

  Expression parameter(Expression name, const Value& value) {
    const auto with = [this](std::string_view is_string, Expression value) {
      return source_.sequence(
          {source_.literal(fmt::format("\" string=\"{}\">", is_string)), value});
    };
    return source_.sequence(
        {tag(tags_.parameter_open.spellings[0] + " name=\""), name,
         source_.choice({with("true", value.string), with("false", value.json)}),
         tag(tags_.parameter_close.spellings[0])});
  }

  Expression other_parameter(std::vector<std::string> names, const Value& value) {
    names.emplace_back();
    const CodePoints characters = {{'-', '-'}, {'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    return parameter(source_.other_than(names, characters), value);
  }

  GrammarSource& source_;
  const ToolGrammarOptions& options_;
  const Vocabulary& vocabulary_;
  const text::DsmlTags tags_;
  JsonText text_;
  BareStrings bare_;
  std::list<json::value> schemas_;
};

}  // namespace

Result<GrammarSource> input_source(const InputGrammar& input) {
  const CodePoints left_out = {{kBar, kBar}};
  if (input.syntax == InputGrammar::Syntax::lark) return parse_lark_text(input.text, left_out);
  GrammarSource source;
  const RuleId root = source.add_rule("input");
  RegexOptions options;
  options.write = [&](const CodePoints& set) { return source.code_points(without(set, left_out)); };
  CACHALOT_ASSIGN_OR_RETURN(const Regex regex, parse_regex(input.text, source, options));
  source.set_body(root, regex.expression);
  return source;
}

void add_reasoning(GrammarSource& source, const Vocabulary& vocabulary, text::PromptFamily family,
                   bool offers_tools) {
  std::vector<std::string> patterns = {std::string(text::kThinkStart),
                                       std::string(text::kThinkEnd)};
  if (offers_tools) patterns = markers(family);
  const RuleId root = source.add_rule("completion");
  source.set_body(root,
                  source.sequence({source.text_without(patterns),
                                   written(source, vocabulary, text::kThinkEnd, text::kThinkEnd),
                                   source.call(source.root())}));
  source.set_root(root);
}

Result<GrammarSource> tool_grammar(const ToolGrammarOptions& options,
                                   const Vocabulary& vocabulary) {
  if (options.tools.size() > kMaxTools) {
    return resource_exhausted(
        fmt::format("tools: expected at most {}, found {}", kMaxTools, options.tools.size()));
  }
  if (options.choice != ToolChoice::none && options.tools.empty())
    return invalid_argument("tools: expected at least one that may be called, found none");
  GrammarSource source;
  source.set_max_nesting(kMaxJsonNesting);
  const RuleId answer = source.add_rule("answer");
  Expression calls = source.never();
  ToolWriter writer(source, options, vocabulary);
  if (options.choice != ToolChoice::none) {
    CACHALOT_ASSIGN_OR_RETURN(calls, writer.calls());
  }
  Expression body = calls;
  if (options.choice != ToolChoice::required) {
    body = options.content != nullptr ? source.choice({source.include(*options.content), calls})
                                      : content_text(source, markers(options.family), calls);
  }
  source.set_body(answer, body);
  if (options.starts_in_reasoning) add_reasoning(source, vocabulary, options.family, true);
  return source;
}

}  // namespace cachalot::grammar
