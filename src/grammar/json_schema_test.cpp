// Each keyword with documents that it takes and documents that it refuses. What a document means to
// JSON Schema is the business of tests/grammar, where a validator looks at thousands of them.
#include "grammar/json_schema.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grammar/grammar_test_data.h"

namespace cachalot::grammar {
namespace {

using Texts = std::vector<std::string>;

Result<TextMatcher> matcher_of(std::string_view schema) {
  const auto value = parse_json(schema, "schema");
  if (!value) return value.error();
  CACHALOT_ASSIGN_OR_RETURN(const GrammarSource source, json_schema_grammar(*value));
  return TextMatcher::create(source);
}

void expect(std::string_view schema, const Texts& yes, const Texts& no) {
  auto matcher = matcher_of(schema);
  ASSERT_TRUE(matcher.has_value()) << schema << ": " << matcher.error().message();
  for (const auto& text : yes) EXPECT_TRUE(matcher->matches(text)) << schema << " : " << text;
  for (const auto& text : no) EXPECT_FALSE(matcher->matches(text)) << schema << " : " << text;
}

void expect_error(std::string_view schema, std::string_view what,
                  StatusCode code = StatusCode::unsupported) {
  const auto matcher = matcher_of(schema);
  ASSERT_FALSE(matcher.has_value()) << schema;
  EXPECT_NE(matcher.error().message().find(what), std::string::npos) << matcher.error().message();
  EXPECT_EQ(matcher.error().code(), code) << matcher.error().message();
}

TEST(JsonSchema, AnyValue) {
  const Texts values = {"null",
                        "true",
                        "false",
                        "0",
                        "-1.5e+10",
                        "\"x\"",
                        "[]",
                        "{}",
                        "[1, [2, {\"a\": null}]]",
                        "{\"a\":1,\"b\":[\"c\"]}",
                        "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}"};
  for (const char* schema : {"{}", "true", "{\"title\": \"t\", \"default\": 3}"}) {
    expect(schema, values,
           {"", "nul", "01", "1.", ".5", "+1", "[1,]", "{\"a\"}", "{a:1}", "'x'", "[1 2]", "1 ",
            "\"a\nb\"", "{\"a\":1,}", "1e", "--1", "NaN"});
  }
}

TEST(JsonSchema, Strings) {
  expect(R"({"type": "string"})",
         {R"("")", R"("a b")", R"("é水😀")", R"("\"\\\/\b\f\n\r\t")", R"("\u00e9\uD83D\uDE00")"},
         {"\"", "a", R"("\x41")", R"("\u12")", R"("\uD83D")", R"("\uDE00")", R"("\uD83D\u0041")",
          "\"\x01\"", "\"\xC3\"", "\"\xED\xA0\x80\"", "\"\t\""});
  expect(R"({"type": "string", "minLength": 2, "maxLength": 3})",
         {R"("ab")", R"("é水😀")", R"("\n\u00e9")", R"("\uD83D\uDE00x")"},
         {R"("a")", R"("abcd")", R"("\uD83D\uDE00")"});
  expect(R"({"type": "string", "maxLength": 0})", {R"("")"}, {R"("a")"});
  expect(R"({"type": "string", "minLength": 5000, "maxLength": 100000})",
         {"\"" + std::string(5000, 'x') + "\"", "\"" + std::string(100000, 'x') + "\""},
         {"\"" + std::string(4999, 'x') + "\"", "\"" + std::string(100001, 'x') + "\""});
}

TEST(JsonSchema, Pattern) {
  expect(R"({"type": "string", "pattern": "^[a-c]+$"})", {R"("abc")"}, {R"("")", R"("abd")"});
  expect(R"({"type": "string", "pattern": "b"})", {R"("abc")", R"("b")"}, {R"("ac")"});
  expect(R"({"type": "string", "pattern": "^\"\\\\\\n/.$"})", {R"("\"\\\n/x")", R"("\"\\\n/\"")"},
         {R"(""\\\n/x")"});
  expect(R"({"type": "string", "pattern": "^[^x]$"})",
         {R"("y")", R"("\"")", R"("\u0001")", R"("\n")"}, {R"("x")", R"("\u0078")"});
  expect(R"({"type": "string", "pattern": "^a{2,4}$", "minLength": 2, "maxLength": 4})",
         {R"("aaa")"}, {R"("a")"});
  expect_error(R"({"type": "string", "pattern": "^a{2,4}$", "maxLength": 3})", "\"pattern\"");
  expect_error(R"#({"type": "string", "pattern": "(?=a)"})#", "look-around");
  expect_error(R"({"type": "string", "pattern": "("})", "\"pattern\"",
               StatusCode::invalid_argument);
}

TEST(JsonSchema, Formats) {
  expect(
      R"({"type": "string", "format": "date"})",
      {R"("2024-02-29")", R"("2000-02-29")", R"("2023-12-31")", R"("0001-01-01")",
       R"("2023-04-30")"},
      {R"("2023-02-29")", R"("1900-02-29")", R"("2023-13-01")", R"("2023-04-31")",
       R"("0000-01-01")", R"("2023-1-1")", R"("2023-00-10")", R"("2023-01-32")", R"("23-01-01")"});
  expect(R"({"format": "date-time"})",
         {R"("2024-02-29T23:59:59Z")", R"("2024-01-01T00:00:00.123456+05:30")"},
         {R"("2024-02-29")", R"("2024-02-29T24:00:00Z")", R"("2024-02-29T23:59:59")"});
  expect(R"({"type": "string", "format": "time"})", {R"("23:59:59Z")"}, {R"("23:60:00Z")"});
  expect(R"({"type": "string", "format": "uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"},
         {R"("123e4567e89b12d3a456426614174000")", R"("123e4567-e89b-12d3-a456-42661417400g")"});
  expect_error(R"({"type": "string", "format": "email"})", "email");
  expect_error(R"({"type": "string", "format": "date", "pattern": "1"})", "both");
}

TEST(JsonSchema, Integers) {
  expect(R"({"type": "integer"})", {"0", "-1", "1234567890123456"},
         {"1.0", "-0", "01", "1e3", "+1"});
  expect(R"({"type": "integer", "minimum": -12, "maximum": 105})",
         {"-12", "-11", "-1", "0", "9", "10", "99", "100", "105"},
         {"-13", "-20", "106", "110", "1000"});
  expect(R"({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 8})", {"6", "7"},
         {"5", "8"});
  expect(R"({"type": "integer", "minimum": 1.5, "maximum": 3.5})", {"2", "3"}, {"1", "4"});
  expect(R"({"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 2.5})", {"2"},
         {"1", "3"});
  expect(R"({"type": "integer", "maximum": -5})", {"-5", "-500"}, {"-4", "0", "5"});
  expect(R"({"type": "integer", "minimum": 99999999999999999})", {"99999999999999999"}, {"1"});
  // Every number of a range, and none beside it.
  for (const auto& [low, high] : {std::pair(-137, 1205), std::pair(7, 7), std::pair(-99, -10)}) {
    auto matcher = matcher_of("{\"type\": \"integer\", \"minimum\": " + std::to_string(low) +
                              ", \"maximum\": " + std::to_string(high) + "}");
    ASSERT_TRUE(matcher.has_value());
    for (int i = -1500; i < 1500; ++i)
      ASSERT_EQ(matcher->matches(std::to_string(i)), low <= i && i <= high) << i;
  }
  expect_error(R"({"type": "integer", "minimum": 5, "maximum": 4})", "found none",
               StatusCode::invalid_argument);
  expect_error(R"({"type": "number", "minimum": 5})", "\"minimum\"");
  expect_error(R"({"type": "integer", "minimum": true})", "a number", StatusCode::invalid_argument);
}

TEST(JsonSchema, NumbersBooleansNull) {
  expect(R"({"type": "number"})", {"0", "-0.5", "1e5", "12.25E-3"}, {"1.", "\"1\"", "1e999"});
  expect(R"({"type": "boolean"})", {"true", "false"}, {"null", "True"});
  expect(R"({"type": "null"})", {"null"}, {"0"});
  expect(R"({"type": ["integer", "null"]})", {"1", "null"}, {"1.5", "\"\""});
}

TEST(JsonSchema, EnumAndConst) {
  expect(R"({"enum": ["a", "b\"é", 1, 1.5, null, true, [1, "x"], {"k": 2}]})",
         {R"("a")", R"("b\"é")", "1", "1.5", "null", "true", R"([1, "x"])", R"([1,"x"])",
          R"({"k": 2})"},
         {R"("b")", "2", "false", "[1]", R"({"k": 3})", R"({"k":2,"k":2})"});
  expect(R"({"const": "x"})", {R"("x")"}, {R"("y")"});
  expect(R"({"type": "string", "enum": ["a", 1]})", {R"("a")"}, {"1"});
  expect(R"({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}, {"type": "integer"}]})",
         {"2", "3"}, {"1", "4"});
  expect_error(R"({"enum": ["abc"], "maxLength": 2})", "\"maxLength\"");
  expect_error(R"({"enum": []})", "found none", StatusCode::invalid_argument);
}

TEST(JsonSchema, Arrays) {
  expect(R"({"type": "array", "items": {"type": "integer"}})",
         {"[]", "[1]", "[1, 2,3]", "[\n  1\n]"}, {"[\"a\"]", "[1,]", "[,1]", "1"});
  expect(R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
         {"[1,2]", "[1,2,3]"}, {"[]", "[1]", "[1,2,3,4]"});
  expect(R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"});
  expect(R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]})",
         {"[]", "[1]", R"([1,"a"])", R"([1,"a",null,{}])"}, {R"(["a"])", "[1,2]"});
  expect(
      R"({"type": "array", "prefixItems": [{"type": "integer"}], "items": false, "minItems": 1})",
      {"[1]"}, {"[]", "[1,2]", "[\"a\"]"});
  expect(R"({"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}],
            "items": {"type": "null"}, "minItems": 3, "maxItems": 4})",
         {R"([1,"x",null])", R"([1,"x",null,null])"}, {R"([1,"x"])", R"([1,"x",null,null,null])"});
  std::string many = "[0";
  for (int i = 0; i < 999; ++i) many += ",1";
  expect(R"({"type": "array", "items": {"type": "integer"}, "maxItems": 1000})", {many + "]"},
         {many + ",1]"});
  expect_error(R"({"type": "array", "items": [{"type": "integer"}]})", "\"items\"",
               StatusCode::invalid_argument);
  expect_error(R"({"type": "array", "uniqueItems": true})", "\"uniqueItems\"");
}

TEST(JsonSchema, Objects) {
  const char* schema = R"({"type": "object", "properties": {"a": {"type": "integer"},
                           "b": {"type": "string"}, "c": {"type": "null"}}, "required": ["b"]})";
  expect(schema,
         {R"({"b": "x"})", R"({"a": 1, "b": "x"})", R"({"a":1,"b":"x","c":null})",
          R"({"b":"","c":null})", "{\n  \"b\": \"x\"\n}"},
         {"{}", R"({"a":1})", R"({"a":1,"c":null})", R"({"b":1})", R"({"b":"x",})", R"({,"b":"x"})",
          R"({"b":"x","d":1})", R"({"b":"x","b":"y"})", R"({"a":1 "b":"x"})"});
  expect(R"({"type": "object", "properties": {"a": true, "b": false}, "required": ["a"]})",
         {R"({"a": [1]})"}, {"{}", R"({"a":1,"b":1})"});
  expect(R"({"type": "object", "properties": {"a": {}, "b": {}}})",
         {"{}", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"}, {R"({"b":1,"a":2})"});
  expect(R"({"type": "object", "required": ["x\"é"]})", {R"({"x\"é": 1})"}, {"{}"});
  expect(R"({"properties": {"a": {"type": "integer"}}})", {"{}", R"({"a":1})"},
         {"[]", R"({"a":""})"});
  expect_error(R"({"properties": {"a": false}, "required": ["a"]})", "found none",
               StatusCode::invalid_argument);
  expect_error(R"({"type": "object", "minProperties": 1})", "\"minProperties\"");
  expect_error(R"({"type": "object", "patternProperties": {}})", "\"patternProperties\"");
}

TEST(JsonSchema, AdditionalProperties) {
  expect(R"({"type": "object", "properties": {"ab": {"type": "integer"}},
            "additionalProperties": {"type": "string"}})",
         {"{}", R"({"ab":1})", R"({"ab":1,"x":"y","z":""})", R"({"a":"x"})", R"({"abc":"x"})",
          R"({"":""})", R"({"水":""})"},
         {R"({"ab":"x"})", R"({"x":1})", R"({"x":"y","ab":"z"})", R"({"\u0061b":"x"})",
          R"({"ab":1,"ab":"x"})"});
  expect(R"({"type": "object", "properties": {"a": {}}, "additionalProperties": true})",
         {R"({"b":1,"c":{"d":[]}})"}, {R"({"b":1,"a":2})"});
  expect(R"({"type": "object", "properties": {"a": {}}, "additionalProperties": false})",
         {"{}", R"({"a":1})"}, {R"({"b":1})"});
  expect(R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"b":1})"});
  expect(R"({"type": "object", "additionalProperties": {"type": "integer"}})",
         {"{}", R"({"b":1,"c":2})"}, {R"({"b":""})"});
}

TEST(JsonSchema, AnyOf) {
  expect(R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})", {"1", R"("a")"},
         {R"("ab")", "null"});
  expect(R"({"type": ["string", "integer"], "anyOf": [{"minLength": 2}, {"type": "string"}]})",
         {R"("ab")", "3"}, {"1.5"});
  expect(R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
         {R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"}, {"{}"});
  expect(R"({"anyOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"const": 3}]})", {"1", "2", "3"},
         {"4"});
}

TEST(JsonSchema, OneOfOfWhatExcludesEachOther) {
  expect(R"({"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]})",
         {"1", R"("a")", "null"}, {"1.5"});
  expect(R"({"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}]})", {R"("a")", R"("c")"}, {R"("d")"});
  expect(R"({"oneOf": [
      {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]},
      {"type": "object", "properties": {"kind": {"const": "dog"}, "name": {"type": "string"}}, "required": ["kind", "name"]}]})",
         {R"({"kind": "cat", "lives": 9})", R"({"kind":"dog","name":"x"})"},
         {R"({"kind":"cat","name":"x"})", R"({"kind":"dog"})"});
  expect_error(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "\"oneOf\"");
  expect_error(R"({"oneOf": [{"type": "string"}, {"properties": {"a": {}}}]})", "\"oneOf\"");
  expect_error(R"({"oneOf": [{"type": "object", "properties": {"k": {"const": 1}}},
                             {"type": "object", "properties": {"k": {"const": 2}}}]})",
               "\"oneOf\"");
}

TEST(JsonSchema, AllOf) {
  expect(
      R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                       {"properties": {"b": {"type": "string"}, "a": {"minimum": 5}}, "required": ["b"]}]})",
      {R"({"a":5,"b":"x"})"}, {R"({"a":4,"b":"x"})", R"({"a":5})", R"({"b":"x"})"});
  expect(R"({"allOf": [{"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
                       {"properties": {"b": {}}}], "type": "object"})",
         {R"({"a":"x","b":1})"}, {R"({"b":"x"})"});
  expect(R"({"type": "string", "allOf": [{"minLength": 2}, {"maxLength": 3}]})", {R"("ab")"},
         {R"("a")", R"("abcd")"});
  expect_error(R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", "found none",
               StatusCode::invalid_argument);
}

TEST(JsonSchema, ReferencesAndRecursion) {
  expect(R"({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
             "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}},
            "$ref": "#/$defs/node"})",
         {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
         {R"({"v":1})", R"({"v":1,"next":{"v":2}})"});
  expect(R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]", "[[}"});
  expect(R"({"definitions": {"a/b~c d": {"const": 1}}, "$ref": "#/definitions/a~1b~0c%20d"})",
         {"1"}, {"2"});
  expect(
      R"({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n", "minimum": 3}}})",
      {R"({"a":3})"}, {R"({"a":2})"});
  // A tree, mutually.
  expect(R"({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}},
             "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}})",
         {R"([{"a":[{},{"a":[]}]}])"}, {R"([[]])"});
  expect_error(R"({"$ref": "#/nowhere"})", "#/nowhere");
  expect_error(R"({"$ref": "http://example.com/schema"})", "example.com");
  expect_error(R"({"$ref": "#"})", "made of itself", StatusCode::invalid_argument);
  expect_error(R"({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"})",
               "made of itself", StatusCode::invalid_argument);
  expect_error(R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})", "found none",
               StatusCode::invalid_argument);
}

TEST(JsonSchema, AnyOtherKeywordIsRefusedByNameAndPlace) {
  for (const char* keyword : {"multipleOf", "not", "if", "dependentRequired", "contains",
                              "propertyNames", "unevaluatedProperties", "$dynamicRef", "$anchor",
                              "nullable", "additionalItems", "contentEncoding"}) {
    const std::string name = "\"" + std::string(keyword) + "\"";
    expect_error("{\"properties\": {\"a\": {\"items\": {" + name + ": {}}}}}", name);
    expect_error("{\"properties\": {\"a\": {\"items\": {" + name + ": {}}}}}",
                 "schema.properties.a.items");
  }
  expect_error("[1]", "schema", StatusCode::invalid_argument);
  expect_error(R"({"type": "strin"})", "\"type\"", StatusCode::invalid_argument);
  expect_error(R"({"minLength": -1})", "\"minLength\"", StatusCode::invalid_argument);
  expect_error(R"({"properties": {"a": 1}})", "\"properties\"", StatusCode::invalid_argument);
  expect_error(R"({"required": "a"})", "\"required\"", StatusCode::invalid_argument);
}

TEST(JsonSchema, HostileSchemasAreBounded) {
  // Alternatives of alternatives multiply.
  std::string product = R"({"type": "integer", "allOf": [)";
  for (int i = 0; i < 40; ++i)
    product += std::string(i ? "," : "") + R"({"anyOf": [{"minimum": 1}, {"maximum": 2}]})";
  expect_error(product + "]}", "50000", StatusCode::resource_exhausted);
  // Each definition twice the one before.
  std::string doubling = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 60; ++i) {
    const std::string next = R"({"$ref": "#/$defs/d)" + std::to_string(i + 1) + "\"}";
    doubling += "\"d" + std::to_string(i) + R"(": {"type": "array", "prefixItems": [)" + next +
                "," + next + "]},";
  }
  auto doubled = matcher_of(doubling + R"("d60": {"type": "null"}}})");
  ASSERT_TRUE(doubled.has_value());
  EXPECT_TRUE(doubled->matches("[[[],[]],[]]"));
  // Bounds without bound.
  expect(
      R"({"type": "array", "items": {"type": "string", "maxLength": 1000000000000, "minLength": 1},
            "maxItems": 999999999999999})",
      {R"(["a","bc"])"}, {R"([""])"});
  // Thousands of optional properties.
  std::string wide = R"({"type": "object", "properties": {)";
  for (int i = 0; i < 1000; ++i)
    wide += std::string(i ? "," : "") + "\"p" + std::to_string(i) + R"(": {"type": "integer"})";
  auto matcher = matcher_of(wide + "}}");
  ASSERT_TRUE(matcher.has_value()) << matcher.error().message();
  EXPECT_TRUE(matcher->matches(R"({"p3": 1, "p500": 2, "p999": 3})"));
  EXPECT_FALSE(matcher->matches(R"({"p500": 1, "p3": 2})"));
  std::string refs = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 3000; ++i)
    refs +=
        "\"d" + std::to_string(i) + R"(": {"$ref": "#/$defs/d)" + std::to_string(i + 1) + "\"},";
  expect_error(refs + R"("d3000": {}}})", "$ref", StatusCode::invalid_argument);
}

TEST(JsonSchema, ObjectMode) {
  auto matcher = TextMatcher::create(json_object_grammar());
  ASSERT_TRUE(matcher.has_value());
  for (const char* text : {"{}", R"({"a": [1, {"b": null}]})"}) EXPECT_TRUE(matcher->matches(text));
  for (const char* text : {"[]", "1", "{", R"({"a":1}x)"}) EXPECT_FALSE(matcher->matches(text));
  std::string deep = R"({"a":)";
  while (matcher->begins(deep + "[")) deep += "[";
  EXPECT_LT(deep.size(), 64u);
  EXPECT_TRUE(matcher->matches(deep + std::string(deep.size() - 5, ']') + "}"));
}

}  // namespace
}  // namespace cachalot::grammar
