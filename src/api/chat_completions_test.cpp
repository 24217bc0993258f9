// /v1/chat/completions: what is asked, what is refused, and how answers look, whole and streamed.
#include "api/chat_completions.h"

#include <gtest/gtest.h>

#include <set>

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
using testing::text_at;
using testing::TinyServer;

constexpr std::string_view kPath = "/v1/chat/completions";
constexpr std::string_view kTool =
    R"({"type": "function", "function": {"name": "get_weather", "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["city"]}}})";
constexpr std::string_view kCall =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
    "<｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

// A body of one user message and these fields.
HttpRequest chat(std::string_view fields = "") {
  std::string body = R"({"messages": [{"role": "user", "content": "Hello"}])";
  if (!fields.empty()) body += ", " + std::string(fields);
  return post(std::string(kPath), body + "}");
}
std::string with_tool(std::string_view fields = "") {
  std::string out = "\"tools\": [" + std::string(kTool) + "]";
  if (!fields.empty()) out += ", " + std::string(fields);
  return out;
}
constexpr std::string_view kNoThinking = R"("thinking": {"type": "disabled"})";

// "400 tools[0].function.name invalid_value", or "a call".
std::string error_of(const ServedModel& model, const HttpRequest& request) {
  Routed routed = route(request, model);
  if (!std::holds_alternative<HttpAnswer>(routed)) return "a call";
  const HttpAnswer& answer = std::get<HttpAnswer>(routed);
  return std::to_string(answer.status) + " " + text_at(parsed(answer), "error/param") + " " +
         text_at(parsed(answer), "error/code");
}

// What the deltas of one choice add up to.
struct Collected {
  std::string role, content, reasoning, finish;
  struct ToolCall {
    std::string id, name, arguments;
  };
  std::vector<ToolCall> calls;
  int num_finishes = 0;
};
Collected collect(std::string_view stream, int64_t index = 0) {
  Collected out;
  bool is_done = false;
  for (const testing::ServerEvent& event : events_of(stream)) {
    if (event.data == "[DONE]") {
      is_done = true;
      continue;
    }
    EXPECT_FALSE(is_done);
    const json::value chunk = event.json();
    for (const std::string_view key : {"id", "object", "created", "model", "choices"})
      EXPECT_TRUE(chunk.as_object().contains(key)) << event.data;
    if (at(chunk, "choices").get_array().empty()) continue;
    const json::object& choice = chunk.at("choices").at(0).as_object();
    if (choice.at("index") != json::value(index)) continue;
    EXPECT_EQ(out.finish, "") << "a chunk after the end";
    const json::value& finish = choice.at("finish_reason");
    EXPECT_TRUE(finish.is_null() || finish.is_string());
    const json::object& delta = choice.at("delta").as_object();
    out.role += text_at(delta, "role");
    out.content += text_at(delta, "content");
    out.reasoning += text_at(delta, "reasoning_content");
    EXPECT_EQ(text_at(delta, "reasoning"), text_at(delta, "reasoning_content"));
    if (finish.is_string()) {
      ++out.num_finishes;
      out.finish = std::string_view(finish.as_string());
      EXPECT_TRUE(delta.empty()) << event.data;
    }
    if (!delta.contains("tool_calls")) continue;
    EXPECT_FALSE(delta.at("tool_calls").as_array().empty());
    for (const json::value& call : delta.at("tool_calls").as_array()) {
      const auto place = static_cast<size_t>(call.at("index").as_int64());
      if (place == out.calls.size()) {
        EXPECT_EQ(text_at(call, "type"), "function");
        out.calls.push_back({text_at(call, "id"), text_at(call, "function/name"), ""});
      } else {
        EXPECT_FALSE(text_at(call, "function/arguments").empty()) << event.data;
      }
      out.calls.at(place).arguments += text_at(call, "function/arguments");
    }
  }
  EXPECT_TRUE(is_done);
  return out;
}

TEST(Chat, AnswersOnARandomModel) {
  TinyServer server;
  const HttpAnswer answer = server.run(chat(R"("max_tokens": 6, "temperature": 0)"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  const json::value body = parsed(answer);
  EXPECT_EQ(text_at(body, "object"), "chat.completion");
  EXPECT_EQ(text_at(body, "choices/0/message/role"), "assistant");
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "length");
  EXPECT_EQ(at(body, "usage/completion_tokens"), json::value(6));
  EXPECT_EQ(at(body, "usage/completion_tokens_details/reasoning_tokens"), json::value(6));
}

TEST(Chat, StreamsWhatItAnswersWhole) {
  TinyServer server;
  const std::string fields =
      R"("max_completion_tokens": 20, "n": 3, "seed": 11, "logprobs": true, "top_logprobs": 2)";
  const json::value whole = parsed(server.run(chat(fields)));
  const HttpAnswer stream =
      server.run(chat(fields + R"(, "stream": true, "stream_options": {"include_usage": true})"));
  json::array logprobs[3];
  for (const auto& event : events_of(stream.body)) {
    if (event.data == "[DONE]") continue;
    const json::value chunk = event.json();
    const json::value found = at(chunk, "choices/0/logprobs/content");
    if (!found.is_array()) continue;
    auto& list = logprobs[at(chunk, "choices/0/index").as_int64()];
    list.insert(list.end(), found.get_array().begin(), found.get_array().end());
  }
  for (int64_t i = 0; i < 3; ++i) {
    const std::string place = "choices/" + std::to_string(i);
    const Collected collected = collect(stream.body, i);
    EXPECT_EQ(collected.reasoning, text_at(whole, place + "/message/reasoning_content"));
    EXPECT_EQ(collected.content, text_at(whole, place + "/message/content"));
    EXPECT_EQ(collected.finish, text_at(whole, place + "/finish_reason"));
    EXPECT_EQ(json::value(logprobs[i]), at(whole, place + "/logprobs/content"));
    EXPECT_EQ(logprobs[i].size(), 20u);
  }
  // All choices count, once the prompt.
  EXPECT_EQ(at(whole, "usage/completion_tokens"), json::value(60));
  EXPECT_EQ(at(whole, "usage/prompt_tokens"),
            at(parsed(server.run(chat(R"("max_tokens": 1)"))), "usage/prompt_tokens"));
}

TEST(Chat, LogprobsAreTheModelsOwn) {
  TinyServer server;
  const json::value body = parsed(server.run(
      chat(R"("max_tokens": 5, "logprobs": true, "top_logprobs": 3, "temperature": 0)")));
  const json::array tokens = at(body, "choices/0/logprobs/content").get_array();
  ASSERT_EQ(tokens.size(), 5u);
  for (const json::value& token : tokens) {
    ASSERT_EQ(token.at("top_logprobs").as_array().size(), 3u);
    EXPECT_EQ(token.at("logprob"), token.at("top_logprobs").at(0).at("logprob"));
    EXPECT_LT(token.at("logprob").as_double(), 0);
    EXPECT_TRUE(token.at("bytes").is_array());
  }
}

TEST(Chat, ToolCallsAreWellFormedByConstruction) {
  TinyServer server;
  int num_calls = 0;
  for (int seed = 0; seed < 6; ++seed) {
    const std::string fields =
        with_tool(std::string(kNoThinking) + R"(, "tool_choice": "required", "max_tokens": 400,
                  "parallel_tool_calls": false, "temperature": 2, "seed": )" +
                  std::to_string(seed));
    const json::value body = parsed(server.run(chat(fields)));
    ASSERT_EQ(text_at(body, "choices/0/finish_reason"), "tool_calls") << seed;
    ASSERT_EQ(at(body, "choices/0/message/tool_calls").get_array().size(), 1u);
    EXPECT_EQ(text_at(body, "choices/0/message/tool_calls/0/function/name"), "get_weather");
    const auto arguments =
        parse_json(text_at(body, "choices/0/message/tool_calls/0/function/arguments"), "arguments");
    ASSERT_TRUE(arguments.has_value());
    EXPECT_TRUE(arguments->at("city") == "Rome" || arguments->at("city") == "Oslo");
    ++num_calls;
  }
  EXPECT_EQ(num_calls, 6);
}

TEST(Chat, ANamedToolIsCalledOnce) {
  TinyServer server;
  size_t most = 0;
  const auto num_calls = [&](int seed, const char* fields) {
    const json::value body = parsed(server.run(chat(
        with_tool(std::string(kNoThinking) +
                  R"(, "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
           "max_tokens": 600, "temperature": 1000, "seed": )" +
                  std::to_string(seed) + fields))));
    return at(body, "choices/0/message/tool_calls").get_array().size();
  };
  for (int seed = 0; seed < 8; ++seed) {
    EXPECT_EQ(num_calls(seed, ""), 1u);
    most = std::max(most, num_calls(seed, R"(, "parallel_tool_calls": true)"));
  }
  EXPECT_GT(most, 1u);
}

TEST(Chat, ToolChoiceNamesWhatMayBeCalled) {
  const auto model = testing::served();
  for (const char* choice : {R"({"type": "function", "function": {"name": "get_weather"}})",
                             R"({"type": "allowed_tools", "allowed_tools": {"mode": "required",
            "tools": [{"type": "function", "function": {"name": "get_weather"}}]}})",
                             R"({"type": "function", "name": "get_weather"})"}) {
    EXPECT_EQ(error_of(*model, chat(with_tool("\"tool_choice\": " + std::string(choice)))),
              "a call");
  }
  EXPECT_EQ(
      error_of(*model, chat(with_tool(
                           R"("tool_choice": {"type": "function", "function": {"name": "x"}})"))),
      "400 tool_choice invalid_value");
  EXPECT_EQ(error_of(*model, chat(with_tool(R"("tool_choice": "sometimes")"))),
            "400 tool_choice invalid_value");
  EXPECT_EQ(error_of(*model, chat(R"("tool_choice": "required")")),
            "400 tool_choice invalid_value");
}

TEST(Chat, StructuredAnswersFollowTheirSchema) {
  TinyServer server;
  const std::string schema =
      R"({"type": "object", "properties": {"ok": {"type": "boolean"},
          "size": {"enum": ["S", "M", "L"]}}, "required": ["ok", "size"],
          "additionalProperties": false})";
  const std::string format = R"("response_format": {"type": "json_schema", "json_schema":
      {"name": "x", "strict": true, "schema": )" +
                             schema + "}}";
  const json::value body =
      parsed(server.run(chat(std::string(kNoThinking) + ", \"max_tokens\": 300, " + format)));
  const auto answer = parse_json(text_at(body, "choices/0/message/content"), "answer");
  ASSERT_TRUE(answer.has_value()) << text_at(body, "choices/0/message/content");
  EXPECT_TRUE(answer->at("ok").is_bool());
  EXPECT_EQ(answer->as_object().size(), 2u);
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "stop");
  // The schema stands in the prompt, too.
  EXPECT_NE(prompt_of(server.model(), chat(format)).find("## Response Format"), std::string::npos);
  // Beside tools the answer is one or the other.
  const json::value both = parsed(
      server.run(chat(with_tool(std::string(kNoThinking) + ", \"max_tokens\": 400, " + format))));
  const bool has_calls = text_at(both, "choices/0/finish_reason") == "tool_calls";
  EXPECT_TRUE(has_calls ||
              parse_json(text_at(both, "choices/0/message/content"), "answer").has_value());
}

TEST(Chat, RefusesByName) {
  const auto model = testing::served();
  const auto error = [&](std::string_view fields) { return error_of(*model, chat(fields)); };
  EXPECT_EQ(error(R"("model": "gpt-4o")"), "404 model model_not_found");
  EXPECT_EQ(error(R"("n": 65)"), "400 n invalid_value");
  EXPECT_EQ(error(R"("n": "2")"), "400 n invalid_value");
  EXPECT_EQ(error(R"("temperature": -1)"), "400 temperature invalid_value");
  EXPECT_EQ(error(R"("top_logprobs": 3)"), "400 top_logprobs invalid_value");
  EXPECT_EQ(error(R"("logprobs": true, "top_logprobs": 21)"), "400 top_logprobs invalid_value");
  EXPECT_EQ(error(R"("reasoning_effort": "huge")"), "400 reasoning_effort invalid_value");
  EXPECT_EQ(error(R"("functions": [{"name": "f"}])"), "400 functions unsupported_value");
  EXPECT_EQ(error(R"("modalities": ["text", "audio"])"), "400 modalities invalid_value");
  EXPECT_EQ(error(R"("best_of": 3)"), "400 best_of unsupported_value");
  EXPECT_EQ(error(R"("prompt_logprobs": 0)"), "400 prompt_logprobs unsupported_value");
  EXPECT_EQ(error(R"("return_token_ids": true)"), "400 return_token_ids unsupported_value");
  EXPECT_EQ(error(R"("add_generation_prompt": false)"),
            "400 add_generation_prompt unsupported_value");
  EXPECT_EQ(error(R"("continue_final_message": true)"),
            "400 continue_final_message unsupported_value");
  EXPECT_EQ(error(R"("guided_regex": "a", "guided_choice": ["b"])"),
            "400 guided_choice invalid_value");
  EXPECT_EQ(error(R"("response_format": {"type": "xml"})"),
            "400 response_format.type invalid_value");
  EXPECT_EQ(error(R"("tools": [{"type": "function", "function": {}}])"),
            "400 tools[0].function.name invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), "{}")), "400 messages invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), R"({"messages": []})")),
            "400 messages invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), R"({"messages": [{"content": "x"}]})")),
            "400 messages[0].role invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath),
                                  R"({"messages": [{"role": "user", "content":
      [{"type": "image_url", "image_url": {"url": "data:x"}}]}]})")),
            "400 messages[0].content[0].type invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), "{\"messages\": \"\\ud800\"}")),
            "400 body invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), std::string(100000, '['))),
            "400 body invalid_value");
  EXPECT_EQ(error_of(*model, post(std::string(kPath), R"({"temperature": NaN})")),
            "400 body invalid_value");
}

TEST(Chat, EmptyAndNullAreAbsent) {
  const auto model = testing::served();
  const std::string plain = prompt_of(*model, chat());
  for (const char* fields :
       {R"("tools": [], "tool_choice": null, "response_format": null, "stop": null)",
        R"("stop": [], "logit_bias": {}, "max_tokens": null, "n": null, "stream_options": null)",
        R"("user": "u", "metadata": {"a": 1}, "store": true, "service_tier": "x", "seed": 3,
           "prompt_cache_key": "k", "prediction": {}, "verbosity": "low", "cache_salt": "s",
           "chat_template_kwargs": {}, "reasoning": {}, "grammar": "", "guided_json": null)",
        R"("echo": false, "top_n_sigma": -1, "typical_p": 1, "mirostat": 0, "best_of": 1,
           "add_generation_prompt": true, "continue_final_message": false)"}) {
    EXPECT_EQ(prompt_of(*model, chat(fields)), plain) << fields;
  }
}

TEST(Chat, ThinkingUnderEveryName) {
  const auto model = testing::served();
  const auto thinks = [&](std::string_view fields) {
    return prompt_of(*model, chat(fields)).ends_with("<think>");
  };
  EXPECT_TRUE(thinks(""));
  for (const char* off :
       {R"("thinking": {"type": "disabled"})", R"("reasoning_effort": "none")",
        R"("chat_template_kwargs": {"thinking": false})",
        R"("chat_template_kwargs": {"enable_thinking": false})", R"("enable_thinking": false)",
        R"("reasoning": {"effort": "none"})", R"("reasoning": {"enabled": false})",
        R"("think": false)", R"("model": "deepseek-chat")", R"("model": "tiny:no-thinking")"}) {
    EXPECT_FALSE(thinks(off)) << off;
  }
  EXPECT_TRUE(thinks(R"("model": "tiny:no-thinking", "reasoning_effort": "high")"));
  EXPECT_TRUE(thinks(R"("thinking": {"type": "adaptive"}, "reasoning_effort": "low")"));
  EXPECT_FALSE(thinks(R"("thinking": {"type": "enabled"}, "reasoning_effort": "none")"));
  EXPECT_NE(prompt_of(*model, chat(R"("reasoning_effort": "max")")).find("Absolute maximum"),
            std::string::npos);
}

TEST(Chat, StopsInContentAndNowhereElse) {
  const auto model = testing::served();
  const HttpAnswer answer =
      play(*model, chat(R"("stop": ["END"])"), "think END</think>before ENDafter");
  const json::value body = parsed(answer);
  EXPECT_EQ(text_at(body, "choices/0/message/reasoning_content"), "think END");
  EXPECT_EQ(text_at(body, "choices/0/message/content"), "before ");
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "stop");
}

TEST(Chat, ContinuesAnAssistantMessage) {
  const auto model = testing::served();
  const std::string prompt =
      prompt_of(*model, post(std::string(kPath), R"({"messages": [{"role": "user", "content": "A"},
      {"role": "assistant", "content": "Roses are"}], "thinking": {"type": "disabled"},
      "add_generation_prompt": false, "continue_final_message": true})"));
  EXPECT_TRUE(prompt.ends_with("</think>Roses are")) << prompt;
}

TEST(Chat, QuickInstructionsEndInTheirToken) {
  const auto model = testing::served();
  EXPECT_TRUE(prompt_of(*model, post(std::string(kPath), R"({"messages": [{"role": "user",
      "content": "Hot springs?", "task": "action"}], "thinking": {"type": "disabled"}})"))
                  .ends_with("</think><｜action｜>"));
}

TEST(Chat, WithToolsEveryTurnIsAPrefixOfTheNext) {
  const auto model = testing::served();
  const auto turns = [&](std::string_view fields) {
    const std::string first = prompt_of(*model, chat(fields));
    const std::string second = prompt_of(
        *model, post(std::string(kPath), R"({"messages": [{"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "B", "reasoning": "why"},
            {"role": "user", "content": "C"}], )" +
                                             std::string(fields) + "}"));
    return second.starts_with(first + "why</think>B");
  };
  EXPECT_TRUE(turns(with_tool()));
  EXPECT_FALSE(turns(R"("max_tokens": 5)"));
}

TEST(Chat, AModeChangesThePromptAndNothingElse) {
  const auto model = testing::served();
  const std::string thinking = prompt_of(*model, chat());
  const std::string plain = prompt_of(*model, chat(kNoThinking));
  EXPECT_EQ(thinking.substr(0, thinking.size() - 7), plain.substr(0, plain.size() - 8));
  EXPECT_TRUE(thinking.ends_with("<think>"));
  EXPECT_TRUE(plain.ends_with("</think>"));
  // Without thinking nothing is reasoning; thinking that does not end is no answer.
  TinyServer server;
  const json::value short_one = parsed(
      server.run(chat(std::string(kNoThinking) + R"(, "max_tokens": 30, "temperature": 2)")));
  EXPECT_FALSE(at(short_one, "choices/0/message").as_object().contains("reasoning_content"));
  EXPECT_EQ(at(short_one, "usage/completion_tokens_details/reasoning_tokens"), json::value(0));
  const json::value unended = parsed(play(*model, chat(), "and on and on"));
  EXPECT_EQ(text_at(unended, "choices/0/message/content"), "");
  EXPECT_EQ(text_at(unended, "choices/0/message/reasoning_content"), "and on and on");
}

TEST(Chat, ACacheSaltKeepsPromptsApart) {
  TinyServer server;
  const auto answer = [&](std::string_view salt) {
    std::string fields = R"("max_tokens": 12, "seed": 4, "logprobs": true, "top_logprobs": 3)";
    if (!salt.empty()) fields += ", \"cache_salt\": \"" + std::string(salt) + "\"";
    return parsed(server.run(chat(with_tool(fields))));
  };
  const auto cached = [](const json::value& body) {
    return at(body, "usage/prompt_tokens_details/cached_tokens").as_int64();
  };
  const json::value first = answer("a");
  EXPECT_EQ(cached(first), 0);
  EXPECT_EQ(cached(answer("b")), 0);
  EXPECT_EQ(cached(answer("")), 0);
  const json::value again = answer("a");
  EXPECT_GT(cached(again), 100);
  EXPECT_GT(cached(answer("")), 100);
  // From the cache come the bits that come without it.
  EXPECT_EQ(at(again, "choices"), at(first, "choices"));
  const auto model = testing::served();
  EXPECT_EQ(error_of(*model, chat("\"cache_salt\": \"" + std::string(1025, 's') + "\"")),
            "400 cache_salt invalid_value");
}

TEST(Chat, QuickTasksLeaveTheMainAnswerAsItIs) {
  const std::string fields = R"("max_tokens": 20, "seed": 4)";
  TinyServer alone, with_tasks;
  const std::string expected =
      text_at(parsed(alone.run(chat(fields))), "choices/0/message/reasoning_content");
  for (const char* task : {"action", "query", "domain"}) {
    const HttpAnswer answer = with_tasks.run(
        post(std::string(kPath), R"({"messages": [{"role": "user", "content": "Hello", "task": ")" +
                                     std::string(task) + R"("}], "max_tokens": 3})"));
    ASSERT_EQ(answer.status, 200) << answer.body;
  }
  EXPECT_EQ(text_at(parsed(with_tasks.run(chat(fields))), "choices/0/message/reasoning_content"),
            expected);
}

TEST(Chat, OverflowSpeaksTheWordsThatClientsKnow) {
  const auto model = testing::served();
  std::string text;
  for (int i = 0; i < 6000; ++i) text += "x 7 ";
  Routed routed = route(
      post(std::string(kPath), R"({"messages": [{"role": "user", "content": ")" + text + "\"}]}"),
      *model);
  const HttpAnswer& answer = std::get<HttpAnswer>(routed);
  EXPECT_EQ(answer.status, 400);
  const json::value body = parsed(answer);
  EXPECT_EQ(text_at(body, "error/code"), "context_length_exceeded");
  EXPECT_NE(text_at(body, "error/message").find("maximum context length is 4096 tokens"),
            std::string::npos);
  EXPECT_NE(text_at(body, "error/message").find("resulted in "), std::string::npos);
}

// The rows of the list of what breaks clients on local servers, by their numbers.

TEST(Breakage, Row01HostedToolTypesAreAcceptedAndNamed) {
  const auto model = testing::served();
  const HttpAnswer answer =
      play(*model,
           chat("\"tools\": [{\"type\": \"web_search\"}, {\"type\": \"local_shell\"}, "
                "{\"type\": \"custom\", \"custom\": {\"name\": \"patch\"}}, " +
                std::string(kTool) + "]"),
           "hm</think>Hi");
  ASSERT_EQ(answer.status, 200) << answer.body;
  ASSERT_EQ(answer.headers.size(), 1u);
  EXPECT_EQ(answer.headers[0].value, "web_search, local_shell");
}

TEST(Breakage, Row15And16And17ReasoningUnderBothNamesBothWays) {
  const auto model = testing::served();
  const HttpAnswer stream = play(*model, chat("\"stream\": true"), "first\n\nsecond</think>Hi");
  const Collected collected = collect(stream.body);
  EXPECT_EQ(collected.reasoning, "first\n\nsecond");
  EXPECT_EQ(collected.content, "Hi");
  const json::value whole = parsed(play(*model, chat(), "why</think>Hi"));
  EXPECT_EQ(text_at(whole, "choices/0/message/reasoning_content"), "why");
  EXPECT_EQ(text_at(whole, "choices/0/message/reasoning"), "why");
  for (const char* field :
       {R"("reasoning_content": "why")", R"("reasoning": "why")", R"("reasoning_text": "why")",
        R"("thinking": "why")",
        R"("reasoning_details": [{"type": "reasoning.text", "text": "why"}])"}) {
    const std::string prompt = prompt_of(
        *model, post(std::string(kPath), R"({"messages": [{"role": "user", "content": "A"},
        {"role": "assistant", "content": "B", )" +
                                             std::string(field) +
                                             R"(}, {"role": "user", "content": "C"}], "tools": [)" +
                                             std::string(kTool) + "]}"));
    EXPECT_NE(prompt.find("<think>why</think>B"), std::string::npos) << field;
  }
}

TEST(Breakage, Row18And19FinishReasonOnceForEveryChoice) {
  const auto model = testing::served();
  const Collected call = collect(
      play(*model, chat(with_tool("\"stream\": true")), "t</think>" + std::string(kCall)).body);
  EXPECT_EQ(call.finish, "tool_calls");
  EXPECT_EQ(call.num_finishes, 1);
  TinyServer server;
  const HttpAnswer stream = server.run(chat(R"("stream": true, "n": 3, "max_tokens": 4)"));
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(collect(stream.body, i).num_finishes, 1);
}

TEST(Breakage, Row20And23FinishReasonIsNullUntilItIsThere) {
  const auto model = testing::served();
  const HttpAnswer stream = play(*model, chat("\"stream\": true"), "t</think>Hi there");
  for (const auto& event : events_of(stream.body)) {
    if (event.data == "[DONE]") continue;
    const json::object choice = at(event.json(), "choices/0").as_object();
    ASSERT_TRUE(choice.contains("finish_reason"));
    EXPECT_TRUE(choice.at("finish_reason").is_null() || choice.at("finish_reason") == "stop");
  }
  EXPECT_EQ(collect(stream.body).finish, "stop");
}

TEST(Breakage, Row21ACallThatTheLimitCutsEndsAsLength) {
  const auto model = testing::served();
  const std::string text = "t</think>" + std::string(kCall);
  for (size_t size = text.find("city"); size + 30 < text.size(); size += 7) {
    std::string cut = text.substr(0, size);
    while (!cut.empty() && (static_cast<unsigned char>(text[cut.size()]) & 0xC0) == 0x80)
      cut.pop_back();
    const json::value whole = parsed(play(*model, chat(with_tool()), cut, engine::Finish::length));
    EXPECT_EQ(text_at(whole, "choices/0/finish_reason"), "length") << cut;
    EXPECT_FALSE(at(whole, "choices/0/message").as_object().contains("tool_calls"));
    EXPECT_EQ(text_at(whole, "choices/0/message/content").find("DSML"), std::string::npos);
    const Collected stream = collect(
        play(*model, chat(with_tool("\"stream\": true")), cut, engine::Finish::length).body);
    EXPECT_EQ(stream.finish, "length");
    EXPECT_EQ(stream.content.find("DSML"), std::string::npos);
  }
}

TEST(Breakage, Row22NoContentInTheChunkThatEnds) {
  const auto model = testing::served();
  // collect() checks that the last delta is empty.
  EXPECT_EQ(collect(play(*model, chat("\"stream\": true"), "t</think>Hi").body).content, "Hi");
}

TEST(Breakage, Row24And25And26ArgumentsArriveWholeAndIndexed) {
  const auto model = testing::served();
  const std::string two =
      "t</think>Both.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
      "<｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"get_weather\">\n"
      "<｜DSML｜parameter name=\"city\" string=\"true\">a \"quoted\" é\n</b></｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  const Collected stream = collect(play(*model, chat(with_tool("\"stream\": true")), two).body);
  ASSERT_EQ(stream.calls.size(), 2u);
  EXPECT_EQ(stream.content, "Both.");
  EXPECT_EQ(stream.calls[0].arguments, R"({"city": "Rome", "days": 3})");
  EXPECT_EQ(stream.calls[1].arguments, R"({"city": "a \"quoted\" é\n</b>"})");
  const json::value whole = parsed(play(*model, chat(with_tool()), two));
  EXPECT_EQ(text_at(whole, "choices/0/message/tool_calls/1/function/arguments"),
            stream.calls[1].arguments);
  // Two ids, never the same.
  EXPECT_NE(stream.calls[0].id, stream.calls[1].id);
}

TEST(Breakage, Row27NoMarkupInContentOrArguments) {
  const auto model = testing::served();
  const std::string text = "t</think>Let me see." + std::string(kCall);
  for (const char* fields : {"", R"(, "tool_choice": "auto")"}) {
    const std::string all = "\"stream\": true" + std::string(fields);
    const Collected stream = collect(play(*model, chat(with_tool(all)), text).body);
    EXPECT_EQ(stream.content, "Let me see.");
    EXPECT_EQ(stream.calls.at(0).arguments, R"({"city": "Rome"})");
  }
  // Where none may be called the grammar has no markup.
  TinyServer server;
  for (int seed = 0; seed < 4; ++seed) {
    const json::value body = parsed(server.run(
        chat(with_tool(std::string(kNoThinking) +
                       R"(, "tool_choice": "none", "max_tokens": 200, "temperature": 3, "seed": )" +
                       std::to_string(seed)))));
    EXPECT_EQ(text_at(body, "choices/0/message/content").find("｜DSML｜"), std::string::npos);
    EXPECT_FALSE(at(body, "choices/0/message").as_object().contains("tool_calls"));
  }
}

TEST(Breakage, Row28And29JsonIsBoundAfterThinkingWhichStays) {
  TinyServer server;
  const std::string fields =
      R"("response_format": {"type": "json_object"}, "max_tokens": 60, "temperature": 1.5)";
  const json::value body = parsed(server.run(chat(fields)));
  // A random model rarely ends its thoughts: whatever came is one or the other.
  const std::string content = text_at(body, "choices/0/message/content");
  EXPECT_TRUE(content.empty() || content.front() == '{' || content.front() == '\n' ||
              content.front() == ' ');
  EXPECT_FALSE(text_at(body, "choices/0/message/reasoning_content").empty());
  EXPECT_TRUE(prompt_of(server.model(), chat(fields)).ends_with("<think>"));
}

TEST(Breakage, Row30And31UsageInStreams) {
  const auto model = testing::served();
  const auto asked =
      events_of(play(*model, chat(R"("stream": true, "stream_options": {"include_usage": true})"),
                     "t</think>Hi", engine::Finish::stop, 2)
                    .body);
  const json::value last = asked[asked.size() - 2].json();
  EXPECT_TRUE(at(last, "choices").get_array().empty());
  EXPECT_EQ(at(last, "usage/prompt_tokens_details/cached_tokens"), json::value(2));
  EXPECT_EQ(at(last, "usage/prompt_cache_hit_tokens"), json::value(2));
  const auto num_tokens =
      static_cast<int64_t>(testing::nano_tokenizer().encode("t</think>Hi").size());
  EXPECT_EQ(at(last, "usage/completion_tokens"), json::value(num_tokens));
  EXPECT_EQ(at(last, "usage/completion_tokens_details/reasoning_tokens"), json::value(1));
  const auto not_asked = events_of(play(*model, chat("\"stream\": true"), "t</think>Hi").body);
  EXPECT_EQ(at(not_asked[not_asked.size() - 2].json(), "usage/completion_tokens"),
            json::value(num_tokens));
}

TEST(Breakage, Row40RequiredKeysAreThere) {
  const auto model = testing::served();
  const json::object body = parsed(play(*model, chat(), "t</think>Hi")).as_object();
  for (const char* key : {"id", "object", "created", "model", "choices", "usage"})
    EXPECT_TRUE(body.contains(key)) << key;
}

TEST(Breakage, Row41EmptyToolsChangeNothing) {
  const auto model = testing::served();
  EXPECT_EQ(prompt_of(*model, chat("\"tools\": []")), prompt_of(*model, chat()));
}

TEST(Breakage, Row42BadSchemasAndPatternsAre400) {
  const auto model = testing::served();
  const auto schema = [&](std::string_view text) {
    return error_of(*model, chat(R"("response_format": {"type": "json_schema", "json_schema":
        {"name": "x", "schema": )" +
                                 std::string(text) + "}}"));
  };
  const std::string place = "400 response_format.json_schema.schema ";
  EXPECT_EQ(schema(R"({"type": "integer", "multipleOf": 3})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"type": "array", "uniqueItems": true})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"not": {"type": "null"}})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"type": "object", "minProperties": 2})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"if": {}, "then": {}})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"type": "number", "minimum": 2})"), place + "unsupported_value");
  EXPECT_EQ(schema(R"({"type": 7})"), place + "invalid_value");
  EXPECT_EQ(schema(R"("{")"), place + "invalid_value");
  EXPECT_EQ(error_of(*model, chat(R"("guided_regex": "(")")), "400 guided_regex invalid_value");
  EXPECT_EQ(error_of(*model, chat(R"("grammar": "root ::= root")")), "400 grammar invalid_value");
}

TEST(Breakage, Row43ANameThatDoesNotThink) {
  const auto model = testing::served();
  const json::value body = parsed(play(*model, chat(R"("model": "tiny:no-thinking")"), "A title"));
  EXPECT_EQ(text_at(body, "choices/0/message/content"), "A title");
  EXPECT_FALSE(at(body, "choices/0/message").as_object().contains("reasoning_content"));
}

TEST(Breakage, Row44WhatDoesNotParseIsTheAnswersText) {
  const auto model = testing::served();
  const HttpAnswer answer = play(
      *model, chat(with_tool()),
      "t</think>Odd <｜DSML｜parameter name=\"x\"> </｜DSML｜tool_calls> <｜DSML｜invoke \xff\xfe");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(text_at(parsed(answer), "choices/0/finish_reason"), "stop");
}

}  // namespace
}  // namespace cachalot::api
