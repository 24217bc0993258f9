#include "text/chat_encoding.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/sha256.h"
#include "text/chat_literals.h"
#include "text/chat_test_data.h"

namespace cachalot::text {
namespace {

std::string encode_text(std::string_view request, EncodeOptions options) {
  const auto parsed = parse_chat_request(test_json(request));
  if (!parsed.has_value()) return parsed.error().to_string();
  const auto prompt = encode_chat(parsed->messages, options);
  return prompt.has_value() ? prompt->flat() : prompt.error().to_string();
}

EncodeOptions chat_mode(PromptFamily family = PromptFamily::v4) {
  return {.family = family, .thinking = false};
}
EncodeOptions thinking_mode(PromptFamily family = PromptFamily::v4) { return {.family = family}; }

class OfficialCase : public testing::TestWithParam<int> {};

TEST_P(OfficialCase, IsReproducedByteForByte) {
  const int number = GetParam();
  auto parsed = parse_chat_request(test_json_file(fmt::format("chat/test_input_{}.json", number)));
  ASSERT_TRUE(parsed.has_value()) << parsed.error().to_string();
  if (!parsed->tools.empty()) parsed->messages.front().tools = parsed->tools;
  const auto prompt = encode_chat(parsed->messages, number == 4 ? chat_mode() : thinking_mode());
  ASSERT_TRUE(prompt.has_value()) << prompt.error().to_string();
  EXPECT_EQ(prompt->flat(), test_file(fmt::format("chat/test_output_{}.txt", number)));
}
INSTANTIATE_TEST_SUITE_P(V4, OfficialCase, testing::Range(1, 5));

TEST(OfficialCasesV41, AreReproducedByteForByte) {
  const json::value file = test_json_file("chat/v41-cases.json");
  int num_cases = 0;
  for (const json::value& entry : file.at("cases").as_array()) {
    const json::value& input = entry.at("input");
    EncodeOptions options = chat_mode(PromptFamily::v4_1);
    if (input.is_object() && input.as_object().contains("thinking_mode")) options.thinking = true;
    if (input.is_object() && input.as_object().contains("reasoning_effort")) {
      options.effort = *parse_reasoning_effort(input.at("reasoning_effort").as_string());
    }
    auto parsed = parse_chat_request(input);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().to_string();
    if (!parsed->tools.empty()) parsed->messages.front().tools = parsed->tools;
    const auto prompt = encode_chat(parsed->messages, options);
    ASSERT_TRUE(prompt.has_value()) << prompt.error().to_string();
    EXPECT_EQ(prompt->flat(), std::string_view(entry.at("expected_prompt").as_string()));
    if (entry.at("case_id").as_int64() == 5) {
      EXPECT_EQ(prompt->images, (std::vector<std::string>{"examples/images/carrots.jpeg",
                                                          "examples/images/corn.jpeg"}));
    }
    ++num_cases;
  }
  EXPECT_EQ(num_cases, 5);
}

TEST(DerivedCases, AreReproducedByteForByte) {
  const json::value file = test_json_file("chat/derived-cases.json");
  int num_cases = 0;
  for (const json::value& entry : file.at("cases").as_array()) {
    const DerivedCase derived = read_derived_case(entry);
    const auto prompt = encode_chat(derived.messages, derived.options);
    ASSERT_TRUE(prompt.has_value()) << derived.name << ": " << prompt.error().to_string();
    EXPECT_EQ(prompt->flat(), derived.expected) << derived.name;
    ++num_cases;
  }
  EXPECT_EQ(num_cases, 38);
}

// reference/chat 2.14, by number; 3, 5 and 10 are official cases.
// Reference 2.2, step 2: results follow the most recent calls, whatever earlier calls had their
// ids; an id that no call has counts as the first place, in its order among those.
TEST(ToolResults, AreOrderedByTheMostRecentCallsAndUnknownIdsComeFirst) {
  const auto calls = [](std::initializer_list<const char*> ids) {
    std::string list;
    for (const char* id : ids) {
      list += fmt::format(
          R"({}{{"id":"{}","type":"function","function":{{"name":"f","arguments":"{{}}"}}}})",
          list.empty() ? "" : ",", id);
    }
    return R"({"role":"assistant","content":"","tool_calls":[)" + list + "]},";
  };
  const auto results = [](std::initializer_list<const char*> ids) {
    std::string list;
    for (const char* id : ids)
      list += fmt::format(R"({{"role":"tool","tool_call_id":"{0}","content":"of {0}"}},)", id);
    return list;
  };
  const auto order = [&](const std::string& messages) {
    const std::string prompt = encode_text(R"({"messages":[{"role":"user","content":"q"},)" +
                                               messages.substr(0, messages.size() - 1) + "]}",
                                           chat_mode());
    std::string found;
    const std::string_view before = "<tool_result>of ";
    for (size_t at = prompt.find(before); at != std::string::npos; at = prompt.find(before, at + 1))
      found += prompt[at + before.size()];
    return found.empty() ? prompt : found;
  };
  EXPECT_EQ(order(calls({"a", "b", "c"}) + results({"c", "a", "b"})), "abc");
  // The second turn's calls have the ids of the first's in another order.
  EXPECT_EQ(
      order(calls({"a", "b"}) + results({"b", "a"}) + calls({"b", "a"}) + results({"a", "b"})),
      "abba");
  // What a call of an earlier turn was asked for is unknown in this one.
  EXPECT_EQ(
      order(calls({"x", "a"}) + results({"x", "a"}) + calls({"b", "c"}) + results({"c", "b", "a"})),
      "xabac");
  EXPECT_EQ(order(calls({"a", "b", "c"}) + results({"c", "y", "b", "z", "a"})), "yzabc");
}

TEST(WorkedExamples, AreAsWritten) {
  const std::string bos(kBos);
  const std::string hello = R"([{"role": "user", "content": "Hello"}])";
  const std::string helpful =
      R"([{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Hello"}])";
  EXPECT_EQ(encode_text(helpful, chat_mode()),
            bos + "You are helpful.<｜User｜>Hello<｜Assistant｜></think>");  // 1
  EXPECT_EQ(encode_text(hello, thinking_mode()),
            bos + "<｜User｜>Hello<｜Assistant｜><think>");  // 2
  const std::string history = R"({"role": "user", "content": "Hello"},
      {"role": "assistant", "reasoning_content": "Greet.", "content": "Hi there!"}, {"role": "user", "content": "More"}])";
  const std::string with_tools =
      encode_text(R"([{"role": "system", "tools": [{"function": {"name": "f"}}]}, )" + history,
                  thinking_mode());
  EXPECT_TRUE(with_tools.ends_with(
      "tool calls.\n<｜User｜>Hello<｜Assistant｜><think>Greet.</think>Hi there!"
      "<｜end▁of▁sentence｜><｜User｜>More<｜Assistant｜><think>"));  // 4
  EXPECT_TRUE(encode_text("[" + history, thinking_mode()).find("</think>Hi there!") !=
              std::string::npos);
  const std::string calls =
      R"([{"role": "system", "tools": [{"function": {"name": "f"}}]}, {"role": "user", "content": "q"},
      {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}},
                                           {"id": "b", "function": {"name": "f", "arguments": "{}"}}]}, )";
  EXPECT_TRUE(
      encode_text(calls + R"({"role": "tool", "tool_call_id": "b", "content": "OSLO"},
                                     {"role": "tool", "tool_call_id": "a", "content": "ROME"}])",
                  thinking_mode())
          .ends_with("<｜User｜><tool_result>ROME</tool_result>\n\n<tool_result>OSLO</tool_result>"
                     "<｜Assistant｜><think>"));  // 6
  EXPECT_TRUE(encode_text(calls + R"({"role": "tool", "tool_call_id": "a", "content": "ROME"},
                                     {"role": "user", "content": "Thanks, and Oslo?"}])",
                          thinking_mode())
                  .ends_with("<｜User｜><tool_result>ROME</tool_result>\n\nThanks, and "
                             "Oslo?<｜Assistant｜><think>"));  // 7
  EncodeOptions max_effort = thinking_mode();
  max_effort.effort.level = ReasoningEffort::Level::max;
  const std::string effort = encode_text(helpful, max_effort);
  EXPECT_TRUE(effort.starts_with(bos + "Reasoning Effort: Absolute maximum")) << effort;  // 8
  EXPECT_TRUE(
      effort.ends_with("unchecked.\n\nYou are helpful.<｜User｜>Hello<｜Assistant｜><think>"));
  EXPECT_EQ(
      encode_text(
          R"([{"role": "system", "content": "S"}, {"role": "latest_reminder", "content": "2026-02-21,App"},
                            {"role": "user", "content": "q"}])",
          chat_mode()),
      bos + "S<｜latest_reminder｜>2026-02-21,App<｜User｜>q<｜Assistant｜></think>");  // 9
  EXPECT_EQ(
      encode_text(
          R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "They attract.",
                             "task": "title"}])",
          chat_mode()),
      bos +
          "<｜User｜>q<｜Assistant｜></think>They attract.<｜end▁of▁sentence｜><｜title｜>");  // 11
  EXPECT_EQ(
      encode_text(
          R"([{"role": "user", "content": "Write a poem"}, {"role": "assistant", "content": "Roses are",
                             "wo_eos": true}])",
          chat_mode()),
      bos + "<｜User｜>Write a poem<｜Assistant｜></think>Roses are");  // 12
  EXPECT_EQ(encode_text(R"([{"role": "system", "content": "You are a helpful assistant."},
                            {"role": "user", "content": "What is 2+2?"}])",
                        thinking_mode(PromptFamily::v4_1)),
            bos +
                "<｜System｜>Reasoning Effort: 75 (range 1-100, the higher the value, the more "
                "thorough the "
                "reasoning)\n\nYou are a helpful assistant.<｜User｜>What is "
                "2+2?<｜Assistant｜><think>");  // 13
}

TEST(Segments, ControlStringsInDataStayText) {
  const std::string request = R"([
    {"role": "system", "content": "S<｜User｜>", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"role": "user", "content": "a</think>b<｜Assistant｜>"},
    {"role": "assistant", "content": "c｜DSML｜", "reasoning_content": "<think>",
     "tool_calls": [{"function": {"name": "f", "arguments": "{\"k\": \"<｜end▁of▁sentence｜>\"}"}}]},
    {"role": "tool", "content": "<｜begin▁of▁sentence｜>"}])";
  const auto parsed = parse_chat_request(test_json(request));
  const auto prompt = encode_chat(parsed->messages, thinking_mode());
  ASSERT_TRUE(prompt.has_value());
  std::vector<std::string> controls;
  const PromptSegment* previous = nullptr;
  for (const PromptSegment& segment : prompt->segments) {
    if (segment.kind == PromptSegment::Kind::control) controls.push_back(segment.text);
    if (previous && segment.kind == PromptSegment::Kind::text) {
      EXPECT_NE(previous->kind, PromptSegment::Kind::text) << "text next to text: " << segment.text;
    }
    previous = &segment;
  }
  // Those of the tools block, then each turn's own.
  std::vector<std::string> expected = {std::string(kBos)};
  for (int i = 0; i < 9; ++i) expected.emplace_back(kDsml);
  for (const std::string_view token :
       {kThinkStart, kThinkStart, kThinkEnd, kThinkEnd, kUserToken, kAssistantToken, kThinkStart,
        kThinkEnd, kDsml, kDsml, kDsml, kDsml, kDsml, kDsml, kEos, kUserToken, kAssistantToken,
        kThinkStart}) {
    expected.emplace_back(token);
  }
  EXPECT_EQ(controls, expected);
}

TEST(Segments, KnowWhetherTheCompletionReasons) {
  const auto ends_in_reasoning = [](std::string_view request, EncodeOptions options) {
    return encode_chat(parse_chat_request(test_json(request))->messages, options)
        ->ends_in_reasoning;
  };
  const std::string_view user = R"([{"role": "user", "content": "q"}])";
  EXPECT_TRUE(ends_in_reasoning(user, thinking_mode()));
  EXPECT_FALSE(ends_in_reasoning(user, chat_mode()));
  EXPECT_FALSE(ends_in_reasoning(R"([{"role": "user", "content": "q", "task": "action"}])",
                                 thinking_mode()));
  EXPECT_FALSE(ends_in_reasoning(
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "wo_eos": true}])",
      thinking_mode()));
}

TEST(Tasks, EndTheMergingOfUserMessages) {
  EXPECT_EQ(
      encode_text(
          R"([{"role": "user", "content": "a", "task": "query"}, {"role": "user", "content": "b"}])",
          chat_mode()),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜User｜>b<｜Assistant｜></think>");
}

TEST(Tasks, AnswersHaveNoReasoningPart) {
  EXPECT_EQ(encode_text(R"([{"role": "user", "content": "a", "task": "action"},
                            {"role": "assistant", "content": "Search", "reasoning_content": "r"}])",
                        thinking_mode()),
            "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜><think><｜action｜>Search<"
            "｜end▁of▁sentence｜>");
}

TEST(Context, IsNotWrittenAgain) {
  const std::string_view request = R"([
    {"role": "system", "content": "S"}, {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1", "reasoning_content": "r"}, {"role": "user", "content": "two"}])";
  EncodeOptions options = chat_mode();
  const std::string whole = encode_text(request, options);
  options.num_context_messages = 3;
  EXPECT_EQ(encode_text(request, options), "<｜User｜>two<｜Assistant｜></think>");
  EXPECT_TRUE(whole.ends_with("<｜User｜>two<｜Assistant｜></think>"));
}

TEST(Arguments, OddOnesBecomeOneParameter) {
  const auto parameters = [](std::string_view arguments) {
    const std::string request = fmt::format(
        R"([{{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments": {}}}}}]}}])",
        arguments);
    const std::string prompt = encode_text(request, chat_mode());
    const size_t begin = prompt.find("\">\n") + 3;
    return prompt.substr(begin, prompt.find("\n</｜DSML｜invoke>") - begin);
  };
  const auto one = [](std::string_view key, std::string_view is_string, std::string_view value) {
    return fmt::format("<｜DSML｜parameter name=\"{}\" string=\"{}\">{}</｜DSML｜parameter>", key,
                       is_string, value);
  };
  EXPECT_EQ(parameters(R"({"a": [1, 2.50, {"b": null}]})"),
            one("a", "false", R"([1, 2.5, {"b": null}])"));
  EXPECT_EQ(parameters(R"("{\"a\": 12345678901234567890123}")"),
            one("a", "false", "12345678901234567890123"));
  EXPECT_EQ(parameters(R"("{\"a\": 1e3}")"), one("a", "false", "1000.0"));
  EXPECT_EQ(parameters(R"("\"{\\\"a\\\": 1}\"")"), one("a", "false", "1"));  // quoted twice
  EXPECT_EQ(parameters(R"("[1, 2]")"), one("arguments", "true", "[1, 2]"));
  EXPECT_EQ(parameters(R"("not json")"), one("arguments", "true", "not json"));
  EXPECT_EQ(parameters("[1, 2]"), one("arguments", "false", "[1, 2]"));
  EXPECT_EQ(parameters("{}"), "");
}

TEST(V41, NamespacesQualifyNames) {
  const std::string_view request = R"([
    {"role": "system", "tools": [{"type": "function", "namespace": {"name": "search", "description": "Search tools."},
      "function": {"name": "lookup", "description": "Look up", "parameters": {"type": "object"}}}]},
    {"role": "user", "content": "q"},
    {"role": "assistant", "tool_calls": [
      {"namespace": "search", "function": {"name": "lookup", "arguments": "{}"}},
      {"function": {"name": "search::lookup", "arguments": "{}"}}]}])";
  const std::string prompt = encode_text(request, chat_mode(PromptFamily::v4_1));
  EXPECT_NE(
      prompt.find("{\"name\": \"search::lookup\", \"description\": \"Search tools.\\nLook up\", "
                  "\"parameters\": {\"type\": \"object\"}}\n\nYou MUST"),
      std::string::npos)
      << prompt;
  size_t num_calls = 0;
  const std::string_view call = "<｜DSML｜ invoke name=\"search::lookup\">\n\n</｜DSML｜ invoke>";
  for (size_t at = prompt.find(call); at != std::string::npos; at = prompt.find(call, at + 1))
    ++num_calls;
  EXPECT_EQ(num_calls, 2u);
  EXPECT_NE(encode_text(R"([{"role": "assistant", "tool_calls": [
      {"namespace": "a", "function": {"name": "b::c", "arguments": "{}"}}]}])",
                        chat_mode(PromptFamily::v4_1))
                .find("expected namespace \"a\" in the name, found \"b::c\""),
            std::string::npos);
}

TEST(V41, SystemMessagesInTheMiddleAsk) {
  EXPECT_EQ(
      encode_text(R"([{"role": "user", "content": "one"}, {"role": "assistant", "content": "1",
                             "reasoning_content": "r"}, {"role": "system", "content": "French!"}])",
                  thinking_mode(PromptFamily::v4_1)),
      "<｜begin▁of▁sentence｜><｜System｜>Reasoning Effort: 75 (range 1-100, the higher the value, "
      "the more "
      "thorough the reasoning)\n\n<｜User｜>one<｜Assistant｜></think>1<｜end▁of▁sentence｜>"
      "<｜System｜>French!<｜Assistant｜><think>");
}

TEST(Efforts, AreCheckedPerFamily) {
  const auto with = [](std::string_view effort, PromptFamily family) {
    EncodeOptions options = thinking_mode(family);
    options.effort = *parse_reasoning_effort(effort);
    return encode_text(R"([{"role": "user", "content": "q"}])", options);
  };
  EXPECT_NE(with("low", PromptFamily::v4).find("expected high or max in family v4, found low"),
            std::string::npos);
  EXPECT_NE(with("30", PromptFamily::v4_0731).find("found a number"), std::string::npos);
  EXPECT_NE(with("30", PromptFamily::v4_1).find("Reasoning Effort: 30 (range"), std::string::npos);
  EXPECT_NE(with("low", PromptFamily::v4_1).find("Reasoning Effort: 50 (range"), std::string::npos);
  EXPECT_NE(with("high", PromptFamily::v4_0731).find("Absolute maximum"), std::string::npos);
  EXPECT_NE(with("max", PromptFamily::v4_0731).find("Beyond maximum"), std::string::npos);
  for (const std::string_view bad : {"0", "101", "1.5", "medium", "-1", "7x"}) {
    EXPECT_FALSE(parse_reasoning_effort(bad).has_value()) << bad;
  }
}

TEST(Efforts, TheMaximalOneIsTheReleasedText) {
  EncodeOptions options = thinking_mode(PromptFamily::v4);
  options.effort = *parse_reasoning_effort("max");
  std::string prompt = encode_text(R"([{"role": "user", "content": "q"}])", options);
  ASSERT_TRUE(prompt.starts_with(kBos));
  prompt = prompt.substr(kBos.size(), prompt.find(kUserToken) - kBos.size());
  EXPECT_EQ(prompt.size(), 476u);
  EXPECT_EQ(sha256_hex(prompt), "f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7");
}

TEST(Efforts, OfClientsAreMapped) {
  using Level = ReasoningEffort::Level;
  EXPECT_FALSE(resolve_client_effort("none", PromptFamily::v4)->thinking);
  EXPECT_EQ(resolve_client_effort("low", PromptFamily::v4)->effort.level, Level::high);
  EXPECT_EQ(resolve_client_effort("minimal", PromptFamily::v4_0731)->effort.level, Level::low);
  for (const std::string_view name : {"", "medium", "high", "xhigh"}) {
    EXPECT_EQ(resolve_client_effort(name, PromptFamily::v4_0731)->effort.level, Level::high)
        << name;
  }
  EXPECT_EQ(resolve_client_effort("ultra", PromptFamily::v4)->effort.level, Level::max);
  EXPECT_EQ(resolve_client_effort("42", PromptFamily::v4_1)->effort.budget, 42);
  EXPECT_FALSE(resolve_client_effort("42", PromptFamily::v4).has_value());
}

TEST(Errors, NameThePlace) {
  const auto error = [](std::string_view request, PromptFamily family = PromptFamily::v4) {
    return encode_text(request, chat_mode(family));
  };
  const auto has = [](const std::string& text, std::string_view part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(error(R"({"messages": 3})"), "messages: expected a list, found number");
  has(error(R"([{"content": "x"}])"), "messages[0].role: expected a string, found nothing");
  has(error(R"([{"role": "robot"}])"), "messages[0].role: expected system, developer");
  has(error(R"([{"role": "user", "content": 3}])"),
      "messages[0].content: expected a string, null or a list");
  has(error(R"([{"role": "user", "content": [{"text": "x"}]}])"),
      "messages[0].content[0].type: expected a string");
  has(error(
          R"([{"role": "user"}, {"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}])"),
      "messages[1].tool_calls[0].function.name: expected a string, found number");
  has(error(R"([{"role": "user", "tools": [{"function": {}}]}])"),
      "messages[0].tools[0].function.name");
  has(error(R"([{"role": "user", "task": "dance"}])"), "messages[0].task: expected action");
  has(error(R"([{"role": "user", "content": [{"type": "text", "text": "x"}]}])"),
      "expected a string in family v4");
  has(error(R"([{"role": "developer", "content": ""}])"), "expected text in a developer message");
  has(error(R"([{"role": "developer", "content": "x"}])", PromptFamily::v4_1),
      "no developer message");
  has(error(R"([{"role": "user", "content": "<｜deepseek_image｜>"}])", PromptFamily::v4_1),
      "messages[0].content: expected images as content parts");
}

TEST(Fim, PutsTheHoleBetween) {
  EXPECT_EQ(encode_fim("a", "b").flat(),
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>");
  EXPECT_EQ(encode_raw("once").flat(), "<｜begin▁of▁sentence｜>once");
  EXPECT_EQ(encode_raw("<｜begin▁of▁sentence｜>once").segments, encode_raw("once").segments);
}

}  // namespace
}  // namespace cachalot::text
