#include "server/target.h"

#include <gtest/gtest.h>

namespace cachalot::server {
namespace {

TEST(Target, SplitsPathAndQuery) {
  const std::optional<Target> target = parse_target("/v1/messages?beta=true&x=%41");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path, "/v1/messages");
  EXPECT_EQ(target->query, "beta=true&x=%41");
  EXPECT_EQ(target->host, "");
}

TEST(Target, DropsSlashesAtTheEndButTheFirst) {
  EXPECT_EQ(parse_target("/v1/models/")->path, "/v1/models");
  EXPECT_EQ(parse_target("/")->path, "/");
  EXPECT_EQ(parse_target("///")->path, "/");
}

TEST(Target, DecodesThePath) {
  EXPECT_EQ(parse_target("/v1/models/a%2Fb%c3%a9")->path, "/v1/models/a/b\xc3\xa9");
  EXPECT_FALSE(parse_target("/%"));
  EXPECT_FALSE(parse_target("/%4"));
  EXPECT_FALSE(parse_target("/%zz"));
}

TEST(Target, TakesTheAbsoluteForm) {
  const std::optional<Target> target = parse_target("HTTP://Host:80/v1/models?q");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->host, "Host:80");
  EXPECT_EQ(target->path, "/v1/models");
  EXPECT_EQ(target->query, "q");
  EXPECT_EQ(parse_target("http://host")->path, "/");
  EXPECT_EQ(parse_target("http://host?a#b")->query, "a");
  EXPECT_FALSE(parse_target("http:///v1"));
}

TEST(Target, RefusesWhatIsNone) {
  for (const char* text : {"", "v1/models", "?q", "#", "/a b", "/a\tb", "/a\r\nb"})
    EXPECT_FALSE(parse_target(text)) << text;
  EXPECT_EQ(parse_target("*")->path, "*");
}

}  // namespace
}  // namespace cachalot::server
