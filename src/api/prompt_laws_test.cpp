// The format's laws, seen through calls: released prompts byte for byte, calls that come back as
// what they were, results in the order of their calls.
// Source  reference/post-training 3, 5.3: E2, T1, T4.
#include <gtest/gtest.h>

#include "api/api_testing.h"
#include "base/file.h"
#include "base/python_json.h"
#include "text/chat_literals.h"

namespace cachalot::api {
namespace {

using testing::at;
using testing::parsed;
using testing::play;
using testing::post;
using testing::prompt_of;
using testing::text_at;

HttpRequest chat(const json::object& body) {
  return post("/v1/chat/completions", python_json(json::value(body)));
}
std::string read(const std::string& name) {
  return read_text_file(test_data("chat/" + name)).value();
}

// Each ends with an answer: as a prompt, one that goes on.
TEST(PromptLaws, ReleasedCasesAreReproducedByteForByte) {
  const auto model = testing::served();
  for (const int number : {1, 2}) {
    const std::string name = std::to_string(number);
    const json::value input = parse_json(read("test_input_" + name + ".json"), "case").value();
    const json::object body =
        input.is_object() ? input.as_object() : json::object{{"messages", input}};
    EXPECT_EQ(prompt_of(*model, chat(body)) + std::string(text::kEos),
              read("test_output_" + name + ".txt"))
        << number;
  }
}

json::array tools() {
  return parse_json(R"([{"type": "function", "function": {"name": "f", "parameters":
      {"type": "object", "properties": {"s": {"type": "string"}}}}},
      {"type": "function", "function": {"name": "g"}}])",
                    "tools")
      .value()
      .as_array();
}
json::object call(std::string_view id, std::string_view name, const std::string& arguments) {
  return {{"id", id},
          {"type", "function"},
          {"function", json::object{{"name", name}, {"arguments", arguments}}}};
}
json::object result(std::string_view id, std::string_view text) {
  return {{"role", "tool"}, {"tool_call_id", id}, {"content", text}};
}
json::object conversation(json::array messages) {
  messages.insert(messages.begin(), json::object{{"role", "user"}, {"content", "Go"}});
  return {{"tools", tools()}, {"messages", std::move(messages)}};
}

TEST(PromptLaws, CallsComeBackAsWhatTheyWere) {
  const auto model = testing::served();
  const std::string asked = prompt_of(*model, chat(conversation({})));
  for (const char* arguments :
       {R"({"s": "plain"})", R"({"s": ""})", R"({})", R"({"s": " \"quotes\" \\ and 'others' "})",
        R"({"s": "lines\n\r\n\tand </parameter> < > & &lt; 水 🙂"})",
        R"({"s": "{\"a\": [1, null]}"})",
        R"({"s": "x", "n": -1.5, "b": true, "z": null, "l": [1, "2", {"k": []}], "o": {}})",
        R"({"s": "true", "t": "12", "u": "null"})"}) {
    const std::string prompt = prompt_of(
        *model,
        chat(conversation({json::object{{"role", "assistant"},
                                        {"reasoning_content", "Why"},
                                        {"tool_calls", json::array{call("1", "f", arguments)}}},
                           result("1", "R")})));
    // What the model wrote, as the prompt tells it again.
    ASSERT_TRUE(prompt.starts_with(asked)) << arguments;
    const std::string written =
        prompt.substr(asked.size(), prompt.find(text::kEos, asked.size()) - asked.size());
    const json::value answer = parsed(play(*model, chat(conversation({})), written));
    EXPECT_EQ(text_at(answer, "choices/0/finish_reason"), "tool_calls") << written;
    json::value message = at(answer, "choices/0/message");
    const std::string id = text_at(message, "tool_calls/0/id");
    EXPECT_EQ(prompt_of(*model, chat(conversation({message, result(id, "R")}))), prompt)
        << arguments;
  }
}

TEST(PromptLaws, ResultsStandInTheOrderOfTheirCalls) {
  const auto model = testing::served();
  const json::object calls = {{"role", "assistant"},
                              {"tool_calls", json::array{call("a", "f", "{}"), call("b", "g", "{}"),
                                                         call("c", "f", "{}")}}};
  const std::string expected = prompt_of(
      *model, chat(conversation({calls, result("a", "#1"), result("b", "#2"), result("c", "#3")})));
  EXPECT_LT(expected.find("#1"), expected.find("#2"));
  EXPECT_EQ(prompt_of(*model, chat(conversation({calls, result("c", "#3"), result("a", "#1"),
                                                 result("b", "#2")}))),
            expected);
}

}  // namespace
}  // namespace cachalot::api
