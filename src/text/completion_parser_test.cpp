#include "text/completion_parser.h"

#include <fmt/format.h>

#include "text/completion_parser_test_data.h"
#include "text/dsml_markup.h"

namespace cachalot::text {
namespace {

constexpr std::string_view kWeatherSchema = R"({"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"}, "scale": {"type": "number"},
    "when": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "list": {"type": "array"}}, "required": ["city"]})";

CompletionParserOptions chat() {
  return {.starts_in_reasoning = false, .tools = {offer("get_weather", kWeatherSchema)}};
}
CompletionParserOptions thinking() { return {.tools = {offer("get_weather", kWeatherSchema)}}; }

std::string parameter(std::string_view key, std::string_view is_string, std::string_view value) {
  return fmt::format("<｜DSML｜parameter name=\"{}\" string=\"{}\">{}</｜DSML｜parameter>\n", key,
                     is_string, value);
}
std::string invoke(std::string_view body, std::string_view name = "get_weather") {
  return fmt::format("<｜DSML｜invoke name=\"{}\">\n{}</｜DSML｜invoke>\n", name, body);
}
std::string block(std::string_view invokes) {
  return fmt::format("\n\n<｜DSML｜tool_calls>\n{}</｜DSML｜tool_calls>", invokes);
}
const std::string kRome = parameter("city", "true", "Rome");

// --- reference/chat 3.1: what is well-formed
// -----------------------------------------------------------------------

TEST(WellFormed, ReasoningContentAndCalls) {
  const Parsed parsed =
      parse("Hm.</think>Let me see." + block(invoke(kRome + parameter("days", "false", "3")) +
                                             invoke(parameter("city", "true", "Oslo"))),
            thinking());
  EXPECT_TRUE(parsed.is_well_formed);
  EXPECT_EQ(parsed.reasoning, "Hm.");
  EXPECT_EQ(parsed.content, "Let me see.");
  EXPECT_EQ(parsed.complete_calls(),
            "get_weather{\"city\": \"Rome\", \"days\": 3}\nget_weather{\"city\": \"Oslo\"}");
  EXPECT_EQ(parsed.finish_reason, FinishReason::tool_calls);
  EXPECT_EQ(parsed.calls[0].raw, "<｜DSML｜invoke name=\"get_weather\">\n" + kRome +
                                     parameter("days", "false", "3") + "</｜DSML｜invoke>");
}

TEST(WellFormed, OfficialCaseOneParsesBack) {
  const std::string prompt = test_file("chat/test_output_1.txt");
  const std::string_view header = "<｜Assistant｜><think>";
  CompletionParserOptions options = {.tools = {offer("get_weather"), offer("search")},
                                     .text_has_eos = true};

  const size_t first = prompt.find(header) + header.size();
  const Parsed call = parse(
      std::string_view(prompt).substr(first, prompt.find("<｜User｜>", first) - first), options);
  EXPECT_TRUE(call.is_well_formed);
  EXPECT_EQ(call.reasoning,
            "The user wants to know the weather in Beijing. I should use the get_weather tool.");
  EXPECT_EQ(call.content, "");
  EXPECT_EQ(call.complete_calls(), "get_weather{\"location\": \"Beijing\", \"unit\": \"celsius\"}");

  const Parsed answer =
      parse(std::string_view(prompt).substr(prompt.rfind(header) + header.size()), options);
  EXPECT_TRUE(answer.is_well_formed);
  EXPECT_EQ(answer.reasoning, "Got the weather data. Let me format a nice response.");
  EXPECT_EQ(
      answer.content,
      "The weather in Beijing is currently sunny with a temperature of 22°C and 45% humidity.");
  EXPECT_TRUE(answer.calls.empty());
  EXPECT_EQ(answer.finish_reason, FinishReason::stop);
}

TEST(WellFormed, CallsWithoutParameters) {
  const Parsed parsed = parse("x" + block(invoke("\n", "now")),
                              {.starts_in_reasoning = false, .tools = {offer("now")}});
  EXPECT_TRUE(parsed.is_well_formed);
  EXPECT_EQ(parsed.complete_calls(), "now{}");
}

TEST(WellFormed, StringsAreTakenAsTheyAre) {
  const std::string value =
      "12\n  \"q\" \\ &lt;b> </p> < 3 <｜DSML｜ <｜DSML｜invoke name=\"x\">\t🙂中 "
      "</｜DSML｜param";
  const Parsed parsed = parse(block(invoke(parameter("city", "true", value))), chat());
  EXPECT_TRUE(parsed.is_well_formed);
  EXPECT_EQ(std::string_view(test_json(parsed.calls.at(0).arguments).at("city").as_string()),
            value);
}

TEST(WellFormed, V41TagsAndNamespaces) {
  const Parsed parsed = parse(
      "a\n\n<｜DSML｜ calls>\n<｜DSML｜ invoke name=\"search::lookup\">\n<｜DSML｜ parameter "
      "name=\"q\" string=\"true\">"
      "x</｜DSML｜ parameter>\n</｜DSML｜ invoke>\n</｜DSML｜ calls>",
      {.family = PromptFamily::v4_1,
       .starts_in_reasoning = false,
       .tools = {offer("search::lookup")}});
  EXPECT_TRUE(parsed.is_well_formed);
  EXPECT_EQ(parsed.content, "a");
  EXPECT_EQ(parsed.complete_calls(), "search::lookup{\"q\": \"x\"}");
}

TEST(WellFormed, ArgumentsStreamBeforeTheirValueEnds) {
  CompletionParser parser(chat());
  std::vector<CompletionEvent> events;
  parser.feed("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n", events);
  EXPECT_TRUE(events.empty());  // nothing may need to be taken back
  parser.feed("<｜DSML｜parameter name=\"city\" string=\"true\">Ro", events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, CompletionEvent::Kind::call_start);
  EXPECT_EQ(events[0].text, "get_weather");
  EXPECT_TRUE(events[0].id.starts_with("call_"));
  EXPECT_EQ(events[0].id.size(), 29u);
  EXPECT_EQ(events[1].text, "{\"city\": \"Ro");
  events.clear();
  parser.feed("me</｜DSML｜paramete",
              events);  // the known leak: all of the tag but its last character
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].text, "me");
}

// --- reference/chat 3.2: each row
// ------------------------------------------------------------------------------------

TEST(Malformed, BlockInsideReasoning) {
  const Parsed complete = parse("I call." + block(invoke(kRome)), thinking());
  EXPECT_EQ(complete.reasoning, "I call.");
  EXPECT_EQ(complete.complete_calls(), "get_weather{\"city\": \"Rome\"}");
  EXPECT_TRUE(complete.has(Deviation::call_in_reasoning));

  for (const std::string& rest : {std::string("\n\n<｜DSML｜tool_calls>\n" + invoke(kRome)),
                                  std::string("\n\n<｜DSML｜tool_calls>\n<｜DSML｜inv"),
                                  std::string("\n\n<｜DSML｜tool_calls> is how one calls."),
                                  block(invoke(kRome, "no_such_tool")), block("")}) {
    const Parsed open = parse("I think" + rest, thinking());
    EXPECT_EQ(open.reasoning, "I think" + rest);
    EXPECT_TRUE(open.calls.empty());
    const Parsed ended = parse("I think" + rest + "</think>Yes.", thinking());
    EXPECT_EQ(ended.reasoning, "I think" + rest);
    EXPECT_EQ(ended.content, "Yes.");
  }
  // A block that the end of reasoning interrupts is text, even inside a value.
  const std::string cut =
      "Hm\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter "
      "name=\"city\" string=\"true\">R";
  const Parsed parsed = parse(cut + "</think>ok", thinking());
  EXPECT_EQ(parsed.reasoning, cut);
  EXPECT_EQ(parsed.content, "ok");
}

TEST(Malformed, ThinkMarkersAreDropped) {
  const Parsed parsed = parse("<think>a<think>b</think>c</think>d", thinking());
  EXPECT_EQ(parsed.reasoning, "ab");
  EXPECT_EQ(parsed.content, "cd");
  EXPECT_TRUE(parsed.has(Deviation::repeated_think));
  EXPECT_TRUE(parsed.has(Deviation::stray_think_end));
  // Thinking although the prompt closed it.
  const Parsed again = parse("\n<think>a</think>b", chat());
  EXPECT_EQ(again.reasoning, "a");
  EXPECT_EQ(again.content, "b");
}

TEST(Malformed, SeparatorsBeforeTheBlock) {
  for (const std::string_view separator : {"", "\n", " \n", "\n\n\n", " \t\r\n"}) {
    const Parsed parsed =
        parse("ok" + std::string(separator) + block(invoke(kRome)).substr(2), chat());
    EXPECT_EQ(parsed.content, "ok") << separator;
    EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"Rome\"}") << separator;
    EXPECT_TRUE(parsed.has(Deviation::block_separator)) << separator;
  }
}

TEST(Malformed, CallOutsideABlock) {
  for (const std::string_view end : {"", "\n</｜DSML｜tool_calls>"}) {
    std::string call = invoke(kRome);
    call.pop_back();
    const Parsed parsed = parse("ok\n\n" + call + std::string(end), chat());
    EXPECT_EQ(parsed.content, "ok");
    EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"Rome\"}");
    EXPECT_TRUE(parsed.has(Deviation::missing_block_start));
  }
  EXPECT_EQ(parse("ok\n\n" + invoke(kRome) + invoke(parameter("city", "true", "Oslo")), chat())
                .calls.size(),
            2u);
  // Not closed, not offered, or without a required argument: text.
  for (const std::string& text :
       {"x <｜DSML｜invoke name=\"get_weather\">\n" + kRome, "x " + invoke(kRome, "other") + "y",
        "x " + invoke(parameter("days", "false", "1")) + "y",
        std::string("x <｜DSML｜invoke name=\"get_weather\">not a call")}) {
    const Parsed parsed = parse(text, chat());
    EXPECT_EQ(parsed.content, text);
    EXPECT_TRUE(parsed.calls.empty());
  }
}

TEST(Malformed, MissingEnds) {
  const Parsed no_end = parse("\n\n<｜DSML｜tool_calls>\n" + invoke(kRome), chat());
  EXPECT_EQ(no_end.complete_calls(), "get_weather{\"city\": \"Rome\"}");
  EXPECT_TRUE(no_end.has(Deviation::missing_block_end));
  const Parsed second_open = parse("\n\n<｜DSML｜tool_calls>\n" + invoke(kRome) +
                                       "<｜DSML｜invoke name=\"get_weather\">\n" +
                                       "<｜DSML｜parameter name=\"city\" string=\"true\">Os",
                                   chat(), FinishCause::length_limit);
  EXPECT_EQ(second_open.complete_calls(), "get_weather{\"city\": \"Rome\"}");
  ASSERT_EQ(second_open.calls.size(), 2u);
  EXPECT_FALSE(second_open.calls[1].complete);
  EXPECT_EQ(second_open.calls[1].arguments, "{\"city\": \"Os\"}");
  EXPECT_EQ(second_open.finish_reason, FinishReason::tool_calls);
  const Parsed none = parse("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n",
                            chat(), FinishCause::length_limit);
  EXPECT_TRUE(none.calls.empty());
  EXPECT_EQ(none.content, "");
  EXPECT_EQ(none.finish_reason, FinishReason::length);
}

TEST(Malformed, ParameterWithoutClosingTag) {
  const Parsed parsed = parse(block("<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter "
                                    "name=\"city\" string=\"true\">Rome\n" +
                                    parameter("days", "false", "3") + "</｜DSML｜invoke>\n"),
                              chat());
  EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"Rome\", \"days\": 3}");
  EXPECT_TRUE(parsed.has(Deviation::unclosed_parameter));
  const Parsed last = parse(block("<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter "
                                  "name=\"city\" string=\"true\">Rome\n"
                                  "</｜DSML｜invoke>\n"),
                            chat());
  EXPECT_EQ(last.complete_calls(), "get_weather{\"city\": \"Rome\"}");
}

TEST(Malformed, JsonBody) {
  const Parsed parsed = parse(block(invoke("{\"city\": \"<b>\",\n \"days\": 2}\n")), chat());
  EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"<b>\",\n \"days\": 2}");
  EXPECT_TRUE(parsed.has(Deviation::json_body));
  const std::string broken = block(invoke("{\"city\": \n"));
  EXPECT_EQ(parse(broken, chat()).content, broken);
}

TEST(Malformed, ValuesThatAreNoJson) {
  const auto arguments = [](std::string_view key, std::string_view value) {
    const Parsed parsed = parse(block(invoke(parameter(key, "false", value))), chat());
    EXPECT_TRUE(parsed.has(Deviation::bad_json_value)) << value;
    return parsed.complete_calls();
  };
  EXPECT_EQ(arguments("city", "Rome"), "get_weather{\"city\": \"Rome\"}");
  EXPECT_EQ(arguments("exact", " True"), "get_weather{\"exact\": true}");
  EXPECT_EQ(arguments("exact", "yes"), "get_weather{\"exact\": \"yes\"}");
  EXPECT_EQ(arguments("days", "+07"), "get_weather{\"days\": 7}");
  EXPECT_EQ(arguments("days", "three"), "get_weather{\"days\": \"three\"}");
  EXPECT_EQ(arguments("scale", ".5"), "get_weather{\"scale\": 0.5}");
  EXPECT_EQ(arguments("scale", "nan"), "get_weather{\"scale\": \"nan\"}");
  EXPECT_EQ(arguments("when", "None"), "get_weather{\"when\": \"None\"}");
  EXPECT_EQ(arguments("list", "[1, 2"), "get_weather{\"list\": \"[1, 2\"}");
  EXPECT_EQ(arguments("unknown", "{'a': True}"), "get_weather{\"unknown\": \"{'a': True}\"}");
  EXPECT_EQ(arguments("days", ""), "get_weather{\"days\": \"\"}");
  // What is JSON stays as it was written, and strings are never coerced.
  EXPECT_EQ(
      parse(block(invoke(parameter("list", "false", "[1.50,{}]") + parameter("days", "true", "3"))),
            chat())
          .complete_calls(),
      "get_weather{\"list\": [1.50,{}], \"days\": \"3\"}");
}

TEST(Malformed, MissingStringAttribute) {
  const auto arguments = [](std::string_view key, std::string_view value) {
    const Parsed parsed =
        parse(block(invoke(fmt::format("<｜DSML｜parameter name=\"{}\">{}</｜DSML｜parameter>\n",
                                       key, value))),
              chat());
    EXPECT_TRUE(parsed.has(Deviation::missing_string_attribute));
    return parsed.complete_calls();
  };
  EXPECT_EQ(arguments("city", "12"), "get_weather{\"city\": \"12\"}");
  EXPECT_EQ(arguments("days", "12"), "get_weather{\"days\": 12}");
  EXPECT_EQ(arguments("list", "[1]"), "get_weather{\"list\": [1]}");
  EXPECT_EQ(arguments("other", "twelve"), "get_weather{\"other\": \"twelve\"}");
}

TEST(Malformed, WrappedArguments) {
  for (const std::string_view key : {"arguments", "input"}) {
    for (const std::string_view is_string : {"true", "false"}) {
      const auto run = [&](std::string_view value, std::string_view more = "") {
        return parse(block(invoke(parameter(key, is_string, value) + std::string(more))), chat());
      };
      const Parsed unwrapped = run(R"({"city": "Rome", "days": 1})");
      EXPECT_EQ(unwrapped.complete_calls(), "get_weather{\"city\": \"Rome\", \"days\": 1}");
      EXPECT_TRUE(unwrapped.has(Deviation::wrapped_arguments));
      // An inner key that the schema does not know, or another parameter beside it: left alone.
      EXPECT_FALSE(run(R"({"town": "Rome"})").has(Deviation::wrapped_arguments));
      const Parsed two = run(R"({"city": "Rome"})", parameter("days", "false", "1"));
      EXPECT_FALSE(two.has(Deviation::wrapped_arguments));
      EXPECT_EQ(
          two.complete_calls(),
          is_string == "true"
              ? fmt::format(
                    "get_weather{{\"{}\": \"{{\\\"city\\\": \\\"Rome\\\"}}\", \"days\": 1}}", key)
              : fmt::format("get_weather{{\"{}\": {{\"city\": \"Rome\"}}, \"days\": 1}}", key));
    }
  }
}

TEST(Malformed, WrappedArgumentsStandAlone) {
  const Parsed parsed =
      parse(block(invoke(kRome + parameter("input", "false", R"({"days": 1})"))), chat());
  EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"Rome\", \"input\": {\"days\": 1}}");
  EXPECT_FALSE(parsed.has(Deviation::wrapped_arguments));
}

TEST(Malformed, TagVariants) {
  std::string no_bar = block(invoke(kRome));
  for (size_t at = no_bar.find("｜DSML｜"); at != std::string::npos; at = no_bar.find("｜DSML｜")) {
    no_bar.replace(at, 3 + 4, "DSML");  // the first bar goes
  }
  const std::string plain =
      "\n\n<tool_calls>\n<invoke name=\"get_weather\">\n<parameter name=\"city\" "
      "string=\"true\">Rome</parameter>\n"
      "</invoke>\n</tool_calls>";
  for (const std::string& text : {no_bar, plain}) {
    const Parsed parsed = parse(text, chat());
    EXPECT_EQ(parsed.complete_calls(), "get_weather{\"city\": \"Rome\"}") << text;
    EXPECT_TRUE(parsed.has(Deviation::tag_variant));
    CompletionParserOptions no_tools = chat();
    no_tools.tools.clear();
    EXPECT_EQ(parse(text, no_tools).content, text);
  }
  for (const std::string_view text :
       {"\n\n<|DSML|tool_calls>\n", "\n\n<｜DSML｜function_calls>\n", "a <tool_calls> b"}) {
    EXPECT_EQ(parse(text, chat()).content, text);
  }
}

TEST(Malformed, TextAfterTheCalls) {
  const std::string calls = "a" + block(invoke(kRome));
  const Parsed dropped = parse(calls + "\nDone.", chat());
  EXPECT_EQ(dropped.content, "a");
  EXPECT_TRUE(dropped.has(Deviation::text_after_calls));
  CompletionParserOptions keep = chat();
  keep.keep_text_after_calls = true;
  EXPECT_EQ(parse(calls + "\nDone.", keep).content, "a\nDone.");
  // A second block counts only directly after the first.
  EXPECT_EQ(parse(calls + block(invoke(kRome)), chat()).calls.size(), 2u);
  EXPECT_EQ(parse(calls + " And:" + block(invoke(kRome)), chat()).calls.size(), 1u);
}

TEST(Malformed, QuotedMarkupIsText) {
  const std::string fenced = "Like so:\n```\n" + block(invoke(kRome)).substr(2) + "\n```\nSee?";
  EXPECT_EQ(parse(fenced, chat()).content, fenced);
  EXPECT_TRUE(parse("```\nx\n```" + block(invoke(kRome)), chat()).content == "```\nx\n```");
  const std::string prose =
      "The tag `<｜DSML｜tool_calls>` opens a block, `<｜DSML｜invoke name=\"f\">` a call.";
  EXPECT_EQ(parse(prose, chat()).content, prose);
  CompletionParserOptions no_tools = chat();
  no_tools.tools.clear();
  const std::string everything = "x " + block(invoke(kRome)) + " ";
  const Parsed parsed = parse(everything, no_tools);
  EXPECT_EQ(parsed.content, everything);
  EXPECT_EQ(parsed.finish_reason, FinishReason::stop);
}

TEST(Malformed, UnknownToolsAndRepeatedParameters) {
  const Parsed unknown = parse(block(invoke(kRome, "other")), chat());
  EXPECT_EQ(unknown.complete_calls(), "other{\"city\": \"Rome\"}");
  EXPECT_TRUE(unknown.has(Deviation::unknown_tool));
  const Parsed twice = parse(block(invoke(kRome + parameter("city", "true", "Oslo"))), chat());
  EXPECT_TRUE(twice.has(Deviation::duplicate_parameter));
  EXPECT_EQ(std::string_view(test_json(twice.calls.at(0).arguments).at("city").as_string()),
            "Oslo");
}

TEST(Malformed, FirstClosingTagWins) {
  const Parsed parsed =
      parse(block(invoke(parameter("city", "true", "a</｜DSML｜parameter>b"))), chat());
  ASSERT_EQ(parsed.calls.size(), 1u);
  EXPECT_FALSE(parsed.calls[0].complete);
  EXPECT_EQ(parsed.calls[0].arguments, "{\"city\": \"a\"}");
  EXPECT_TRUE(parsed.has(Deviation::malformed_call));
  EXPECT_EQ(parsed.content, "");
}

TEST(Malformed, UnparseableBlocksAreText) {
  for (const std::string& text :
       {std::string("a\n\n<｜DSML｜tool_calls>\nnothing here</｜DSML｜tool_calls>"),
        block(invoke("<parameter name=\"city\">Rome</｜DSML｜parameter>\n")),
        block("<｜DSML｜invoke get_weather>\n")}) {
    const Parsed parsed = parse(text, chat());
    EXPECT_EQ(parsed.content, text);
    EXPECT_TRUE(parsed.calls.empty());
    EXPECT_EQ(parsed.finish_reason, FinishReason::stop);
  }
  // After a good call, a bad one is left out and the next one still counts.
  const Parsed mixed = parse(block(invoke(kRome) + invoke("garbage\n") + "garbage" +
                                   invoke(parameter("city", "true", "Oslo"))),
                             chat());
  EXPECT_EQ(mixed.complete_calls(),
            "get_weather{\"city\": \"Rome\"}\nget_weather{\"city\": \"Oslo\"}");
  EXPECT_EQ(mixed.content, "");
  EXPECT_TRUE(mixed.has(Deviation::malformed_call));
}

// Found by fuzzing: recovery met the same tag for ever.
TEST(Malformed, BrokenInvokeTagAfterAGoodCall) {
  const Parsed parsed = parse(
      block(invoke(kRome) + "<｜DSML｜invoke na<me=\n" + invoke(parameter("city", "true", "Oslo"))),
      chat());
  EXPECT_EQ(parsed.complete_calls(),
            "get_weather{\"city\": \"Rome\"}\nget_weather{\"city\": \"Oslo\"}");
  EXPECT_EQ(parsed.content, "");
  EXPECT_TRUE(parsed.has(Deviation::malformed_call));
}

TEST(Malformed, EmptyThings) {
  EXPECT_EQ(parse("", thinking()).finish_reason, FinishReason::stop);
  const Parsed all_reasoning = parse("everything", thinking());
  EXPECT_EQ(all_reasoning.reasoning, "everything");
  EXPECT_TRUE(all_reasoning.has(Deviation::missing_think_end));
  const Parsed empty = parse("a" + block(""), chat());
  EXPECT_EQ(empty.content, "a");
  EXPECT_TRUE(empty.has(Deviation::empty_block));
}

TEST(Streaming, HeldTextIsReleased) {
  for (const std::string_view text :
       {"2 <", "a\n\n", "a </thin", "x<｜", " < <｜D", "\xf0\x9f", "a\xff<"}) {
    const Parsed parsed = parse(text, {.starts_in_reasoning = false});
    EXPECT_EQ(parsed.content, text);
  }
  EXPECT_EQ(parse("2 <", chat()).content, "2 <");
  EXPECT_EQ(parse("a\n\n", chat()).content, "a\n\n");
}

TEST(Streaming, PlainContentKeepsItsThinkMarks) {
  CompletionParserOptions options;
  options.content_is_plain = true;
  CompletionParser parser(std::move(options));
  std::vector<CompletionEvent> events;
  parser.feed("why</think>{\"a\": \"<think>", events);
  parser.feed("</think> <\"}", events);
  parser.finish(FinishCause::end_of_turn, events);
  EXPECT_EQ(parser.reasoning(), "why");
  EXPECT_EQ(parser.content(), "{\"a\": \"<think></think> <\"}");
  EXPECT_TRUE(parser.well_formed().ok());
}

TEST(Streaming, EndOfSentenceEndsTheText) {
  CompletionParserOptions options = {.text_has_eos = true};
  const Parsed parsed = parse("r</think>c<｜end▁of▁sentence｜>more", options);
  EXPECT_EQ(parsed.content, "c");
  EXPECT_TRUE(parse("r</think>c", options).has(Deviation::missing_end));
}

TEST(Streaming, CharactersStayWhole) {
  CompletionParser parser({.starts_in_reasoning = false});
  std::vector<CompletionEvent> events;
  parser.feed("a\xf0\x9f\x99", events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].text, "a");
  parser.feed("\x82", events);
  EXPECT_EQ(events.back().text, "a🙂");  // joined: the same vector
}

TEST(OfferedTools, CarryQualifiedNames) {
  const auto tools = parse_tools(
      test_json(
          R"([{"namespace": "n", "function": {"name": "f", "parameters": {"type": "object"}}}])"),
      "tools");
  EXPECT_EQ(offered_tools(*tools, PromptFamily::v4_1)->at(0).name, "n::f");
  EXPECT_EQ(offered_tools(*tools, PromptFamily::v4)->at(0).name, "f");
}

TEST(Names, OfDeviationsAreComplete) {
  EXPECT_EQ(deviation_name(Deviation::missing_end), "missing_end");
}

}  // namespace
}  // namespace cachalot::text
