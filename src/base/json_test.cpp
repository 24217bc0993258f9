#include "base/json.h"

#include <gtest/gtest.h>

#include <string>

namespace cachalot {
namespace {

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(Json, AByteOrderMarkIsPassedOver) {
  const auto value = parse_json("\xEF\xBB\xBF{\"a\": 1}", "x.json");
  ASSERT_TRUE(value.has_value()) << value.error().message();
  EXPECT_EQ(value->at("a").as_int64(), 1);
  EXPECT_NE(parse_json("\xEF\xBB\xBF?", "x").error().message().find("byte 3"), std::string::npos);
  EXPECT_NE(parse_json("\xEF\xBB\xBF"
                       "1 2",
                       "x")
                .error()
                .message()
                .find("at byte 5"),
            std::string::npos);
  EXPECT_FALSE(parse_json("\xEF\xBB\xBF", "x").has_value());
}

TEST(Json, ParsesAndKeepsTheOrderOfKeys) {
  const auto value = parse_json(R"({"z": 1, "a": [true, null, -2.5, "x\u00e9"]})", "test");
  ASSERT_TRUE(value.has_value()) << value.error().message();
  EXPECT_EQ(json_kind_name(*value), "object");
  EXPECT_EQ(value->as_object().begin()->key(), "z");
  EXPECT_EQ(value->at("a").as_array()[3].as_string(), "x\xC3\xA9");
}

TEST(Json, TheLastOfDuplicateKeysWins) {
  EXPECT_EQ(parse_json(R"({"k": 1, "k": 2})", "test")->at("k").as_int64(), 2);
}

TEST(Json, RefusesWhatIsNotOneJsonValue) {
  for (const char* text :
       {"", " ", "{", "[1,", "[1,]", "{\"a\" 1}", "nul", "1 2", "{} x", "NaN", "Infinity", "'a'",
        "\"\\ud800\"", "\"\xFF\"", "\"a\nb\"", "01", "// c\n1"}) {
    const auto value = parse_json(text, "some.json");
    ASSERT_FALSE(value.has_value()) << text;
    EXPECT_EQ(value.error().code(), StatusCode::invalid_argument);
    EXPECT_EQ(value.error().message().rfind("some.json: ", 0), 0u) << value.error().message();
  }
}

TEST(Json, NestingHasALimit) {
  EXPECT_TRUE(parse_json(nested(64), "test").has_value());
  EXPECT_FALSE(parse_json(nested(65), "test").has_value());
  EXPECT_TRUE(parse_json(nested(3), "test", 3).has_value());
  EXPECT_FALSE(parse_json(nested(4), "test", 3).has_value());
  EXPECT_FALSE(parse_json(std::string(10'000'000, '['), "test").has_value());
}

TEST(Json, NumbersBeyondTheIntegersAreNoCrash) {
  EXPECT_EQ(parse_json("9223372036854775807", "test")->as_int64(), INT64_MAX);
  EXPECT_EQ(parse_json("18446744073709551615", "test")->as_uint64(), UINT64_MAX);
  EXPECT_TRUE(parse_json("18446744073709551616", "test")->is_double());
  EXPECT_TRUE(parse_json(std::string(100'000, '9'), "test").has_value() ||
              !parse_json(std::string(100'000, '9'), "test").error().message().empty());
}

TEST(Json, NamesEveryKind) {
  const auto value = parse_json(R"([{}, [], "s", 1, 1.5, true, null])", "test");
  ASSERT_TRUE(value.has_value());
  const char* names[] = {"object", "array", "string", "number", "number", "boolean", "null"};
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(json_kind_name(value->as_array()[i]), names[i]);
}

TEST(Json, RepeatedKeysAreRefusedOnDemand) {
  const auto strict = [](std::string_view text) {
    return parse_json(text, "here", 64, RepeatedKeys::refused);
  };
  EXPECT_EQ(parse_json(R"({"a": 1, "a": 2})", "here")->at("a").as_int64(), 2);
  EXPECT_TRUE(strict(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}], "": 3})").has_value());
  for (const char* text : {R"({"a": 1, "a": 2})", R"([{"b": {"a": 1, "\u0061": 1}}])"}) {
    const Result<json::value> read = strict(text);
    ASSERT_FALSE(read.has_value()) << text;
    EXPECT_EQ(read.error().message(), "here: expected every key once, found \"a\" again");
  }
  EXPECT_FALSE(strict(R"({"": 1, "": 2})").has_value());
}

}  // namespace
}  // namespace cachalot
