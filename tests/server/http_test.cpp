// What the server does with HTTP, whole and broken.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/json.h"
#include "server/small_server.h"

namespace cachalot::server::testing {
namespace {

const SmallServer& shared_server() {
  static const SmallServer server;
  return server;
}

std::string error_of(const Response& response) {
  const Result<json::value> value = parse_json(response.body, "answer");
  if (!value || !value->is_object() || !value->get_object().contains("error")) return "";
  return std::string(value->at("error").at("message").as_string());
}

// All of the head, and not all of the body.
std::string half_of(const std::string& request) { return request.substr(0, request.size() - 20); }

TEST(Http, AnswersOneRequestAfterAnotherOnAConnection) {
  RawClient client(shared_server().port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    const Response response = client.read();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, R"({"status":"ok"})");
    EXPECT_EQ(response.headers.at("connection"), "keep-alive");
    EXPECT_NE(response.headers.at("x-request-id"), "");
    EXPECT_EQ(response.headers.at("request-id"), response.headers.at("x-request-id"));
  }
}

TEST(Http, AnswersPipelinedRequestsInTheirOrder) {
  RawClient client(shared_server().port());
  ASSERT_TRUE(client.send(post_bytes("/v1/completions", completion(3, 20)) +
                          "GET /health HTTP/1.1\r\nHost: a.localhost\r\n\r\n" +
                          post_bytes("/v1/completions", completion(4, 2)) +
                          "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  const Response first = client.read();
  EXPECT_EQ(first.status, 200) << first.body;
  EXPECT_NE(first.body.find("\"completion_tokens\": 20"), std::string::npos) << first.body;
  EXPECT_EQ(client.read().body, R"({"status":"ok"})");
  EXPECT_NE(client.read().body.find("\"completion_tokens\": 2,"), std::string::npos);
  EXPECT_EQ(client.read().status, 404);
}

TEST(Http, TakesBodiesInChunks) {
  const std::string body = completion(3, 2);
  RawClient client(shared_server().port());
  ASSERT_TRUE(
      client.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                  "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"));
  for (const char c : body) ASSERT_TRUE(client.send(fmt::format("1;x=y\r\n{}\r\n", c)));
  ASSERT_TRUE(client.send("0\r\nTrailer: x\r\n\r\n"));
  EXPECT_EQ(client.read().status, 200);
}

TEST(Http, SaysContinueWhenItWantsTheBody) {
  const std::string body = completion(3, 2);
  RawClient client(shared_server().port());
  ASSERT_TRUE(
      client.send(fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                              "Content-Type: application/json\r\nContent-Length: {}\r\n"
                              "Expect: 100-Continue\r\n\r\n",
                              body.size())));
  EXPECT_EQ(client.read().status, 100);
  ASSERT_TRUE(client.send(body));
  EXPECT_EQ(client.read().status, 200);
  // Not for a request that is refused anyway.
  RawClient refused(shared_server().port());
  ASSERT_TRUE(
      refused.send("POST /v1/completions HTTP/1.1\r\nHost: evil.example\r\n"
                   "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(refused.read().status, 403);
  EXPECT_TRUE(refused.is_closed_within(5));
}

TEST(Http, HeadAndOptions) {
  RawClient client(shared_server().port());
  for (const char* path : {"/", "/health", "/metrics"}) {
    ASSERT_TRUE(client.send(fmt::format("HEAD {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path)));
    const Response head = client.read(true);
    EXPECT_EQ(head.status, 200) << path;
    EXPECT_GT(std::atoi(head.headers.at("content-length").c_str()), 10);
  }
  for (const char* path : {"/v1/chat/completions", "/nowhere", "*"}) {
    ASSERT_TRUE(client.send(fmt::format("OPTIONS {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path)));
    EXPECT_EQ(client.read().status, 204) << path;
  }
}

TEST(Http, UnknownPathsAndMethodsAreToldInWords) {
  const uint16_t port = shared_server().port();
  for (const char* path :
       {"/api/tags", "/api/pull", "/v1/embeddings", "/nowhere", "/admin/other"}) {
    const Response response = get(port, path);
    EXPECT_EQ(response.status, 404) << path;
    EXPECT_NE(error_of(response), "") << response.body;
  }
  const Response health = post(port, "/health", "");
  EXPECT_EQ(health.status, 405);
  EXPECT_EQ(health.headers.at("allow"), "GET, HEAD, OPTIONS");
  EXPECT_NE(error_of(health), "");
  const Response completions = get(port, "/v1/completions");
  EXPECT_EQ(completions.status, 405);
  EXPECT_NE(completions.headers.at("allow").find("POST"), std::string::npos);
  EXPECT_EQ(get(port, "/health/?now").status, 200);
}

TEST(Http, SpeaksHttp10) {
  RawClient client(shared_server().port());
  ASSERT_TRUE(client.send("GET /health HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(client.read().headers.at("connection"), "close");
  EXPECT_TRUE(client.is_closed_within(5));
  // A stream without chunks: the connection's end is its end.
  RawClient streaming(shared_server().port());
  const std::string body = completion(3, 2, R"("stream":true)");
  ASSERT_TRUE(
      streaming.send(fmt::format("POST /v1/completions HTTP/1.0\r\nConnection: "
                                 "keep-alive\r\nContent-Type: application/json\r\n"
                                 "Content-Length: {}\r\n\r\n{}",
                                 body.size(), body)));
  const Response response = streaming.read();
  EXPECT_EQ(response.headers.count("transfer-encoding"), 0u);
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n")) << response.body;
}

// Each is answered with an error or not at all, its connection ends, and nothing of it is taken for
// a second request.
TEST(Http, BrokenRequestsEndTheirConnection) {
  const std::string host = "Host: localhost\r\n";
  const std::string smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const std::vector<std::string> requests = {
      "garbage\r\n\r\n",
      "GET\r\n\r\n",
      "GET /health\r\n\r\n",
      "GET /health HTTP/9.9\r\n" + host + "\r\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      "GET /health HTTP/1.1\n" + host + "\r\n",  // bare line feeds
      "GET /health HTTP/1.1\r\nHost: localhost\n\n" + smuggled,
      "GET /health HTTP/1.1\r\n" + host + "Bad Header: x\r\n\r\n",
      "GET /health HTTP/1.1\r\n" + host + ": x\r\n\r\n",
      "GET /health HTTP/1.1\r\n" + host + "Name : x\r\n\r\n",
      "GET /health HTTP/1.1\r\n" + host + std::string("X: a\0b\r\n\r\n", 10),
      "GET health HTTP/1.1\r\n" + host + "\r\n",
      "GET /%zz HTTP/1.1\r\n" + host + "\r\n",
      "GET /health HTTP/1.1\r\n\r\n",                                    // no Host
      "GET /health HTTP/1.1\r\n" + host + "Host: evil.example\r\n\r\n",  // two
      "POST /v1/completions HTTP/1.1\r\n" + host + "Content-Length: -5\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Content-Length: 5x\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Content-Length: 99999999999999999999999\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n" +
          "0\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" +
          smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host +
          "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + smuggled,
      "POST /v1/completions HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n" +
          smuggled,
      "GET /health HTTP/1.1\r\n" + host + "X: " + std::string(100000, 'a') + "\r\n\r\n",
      "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n" + host + "\r\n",
      "POST /v1/completions HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;" +
          std::string(1000000, 'a'),
      std::string(70000, '\0'),
      std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + "\r\n\r\n",  // TLS
  };
  for (const std::string& bytes : requests) {
    SCOPED_TRACE(bytes.substr(0, 120));
    RawClient client(shared_server().port());
    client.send(bytes);
    client.shut_down_writing();
    std::string all;
    for (std::string piece; !(piece = client.read_some(10)).empty();) all += piece;
    EXPECT_EQ(all.find("HTTP/1.1 2"), std::string::npos) << all;
    EXPECT_EQ(all.find("HTTP/1.1 5"), std::string::npos) << all;
    EXPECT_TRUE(all.empty() || all.starts_with("HTTP/1.1 4")) << all;
    // One answer at the most.
    EXPECT_EQ(all.find("HTTP/1.1", 1), std::string::npos) << all;
  }
  EXPECT_EQ(get(shared_server().port(), "/health").status, 200);
}

TEST(Http, PackedBodiesAreRefusedInWords) {
  const Response packed =
      post(shared_server().port(), "/v1/completions", "\x1f\x8b", "Content-Encoding: gzip\r\n");
  EXPECT_EQ(packed.status, 415);
  EXPECT_NE(error_of(packed).find("gzip"), std::string::npos);
}

TEST(Http, BodiesHaveALimit) {
  SmallServerOptions options;
  options.server.http.body_bytes = 1000;
  options.server.http.all_bodies_bytes = 1500;
  const SmallServer server(std::move(options));
  const Response stated = post(server.port(), "/v1/completions", std::string(1001, ' '));
  EXPECT_EQ(stated.status, 413);
  EXPECT_NE(error_of(stated).find("1000"), std::string::npos);
  EXPECT_EQ(post(server.port(), "/v1/messages", std::string(1001, ' ')).status, 413);
  RawClient chunked(server.port());
  chunked.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
      "\r\n3e9\r\n" +
      std::string(1001, ' ') + "\r\n0\r\n\r\n");
  EXPECT_EQ(chunked.read().status, 413);
  // Three that are half there are more than all together may be; then they go, and with them what
  // they held.
  {
    RawClient first(server.port());
    first.send(post_bytes("/v1/completions", std::string(1000, ' ')).substr(0, 900));
    RawClient second(server.port());
    second.send(post_bytes("/v1/completions", std::string(1000, ' ')).substr(0, 900));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const Response third =
        post(server.port(), "/v1/completions", completion(3, 1) + std::string(700, ' '));
    EXPECT_EQ(third.status, 503);
    EXPECT_EQ(third.headers.count("retry-after"), 1u);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(post(server.port(), "/v1/completions", completion(3, 1) + std::string(700, ' ')).status,
            200);
}

TEST(Http, WhatNeverArrivesIsNotWaitedFor) {
  SmallServerOptions options;
  options.server.http.head_seconds = 0.3;
  options.server.http.body_stall_seconds = 0.3;
  options.server.http.idle_seconds = 0.6;
  const SmallServer server(std::move(options));
  RawClient silent(server.port());
  RawClient half_head(server.port());
  half_head.send("GET /health HTTP/1.1\r\nHost: loc");
  RawClient half_body(server.port());
  half_body.send(half_of(post_bytes("/v1/completions", completion(3, 1))));
  EXPECT_EQ(half_head.read().status, 408);
  EXPECT_EQ(half_body.read().status, 408);
  EXPECT_TRUE(half_head.is_closed_within(5));
  EXPECT_TRUE(silent.is_closed_within(5));
  // A byte now and then does not buy more time for a head.
  RawClient slow(server.port());
  std::string answer;
  for (int i = 0; i < 200 && answer.empty(); ++i) {
    slow.send("X");
    answer = slow.read_some(0.05);
  }
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 408")) << answer;
}

TEST(Http, HalfOpenAndIdleConnectionsHoldUpNobody) {
  const SmallServer server;
  std::vector<std::unique_ptr<RawClient>> others;
  for (int i = 0; i < 340; ++i) {
    others.push_back(std::make_unique<RawClient>(server.port()));
    if (i % 8 == 0) others.back()->send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nCon");
    if (i % 8 == 1) others.back()->send(half_of(post_bytes("/v1/completions", completion(30, 1))));
  }
  EXPECT_EQ(post(server.port(), "/v1/completions", completion(3, 1)).status, 200);
  EXPECT_GE(server.metric("cachalot_connections"), 340);
}

TEST(Http, ListensBeforeTheModelIsThere) {
  std::atomic<bool> may_load = false;
  SmallServerOptions options;
  options.waits = false;
  options.before_load = [&] {
    while (!may_load) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  const SmallServer server(std::move(options));
  EXPECT_EQ(get(server.port(), "/health").status, 503);
  const Response refused = post(server.port(), "/v1/completions", completion(3, 1));
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(error_of(refused), "");
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  EXPECT_EQ(get(server.port(), "/metrics").status, 200);
  may_load = true;
  // Its numbers can be asked for while the engine's thread gives the first ones.
  for (int i = 0; i < 4000 && get(server.port(), "/health").status != 200; ++i)
    EXPECT_EQ(get(server.port(), "/metrics").status, 200);
  server.wait_until_ready();
  EXPECT_EQ(post(server.port(), "/v1/completions", completion(3, 1)).status, 200);
}

TEST(Http, TooManyConnectionsCostTheIdleOnes) {
  SmallServerOptions options;
  options.server.max_connections = 4;
  const SmallServer server(std::move(options));
  std::vector<std::unique_ptr<RawClient>> idle;
  for (int i = 0; i < 20; ++i) idle.push_back(std::make_unique<RawClient>(server.port()));
  EXPECT_EQ(get(server.port(), "/health").status, 200);
  EXPECT_LE(server.metric("cachalot_connections"), 5);
}

TEST(Http, ATakenPortIsAnErrorInWords) {
  ServerOptions options;
  options.port = shared_server().port();
  const auto second = Server::listen(std::move(options));
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message().find(fmt::format("127.0.0.1:{}", shared_server().port())),
            std::string::npos);
  ServerOptions nowhere;
  nowhere.host = "no such host";
  EXPECT_FALSE(Server::listen(std::move(nowhere)));
}

}  // namespace
}  // namespace cachalot::server::testing
