// /v1/responses: what is asked, what is refused, and how answers look, whole and streamed.
#include "api/responses.h"

#include <gtest/gtest.h>

#include "api/api_testing.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using testing::at;
using testing::events_of;
using testing::parsed;
using testing::play;
using testing::post;
using testing::prompt_of;
using testing::ServerEvent;
using testing::text_at;
using testing::TinyServer;

constexpr std::string_view kTools =
    R"("tools": [{"type": "function", "name": "shell", "strict": false, "parameters":
        {"type": "object", "properties": {"command": {"type": "string"}},
         "required": ["command"]}},
        {"type": "custom", "name": "apply_patch", "description": "Patches.", "format":
        {"type": "grammar", "syntax": "lark", "definition": "start: /(.|\\n)+/"}},
        {"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "find"}]},
        {"type": "web_search"}, {"type": "local_shell"}, {"type": "image_generation"}])";

std::string call_of(std::string_view name, std::string_view key, std::string_view value) {
  return "<｜DSML｜invoke name=\"" + std::string(name) + "\">\n<｜DSML｜parameter name=\"" +
         std::string(key) + "\" string=\"true\">" + std::string(value) +
         "</｜DSML｜parameter>\n</｜DSML｜invoke>";
}
std::string calls() {
  return "\n\n<｜DSML｜tool_calls>\n" + call_of("shell", "command", "ls") + "\n" +
         call_of("apply_patch", "input", "*** \"x\"\n") + "\n" + call_of("mcp::find", "q", "y") +
         "\n</｜DSML｜tool_calls>";
}

HttpRequest ask(std::string_view fields = "", std::string_view input = "\"Hello\"") {
  std::string body = "{\"model\": \"tiny\", \"input\": " + std::string(input);
  if (!fields.empty()) body += ", " + std::string(fields);
  return post("/v1/responses", body + "}");
}

std::string error_of(const ServedModel& model, const HttpRequest& request) {
  Routed routed = route(request, model);
  if (!std::holds_alternative<HttpAnswer>(routed)) return "a call";
  const HttpAnswer& answer = std::get<HttpAnswer>(routed);
  return std::to_string(answer.status) + " " + text_at(parsed(answer), "error/param") + " " +
         text_at(parsed(answer), "error/code");
}

TEST(Responses, AnswerWithItemsOfEachKind) {
  const auto model = testing::served();
  const HttpAnswer answer = play(*model, ask(kTools), "I think.</think>Let me look." + calls());
  ASSERT_EQ(answer.status, 200) << answer.body;
  const json::value body = parsed(answer);
  EXPECT_EQ(text_at(body, "object"), "response");
  EXPECT_EQ(text_at(body, "status"), "completed");
  EXPECT_EQ(text_at(body, "output/0/type"), "reasoning");
  EXPECT_EQ(text_at(body, "output/0/content/0/text"), "I think.");
  EXPECT_EQ(text_at(body, "output/1/type"), "message");
  EXPECT_EQ(text_at(body, "output/1/content/0/text"), "Let me look.");
  EXPECT_EQ(text_at(body, "output/2/type"), "function_call");
  EXPECT_EQ(text_at(body, "output/2/arguments"), R"({"command": "ls"})");
  EXPECT_EQ(text_at(body, "output/3/type"), "custom_tool_call");
  EXPECT_EQ(text_at(body, "output/3/input"), "*** \"x\"\n");
  EXPECT_EQ(text_at(body, "output/4/name"), "find");
  EXPECT_EQ(text_at(body, "output/4/namespace"), "mcp");
  EXPECT_GT(at(body, "usage/output_tokens_details/reasoning_tokens").as_int64(), 0);
}

TEST(Responses, ReplayedItemsAreThePromptTheyCameFrom) {
  const auto model = testing::served();
  for (const char* how : {"", R"("include": ["reasoning.encrypted_content"], )",
                          R"("reasoning": {"effort": "high", "summary": "auto"}, )"}) {
    const std::string fields =
        std::string(how) + R"("instructions": "Be brief.", "store": false, )" + std::string(kTools);
    const std::string said = "I think.</think>Let me look." + calls();
    json::value answer = parsed(play(*model, ask(fields), said));
    // A client may keep the encrypted form alone.
    if (std::string_view(how).starts_with("\"include\""))
      answer.at("output").at(0).as_object()["content"] = json::array();
    std::string items = python_json(at(answer, "output"));
    items.pop_back();
    items.erase(0, 1);
    for (int i = 2; i < 5; ++i) {
      const std::string place = "output/" + std::to_string(i);
      items += R"(, {"type": ")" +
               std::string(i == 3 ? "custom_tool_call_output" : "function_call_output") +
               R"(", "call_id": )" + json_quoted(text_at(answer, place + "/call_id")) +
               R"(, "output": "result )" + std::to_string(i) + "\"}";
    }
    const std::string next =
        prompt_of(*model, ask(fields, R"([{"role": "user", "content": "Hello"}, )" + items + "]"));
    EXPECT_EQ(next, prompt_of(*model, ask(fields)) + said +
                        "<｜end▁of▁sentence｜><｜User｜><tool_result>result 2</tool_result>\n\n"
                        "<tool_result>result 3</tool_result>\n\n"
                        "<tool_result>result 4</tool_result><｜Assistant｜><think>");
  }
}

TEST(Responses, StreamTheItemsThatTheWholeHas) {
  const auto model = testing::served();
  const std::string said = "I think.</think>Let me look." + calls();
  const json::value whole = parsed(play(*model, ask(kTools), said));
  const auto events =
      events_of(play(*model, ask("\"stream\": true, " + std::string(kTools)), said).body);
  EXPECT_EQ(events[0].type, "response.created");
  EXPECT_EQ(events[1].type, "response.in_progress");
  json::array items;
  std::string text, arguments, input, reasoning;
  for (size_t i = 0; i < events.size(); ++i) {
    const json::value data = events[i].json();
    EXPECT_EQ(text_at(data, "type"), events[i].type);
    EXPECT_EQ(at(data, "sequence_number"), json::value(i));
    if (events[i].type == "response.output_item.done") items.push_back(at(data, "item"));
    if (events[i].type == "response.output_text.delta") text += text_at(data, "delta");
    if (events[i].type == "response.reasoning_text.delta") reasoning += text_at(data, "delta");
    if (events[i].type == "response.custom_tool_call_input.delta") input += text_at(data, "delta");
    if (events[i].type == "response.function_call_arguments.delta")
      arguments += text_at(data, "delta");
  }
  EXPECT_EQ(reasoning, "I think.");
  EXPECT_EQ(text, "Let me look.");
  EXPECT_EQ(arguments, R"({"command": "ls"}{"q": "y"})");
  EXPECT_EQ(input, "*** \"x\"\n");
  ASSERT_EQ(items.size(), 5u);
  const json::value last = events.back().json();
  EXPECT_EQ(at(last, "response/output"), json::value(items));
  // The same but for the ids, which are new in each.
  EXPECT_EQ(at(last, "response/usage"), at(whole, "usage"));
  EXPECT_EQ(at(last, "response/output/1/content"), at(whole, "output/1/content"));
}

TEST(Responses, ACustomToolsTextIsBoundOrRefusedByName) {
  TinyServer server;
  const auto tool = [](std::string_view format) {
    return R"("tool_choice": "required", "tools": [{"type": "custom", "name": "t", "format": )" +
           std::string(format) + "}]";
  };
  for (const char* format :
       {R"({"type": "grammar", "syntax": "regex", "definition": "[ab]{3}"})",
        R"({"type": "grammar", "syntax": "lark", "definition": "start: X~3\nX: \"a\" | \"b\""})"}) {
    const json::value answer =
        parsed(server.run(ask(tool(format) + R"(, "reasoning": {"effort": "none"})")));
    const json::value& output = answer.at("output");
    ASSERT_FALSE(output.as_array().empty());
    const json::value& call = output.as_array().back();
    EXPECT_EQ(text_at(call, "type"), "custom_tool_call") << python_json(answer);
    const std::string input = text_at(call, "input");
    EXPECT_EQ(input.size(), 3u);
    EXPECT_EQ(input.find_first_not_of("ab"), std::string::npos) << input;
  }
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "text"})", "a call"},
      {R"({"type": "schema"})", "400 tools[0].format.type invalid_value"},
      {R"({"type": "grammar", "definition": "x"})", "400 tools[0].format.syntax invalid_value"},
      {R"({"type": "grammar", "syntax": "gbnf", "definition": "x"})",
       "400 tools[0].format.syntax invalid_value"},
      {R"({"type": "grammar", "syntax": "regex"})", "400 tools[0].format.definition invalid_value"},
      {R"({"type": "grammar", "syntax": "regex", "definition": "(?=a)b"})",
       "400 tools[0].format.definition unsupported_value"},
      {R"({"type": "grammar", "syntax": "lark", "definition": "start: x"})",
       "400 tools[0].format.definition invalid_value"}};
  for (const auto& [format, error] : cases)
    EXPECT_EQ(error_of(server.model(), ask(tool(format))), error) << format;
}

TEST(Responses, RefuseByName) {
  const auto model = testing::served();
  EXPECT_EQ(error_of(*model, ask(R"("previous_response_id": "resp_1")")),
            "400 previous_response_id unsupported_value");
  EXPECT_EQ(error_of(*model, ask(R"("conversation": "c")")), "400 conversation unsupported_value");
  EXPECT_EQ(error_of(*model, ask(R"("background": true)")), "400 background unsupported_value");
  EXPECT_EQ(error_of(*model, ask(R"("background": false, "previous_response_id": null)")),
            "a call");
  EXPECT_EQ(error_of(*model, ask("", R"([{"type": "item_reference", "id": "x"}])")),
            "400 input[0].type unsupported_value");
  EXPECT_EQ(error_of(*model, ask("", R"([{"role": "user", "content":
                                         [{"type": "input_image"}]}])")),
            "400 input[0].content[0].type unsupported_value");
  EXPECT_EQ(error_of(*model, ask("", "3")), "400 input invalid_value");
  EXPECT_EQ(error_of(*model, post("/v1/responses", R"({"messages": [{"content": "x"}]})")),
            "400 input invalid_value");
  EXPECT_EQ(error_of(*model, ask("", R"(["x"])")), "400 input[0] invalid_value");
  EXPECT_EQ(error_of(*model, ask(R"("text": {"format": {"type": "xml"}})")),
            "400 text.format.type invalid_value");
  EXPECT_EQ(error_of(*model, ask(R"("guided_regex": "a", "text": {"format": {"type":
                                     "json_object"}})")),
            "400 text.format invalid_value");
  EXPECT_EQ(error_of(*model, ask(R"("n": 2)")), "400 n invalid_value");
  EXPECT_EQ(error_of(*model, ask(R"("logprobs": true)")), "400 logprobs unsupported_value");
  // Probes with nothing, and items of tools that run elsewhere.
  EXPECT_EQ(error_of(*model, ask(R"("max_output_tokens": 1)", "[]")), "a call");
  EXPECT_EQ(error_of(*model, ask("", R"([{"type": "web_search_call", "id": "x"},
                                         {"role": "user", "content": "y"}])")),
            "a call");
}

TEST(Responses, RunOnARandomModel) {
  TinyServer server;
  const std::string fields = R"("max_output_tokens": 30, "temperature": 0)";
  const json::value whole = parsed(server.run(ask(fields)));
  EXPECT_EQ(text_at(whole, "status"), "incomplete");
  EXPECT_EQ(text_at(whole, "incomplete_details/reason"), "max_output_tokens");
  const auto events = events_of(server.run(ask(fields + ", \"stream\": true")).body);
  EXPECT_EQ(events.back().type, "response.incomplete");
  EXPECT_EQ(at(events.back().json(), "response/output/0/content"), at(whole, "output/0/content"));
  // A schema binds the text.
  const json::value bound = parsed(
      server.run(ask(R"("reasoning": {"effort": "none"}, "max_output_tokens": 60, "text": {"format":
          {"type": "json_schema", "name": "x", "schema": {"enum": [12, 34]}}})")));
  const std::string text = text_at(bound, "output/0/content/0/text");
  EXPECT_TRUE(text == "12" || text == "34") << text;
}

TEST(Breakage, Row01And02And06EveryToolTypeIsAccepted) {
  const auto model = testing::served();
  const HttpAnswer answer = play(*model, ask(kTools), "t</think>Hi");
  ASSERT_EQ(answer.status, 200) << answer.body;
  ASSERT_EQ(answer.headers.size(), 1u);
  EXPECT_EQ(answer.headers[0].value, "web_search, local_shell, image_generation");
  const std::string prompt = prompt_of(*model, ask(kTools));
  EXPECT_NE(prompt.find("\"name\": \"mcp::find\""), std::string::npos);
  EXPECT_NE(prompt.find("start: /("), std::string::npos);
  EXPECT_EQ(prompt.find("web_search"), std::string::npos);
}

TEST(Breakage, Row03VerbosityAloneIsNoFormat) {
  const auto model = testing::served();
  EXPECT_EQ(prompt_of(*model, ask(R"("text": {"verbosity": "low"})")), prompt_of(*model, ask()));
}

TEST(Breakage, Row04StreamsEndWithATerminalEventOnce) {
  const auto model = testing::served();
  for (const engine::Finish how : {engine::Finish::stop, engine::Finish::length}) {
    const auto events = events_of(play(*model, ask("\"stream\": true"), "t</think>Hi", how).body);
    EXPECT_EQ(events.back().type,
              how == engine::Finish::stop ? "response.completed" : "response.incomplete");
    EXPECT_GT(at(events.back().json(), "response/usage/total_tokens").as_int64(), 0);
    for (size_t i = 0; i + 1 < events.size(); ++i) EXPECT_NE(events[i].type, events.back().type);
  }
}

TEST(Breakage, Row05AFailureSaysThatTryingAgainIsNoUse) {
  const auto model = testing::served();
  Routed routed = route(ask("\"stream\": true"), *model);
  Call& call = *std::get<std::unique_ptr<Call>>(routed);
  std::string out;
  call.refuse(0, invalid_argument("grammar: too much"), out);
  EXPECT_TRUE(call.is_done());
  const auto events = events_of(out);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].type, "response.failed");
  EXPECT_EQ(text_at(events[0].json(), "response/error/code"), "invalid_prompt");
  EXPECT_EQ(call.failure()->status, 400);
}

TEST(Breakage, Row21AnUnfinishedCallIsNeverDone) {
  const auto model = testing::served();
  const std::string said = "t</think>Look.\n\n<｜DSML｜tool_calls>\n" +
                           call_of("shell", "command", "rm -r x y z").substr(0, 104);
  const auto events = events_of(
      play(*model, ask("\"stream\": true, " + std::string(kTools)), said, engine::Finish::length)
          .body);
  EXPECT_EQ(events.back().type, "response.incomplete");
  for (const ServerEvent& event : events) {
    if (event.type == "response.output_item.done") {
      EXPECT_NE(text_at(event.json(), "item/type"), "function_call");
    }
  }
}

TEST(Breakage, Row34KeepAlivesAreEventsWithData) {
  const auto model = testing::served();
  Routed routed = route(ask("\"stream\": true"), *model);
  Call& call = *std::get<std::unique_ptr<Call>>(routed);
  std::string out;
  call.head(out);
  const auto events = events_of(call.keep_alive());
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].type, "response.in_progress");
  EXPECT_EQ(at(events[0].json(), "sequence_number"), json::value(2));
}

}  // namespace
}  // namespace cachalot::api
