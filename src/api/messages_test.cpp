// /v1/messages and count_tokens: what is asked, what is refused, and how answers look.
#include "api/messages.h"

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
    R"("tools": [{"name": "read", "description": "d", "cache_control": {"type": "ephemeral"},
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}},
        "required": ["path"]}}])";
constexpr std::string_view kCall =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"read\">\n"
    "<｜DSML｜parameter name=\"path\" string=\"true\">a.txt</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

HttpRequest ask(std::string_view fields = "", std::string_view path = "/v1/messages?beta=true") {
  std::string body = R"({"model": "claude-sonnet-4", "max_tokens": 64)";
  if (fields.find("\"messages\"") == std::string_view::npos)
    body += R"(, "messages": [{"role": "user", "content": "Hello"}])";
  if (!fields.empty()) body += ", " + std::string(fields);
  return post(std::string(path), body + "}");
}

std::vector<std::string> types_of(const std::vector<ServerEvent>& events) {
  std::vector<std::string> types;
  for (const ServerEvent& event : events) {
    EXPECT_EQ(text_at(event.json(), "type"), event.type);
    if (types.empty() || types.back() != event.type) types.push_back(event.type);
  }
  return types;
}

std::string error_of(const ServedModel& model, const HttpRequest& request) {
  Routed routed = route(request, model);
  if (!std::holds_alternative<HttpAnswer>(routed)) return "a call";
  const HttpAnswer& answer = std::get<HttpAnswer>(routed);
  EXPECT_EQ(text_at(parsed(answer), "type"), "error");
  return std::to_string(answer.status) + " " + text_at(parsed(answer), "error/type") + " " +
         text_at(parsed(answer), "error/message");
}

TEST(Messages, AnswerWithBlocksOfEachKind) {
  const auto model = testing::served();
  const json::value body =
      parsed(play(*model, ask(kTools), "I think.</think>Let me read." + std::string(kCall)));
  EXPECT_EQ(text_at(body, "type"), "message");
  EXPECT_EQ(text_at(body, "role"), "assistant");
  EXPECT_EQ(text_at(body, "model"), "claude-sonnet-4");
  EXPECT_EQ(text_at(body, "content/0/type"), "thinking");
  EXPECT_EQ(text_at(body, "content/0/thinking"), "I think.");
  EXPECT_FALSE(text_at(body, "content/0/signature").empty());
  EXPECT_EQ(text_at(body, "content/1/text"), "Let me read.");
  EXPECT_EQ(text_at(body, "content/2/type"), "tool_use");
  EXPECT_EQ(text_at(body, "content/2/name"), "read");
  EXPECT_EQ(text_at(body, "content/2/input/path"), "a.txt");
  EXPECT_TRUE(text_at(body, "content/2/id").starts_with("toolu_"));
  EXPECT_EQ(text_at(body, "stop_reason"), "tool_use");
  EXPECT_TRUE(at(body, "stop_sequence").is_null());
}

TEST(Messages, StopReasons) {
  const auto model = testing::served();
  EXPECT_EQ(text_at(parsed(play(*model, ask(), "a</think>b")), "stop_reason"), "end_turn");
  EXPECT_EQ(
      text_at(parsed(play(*model, ask(), "a</think>b", engine::Finish::length)), "stop_reason"),
      "max_tokens");
  const json::value stopped =
      parsed(play(*model, ask(R"("stop_sequences": ["END"])"), "a</think>b ENDc"));
  EXPECT_EQ(text_at(stopped, "stop_reason"), "stop_sequence");
  EXPECT_EQ(text_at(stopped, "stop_sequence"), "END");
  EXPECT_EQ(text_at(stopped, "content/1/text"), "b ");
}

TEST(Messages, AStreamsErrorNamesTheRequest) {
  const auto model = testing::served();
  HttpRequest request = ask(R"("stream": true)");
  request.headers.push_back({"request-id", "req_7"});
  const auto events =
      events_of(play(*model, request, "a</think>b", engine::Finish::cancelled).body);
  EXPECT_EQ(events.back().type, "error");
  EXPECT_EQ(text_at(events.back().json(), "request_id"), "req_7");
  EXPECT_EQ(text_at(events.back().json(), "error/type"), "overloaded_error");
}

TEST(Messages, ReplayedTurnsAreThePromptTheyCameFrom) {
  const auto model = testing::served();
  // Thinking is shown in one, and travels in the signature in the other.
  for (const char* display : {"", R"(, "display": "omitted")"}) {
    const std::string thinking =
        R"("thinking": {"type": "adaptive")" + std::string(display) + "}, " + std::string(kTools);
    const std::string said = "Hmm, é\n 🙂.</think>Reading." + std::string(kCall);
    const json::value answer = parsed(play(*model, ask(thinking), said));
    if (*display != 0) {
      EXPECT_EQ(text_at(answer, "content/0/thinking"), "");
    }
    const std::string next = prompt_of(
        *model, ask(thinking + R"(, "messages": [{"role": "user", "content": "Hello"},
            {"role": "assistant", "content": )" +
                    python_json(at(answer, "content")) + R"(}, {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": )" +
                    json_quoted(text_at(answer, "content/2/id")) +
                    R"(, "content": [{"type": "text", "text": "the file"}]},
             {"type": "text", "text": "Go on"}]}])"));
    EXPECT_EQ(next, prompt_of(*model, ask(thinking)) + said +
                        "<｜end▁of▁sentence｜><｜User｜><tool_result>the file</tool_result>"
                        "\n\nGo on<｜Assistant｜><think>");
  }
}

TEST(Messages, ResultsStandInTheirPlaceAmongTexts) {
  const auto model = testing::served();
  const std::string prompt = prompt_of(*model, ask(R"("messages": [{"role": "user", "content": [
      {"type": "text", "text": "A"}, {"type": "tool_result", "tool_use_id": "x", "content": "R"},
      {"type": "text", "text": "B"}, {"type": "document", "source": {"type": "text",
      "data": "D"}}]}])"));
  EXPECT_NE(prompt.find("<｜User｜>A\n\n<tool_result>R</tool_result>\n\nB\n\nD<｜Assistant｜>"),
            std::string::npos)
      << prompt;
}

TEST(Messages, PrefillContinues) {
  const auto model = testing::served();
  EXPECT_TRUE(prompt_of(*model, ask(R"("thinking": {"type": "disabled"}, "messages": [
          {"role": "user", "content": "A"}, {"role": "assistant", "content": "Roses"}])"))
                  .ends_with("</think>Roses"));
}

TEST(Messages, ErrorsInAnthropicsShape) {
  const auto model = testing::served();
  EXPECT_EQ(error_of(*model, post("/v1/messages", "{")).substr(0, 25), "400 invalid_request_error");
  EXPECT_EQ(
      error_of(*model, post("/v1/messages", R"({"model": "gpt-4", "messages": []})")).substr(0, 19),
      "404 not_found_error");
  for (
      const char* body :
      {R"({"messages": 3})", R"({"messages": []})", R"({})",
       R"({"messages": [{"role": "tool", "content": "x"}]})",
       R"({"messages": [{"role": "user", "content": 3}]})",
       R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})",
       R"({"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "any"}})",
       R"({"messages": [{"role": "user", "content": "x"}], "top_k": "3"})",
       R"({"messages": [{"role": "user", "content": "x"}], "n": 2})",
       R"({"messages": [{"role": "user", "content": "x"}], "logprobs": true})",
       R"({"messages": [{"role": "user", "content": "x"}], "guided_regex": "a",
            "output_format": {"type": "json_schema", "schema": {}}})",
       R"({"messages": [{"role": "user", "content": "x"}], "output_format": {"type": "json_object"},
            "output_config": {"format": {"type": "json_object"}}})"}) {
    EXPECT_EQ(error_of(*model, post("/v1/messages", body)).substr(0, 25),
              "400 invalid_request_error")
        << body;
  }
  std::string text;
  for (int i = 0; i < 6000; ++i) text += "x 7 ";
  const std::string overflow =
      error_of(*model, ask(R"("messages": [{"role": "user", "content": ")" + text + "\"}]"));
  EXPECT_NE(overflow.find("prompt is too long: "), std::string::npos);
  EXPECT_NE(overflow.find(" tokens > 4096 maximum"), std::string::npos);
}

TEST(Messages, WhatRunsOnAnthropicsMachinesIsNamed) {
  const auto model = testing::served();
  const HttpAnswer answer = play(
      *model,
      ask(R"("container": "c", "mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}],
                  "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}])"),
      "hm</think>Hi");
  ASSERT_EQ(answer.status, 200) << answer.body;
  ASSERT_EQ(answer.headers.size(), 1u);
  EXPECT_EQ(answer.headers[0].value, "mcp_toolset, mcp_servers, container");
}

TEST(Messages, RunOnARandomModel) {
  TinyServer server;
  const json::value whole = parsed(server.run(ask(R"("temperature": 0)")));
  const auto events = events_of(server.run(ask(R"("temperature": 0, "stream": true)")).body);
  std::string thinking;
  for (const ServerEvent& event : events) thinking += text_at(event.json(), "delta/thinking");
  EXPECT_EQ(thinking, text_at(whole, "content/0/thinking"));
  EXPECT_EQ(at(whole, "usage/output_tokens"), json::value(64));
}

TEST(Breakage, Row08ABillingHeaderDoesNotSpoilThePrefix) {
  const auto model = testing::served();
  const std::string plain = prompt_of(*model, ask(R"("system": [{"type": "text", "text": "S"}])"));
  for (const char* system :
       {R"([{"type": "text", "text": "x-anthropic-billing-header: v=1; cch=a1;"},
            {"type": "text", "text": "S"}])",
        R"("x-anthropic-billing-header: v=1; cch=b2;\nS")"}) {
    EXPECT_EQ(prompt_of(*model, ask("\"system\": " + std::string(system))), plain);
  }
}

TEST(Breakage, Row09SystemMessagesStayWhereTheyAre) {
  const auto model = testing::served();
  const std::string before =
      prompt_of(*model, ask(R"("system": "S", "messages": [{"role": "user", "content": "A"}])"));
  const std::string after =
      prompt_of(*model, ask(R"("system": "S", "messages": [{"role": "user", "content": "A"},
          {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"},
          {"role": "system", "content": "<total_tokens>5"}])"));
  // Up to the answer's header, which shows whether this turn thought.
  const std::string shared = before.substr(0, before.find("<｜Assistant｜>"));
  EXPECT_TRUE(after.starts_with(shared)) << after;
  EXPECT_LT(after.find("C"), after.find("<total_tokens>"));
}

TEST(Breakage, Row10And12UsageHasTheCacheFieldsFromTheStart) {
  const auto model = testing::served();
  const auto events =
      events_of(play(*model, ask("\"stream\": true"), "a</think>b", engine::Finish::stop, 2).body);
  const json::value start = events.front().json();
  EXPECT_EQ(events.front().type, "message_start");
  EXPECT_EQ(at(start, "message/usage/cache_read_input_tokens"), json::value(2));
  EXPECT_EQ(at(start, "message/usage/cache_creation_input_tokens"), json::value(0));
  EXPECT_GT(at(start, "message/usage/input_tokens").as_int64(), 0);
  const json::value delta = events[events.size() - 2].json();
  EXPECT_EQ(text_at(delta, "type"), "message_delta");
  EXPECT_EQ(at(delta, "usage/output_tokens"), json::value(3));
  EXPECT_EQ(at(delta, "usage/input_tokens"), at(start, "message/usage/input_tokens"));
}

TEST(Breakage, Row11BlocksNeverMixAndTheMessageStartsOnce) {
  const auto model = testing::served();
  const auto events = events_of(play(*model, ask("\"stream\": true, " + std::string(kTools)),
                                     "I think.</think>Let me read." + std::string(kCall))
                                    .body);
  const std::vector<std::string> expected = {
      "message_start",       "content_block_start", "content_block_delta", "content_block_stop",
      "content_block_start", "content_block_delta", "content_block_stop",  "content_block_start",
      "content_block_delta", "content_block_stop",  "message_delta",       "message_stop"};
  EXPECT_EQ(types_of(events), expected);
  std::string open, json_text;
  int64_t index = -1;
  for (const ServerEvent& event : events) {
    const json::value data = event.json();
    if (event.type == "content_block_start") {
      EXPECT_EQ(at(data, "index"), json::value(++index));
      open = text_at(data, "content_block/type");
    }
    if (event.type != "content_block_delta") continue;
    EXPECT_EQ(at(data, "index"), json::value(index));
    const std::string type = text_at(data, "delta/type");
    if (open == "thinking") {
      EXPECT_TRUE(type == "thinking_delta" || type == "signature_delta");
    }
    if (open == "text") {
      EXPECT_EQ(type, "text_delta");
    }
    if (open == "tool_use") {
      EXPECT_EQ(type, "input_json_delta");
    }
    json_text += text_at(data, "delta/partial_json");
  }
  EXPECT_EQ(json_text, R"({"path": "a.txt"})");
}

TEST(Breakage, Row13AnyClaudeIsTheServedModel) {
  const auto model = testing::served();
  for (const char* name : {"claude-opus-4-1", "claude-3-5-haiku", "tiny", "tiny:no-thinking"}) {
    EXPECT_EQ(error_of(*model, post("/v1/messages", R"({"model": ")" + std::string(name) +
                                                        R"(", "messages": [{"role": "user",
                                                        "content": "x"}]})")),
              "a call")
        << name;
  }
}

TEST(Breakage, Row14CountTokensIsWhatThePromptHas) {
  TinyServer server;
  const std::string fields = R"("system": "Be brief.", )" + std::string(kTools);
  const json::value counted =
      parsed(server.run(ask(fields, "/v1/messages/count_tokens?beta=true")));
  const json::value answer = parsed(server.run(ask(fields)));
  EXPECT_EQ(at(counted, "input_tokens").as_int64(),
            at(answer, "usage/input_tokens").as_int64() +
                at(answer, "usage/cache_read_input_tokens").as_int64());
}

TEST(Breakage, Row34ThereIsSomethingToSayInPrefill) {
  const auto model = testing::served();
  Routed routed = route(ask("\"stream\": true"), *model);
  EXPECT_EQ(std::get<std::unique_ptr<Call>>(routed)->keep_alive(),
            "event: ping\ndata: {\"type\": \"ping\"}\n\n");
}

TEST(Messages, SignaturesCarryText) {
  const std::string with_zero("\0\xff x", 4);
  for (const std::string& text :
       {std::string(), std::string("a"), std::string("ab"), std::string("é🙂\n\""), with_zero}) {
    EXPECT_EQ(hidden_thinking(thinking_signature("sig_1", text)), text);
  }
  EXPECT_EQ(hidden_thinking("ErUBCkYIBxgCIkD"), "");
  EXPECT_EQ(hidden_thinking("thinking1-!!"), "");
}

}  // namespace
}  // namespace cachalot::api
