// Paths, models, tokens: what is no answer of the model's.
#include "api/router.h"

#include <gtest/gtest.h>

#include "api/api_testing.h"
#include "api/error.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using testing::at;
using testing::get;
using testing::parsed;
using testing::post;
using testing::text_at;
using testing::TinyServer;

HttpAnswer answer_of(const ServedModel& model, const HttpRequest& request) {
  Routed routed = route(request, model);
  EXPECT_TRUE(std::holds_alternative<HttpAnswer>(routed)) << request.target;
  return std::get<HttpAnswer>(std::move(routed));
}

TEST(Router, TakesPathsWithAndWithoutTheVersion) {
  const auto model = testing::served();
  for (const char* path : {"/v1/models", "/models", "/models/", "/v1/models?api-version=2"})
    EXPECT_EQ(answer_of(*model, get(path)).status, 200) << path;
  EXPECT_EQ(answer_of(*model, get("/v1/chat/completions")).status, 405);
  EXPECT_EQ(answer_of(*model, get("/v1/chat/completions")).headers.at(0).value, "POST");
  EXPECT_EQ(answer_of(*model, post("/v1/messages/nothing", "{}")).status, 404);
  EXPECT_EQ(text_at(parsed(answer_of(*model, post("/v1/messages/nothing", "{}"))), "type"),
            "error");
  EXPECT_EQ(answer_of(*model, post("/v1/embeddings", "{}")).status, 404);
}

TEST(Models, InBothShapes) {
  const auto model = testing::served();
  const json::value openai = parsed(answer_of(*model, get("/v1/models")));
  EXPECT_EQ(text_at(openai, "object"), "list");
  EXPECT_EQ(text_at(openai, "data/0/id"), "tiny");
  EXPECT_EQ(text_at(openai, "data/1/id"), "tiny:no-thinking");
  EXPECT_EQ(at(openai, "data/0/max_model_len"), json::value(4096));
  HttpRequest request = get("/v1/models");
  request.headers.push_back({"Anthropic-Version", "2023-06-01"});
  const json::value anthropic = parsed(answer_of(*model, request));
  EXPECT_EQ(text_at(anthropic, "data/0/type"), "model");
  EXPECT_EQ(text_at(anthropic, "data/0/created_at"), "2026-02-02T02:40:00Z");
  EXPECT_EQ(text_at(anthropic, "first_id"), "tiny");
  EXPECT_EQ(text_at(parsed(answer_of(*model, get("/v1/models/tiny%3Ano-thinking"))), "id"),
            "tiny:no-thinking");
  const HttpAnswer unknown = answer_of(*model, get("/v1/models/other%ff"));
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(text_at(parsed(unknown), "error/code"), "model_not_found");
}

TEST(Errors, AnthropicsHaveTheRequestsId) {
  const Status wrong = invalid_argument("max_tokens: expected 1, found 0");
  for (const ErrorShape shape : {ErrorShape::openai, ErrorShape::anthropic}) {
    HttpAnswer answer = error_answer(wrong, shape);
    add_request_id(answer, "req_1", shape);
    EXPECT_EQ(text_at(parsed(answer), "request_id"), shape == ErrorShape::anthropic ? "req_1" : "");
    EXPECT_EQ(text_at(parsed(answer), "error/message"), wrong.message());
  }
  HttpAnswer good;
  good.body = "{}";
  add_request_id(good, "req_1", ErrorShape::anthropic);
  EXPECT_EQ(good.body, "{}");
}

TEST(Breakage, Row07ProbesOfOtherServersGetWords) {
  const auto model = testing::served();
  for (const HttpRequest& request : {get("/api/tags"), post("/api/pull", "{}")}) {
    const HttpAnswer answer = answer_of(*model, request);
    EXPECT_EQ(answer.status, 404);
    EXPECT_NE(text_at(parsed(answer), "error/message").find("\"tiny\""), std::string::npos);
  }
}

TEST(Tokenize, IsThePromptOfTheSameCall) {
  TinyServer server;
  const std::string chat =
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
          "tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1})";
  const json::value tokens = parsed(server.post("/tokenize", chat));
  const json::value answer = parsed(server.post("/v1/chat/completions", chat));
  EXPECT_EQ(at(tokens, "count"), at(answer, "usage/prompt_tokens"));
  EXPECT_EQ(at(tokens, "tokens").get_array().size(),
            static_cast<size_t>(at(tokens, "count").as_int64()));
  const std::string raw = R"({"prompt": "Hi there", "max_tokens": 1, "return_token_strs": true})";
  const json::value raw_tokens = parsed(server.post("/v1/tokenize", raw));
  EXPECT_EQ(at(raw_tokens, "count"),
            at(parsed(server.post("/v1/completions", raw)), "usage/prompt_tokens"));
  EXPECT_EQ(at(raw_tokens, "token_strs").get_array().size(),
            at(raw_tokens, "tokens").get_array().size());
}

TEST(Tokenize, GoesBackInBothForms) {
  const auto model = testing::served();
  const std::string text = "Hello <think> 🙂";
  const json::value tokens =
      parsed(answer_of(*model, post("/tokenize", "{\"content\": " + json_quoted(text) + "}")));
  const json::value back = parsed(answer_of(
      *model, post("/detokenize", "{\"tokens\": " + python_json(at(tokens, "tokens")) + "}")));
  EXPECT_EQ(text_at(back, "prompt"), text);
  EXPECT_EQ(text_at(back, "content"), text);
  const json::value pieces =
      parsed(answer_of(*model, post("/tokenize", R"({"content": "<think>", "with_pieces": true,
                                    "parse_special": false})")));
  EXPECT_GT(at(pieces, "tokens").get_array().size(), 1u);
  EXPECT_EQ(answer_of(*model, post("/detokenize", R"({"tokens": [99999]})")).status, 400);
  EXPECT_EQ(answer_of(*model, post("/tokenize", "{}")).status, 400);
}

}  // namespace
}  // namespace cachalot::api
