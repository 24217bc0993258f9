#include "base/python_json.h"

#include <gtest/gtest.h>

#include <limits>

namespace cachalot {
namespace {

std::string rewritten(std::string_view text) {
  const auto value = parse_json(text, "test");
  return value.has_value() ? python_json(*value) : value.error().message();
}

// Each expected text is what CPython 3.11 prints for json.dumps(json.loads(text),
// ensure_ascii=False).
TEST(PythonJson, SpellsAsPythonDoes) {
  EXPECT_EQ(rewritten(R"({"b":1,"a":[true,null,"x"],"c":{}})"),
            R"({"b": 1, "a": [true, null, "x"], "c": {}})");
  EXPECT_EQ(rewritten(R"("中\u00e9\u001f\u007f\/\"\\\n\r\t\b\f")"),
            "\"中é\\u001f\x7f/\\\"\\\\\\n\\r\\t\\b\\f\"");
  EXPECT_EQ(rewritten("[]"), "[]");
  EXPECT_EQ(rewritten("[-9223372036854775808,18446744073709551615,-0]"),
            "[-9223372036854775808, 18446744073709551615, 0]");
}

TEST(PythonJson, FloatsLookLikeRepr) {
  EXPECT_EQ(python_float(1.0), "1.0");
  EXPECT_EQ(python_float(1e3), "1000.0");
  EXPECT_EQ(python_float(0.1), "0.1");
  EXPECT_EQ(python_float(1.5e-4), "0.00015");
  EXPECT_EQ(python_float(1e-5), "1e-05");
  EXPECT_EQ(python_float(1.25e-7), "1.25e-07");
  EXPECT_EQ(python_float(9999999999999998.0), "9999999999999998.0");
  EXPECT_EQ(python_float(1e16), "1e+16");
  EXPECT_EQ(python_float(123456789012345680.0), "1.2345678901234568e+17");
  EXPECT_EQ(python_float(1e300), "1e+300");
  EXPECT_EQ(python_float(-0.0), "-0.0");
  EXPECT_EQ(python_float(5e-324), "5e-324");
  EXPECT_EQ(python_float(std::numeric_limits<double>::infinity()), "Infinity");
  EXPECT_EQ(python_float(std::numeric_limits<double>::quiet_NaN()), "NaN");
}

TEST(PythonJson, NumbersSurviveTheRoundTrip) {
  for (const std::string_view text :
       {"1.6897142857142859e-06", "7233857142857143.0", "2054285714285714.2", "5e-324",
        "1.7976931348623157e+308", "2.2250738585072014e-308", "0.1"}) {
    EXPECT_EQ(rewritten(text), text);
    EXPECT_EQ(parse_python_object("{\"x\": " + std::string(text) + "}", "t")->at(0).text, text);
  }
}

TEST(PythonObject, KeepsOrderAndDigits) {
  const auto members = parse_python_object(
      R"( {"s": "a\nb\u4e2d", "big": 123456789012345678901234567890, "f": 1e2, "n": [1,{"x":"y"}], "e": {}} )",
      "t");
  ASSERT_TRUE(members.has_value()) << members.error().message();
  const std::vector<PythonJsonMember> expected = {{"s", true, "a\nb中"},
                                                  {"big", false, "123456789012345678901234567890"},
                                                  {"f", false, "100.0"},
                                                  {"n", false, R"([1, {"x": "y"}])"},
                                                  {"e", false, "{}"}};
  EXPECT_EQ(*members, expected);
}

TEST(PythonObject, RepeatedKeysKeepTheFirstPlaceAndTheLastValue) {
  const auto members =
      parse_python_object(R"({"a": 1, "b": 2, "a": "x", "c": {"k": 1, "k": 2}})", "t");
  const std::vector<PythonJsonMember> expected = {
      {"a", true, "x"}, {"b", false, "2"}, {"c", false, R"({"k": 2})"}};
  EXPECT_EQ(*members, expected);
}

TEST(PythonObject, RefusesWhatIsNoObject) {
  for (const std::string_view text :
       {"", "3", "\"x\"", "[1]", "null", "{", "{\"a\": 1} x", "{\"a\": 01}", "{a: 1}"}) {
    EXPECT_FALSE(parse_python_object(text, "t").has_value()) << text;
  }
  std::string deep = "{\"a\": ";
  deep += std::string(100, '[') + std::string(100, ']') + "}";
  EXPECT_FALSE(parse_python_object(deep, "t").has_value());
}

}  // namespace
}  // namespace cachalot
