#include "server/api_keys.h"

#include <gtest/gtest.h>

namespace cachalot::server {
namespace {

std::string error_of(std::string_view text) {
  const Result<ApiKeys> keys = ApiKeys::parse(text, "keys");
  return keys ? "" : keys.error().message();
}

TEST(ApiKeys, FindsAKeyInEitherHeader) {
  ApiKeys keys =
      ApiKeys::parse("# ours\n\nsk-laptop-1 name=laptop\r\n  sk-desk-22\tadmin requests=2", "keys")
          .value();
  ASSERT_NE(keys.find("Bearer sk-laptop-1", ""), nullptr);
  EXPECT_EQ(keys.find("Bearer sk-laptop-1", "")->name(), "laptop");
  EXPECT_EQ(keys.find("bearer  sk-laptop-1 ", "")->name(), "laptop");
  EXPECT_EQ(keys.find("sk-laptop-1", "")->name(), "laptop");
  EXPECT_EQ(keys.find("", "sk-desk-22")->name(), "key4");
  EXPECT_EQ(keys.find("Bearer dummy-key", "sk-desk-22")->name(), "key4");
  EXPECT_TRUE(keys.find("", "sk-desk-22")->is_admin());
  EXPECT_FALSE(keys.find("", "sk-laptop-1")->is_admin());
  for (const char* other : {"", "Bearer", "Bearer ", "Bearer sk-laptop-", "Bearer sk-laptop-11",
                            "Basic sk-laptop-1", "Bearer name=laptop", "#"})
    EXPECT_EQ(keys.find(other, ""), nullptr) << other;
}

TEST(ApiKeys, RefusesWhatIsNoKeyFile) {
  EXPECT_NE(error_of("").find("at least one key"), std::string::npos);
  EXPECT_NE(error_of("# only a remark\n").find("at least one key"), std::string::npos);
  EXPECT_NE(error_of("short").find("keys:1: expected a key of 8"), std::string::npos);
  EXPECT_NE(error_of("sk-12345678\nsk-\x01 0000000").find("keys:2: expected a key"),
            std::string::npos);
  EXPECT_NE(error_of("sk-12345678 requests=0").find("keys:1: expected requests="),
            std::string::npos);
  EXPECT_NE(error_of("sk-12345678 requests=").find("requests="), std::string::npos);
  EXPECT_NE(error_of("sk-12345678 tokens_per_minute=12x").find("tokens_per_minute="),
            std::string::npos);
  EXPECT_NE(error_of("sk-12345678 speed=3").find("found \"speed=3\""), std::string::npos);
  EXPECT_NE(error_of("sk-12345678 name=").find("found \"name=\""), std::string::npos);
  EXPECT_NE(error_of("sk-12345678\nsk-12345678").find("keys:2: expected each key once"),
            std::string::npos);
}

TEST(ApiKeys, ErrorsShowNoKey) {
  for (const char* text : {"secret7", "secret-key requests=0", "secret-key\nsecret-key"})
    EXPECT_EQ(error_of(text).find("secret"), std::string::npos) << error_of(text);
}

TEST(ApiKeys, LimitsRequestsAtOnce) {
  ApiKey key("k", {.requests = 2}, false);
  key.begin();
  EXPECT_FALSE(key.refusal(1));
  key.begin();
  ASSERT_TRUE(key.refusal(1));
  EXPECT_EQ(key.refusal(1)->retry_after_s, 1);
  key.end();
  EXPECT_FALSE(key.refusal(1));
}

TEST(ApiKeys, LimitsTokensPerMinute) {
  ApiKey key("k", {.tokens_per_minute = 600}, false);  // 10 a second
  EXPECT_FALSE(key.refusal(100));
  key.spend(600);
  ASSERT_TRUE(key.refusal(100));
  EXPECT_EQ(key.refusal(100)->retry_after_s, 1);
  EXPECT_FALSE(key.refusal(101));  // 10 are there
  key.spend(110);                  // an answer may go below nothing
  ASSERT_TRUE(key.refusal(101));
  EXPECT_EQ(key.refusal(101)->retry_after_s, 11);
  EXPECT_TRUE(key.refusal(110));
  EXPECT_FALSE(key.refusal(112));
  key.spend(0);
  EXPECT_FALSE(key.refusal(1e9));
  key.spend(600);  // no more than a minute's is saved up
  EXPECT_TRUE(key.refusal(1e9));
}

}  // namespace
}  // namespace cachalot::server
