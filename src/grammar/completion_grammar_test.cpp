// The tool grammar against the completion parser: what one lets through, the other reads without a
// deviation.
#include "grammar/completion_grammar.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/rng.h"
#include "base/test_data.h"
#include "grammar/content_text.h"
#include "grammar/grammar_test_data.h"
#include "grammar/json_schema.h"
#include "grammar/matcher.h"
#include "text/chat_code_fence.h"
#include "text/chat_literals.h"
#include "text/dsml_markup.h"

namespace cachalot::grammar {
namespace {

using text::PromptFamily;

const text::Tokenizer& tokenizer() {
  static const auto kNano = *text::Tokenizer::load(test_data("../models/nano/tokenizer.json"));
  return kNano;
}
std::shared_ptr<const Vocabulary> nano() {
  static const auto kNano = std::make_shared<const Vocabulary>(*Vocabulary::create(tokenizer()));
  return kNano;
}

CallableTool tool(std::string name, std::string_view parameters, bool is_strict = true) {
  return {{std::move(name), parse_json(parameters, "parameters")->as_object()}, is_strict};
}

const std::vector<CallableTool>& tools() {
  static const std::vector<CallableTool> kTools = {
      tool("find", R"({"type": "object", "properties": {
          "text": {"type": "string"}, "limit": {"type": "integer", "minimum": 1, "maximum": 50},
          "mode": {"enum": ["fast", "deep", 3]}, "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
          "code": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"}}, "required": ["text", "mode"]})"),
      tool("now", "{}"),
      tool(
          "set",
          R"({"type": "object", "properties": {"key": {"type": ["string", "null"], "maxLength": 8}},
          "additionalProperties": {"type": "boolean"}})")};
  return kTools;
}

Result<Matcher> matcher_of(const ToolGrammarOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const GrammarSource source, tool_grammar(options, *nano()));
  CACHALOT_ASSIGN_OR_RETURN(auto automaton, TokenAutomaton::create(source, nano()));
  return Matcher(std::move(automaton));
}

// Whether the tokens of the text, the control tokens in it included, are taken to the end.
bool takes(const ToolGrammarOptions& options, std::string_view text) {
  auto matcher = matcher_of(options);
  if (!matcher) return false;
  const std::vector<int32_t> ids = tokenizer().encode(text);
  return matcher->count_allowed(ids) == ids.size() && [&] {
    for (const int32_t id : ids) EXPECT_TRUE(matcher->accept(id).ok());
    return matcher->may_end();
  }();
}

std::string call(std::string_view inner) {
  return "\n\n<｜DSML｜tool_calls>\n" + std::string(inner) + "\n</｜DSML｜tool_calls>";
}
const std::string kNow = "<｜DSML｜invoke name=\"now\">\n\n</｜DSML｜invoke>";
const std::string kFind =
    "<｜DSML｜invoke name=\"find\">\n<｜DSML｜parameter name=\"text\" string=\"true\">a <b> \"c\"\n"
    "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"limit\" "
    "string=\"false\">7</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"mode\" string=\"true\">deep</｜DSML｜parameter>\n</｜DSML｜invoke>";

TEST(ToolGrammar, Choices) {
  ToolGrammarOptions options = {.starts_in_reasoning = false, .tools = tools()};
  const std::string text = "Let me see: 1 < 2.";
  for (const ToolChoice choice : {ToolChoice::automatic, ToolChoice::required, ToolChoice::none}) {
    options.choice = choice;
    const bool calls = choice != ToolChoice::none, talks = choice != ToolChoice::required;
    EXPECT_EQ(takes(options, text), talks);
    EXPECT_EQ(takes(options, ""), talks);
    EXPECT_EQ(takes(options, call(kNow)), calls);
    EXPECT_EQ(takes(options, call(kFind + "\n" + kNow)), calls);
    EXPECT_EQ(takes(options, text + call(kNow)), calls && talks);
    EXPECT_FALSE(takes(options, call(kNow) + "\nmore"));
    EXPECT_FALSE(takes(options, "\n\n<｜DSML｜tool_calls>\n\n</｜DSML｜tool_calls>"));
  }
  options.choice = ToolChoice::required;
  options.parallel = false;
  EXPECT_TRUE(takes(options, call(kNow)));
  EXPECT_FALSE(takes(options, call(kNow + "\n" + kNow)));
  options.tools = std::span(tools()).subspan(1, 1);  // named
  EXPECT_TRUE(takes(options, call(kNow)));
  EXPECT_FALSE(takes(options, call(kFind)));
  options.tools = {};
  EXPECT_FALSE(matcher_of(options).has_value());
}

// A document, or calls; its own rules call each other as before.
TEST(ToolGrammar, TheAnswerMayBeAnotherGrammars) {
  const auto schema = parse_json(
      R"({"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}},
          "$ref": "#/$defs/list"})",
      "schema");
  const GrammarSource document = *json_schema_grammar(*schema);
  for (const bool starts_in_reasoning : {false, true}) {
    const std::string before = starts_in_reasoning ? "Hm.</think>" : "";
    ToolGrammarOptions options = {
        .starts_in_reasoning = starts_in_reasoning, .tools = tools(), .content = &document};
    EXPECT_TRUE(takes(options, before + "[[], [[]]]"));
    EXPECT_TRUE(takes(options, before + call(kNow)));
    EXPECT_FALSE(takes(options, before + "Let me see."));
    EXPECT_FALSE(takes(options, before + "[]" + call(kNow)));
    options.choice = ToolChoice::none;
    EXPECT_TRUE(takes(options, before + "[]"));
    EXPECT_FALSE(takes(options, before + call(kNow)));
    options.choice = ToolChoice::required;
    EXPECT_FALSE(takes(options, before + "[]"));
  }
}

TEST(ToolGrammar, ReasoningIsFreeAndTheAnswerBound) {
  const ToolGrammarOptions options = {.choice = ToolChoice::required, .tools = tools()};
  EXPECT_TRUE(takes(options, "Hm. {\"x\": \n\n```" + std::string("</think>") + call(kNow)));
  EXPECT_FALSE(takes(options, call(kNow)));
  EXPECT_FALSE(takes(options, "a</think>b" + call(kNow)));
  EXPECT_FALSE(takes(options, "a</think></think>" + call(kNow)));
  EXPECT_FALSE(takes(options, call(kNow) + "</think>" + call(kNow)));
  // Reasoning does not end the answer.
  auto matcher = matcher_of(options);
  ASSERT_TRUE(matcher.has_value());
  EXPECT_FALSE(matcher->allows(*nano()->control(text::kEos)));
  EXPECT_TRUE(matcher->allows(*nano()->control(text::kThinkEnd)));
  EXPECT_FALSE(matcher->allows(*nano()->control(text::kDsml)));
}

TEST(ToolGrammar, ReasoningStandsBeforeAnyGrammar) {
  const auto schema = parse_json(R"({"type": "array", "items": {"$ref": "#"}})", "schema");
  GrammarSource source = *json_schema_grammar(*schema);
  add_reasoning(source, *nano(), PromptFamily::v4, false);
  const auto automaton = *TokenAutomaton::create(source, nano());
  const auto takes = [&](std::string_view text) {
    Matcher matcher(automaton);
    for (const int32_t id : tokenizer().encode(text)) {
      if (!matcher.accept(id).ok()) return false;
    }
    return matcher.may_end();
  };
  EXPECT_TRUE(takes("[1</think>[[],[]]"));
  EXPECT_TRUE(takes("</think>[]"));
  EXPECT_FALSE(takes("[]"));
  EXPECT_FALSE(takes("</think>[</think>]"));
}

TEST(ToolGrammar, ArgumentsFollowTheSchema) {
  const ToolGrammarOptions options = {
      .starts_in_reasoning = false, .choice = ToolChoice::required, .tools = tools()};
  const auto parameter = [](std::string_view name, bool is_string, std::string_view value) {
    return "<｜DSML｜parameter name=\"" + std::string(name) + "\" string=\"" +
           (is_string ? "true" : "false") + "\">" + std::string(value) + "</｜DSML｜parameter>\n";
  };
  const auto find = [&](const std::string& parameters) {
    return call("<｜DSML｜invoke name=\"find\">\n" + parameters + "</｜DSML｜invoke>");
  };
  const std::string text = parameter("text", true, "x"), mode = parameter("mode", true, "fast");
  EXPECT_TRUE(takes(options, find(text + mode)));
  EXPECT_TRUE(takes(options, find(text + parameter("mode", false, "3"))));
  EXPECT_FALSE(takes(options, find(text + parameter("mode", true, "3"))));
  EXPECT_FALSE(takes(options, find(text + parameter("mode", true, "slow"))));
  EXPECT_FALSE(takes(options, find(text)));
  EXPECT_FALSE(takes(options, find(mode + text)));
  EXPECT_FALSE(takes(options, find(text + text + mode)));
  EXPECT_FALSE(takes(options, find(parameter("text", false, "\"x\"") + mode)));
  EXPECT_FALSE(takes(options, find(text + parameter("limit", false, "51") + mode)));
  EXPECT_TRUE(takes(options, find(text + mode + parameter("tags", false, R"(["a", "\uff5c"])"))));
  EXPECT_FALSE(takes(options, find(text + mode + parameter("tags", false, R"(["｜"])"))));
  EXPECT_TRUE(takes(options, find(text + mode + parameter("code", true, "AB12"))));
  EXPECT_FALSE(takes(options, find(text + mode + parameter("code", true, "ab12"))));
  EXPECT_TRUE(takes(options, find(parameter("text", true, "") + mode)));
  EXPECT_FALSE(takes(options, call("<｜DSML｜invoke name=\"other\">\n\n</｜DSML｜invoke>")));
  const auto set = [&](const std::string& parameters) {
    return call("<｜DSML｜invoke name=\"set\">\n" + parameters + "</｜DSML｜invoke>");
  };
  EXPECT_TRUE(takes(options, set("\n")));
  EXPECT_TRUE(takes(options, set(parameter("key", false, "null"))));
  EXPECT_TRUE(
      takes(options, set(parameter("key", true, "12345678") + parameter("a_b", false, "true"))));
  EXPECT_FALSE(takes(options, set(parameter("key", true, "123456789"))));
  EXPECT_FALSE(takes(options, set(parameter("a", false, "1"))));
}

TEST(ToolGrammar, ATextIsBoundByItsGrammar) {
  std::vector<CallableTool> tools = {
      tool("f", R"({"type": "object", "properties": {"input": {"type": "string"}},
               "required": ["input"]})")};
  const auto says = [&](std::string_view text, std::string_view is_string = "true") {
    return takes({.starts_in_reasoning = false, .choice = ToolChoice::required, .tools = tools},
                 call(fmt::format("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"input\" "
                                  "string=\"{}\">{}</｜DSML｜parameter>\n</｜DSML｜invoke>",
                                  is_string, text)));
  };
  EXPECT_TRUE(says("anything"));
  tools[0].input = {InputGrammar::Syntax::regex, "[0-9]+|[^0-9]<"};
  EXPECT_TRUE(says("17"));
  EXPECT_TRUE(says("é<"));
  EXPECT_FALSE(says("｜<"));
  EXPECT_FALSE(says("anything"));
  EXPECT_FALSE(says("17", "false"));
  tools[0].input = {InputGrammar::Syntax::lark, "start: (WORD \"\\n\")+\nWORD: /[a-z]+/"};
  EXPECT_TRUE(says("ab\nc\n"));
  EXPECT_FALSE(says("ab\nc"));
  tools[0].input.text = "start: nothing";
  EXPECT_FALSE(says("ab"));
}

TEST(ToolGrammar, WhatAToolAsksBeyondTheGrammarIsRefusedIfItIsStrict) {
  const auto status = [](std::string_view parameters, bool is_strict) {
    const std::vector<CallableTool> one = {tool("f", parameters, is_strict)};
    return matcher_of({.choice = ToolChoice::required, .tools = one});
  };
  constexpr std::string_view kMultiple =
      R"({"type": "object", "properties": {"n": {"multipleOf": 2}}})";
  ASSERT_FALSE(status(kMultiple, true).has_value());
  EXPECT_NE(status(kMultiple, true).error().message().find("multipleOf"), std::string::npos);
  EXPECT_TRUE(status(kMultiple, false).has_value());
  constexpr std::string_view kChoice =
      R"({"anyOf": [{"type": "object"}, {"properties": {"a": {}}}]})";
  EXPECT_FALSE(status(kChoice, true).has_value());
  EXPECT_TRUE(status(kChoice, false).has_value());
  EXPECT_FALSE(
      status(R"({"type": "object", "properties": {"a": {"minLength": -1}}})", false).has_value());
  EXPECT_FALSE(status(R"({"type": "object", "properties": {"a\"b": {}}})", false).has_value());
  EXPECT_FALSE(status(R"({"type": "string"})", false).has_value());
  const std::vector<CallableTool> unnamed = {tool("a\nb", "{}")};
  EXPECT_FALSE(matcher_of({.choice = ToolChoice::required, .tools = unnamed}).has_value());
}

// Random text with fences against the state machine that the parser uses.
TEST(ToolGrammar, CallsFollowOnlyTextThatLeavesNoFenceOpen) {
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  constexpr int32_t kCalls = 5;
  const std::vector<std::string> patterns = {"<x>"};
  source.set_body(root,
                  content_text(source, patterns,
                               source.sequence({source.literal("\n\n"), source.control(kCalls)})));
  Pushdown pushdown(std::make_shared<const Automaton>(*Automaton::compile(source)));
  RngStream rng(1, RngPurpose::data, 0);
  int num_open = 0, num_followed = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    while (rng.next_u32() % 12 != 0) {
      constexpr std::string_view kParts[] = {"`", "```", "~~~", "````", "\n", "\n",
                                             " ", "a",   "\t",  "~",    "<x"};
      text += kParts[rng.next_u32() % std::size(kParts)];
    }
    // Longer marks are taken for ever open.
    if (text.find("```````") != std::string::npos || text.find("~~~~~~~") != std::string::npos)
      continue;
    text::CodeFence fence;
    fence.feed(text + "\n\n");
    SetId set = pushdown.start();
    for (const char c : text + "\n\n") set = pushdown.step(set, static_cast<uint8_t>(c));
    const bool ends_in_space =
        !text.empty() && std::string_view(" \t\n").find(text.back()) != std::string_view::npos;
    const bool follows =
        set != Pushdown::kDead && pushdown.step_control(set, kCalls) != Pushdown::kDead;
    EXPECT_EQ(follows, !fence.inside() && !ends_in_space) << text;
    num_open += fence.inside();
    num_followed += follows;
  }
  EXPECT_GT(num_open, 1000);
  EXPECT_GT(num_followed, 1000);
}

// Tokens that bring tags and ends nearer.
bool is_urgent(int32_t token) {
  static const auto kUrgent = [] {
    std::vector<bool> urgent;
    for (int32_t t = 0; t < nano()->size(); ++t) {
      const std::string_view bytes = nano()->text_bytes(t);
      urgent.push_back(nano()->is_control(t) ||
                       bytes.find_first_of("<>/\"]}\n") != std::string_view::npos);
    }
    return urgent;
  }();
  return kUrgent[static_cast<size_t>(token)];
}

// Random walks: whatever the masks let through, the parser reads as it was meant.
class ToolWalks : public ::testing::TestWithParam<PromptFamily> {};

TEST_P(ToolWalks, ParseWithoutADeviation) {
  int num_ended = 0, num_calls = 0;
  std::map<std::tuple<bool, ToolChoice, bool>, Matcher> matchers;
  for (uint64_t walk = 0; walk < 150; ++walk) {
    RngStream rng(11, RngPurpose::data, walk);
    const ToolGrammarOptions options = {.family = GetParam(),
                                        .starts_in_reasoning = walk % 2 == 0,
                                        .choice = static_cast<ToolChoice>(walk % 3),
                                        .parallel = walk % 5 != 0,
                                        .tools = tools()};
    const auto key = std::tuple(options.starts_in_reasoning, options.choice, options.parallel);
    if (!matchers.contains(key)) matchers.emplace(key, *matcher_of(options));
    Matcher matcher = matchers.at(key);
    std::vector<uint32_t> row(nano()->row_words());
    std::string text;
    for (int step = 0; step < 400 && !matcher.is_ended(); ++step) {
      ASSERT_TRUE(matcher.fill_row(row).ok());
      std::vector<int32_t> allowed, urgent;
      for (int32_t t = 0; t < nano()->size(); ++t) {
        if ((row[static_cast<size_t>(t) / 32] >> (t % 32) & 1) == 0) continue;
        allowed.push_back(t);
        if (is_urgent(t)) urgent.push_back(t);
      }
      ASSERT_FALSE(allowed.empty()) << text;
      // Tags and ends come up often enough to be met.
      const auto& from = !urgent.empty() && rng.next_u32() % 2 == 0 ? urgent : allowed;
      const int32_t token = from[rng.next_u32() % from.size()];
      ASSERT_TRUE(matcher.accept(token).ok());
      if (!nano()->is_end(token)) text += *tokenizer().token_bytes(token);
    }
    if (!matcher.may_end()) continue;
    ++num_ended;
    text::CompletionParserOptions parser_options;
    parser_options.family = GetParam();
    parser_options.starts_in_reasoning = options.starts_in_reasoning;
    for (const CallableTool& one : tools()) parser_options.tools.push_back(one.tool);
    text::CompletionParser parser(parser_options);
    std::vector<text::CompletionEvent> events;
    parser.feed(text, events);
    parser.finish(text::FinishCause::end_of_turn, events);
    const Status well_formed = parser.well_formed();
    // Parameters that are not declared may come twice (the last one counts).
    const bool is_duplicate =
        !parser.reports().empty() &&
        std::all_of(parser.reports().begin(), parser.reports().end(), [](const auto& report) {
          return report.what == text::Deviation::duplicate_parameter;
        });
    EXPECT_TRUE(well_formed.ok() || is_duplicate) << well_formed.message() << "\n" << text;
    const size_t at_least = options.choice == ToolChoice::required ? 1 : 0;
    const size_t at_most = options.choice == ToolChoice::none ? 0 : options.parallel ? SIZE_MAX : 1;
    EXPECT_GE(parser.calls().size(), at_least);
    EXPECT_LE(parser.calls().size(), at_most);
    for (const text::ParsedCall& made : parser.calls()) {
      ++num_calls;
      EXPECT_TRUE(made.complete);
      const auto arguments = parse_json(made.arguments, "arguments");
      ASSERT_TRUE(arguments.has_value() && arguments->is_object()) << made.arguments;
      if (made.name != "find") continue;
      EXPECT_TRUE(arguments->as_object().at("text").is_string());
      EXPECT_TRUE(arguments->as_object().contains("mode"));
      if (const json::value* limit = arguments->as_object().if_contains("limit")) {
        EXPECT_GE(limit->as_int64(), 1);
        EXPECT_LE(limit->as_int64(), 50);
      }
    }
  }
  EXPECT_GT(num_ended, 100);
  EXPECT_GT(num_calls, 35);
}

INSTANTIATE_TEST_SUITE_P(Families, ToolWalks,
                         ::testing::Values(PromptFamily::v4, PromptFamily::v4_1));

}  // namespace
}  // namespace cachalot::grammar
