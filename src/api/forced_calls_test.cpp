// Answers that are fixed beforehand: which line a request gets, and what comes of it.
#include "api/forced_calls.h"

#include <gtest/gtest.h>

#include "api/api_testing.h"

namespace cachalot::api {
namespace {

using testing::at;
using testing::parsed;
using testing::post;
using testing::text_at;
using testing::TinyServer;

constexpr std::string_view kTwo =
    R"({"text": "I look.", "calls": [{"name": "run", "arguments": {"command": "ls \"<a>\" ｜", "n": 3}},
 {"name": "run"}]})";

std::string one_line(std::string_view text) {
  std::string out(text);
  std::erase(out, '\n');
  return out;
}

ServedModelOptions forced() {
  ServedModelOptions options = testing::served_options();
  options.forced_calls =
      ForcedCalls::parse(one_line(kTwo) + "\n\n{\"text\": \"Done.\"}\n", "calls").value();
  return options;
}

constexpr std::string_view kTools = R"("tools": [{"type": "function", "function": {"name": "run",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}}}}])";

json::value ask(TinyServer& server, std::string_view messages, std::string_view fields) {
  return parsed(server.post("/v1/chat/completions", "{\"max_tokens\": 600, \"messages\": [" +
                                                        std::string(messages) + "], " +
                                                        std::string(fields) + "}"));
}

TEST(ForcedCalls, AreWhatAConversationGetsStepByStep) {
  TinyServer server(forced());
  const std::string hello = R"({"role": "user", "content": "Hello"})";
  for (const char* thinking :
       {R"(, "reasoning_effort": "high")", R"(, "reasoning_effort": "none")"}) {
    const json::value first = ask(server, hello, std::string(kTools) + thinking);
    EXPECT_EQ(text_at(first, "choices/0/finish_reason"), "tool_calls");
    EXPECT_EQ(text_at(first, "choices/0/message/content"), "I look.");
    EXPECT_EQ(at(first, "choices/0/message/tool_calls").get_array().size(), 2u);
    EXPECT_EQ(text_at(first, "choices/0/message/tool_calls/0/function/name"), "run");
    EXPECT_EQ(text_at(first, "choices/0/message/tool_calls/0/function/arguments"),
              R"({"command": "ls \"<a>\" ｜", "n": 3})");
    const std::string history =
        hello + R"(, {"role": "assistant", "content": null, "tool_calls": [{"id": "c1",
            "type": "function", "function": {"name": "run", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "a.txt"})";
    const json::value second = ask(server, history, std::string(kTools) + thinking);
    EXPECT_EQ(text_at(second, "choices/0/finish_reason"), "stop");
    EXPECT_EQ(text_at(second, "choices/0/message/content"), "Done.");
  }
}

TEST(ForcedCalls, LeaveOtherRequestsAlone) {
  TinyServer server(forced()), free;
  const std::string hello = R"({"role": "user", "content": "Hello"})";
  const std::string other = R"("tools": [{"type": "function", "function": {"name": "look"}}])";
  for (const std::string& tools : {std::string(R"("tools": [])"), other}) {
    const std::string fields = tools + R"(, "seed": 3, "max_tokens": 20)";
    EXPECT_EQ(at(ask(server, hello, fields), "choices/0/message/content"),
              at(ask(free, hello, fields), "choices/0/message/content"));
  }
}

TEST(ForcedCalls, ErrorsNameTheLine) {
  for (const auto& [lines, part] :
       {std::pair("{\"text\": \"a\"}\n[]", "f:2: expected an object"),
        std::pair("{}", "f:1: expected text or calls"),
        std::pair("{\"calls\": [7]}", "f:1.calls[0]: expected an object"),
        std::pair("{\"calls\": [{}]}", "calls[0].name: expected a name"),
        std::pair("{\"calls\": 7}", "calls: expected")}) {
    const auto parsed = ForcedCalls::parse(lines, "f");
    ASSERT_FALSE(parsed.has_value()) << lines;
    EXPECT_NE(parsed.error().message().find(part), std::string::npos) << parsed.error().message();
  }
}

}  // namespace
}  // namespace cachalot::api
