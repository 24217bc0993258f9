// /v1/completions: bodies in, bodies out, and whole calls on a tiny model.
#include "api/completions.h"

#include <gtest/gtest.h>

#include "api/api_testing.h"
#include "base/python_json.h"
#include "text/prompt_ids.h"

namespace cachalot::api {
namespace {

using testing::at;
using testing::events_of;
using testing::parsed;
using testing::text_at;
using testing::TinyServer;

TEST(Completions, AnswerWithTextAndUsage) {
  TinyServer server;
  const HttpAnswer answer =
      server.post("/v1/completions", R"({"model": "tiny", "prompt": "Once", "max_tokens": 5,
       "temperature": 0})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const json::value body = parsed(answer);
  EXPECT_EQ(text_at(body, "object"), "text_completion");
  EXPECT_EQ(text_at(body, "id"), "cmpl-1");
  EXPECT_EQ(text_at(body, "model"), "tiny");
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "length");
  EXPECT_FALSE(text_at(body, "choices/0/text").empty());
  const auto prompt = text::raw_prompt_ids(testing::nano_tokenizer(), 0, "Once");
  EXPECT_EQ(at(body, "usage/prompt_tokens"), json::value(prompt.size()));
  EXPECT_EQ(at(body, "usage/completion_tokens"), json::value(5));
  EXPECT_EQ(at(body, "usage/total_tokens"), json::value(prompt.size() + 5));
  EXPECT_EQ(at(body, "usage/prompt_tokens_details/cached_tokens"), json::value(0));
}

TEST(Completions, StreamWhatTheyAnswerWhole) {
  TinyServer server;
  const std::string rest =
      R"("prompt": ["Once", "Twice upon"], "max_tokens": 12, "n": 2, "seed": 3)";
  const json::value whole = parsed(server.post("/v1/completions", "{" + rest + "}"));
  const HttpAnswer stream = server.post(
      "/v1/completions",
      "{\"stream\": true, \"stream_options\": {\"include_usage\": true}, " + rest + "}");
  EXPECT_EQ(stream.content_type, "text/event-stream");
  auto events = events_of(stream.body);
  ASSERT_GT(events.size(), 5u);
  EXPECT_EQ(events.back().data, "[DONE]");
  const json::value last = events[events.size() - 2].json();
  EXPECT_TRUE(at(last, "choices").get_array().empty());
  EXPECT_EQ(at(last, "usage/completion_tokens"), at(whole, "usage/completion_tokens"));
  EXPECT_EQ(at(last, "usage/completion_tokens"), json::value(48));
  std::vector<std::string> texts(4), reasons(4);
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const json::value event = events[i].json();
    const auto index = static_cast<size_t>(at(event, "choices/0/index").as_int64());
    EXPECT_EQ(reasons[index], "");
    texts[index] += text_at(event, "choices/0/text");
    reasons[index] += text_at(event, "choices/0/finish_reason");
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(texts[i], text_at(whole, "choices/" + std::to_string(i) + "/text"));
    EXPECT_EQ(reasons[i], "length");
  }
  EXPECT_NE(texts[0], texts[1]);
}

// Breakage 37.
TEST(Completions, EchoTellsThePromptWithItsLogprobs) {
  TinyServer server;
  const json::value body = parsed(server.post(
      "/v1/completions",
      R"({"prompt": [0, 100, 200, 300], "echo": true, "logprobs": 1, "max_tokens": 1})"));
  const json::array tokens = at(body, "choices/0/logprobs/tokens").get_array();
  const json::array logprobs = at(body, "choices/0/logprobs/token_logprobs").get_array();
  const json::array tops = at(body, "choices/0/logprobs/top_logprobs").get_array();
  const json::array offsets = at(body, "choices/0/logprobs/text_offset").get_array();
  ASSERT_EQ(tokens.size(), 5u);
  ASSERT_EQ(logprobs.size(), 5u);
  ASSERT_EQ(tops.size(), 5u);
  ASSERT_EQ(offsets.size(), 5u);
  EXPECT_TRUE(logprobs[0].is_null());
  EXPECT_TRUE(tops[0].is_null());
  // What the text itself scores as a completion, token by token.
  for (size_t i = 1; i < 4; ++i) {
    double best = -1e9;
    for (const auto& [key, value] : tops[i].get_object()) best = std::max(best, value.as_double());
    EXPECT_LE(logprobs[i].as_double(), best);
    EXPECT_EQ(tops[i].get_object().at(std::string_view(tokens[i].get_string())), logprobs[i]);
  }
  const HttpAnswer stream =
      server.post("/v1/completions",
                  R"({"prompt": [0, 100, 200, 300], "echo": true, "logprobs": 1, "max_tokens": 1,
          "stream": true})");
  const json::value first = events_of(stream.body).at(0).json();
  EXPECT_EQ(at(first, "choices/0/logprobs"), at(body, "choices/0/logprobs"));
  EXPECT_EQ(at(first, "choices/0/text"), at(body, "choices/0/text"));
  // Without a token of its own.
  const json::value scored = parsed(server.post(
      "/v1/completions",
      R"({"prompt": [0, 100, 200, 300], "echo": true, "logprobs": 0, "max_tokens": 0})"));
  EXPECT_EQ(at(scored, "choices/0/logprobs/token_logprobs").get_array().size(), 4u);
  EXPECT_EQ(at(scored, "usage/completion_tokens"), json::value(0));
}

TEST(Completions, StopWhereAStringCrossesTokens) {
  TinyServer server;
  const std::string rest = R"("prompt": "Once", "max_tokens": 30, "seed": 5)";
  const std::string whole =
      text_at(parsed(server.post("/v1/completions", "{" + rest + "}")), "choices/0/text");
  ASSERT_GT(whole.size(), 12u);
  // Somewhere in the middle, at the borders of characters.
  size_t begin = whole.size() / 2, end = begin + 4;
  while ((static_cast<unsigned char>(whole[begin]) & 0xC0) == 0x80) ++begin;
  while (end < whole.size() && (static_cast<unsigned char>(whole[end]) & 0xC0) == 0x80) ++end;
  const std::string stop = whole.substr(begin, end - begin);
  const std::string body = "{" + rest + ", \"stop\": [" + json_quoted(stop) + "]}";
  const json::value stopped = parsed(server.post("/v1/completions", body));
  EXPECT_EQ(text_at(stopped, "choices/0/text"), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(text_at(stopped, "choices/0/finish_reason"), "stop");
  EXPECT_LT(at(stopped, "usage/completion_tokens").as_int64(), 30);
}

TEST(Completions, EndWhereTheContextDoes) {
  ServedModelOptions options = testing::served_options();
  options.context_tokens = 32;
  TinyServer server(std::move(options));
  const json::value body = parsed(server.post(
      "/v1/completions", R"({"prompt": "Once", "max_tokens": 1000, "ignore_eos": true})"));
  EXPECT_EQ(at(body, "usage/total_tokens"), json::value(32));
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "length");
}

TEST(Completions, RefuseByName) {
  const auto model = testing::served();
  const auto error = [&](std::string body) {
    Routed routed = route(testing::post("/v1/completions", std::move(body)), *model);
    if (!std::holds_alternative<HttpAnswer>(routed)) return std::string("a call");
    const HttpAnswer& answer = std::get<HttpAnswer>(routed);
    return std::to_string(answer.status) + " " + text_at(parsed(answer), "error/param") + " " +
           text_at(parsed(answer), "error/code");
  };
  EXPECT_EQ(error("{"), "400 body invalid_value");
  EXPECT_EQ(error("[]"), "400 body invalid_value");
  EXPECT_EQ(error("{}"), "400 prompt invalid_value");
  EXPECT_EQ(error(R"({"prompt": []})"), "400 prompt invalid_value");
  EXPECT_EQ(error(R"({"prompt": [4096]})"), "400 prompt invalid_value");
  EXPECT_EQ(error(R"({"prompt": "a", "model": "other"})"), "404 model model_not_found");
  EXPECT_EQ(error(R"({"prompt": "a", "n": 0})"), "400 n invalid_value");
  EXPECT_EQ(error(R"({"prompt": "a", "logit_bias": {"4096": 1}})"), "400 logit_bias invalid_value");
  EXPECT_EQ(error(R"({"prompt": "a", "best_of": 2})"), "400 best_of unsupported_value");
  EXPECT_EQ(error(R"({"prompt": "a", "prompt_embeds": "AA=="})"),
            "400 prompt_embeds unsupported_value");
  EXPECT_EQ(error(R"({"prompt": "a", "n_probs": 3})"), "400 n_probs unsupported_value");
  EXPECT_EQ(error(R"({"prompt": "a", "best_of": 1, "stop": null, "seed": null})"), "a call");
  EXPECT_EQ(error(R"b({"prompt": "a", "guided_regex": "(?=a)"})b"),
            "400 guided_regex unsupported_value");
  // Each answer holds its prompt.
  std::string many = "{\"n\": 64, \"prompt\": [\"a\"";
  std::string prompt = "7";
  for (int i = 0; i < 1100; ++i) prompt += ",7";
  for (int i = 0; i < 255; ++i) many += ", [" + prompt + "]";
  EXPECT_EQ(error(many + "]}"), "400 n invalid_value");
  // 12,000 tokens and more, of a context of 4,096.
  std::string longer = "{\"prompt\": \"";
  for (int i = 0; i < 6000; ++i) longer += "x 7 ";
  EXPECT_EQ(error(longer + "\"}"), "400 prompt context_length_exceeded");
}

// Breakage 38.
TEST(Completions, FillTheMiddleWhereTheTokenizerCan) {
  TinyServer server;
  const HttpAnswer answer = server.post(
      "/v1/completions", R"({"prompt": "def f(", "suffix": "return x", "max_tokens": 3})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto& tokenizer = testing::nano_tokenizer();
  const size_t parts = tokenizer.encode("def f(").size() + tokenizer.encode("return x").size();
  EXPECT_EQ(at(parsed(answer), "usage/prompt_tokens"), json::value(parts + 4));
}

TEST(Completions, KeepToAConstraint) {
  TinyServer server;
  const json::value body = parsed(server.post(
      "/v1/completions",
      R"({"prompt": "Yes or no?", "guided_choice": ["yes, indeed", "no"], "max_tokens": 40})"));
  const std::string text = text_at(body, "choices/0/text");
  EXPECT_TRUE(text == "yes, indeed" || text == "no") << text;
  EXPECT_EQ(text_at(body, "choices/0/finish_reason"), "stop");
  const json::value again = parsed(
      server.post("/v1/completions",
                  R"({"prompt": "A number:", "structured_outputs": {"regex": "[0-9]{4}-[a-f]{3}"},
          "min_tokens": 400, "max_tokens": 40})"));
  EXPECT_EQ(text_at(again, "choices/0/text").size(), 8u);
}

}  // namespace
}  // namespace cachalot::api
