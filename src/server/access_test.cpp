#include "server/access.h"

#include <gtest/gtest.h>

namespace cachalot::server {
namespace {

AccessRules rules(std::string_view host, const std::vector<std::string>& origins = {}) {
  return make_access_rules(host, origins).value();
}

TEST(Access, AddressesAndOwnNamesAreHosts) {
  const AccessRules own = rules("box.lan", {"https://chat.example:8443"});
  for (const char* host : {"localhost", "LOCALHOST:8080", "a.localhost", "127.0.0.1:1", "[::1]",
                           "[::1]:8080", "192.168.1.7", "box.lan:80", "Box.LAN.", "chat.example"})
    EXPECT_TRUE(is_allowed_host(own, host)) << host;
}

TEST(Access, OtherNamesAreNot) {
  for (const char* host : {"evil.example", "evil.example:8080", "localhost.evil.example", "",
                           "127.0.0.1.evil.example", "[::1", "[::1]x", "localhost:80:80",
                           "localhost:port", "notlocalhost", "1.2.3", "localhost:123456"})
    EXPECT_FALSE(is_allowed_host(rules("127.0.0.1"), host)) << host;
}

TEST(Access, OwnPagesAndListedOriginsMayCall) {
  const AccessRules listed = rules("127.0.0.1", {"http://localhost:3000", "app://obsidian.md"});
  EXPECT_TRUE(is_allowed_origin(listed, "", "127.0.0.1:8080"));
  EXPECT_TRUE(is_allowed_origin(listed, "http://127.0.0.1:8080", "127.0.0.1:8080"));
  EXPECT_TRUE(is_allowed_origin(listed, "https://chat.example", "chat.example"));
  EXPECT_TRUE(is_allowed_origin(listed, "http://chat.example", "chat.example:80"));
  EXPECT_TRUE(is_allowed_origin(listed, "http://LOCALHOST:3000", "127.0.0.1:8080"));
  EXPECT_TRUE(is_allowed_origin(listed, "app://obsidian.md", "127.0.0.1:8080"));
}

TEST(Access, OtherOriginsMayNot) {
  const AccessRules listed = rules("127.0.0.1", {"http://localhost:3000"});
  for (const char* origin : {"http://evil.example", "http://localhost", "http://localhost:30000",
                             "https://localhost:3000", "null", "*", "http://", "garbage",
                             "http://127.0.0.1:8081", "http://localhost:3000.evil.example"})
    EXPECT_FALSE(is_allowed_origin(listed, origin, "127.0.0.1:8080")) << origin;
  EXPECT_FALSE(is_allowed_origin(rules("127.0.0.1", {"*"}), "null", "127.0.0.1:8080"));
  EXPECT_TRUE(is_allowed_origin(rules("127.0.0.1", {"*"}), "http://any.example", "127.0.0.1"));
}

TEST(Access, OriginsThatAreNoneAreRefusedByName) {
  for (const std::string origin : {"localhost:3000", "http://", "http://a/b", "", "://a"}) {
    const Result<AccessRules> made = make_access_rules("127.0.0.1", std::vector{origin});
    ASSERT_FALSE(made) << origin;
    EXPECT_NE(made.error().message().find("expected SCHEME://HOST"), std::string::npos);
    EXPECT_NE(made.error().message().find("\"" + origin + "\""), std::string::npos);
  }
  EXPECT_EQ(normal_origin("HTTPS://Chat.Example:443/").value(), "https://chat.example");
}

std::string value_of(const Headers& headers, std::string_view name) {
  for (const api::HttpHeader& header : headers) {
    if (header.name == name) return header.value;
  }
  return "none";
}

TEST(Access, PreflightsGetTheHeadersThatTheyAskFor) {
  const Headers headers = preflight_headers("authorization, x-stainless-os", true);
  EXPECT_EQ(value_of(headers, "Access-Control-Allow-Headers"), "authorization, x-stainless-os");
  EXPECT_EQ(value_of(headers, "Access-Control-Allow-Private-Network"), "true");
  EXPECT_NE(value_of(headers, "Access-Control-Allow-Methods").find("POST"), std::string::npos);
  EXPECT_EQ(value_of(preflight_headers("", false), "Access-Control-Allow-Headers"), "none");
  EXPECT_EQ(value_of(cors_headers("http://a"), "Access-Control-Allow-Origin"), "http://a");
  EXPECT_TRUE(cors_headers("").empty());
}

}  // namespace
}  // namespace cachalot::server
