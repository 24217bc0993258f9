// Who may call: over sockets, on answers of every kind.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "server/small_server.h"

namespace cachalot::server::testing {
namespace {

constexpr std::string_view kListed = "Origin: http://localhost:3000\r\n";

SmallServerOptions with_origin() {
  SmallServerOptions options;
  options.server.origins = {"http://localhost:3000"};
  return options;
}

std::string value_of(const Response& response, const std::string& name) {
  const auto found = response.headers.find(name);
  return found == response.headers.end() ? "none" : found->second;
}

TEST(ServerAccess, OtherHostsAndOriginsAreRefused) {
  const SmallServer server(with_origin());
  for (const char* path : {"/health", "/v1/models", "/metrics", "/"}) {
    RawClient rebound(server.port());
    rebound.send(
        fmt::format("GET {} HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", path, server.port()));
    EXPECT_EQ(rebound.read().status, 403) << path;
    RawClient absolute(server.port());
    absolute.send(
        fmt::format("GET http://evil.example{} HTTP/1.1\r\nHost: localhost\r\n\r\n", path));
    EXPECT_EQ(absolute.read().status, 403) << path;
    EXPECT_EQ(get(server.port(), path, "Origin: http://evil.example\r\n").status, 403) << path;
    EXPECT_EQ(get(server.port(), path, "Origin: null\r\n").status, 403) << path;
  }
  const Response refused =
      post(server.port(), "/v1/completions", completion(3, 1), "Origin: http://evil.example\r\n");
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(value_of(refused, "access-control-allow-origin"), "none");
}

TEST(ServerAccess, RefusalsAreUtf8WhateverTheyShow) {
  const SmallServer server;
  const uint16_t port = server.port();
  for (const Response& refused : {get(port, "/health", "Origin: http://\xff.example\r\n"),
                                  get(port, "/admin/%ff"), get(port, "/v1/%ff")}) {
    EXPECT_TRUE(refused.status == 403 || refused.status == 404) << refused.status;
    EXPECT_NE(refused.body.find("\xef\xbf\xbd"), std::string::npos) << refused.body;
    EXPECT_EQ(refused.body.find('\xff'), std::string::npos) << refused.body;
  }
}

TEST(ServerAccess, ListedOriginsGetCorsOnEverything) {
  const SmallServer server(with_origin());
  const uint16_t port = server.port();
  const std::string listed(kListed);
  for (const Response& response :
       {post(port, "/v1/completions", completion(3, 1), listed),
        post(port, "/v1/completions", completion(3, 1, R"("stream":true)"), listed),
        post(port, "/v1/completions", "{", listed), post(port, "/v1/messages", "{}", listed),
        get(port, "/nowhere", listed), get(port, "/health", listed)}) {
    EXPECT_EQ(value_of(response, "access-control-allow-origin"), "http://localhost:3000")
        << response.status;
    EXPECT_EQ(value_of(response, "vary"), "Origin");
    EXPECT_NE(value_of(response, "access-control-expose-headers").find("x-request-id"),
              std::string::npos);
  }
  EXPECT_EQ(value_of(get(port, "/health"), "access-control-allow-origin"), "none");
}

TEST(ServerAccess, PreflightsNeedNoKey) {
  SmallServerOptions options = with_origin();
  options.server.keys = ApiKeys::parse("sk-12345678", "keys").value();
  const SmallServer server(std::move(options));
  const auto preflight = [&](std::string_view origin) {
    RawClient client(server.port());
    client.send(
        fmt::format("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: {}\r\n"
                    "Access-Control-Request-Method: POST\r\n"
                    "Access-Control-Request-Headers: authorization,x-stainless-lang\r\n\r\n",
                    origin));
    return client.read();
  };
  const Response allowed = preflight("http://localhost:3000");
  EXPECT_EQ(allowed.status, 204);
  EXPECT_EQ(value_of(allowed, "access-control-allow-origin"), "http://localhost:3000");
  EXPECT_EQ(value_of(allowed, "access-control-allow-headers"), "authorization,x-stainless-lang");
  EXPECT_EQ(preflight("http://evil.example").status, 403);
}

TEST(ServerAccess, KeysAreAskedForInTheShapeOfEachApi) {
  SmallServerOptions options;
  options.server.keys = ApiKeys::parse("sk-caller-1 name=one\nsk-master-1 admin", "keys").value();
  const SmallServer server(std::move(options));
  const uint16_t port = server.port();
  const std::string body = completion(3, 1);
  const Response none = post(port, "/v1/completions", body);
  EXPECT_EQ(none.status, 401);
  EXPECT_EQ(value_of(none, "www-authenticate"), "Bearer");
  EXPECT_NE(none.body.find("invalid_api_key"), std::string::npos) << none.body;
  const Response anthropic = post(port, "/v1/messages", "{}", "x-api-key: sk-other-11\r\n");
  EXPECT_EQ(anthropic.status, 401);
  EXPECT_NE(anthropic.body.find("authentication_error"), std::string::npos) << anthropic.body;
  EXPECT_EQ(anthropic.body.find("sk-other"), std::string::npos);
  EXPECT_EQ(post(port, "/v1/completions", body, "Authorization: Bearer sk-caller-1\r\n").status,
            200);
  EXPECT_EQ(post(port, "/v1/completions", body, "x-api-key: sk-caller-1\r\n").status, 200);
  EXPECT_EQ(get(port, "/health").status, 200);
  EXPECT_EQ(get(port, "/metrics").status, 401);
  EXPECT_EQ(get(port, "/metrics", "x-api-key: sk-caller-1\r\n").status, 200);
  EXPECT_EQ(get(port, "/admin/cache").status, 401);
  EXPECT_EQ(get(port, "/admin/cache", "x-api-key: sk-caller-1\r\n").status, 403);
  EXPECT_EQ(get(port, "/admin/cache", "x-api-key: sk-master-1\r\n").status, 200);
}

TEST(ServerAccess, KeysHaveLimits) {
  SmallServerOptions options;
  options.server.keys =
      ApiKeys::parse("sk-single-1 requests=1\nsk-little-1 tokens_per_minute=20", "keys").value();
  const SmallServer server(std::move(options));
  const uint16_t port = server.port();
  const std::string single = "x-api-key: sk-single-1\r\n";
  {
    RawClient running(port);
    running.send(post_bytes("/v1/completions", completion(3, 4000, R"("stream":true)"), single));
    ASSERT_TRUE(running.read_some(30).starts_with("HTTP/1.1 200"));
    const Response second = post(port, "/v1/completions", completion(3, 1), single);
    EXPECT_EQ(second.status, 429);
    EXPECT_EQ(value_of(second, "retry-after"), "1");
  }
  // It has gone, and its place is free.
  bool is_free = false;
  for (int i = 0; i < 400 && !is_free; ++i) {
    is_free = post(port, "/v1/completions", completion(3, 1), single).status == 200;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(is_free);

  const std::string little = "x-api-key: sk-little-1\r\n";
  EXPECT_EQ(post(port, "/v1/completions", completion(30, 5), little).status, 200);
  const Response spent = post(port, "/v1/completions", completion(3, 1), little);
  EXPECT_EQ(spent.status, 429);
  EXPECT_GT(std::atoi(value_of(spent, "retry-after").c_str()), 1);
  EXPECT_LT(std::atoi(value_of(spent, "retry-after").c_str()), 60);
}

}  // namespace
}  // namespace cachalot::server::testing
