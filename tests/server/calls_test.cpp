// Calls under way: streams, clients that leave or do not read, the end of the server.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/json.h"
#include "server/small_server.h"

namespace cachalot::server::testing {
namespace {

constexpr std::string_view kStream = R"("stream":true)";
constexpr std::string_view kRunning = "cachalot_requests_running";
constexpr std::string_view kWaiting = "cachalot_requests_waiting";
constexpr std::string_view kCancelled = "cachalot_requests_cancelled_total";
constexpr std::string_view kCompletionTokens = "cachalot_completion_tokens_total";

// The text of a plain answer.
std::string text_of(const Response& response) {
  const Result<json::value> value = parse_json(response.body, "answer");
  if (response.status != 200 || !value) return "no answer: " + response.body;
  return std::string(value->at("choices").at(0).at("text").as_string());
}

// The text of a streamed one.
std::string streamed_text(const std::string& body) {
  std::string text;
  for (size_t at = 0; (at = body.find("data: {", at)) != std::string::npos; ++at) {
    const std::string line = body.substr(at + 6, body.find('\n', at) - at - 6);
    const Result<json::value> value = parse_json(line, "event");
    if (!value) return "no event: " + line;
    if (!value->at("choices").as_array().empty())
      text += value->at("choices").at(0).at("text").as_string();
  }
  return text;
}

TEST(Calls, AStreamHasTheTextOfThePlainAnswer) {
  const SmallServer server;
  const Response plain = post(server.port(), "/v1/completions", completion(20, 60));
  const Response streamed = post(server.port(), "/v1/completions", completion(20, 60, kStream));
  EXPECT_EQ(streamed.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(streamed.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(streamed.headers.at("transfer-encoding"), "chunked");
  EXPECT_TRUE(streamed.body.ends_with("data: [DONE]\n\n")) << streamed.body;
  EXPECT_EQ(streamed_text(streamed.body), text_of(plain));
  EXPECT_NE(text_of(plain), "");
}

TEST(Calls, AConnectionGoesOnAfterAStream) {
  const SmallServer server;
  RawClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send(post_bytes("/v1/completions", completion(5, 5, kStream))));
    EXPECT_TRUE(client.read().body.ends_with("data: [DONE]\n\n"));
  }
}

TEST(Calls, ManyAtOnceGetWhatEachGetsAlone) {
  const SmallServer server;
  constexpr int kClients = 64;
  const auto body = [](int i) {
    return completion(
        3 + i, 20 + i % 7,
        fmt::format(R"("seed":{},"temperature":0.9{})", i, i % 2 ? R"(,"stream":true)" : ""));
  };
  std::vector<std::string> alone;
  for (int i = 0; i < kClients; ++i)
    alone.push_back(post(server.port(), "/v1/completions", body(i)).body);
  std::vector<std::string> together(kClients);
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back(
        [&, i] { together[i] = post(server.port(), "/v1/completions", body(i)).body; });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kClients; ++i) {
    const auto text = [i](const std::string& answer) {
      return i % 2 ? streamed_text(answer)
                   : text_of({.status = 200, .headers = {}, .body = answer});
    };
    EXPECT_EQ(text(together[i]), text(alone[i])) << i;
  }
}

// A client that leaves: its request ends, and a neighbour's answer is what it is alone.
void expect_end_of(const SmallServer& server, std::unique_ptr<RawClient> client,
                   std::string_view state) {
  const double before = server.metric(kCancelled);
  client.reset();
  EXPECT_TRUE(server.comes_to(kCancelled, before + 1)) << state;
}

TEST(Calls, AClientThatLeavesEndsItsRequestInEveryState) {
  SmallServerOptions options;
  options.max_sequences = 2;
  options.context_tokens = 200000;
  const SmallServer server(std::move(options));
  const std::string expected = text_of(post(server.port(), "/v1/completions", completion(9, 400)));
  const auto begin = [&](std::string_view more, int64_t prompt_tokens) {
    auto client = std::make_unique<RawClient>(server.port());
    client->send(post_bytes("/v1/completions", completion(prompt_tokens, 100000, more)));
    return client;
  };
  std::string found;
  std::thread neighbour(
      [&] { found = text_of(post(server.port(), "/v1/completions", completion(9, 400))); });

  auto decoding = begin(kStream, 5);
  ASSERT_TRUE(decoding->read_some(30).starts_with("HTTP/1.1 200"));
  // Both places are taken, or soon free: these wait for one at some time.
  auto plain = begin("", 6);
  auto queued = begin(kStream, 7);
  auto queued_plain = begin("", 8);
  expect_end_of(server, std::move(queued), "queued");
  expect_end_of(server, std::move(queued_plain), "queued, plain");
  expect_end_of(server, std::move(decoding), "decoding");
  ASSERT_TRUE(server.comes_to(kWaiting, 0));
  expect_end_of(server, std::move(plain), "plain");
  neighbour.join();
  EXPECT_EQ(found, expected);

  auto prefilling = begin(kStream, 60000);
  ASSERT_TRUE(server.comes_to(kRunning, 1));
  expect_end_of(server, std::move(prefilling), "prefilling");
  EXPECT_TRUE(server.comes_to(kRunning, 0));
  EXPECT_EQ(server.metric(kWaiting), 0);
  EXPECT_EQ(text_of(post(server.port(), "/v1/completions", completion(9, 400))), expected);
}

TEST(Calls, AClientThatDoesNotReadIsCutOff) {
  SmallServerOptions options;
  options.context_tokens = 200000;
  options.server.max_untaken_events = 1000;
  const SmallServer server(std::move(options));
  RawClient sleeper(server.port(), 2048);
  sleeper.send(post_bytes("/v1/completions", completion(3, 100000, kStream)));
  ASSERT_TRUE(sleeper.read_some(30, 100).starts_with("HTTP/1.1 200"));
  EXPECT_EQ(post(server.port(), "/v1/completions", completion(3, 1)).status, 200);
  EXPECT_TRUE(server.comes_to(kCancelled, 1, 60));
  EXPECT_TRUE(server.comes_to(kRunning, 0));
}

TEST(Calls, AClientThatTakesNothingForLongIsCutOff) {
  SmallServerOptions options;
  options.context_tokens = 200000;
  options.server.http.write_stall_seconds = 0.2;
  options.server.max_untaken_events = 1000000;
  const SmallServer server(std::move(options));
  RawClient sleeper(server.port(), 2048);
  sleeper.send(post_bytes("/v1/completions", completion(3, 190000, kStream)));
  EXPECT_TRUE(server.comes_to(kCancelled, 1, 60));
}

TEST(Calls, SilenceIsFilledWithKeepAlives) {
  SmallServerOptions options;
  options.max_sequences = 1;
  options.context_tokens = 200000;
  options.server.keep_alive_seconds = 0.05;
  const SmallServer server(std::move(options));
  RawClient running(server.port());
  running.send(post_bytes("/v1/completions", completion(3, 100000, kStream)));
  ASSERT_TRUE(running.read_some(30).starts_with("HTTP/1.1 200"));
  // Queued: its head comes all the same, then comments.
  RawClient queued(server.port());
  queued.send(post_bytes("/v1/completions", completion(4, 3, kStream)));
  std::string begun;
  while (begun.find("\r\n: ") == std::string::npos) {
    const std::string piece = queued.read_some(30);
    ASSERT_NE(piece, "") << begun;
    begun += piece;
  }
  EXPECT_TRUE(begun.starts_with("HTTP/1.1 200"));
  EXPECT_EQ(begun.find("data:"), std::string::npos) << begun;
  running.close();
  std::string rest;
  while (!rest.ends_with("0\r\n\r\n")) {
    const std::string piece = queued.read_some(30);
    ASSERT_NE(piece, "") << rest;
    rest += piece;
  }
  EXPECT_NE(rest.find("data: [DONE]"), std::string::npos);
}

TEST(Calls, OneWithManyAnswersHoldsUpNobody) {
  SmallServerOptions options;
  options.max_sequences = 2;
  options.context_tokens = 200000;
  const SmallServer server(std::move(options));
  const std::string expected = text_of(post(server.port(), "/v1/completions", completion(9, 40)));
  RawClient running(server.port());
  running.send(post_bytes("/v1/completions", completion(3, 20000, R"("stream":true,"n":8)")));
  ASSERT_TRUE(running.read_some(30).starts_with("HTTP/1.1 200"));
  EXPECT_EQ(text_of(post(server.port(), "/v1/completions", completion(9, 40))), expected);
  EXPECT_EQ(server.metric(kRunning), 1);
  EXPECT_EQ(server.metric("cachalot_requests_finished_total"), 2);
}

TEST(Calls, TooManyRequestsAreToldToComeAgain) {
  SmallServerOptions options;
  options.max_sequences = 1;
  options.max_requests = 2;
  options.context_tokens = 200000;
  const SmallServer server(std::move(options));
  std::vector<std::unique_ptr<RawClient>> running;
  for (int i = 0; i < 2; ++i) {
    running.push_back(std::make_unique<RawClient>(server.port()));
    running.back()->send(post_bytes("/v1/completions", completion(3, 100000, kStream)));
    ASSERT_TRUE(running.back()->read_some(30).starts_with("HTTP/1.1 200"));
  }
  for (const std::string_view more : {std::string_view(), kStream}) {
    const Response refused = post(server.port(), "/v1/completions", completion(3, 1, more));
    EXPECT_EQ(refused.status, 429) << refused.body;
    EXPECT_NE(refused.body.find("\"error\""), std::string::npos);
  }
  running.clear();
  EXPECT_TRUE(server.comes_to(kRunning, 0));
  EXPECT_EQ(post(server.port(), "/v1/completions", completion(3, 1)).status, 200);
}

TEST(Calls, CountersAreTheSumOfUsage) {
  const SmallServer server;
  int64_t prompt = 0;
  int64_t completed = 0;
  int64_t cached = 0;
  for (int i = 0; i < 6; ++i) {
    const Response response =
        post(server.port(), "/v1/completions",
             completion(20 + 10 * (i % 3), 4 + i, i % 2 ? R"("n":3,"temperature":0.9)" : ""));
    ASSERT_EQ(response.status, 200) << response.body;
    const json::value usage = parse_json(response.body, "answer").value().at("usage");
    prompt += usage.at("prompt_tokens").to_number<int64_t>();
    completed += usage.at("completion_tokens").to_number<int64_t>();
    cached += usage.at("prompt_tokens_details").at("cached_tokens").to_number<int64_t>();
  }
  EXPECT_EQ(server.metric("cachalot_prompt_tokens_total"), static_cast<double>(prompt));
  EXPECT_EQ(server.metric(kCompletionTokens), static_cast<double>(completed));
  EXPECT_EQ(server.metric("cachalot_cached_prompt_tokens_total"), static_cast<double>(cached));
  EXPECT_GT(cached, 0);
  EXPECT_EQ(server.metric("cachalot_requests_finished_total"), 6);
  EXPECT_EQ(server.metric("cachalot_time_to_first_token_seconds_count"), 6);
  // Each answer's tokens but its first; an answer's last event may not be a token of the text.
  EXPECT_GT(server.metric("cachalot_time_between_tokens_seconds_count"), 0);
  EXPECT_GT(server.metric("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(server.metric(R"(cachalot_http_answers_total{status="200"})"), 6);
}

TEST(Calls, AdministratorsSeeAndEndSessions) {
  SmallServerOptions options;
  options.context_tokens = 200000;
  const SmallServer server(std::move(options));
  RawClient running(server.port());
  running.send(post_bytes("/v1/completions", completion(7, 100000, kStream)));
  const std::string begun = running.read_some(30);
  ASSERT_TRUE(begun.starts_with("HTTP/1.1 200"));
  const json::value sessions =
      parse_json(get(server.port(), "/admin/sessions").body, "sessions").value().at("sessions");
  ASSERT_EQ(sessions.as_array().size(), 1u);
  const json::value& one = sessions.at(0);
  const std::string id(one.at("id").as_string());
  EXPECT_NE(begun.find("x-request-id: " + id), std::string::npos);
  EXPECT_EQ(one.at("path").as_string(), "/v1/completions");
  EXPECT_EQ(one.at("prompt_tokens").to_number<int>(), 7);
  const auto end = [&](std::string_view which) {
    RawClient client(server.port());
    client.send(
        fmt::format("DELETE /admin/sessions/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", which));
    return client.read().status;
  };
  EXPECT_EQ(end("req_none"), 404);
  EXPECT_EQ(end(id), 200);
  // The stream ends whole, not torn.
  std::string rest;
  for (std::string piece; !rest.ends_with("0\r\n\r\n") && !(piece = running.read_some(30)).empty();)
    rest += piece;
  EXPECT_NE(rest.find("data: [DONE]"), std::string::npos);
  EXPECT_TRUE(server.comes_to(kRunning, 0));
}

TEST(Calls, TheCacheCanBeForgotten) {
  const SmallServer server;
  const auto cached = [&] {
    const Response response = post(server.port(), "/v1/completions", completion(100, 1));
    return parse_json(response.body, "answer")
        .value()
        .at("usage")
        .at("prompt_tokens_details")
        .at("cached_tokens")
        .to_number<int64_t>();
  };
  EXPECT_EQ(cached(), 0);
  EXPECT_GT(cached(), 0);
  const Response numbers = get(server.port(), "/admin/cache");
  EXPECT_GT(parse_json(numbers.body, "cache").value().at("hits").to_number<int>(), 0);
  EXPECT_EQ(post(server.port(), "/admin/cache/clear", "").status, 202);
  EXPECT_EQ(cached(), 0);
}

TEST(Calls, AServerThatStopsFinishesWhatItHasBegun) {
  SmallServerOptions options;
  options.context_tokens = 200000;
  options.server.drain_seconds = 60;
  SmallServer server(std::move(options));
  RawClient half(server.port());
  half.send("GET /health HT");
  RawClient running(server.port());
  running.send(post_bytes("/v1/completions", completion(3, 3000, kStream)));
  ASSERT_TRUE(running.read_some(30, 100).starts_with("HTTP/1.1 200"));
  RawClient idle(server.port());
  idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(idle.read().status, 200);
  EXPECT_EQ(post(server.port(), "/admin/drain", "").status, 202);
  EXPECT_TRUE(idle.is_closed_within(10));
  EXPECT_EQ(get(server.port(), "/health").status, 0);  // nobody listens
  std::string rest;
  for (std::string piece; !(piece = running.read_some(60)).empty();) rest += piece;
  EXPECT_NE(rest.find("data: [DONE]"), std::string::npos);
  EXPECT_NE(rest.find("\"length\""), std::string::npos);
  EXPECT_TRUE(server.ends_within(10));
}

TEST(Calls, AServerThatStopsDoesNotWaitForEver) {
  SmallServerOptions options;
  options.context_tokens = 200000;
  options.server.drain_seconds = 0.1;
  SmallServer server(std::move(options));
  RawClient streaming(server.port());
  streaming.send(post_bytes("/v1/completions", completion(3, 190000, kStream)));
  ASSERT_TRUE(streaming.read_some(30, 100).starts_with("HTTP/1.1 200"));
  server.server().stop();
  std::string rest;
  for (std::string piece; !(piece = streaming.read_some(60)).empty();) rest += piece;
  EXPECT_NE(rest.find("data: [DONE]"), std::string::npos);
  EXPECT_TRUE(server.ends_within(20));
  EXPECT_TRUE(server.stop().ok());
}

TEST(Calls, ANewServerTakesThePortAtOnce) {
  SmallServerOptions options;
  auto first = std::make_unique<SmallServer>(options);
  options.server.port = first->port();
  RawClient client(first->port());
  client.send(post_bytes("/v1/completions", completion(3, 2)));
  EXPECT_EQ(client.read().status, 200);
  first.reset();
  const SmallServer second(std::move(options));
  EXPECT_EQ(post(second.port(), "/v1/completions", completion(3, 2)).status, 200);
}

}  // namespace
}  // namespace cachalot::server::testing
