// Properties of the completion parser over random and exhaustive inputs.
#include <gtest/gtest.h>

#include <random>

#include "base/python_json.h"
#include "text/chat_encoding.h"
#include "text/completion_parser_test_data.h"
#include "text/dsml_markup.h"

namespace cachalot::text {
namespace {

class Dice {
 public:
  explicit Dice(uint32_t seed) : generator_(seed) {}
  size_t below(size_t n) { return generator_() % n; }
  template <typename T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

 private:
  std::mt19937 generator_;
};

std::vector<size_t> random_cuts(Dice& dice, size_t size) {
  std::vector<size_t> cuts;
  for (size_t at = dice.below(12); at < size; at += 1 + dice.below(12)) cuts.push_back(at);
  return cuts;
}

CompletionParserOptions with_tools(bool starts_in_reasoning) {
  return {
      .starts_in_reasoning = starts_in_reasoning,
      .tools = {
          offer(
              "f",
              R"({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
                                   "required": ["a"]})"),
          offer("g")}};
}

TEST(ParserStreams, GiveTheExpectedMessages) {
  for (const std::string_view name :
       {"content_before_tool", "fragmented_tokens", "mixed_param_types", "multi_tool", "no_tool",
        "special_chars", "tool"}) {
    const json::value file = test_json_file("chat/parser-streams/" + std::string(name) + ".json");
    const json::object& expected = file.at("expected_output").as_object();
    CompletionParserOptions options;
    std::string calls;
    for (const json::value& call : expected.at("tool_calls").as_array()) {
      const json::value& function = call.at("function");
      options.tools.push_back(
          offer(std::string(std::string_view(function.at("name").as_string()))));
      calls += (calls.empty() ? "" : "\n") +
               std::string(std::string_view(function.at("name").as_string())) +
               std::string(std::string_view(function.at("arguments").as_string()));
    }
    if (options.tools.empty()) options.tools.push_back(offer("unused"));
    std::string text;
    std::vector<size_t> cuts;
    bool finishes_with_calls = false;
    for (const json::value& event : file.at("input_stream").as_array()) {
      const json::object& choice = event.at("data").at("choices").at(0).as_object();
      const json::value& content = choice.at("delta").at("content");
      if (content.is_string()) text += std::string_view(content.as_string());
      cuts.push_back(text.size());
      if (const json::value* reason = choice.if_contains("finish_reason"))
        finishes_with_calls = *reason == "tool_calls";
    }
    const Parsed streamed = parse_cut(text, options, cuts);
    check_promises(text, streamed);
    EXPECT_TRUE(same(streamed, parse(text, options))) << name;
    EXPECT_EQ(streamed.reasoning, std::string_view(expected.at("reasoning_content").as_string()))
        << name;
    EXPECT_EQ(streamed.content, std::string_view(expected.at("normal_content").as_string()))
        << name;
    EXPECT_EQ(streamed.complete_calls(), calls) << name;
    EXPECT_EQ(streamed.finish_reason == FinishReason::tool_calls, finishes_with_calls) << name;
  }
}

// Shuffled pieces of markup: nothing about them makes sense, and every promise holds.
TEST(Property, AnyTextInAnyCutGivesTheSame) {
  const std::vector<std::string> pieces = {
      "<｜DSML｜tool_calls>",
      "</｜DSML｜tool_calls>",
      "<｜DSML｜invoke name=\"f\">",
      "<｜DSML｜invoke name=\"g\">",
      "<｜DSML｜invoke name=\"zz\">",
      "</｜DSML｜invoke>",
      "<｜DSML｜parameter name=\"a\" string=\"true\">",
      "<｜DSML｜parameter name=\"n\" string=\"false\">",
      "<｜DSML｜parameter name=\"x\">",
      "</｜DSML｜parameter>",
      "<｜DSML｜parameter name=\"arguments\" string=\"false\">",
      "<｜DSML｜inv",
      "<｜DSML｜invoke nam<",
      "<｜DSML｜parameter name=\"a\" str>",
      "<DSML｜tool_calls>",
      "</DSML｜invoke>",
      "<tool_calls>",
      "</tool_calls>",
      "<invoke name=\"f\">",
      "</invoke>",
      "<parameter name=\"a\">",
      "</parameter>",
      "\n",
      "\n\n",
      " ",
      "text",
      "12",
      "{\"a\": \"b\"}",
      "{",
      "}",
      "\"",
      "\\",
      "<",
      "</",
      "<｜",
      "<think>",
      "</think>",
      "</thi",
      "```",
      "```\n",
      "～",
      "🙂",
      "<｜DSML｜parameter name=\"a\" string=\"true\">v</｜DSML｜parameter>\n",
      "<｜DSML｜parameter name=\"n\" string=\"false\">3</｜DSML｜parameter>\n",
      "</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n",
      "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n",
      "\xf0\x9f",
      "\x80",
      "<｜end▁of▁sentence｜>"};
  Dice dice(1);
  size_t num_calls = 0;
  for (int round = 0; round < 10000; ++round) {
    std::string text;
    // Half of the rounds begin like a call, so that many reach the depths of the grammar.
    if (dice.below(2) == 0)
      text = "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n";
    for (size_t n = dice.below(20); n > 0; --n) {
      text += dice.pick(pieces);
      if (dice.below(3) == 0) text += '\n';
    }
    CompletionParserOptions options = with_tools(dice.below(2) == 0);
    options.text_has_eos = dice.below(4) == 0;
    options.keep_text_after_calls = dice.below(2) == 0;
    if (dice.below(8) == 0) options.tools.clear();
    const Parsed whole = parse_cut(text, options, {});
    check_promises(text, whole);
    ASSERT_FALSE(testing::Test::HasFailure()) << text;
    ASSERT_TRUE(same(whole, parse_cut(text, options, random_cuts(dice, text.size())))) << text;
    std::vector<size_t> all(text.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = i;
    ASSERT_TRUE(same(whole, parse_cut(text, options, all))) << text;
    num_calls += whole.calls.size();
  }
  EXPECT_GT(num_calls, 1000u);  // the pieces do make calls
}

json::value random_value(Dice& dice, int depth) {
  static const std::vector<std::string> kStrings = {"",
                                                    "plain",
                                                    "line\nbreak\n\n",
                                                    "\"quoted\" \\",
                                                    "🙂 中文 é",
                                                    "</tag>",
                                                    "<b>&lt;",
                                                    "<｜DSML｜invoke name=\"f\">",
                                                    "<｜DSML｜tool_calls>\n",
                                                    "</think>",
                                                    "123",
                                                    "true",
                                                    "\n",
                                                    " space ",
                                                    "a <",
                                                    "</｜DSML｜",
                                                    std::string("\x01\x1f\x7f", 3)};
  switch (dice.below(depth > 0 ? 7 : 5)) {
    case 0: return json::value(dice.pick(kStrings));
    case 1: return json::value(static_cast<int64_t>(dice.below(1000000)) - 500000);
    case 2:
      return json::value(static_cast<double>(dice.below(100000)) / 7.0 *
                         (dice.below(2) ? 1e-9 : 1e12));
    case 3: return json::value(dice.below(2) == 0);
    case 4: return nullptr;
    case 5: {
      json::array array;
      for (size_t n = dice.below(4); n > 0; --n) array.push_back(random_value(dice, depth - 1));
      return array;
    }
    default: {
      json::object object;
      for (size_t n = dice.below(4); n > 0; --n)
        object[dice.pick(kStrings)] = random_value(dice, depth - 1);
      return object;
    }
  }
}

TEST(Property, EncodedCallsParseBack) {
  Dice dice(2);
  const std::vector<std::string> keys = {"a",          "n",   "arguments", "ключ",
                                         "with space", "a.b", "x<y",       "z>"};
  for (const PromptFamily family : {PromptFamily::v4, PromptFamily::v4_0731, PromptFamily::v4_1}) {
    for (int round = 0; round < 300; ++round) {
      Message message;
      message.role = Role::assistant;
      message.content = dice.below(2) ? "Let me look.\nOK?" : "";
      message.reasoning_content = dice.below(2) ? "Some thoughts\n```\nunclosed" : "";
      for (size_t n = 1 + dice.below(3); n > 0; --n) {
        json::object arguments;
        for (size_t k = dice.below(5); k > 0; --k)
          arguments[dice.pick(keys)] = random_value(dice, 3);
        ToolCall& call = message.tool_calls.emplace_back();
        call.name = dice.below(2) ? "f" : "g";
        call.arguments = python_json(arguments);
      }
      Message user;
      const std::vector<Message> conversation = {user, message};
      const auto prompt = encode_chat(conversation, {.family = family});
      ASSERT_TRUE(prompt.has_value());
      const std::string flat = prompt->flat();
      const std::string_view header = "<｜Assistant｜><think>";
      const std::string_view completion =
          std::string_view(flat).substr(flat.find(header) + header.size());
      CompletionParserOptions options = {
          .family = family, .tools = {offer("f"), offer("g")}, .text_has_eos = true};
      const Parsed parsed = parse_cut(completion, options, random_cuts(dice, completion.size()));
      check_promises(completion, parsed);
      EXPECT_TRUE(parsed.is_well_formed) << completion << deviation_name(parsed.reports.at(0).what);
      EXPECT_EQ(parsed.reasoning, message.reasoning_content);
      EXPECT_EQ(parsed.content, message.content);
      ASSERT_EQ(parsed.calls.size(), message.tool_calls.size()) << completion;
      for (size_t i = 0; i < parsed.calls.size(); ++i) {
        EXPECT_EQ(parsed.calls[i].name, message.tool_calls[i].name);
        EXPECT_EQ(parsed.calls[i].arguments, message.tool_calls[i].arguments);
        EXPECT_TRUE(parsed.calls[i].complete);
      }
    }
  }
}

// The server checklist's truncation test (reference/chat 6.8): no markup in the content, valid JSON
// or no call.
TEST(Property, TruncationAtEveryByteLeaksNothing) {
  const std::string completion =
      "Thinking.</think>Content 🙂 first.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke "
      "name=\"f\">\n"
      "<｜DSML｜parameter name=\"a\" string=\"true\">He said \"hi\"\n</tag> "
      "🙂\\</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"n\" string=\"false\">[1, {\"k\": \"v\"}]</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  const std::string visible = "Content 🙂 first.\n\n<";
  const size_t first_call_ends =
      completion.find("</｜DSML｜invoke>") + std::string_view("</｜DSML｜invoke>").size();
  for (size_t length = 0; length <= completion.size(); ++length) {
    const std::string_view cut = std::string_view(completion).substr(0, length);
    const Parsed parsed = parse(cut, with_tools(true), FinishCause::length_limit);
    EXPECT_TRUE(visible.starts_with(parsed.content)) << parsed.content;
    EXPECT_EQ(parsed.content.find("DSML"), std::string::npos);
    EXPECT_EQ(parsed.reasoning.find("DSML"), std::string::npos);
    const size_t num_complete =
        static_cast<size_t>(std::count_if(parsed.calls.begin(), parsed.calls.end(),
                                          [](const ParsedCall& call) { return call.complete; }));
    EXPECT_EQ(num_complete > 0, length >= first_call_ends);
    EXPECT_EQ(parsed.finish_reason,
              num_complete > 0 ? FinishReason::tool_calls : FinishReason::length);
  }
}

TEST(Property, LongArgumentsTakeLinearTime) {
  std::string value;
  for (int i = 0; i < 20000; ++i) value += "a \"line\"\n</tag> <｜DSML｜x 🙂 ";
  const std::string completion =
      "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter "
      "name=\"a\" string=\"true\">" +
      value + "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  std::vector<size_t> cuts;
  for (size_t at = 3; at < completion.size(); at += 3) cuts.push_back(at);
  const Parsed parsed = parse_cut(completion, with_tools(true), cuts);
  EXPECT_TRUE(parsed.is_well_formed);
  EXPECT_EQ(std::string_view(test_json(parsed.calls.at(0).arguments).at("a").as_string()), value);
}

// Markup that is taken back again and again must not be read again and again.
TEST(Property, HostileTextTakesLinearTime) {
  const std::vector<std::string> pieces = {
      "<｜DSML｜tool_calls>\n",
      "<｜DSML｜invoke name=\"f\">\n",
      "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">",
      "<tool_calls><invoke name=\"f\"><parameter name=\"a\">",
      "<｜DSML｜invoke name=\"f\">\n{",
      "\n<｜DSML｜parameter name=\"a\" string=\"true\">",
      "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"true\">",
      "\n\n\n\n\n\n\n\n\n<",
      "```\n",
      "<",
      "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"true\">x</｜DSML｜parameter>\n"};
  for (const std::string& piece : pieces) {
    for (const bool starts_in_reasoning : {true, false}) {
      std::string text;
      while (text.size() < 400000) text += piece;
      std::vector<size_t> cuts;
      for (size_t at = 3; at < text.size(); at += 3) cuts.push_back(at);
      check_promises(text, parse_cut(text, with_tools(starts_in_reasoning), cuts));
    }
  }
}

}  // namespace
}  // namespace cachalot::text
