#include "grammar/regex.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "base/rng.h"
#include "grammar/grammar_test_data.h"

namespace cachalot::grammar {
namespace {

Result<TextMatcher> matcher_of(std::string_view pattern, const RegexOptions& options = {}) {
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  CACHALOT_ASSIGN_OR_RETURN(const Regex regex, parse_regex(pattern, source, options));
  source.set_body(root, regex.expression);
  return TextMatcher::create(source);
}

void expect(std::string_view pattern, const std::vector<std::string>& yes,
            const std::vector<std::string>& no) {
  auto matcher = matcher_of(pattern);
  ASSERT_TRUE(matcher) << matcher.error().message();
  for (const auto& text : yes) EXPECT_TRUE(matcher->matches(text)) << pattern << " : " << text;
  for (const auto& text : no) EXPECT_FALSE(matcher->matches(text)) << pattern << " : " << text;
}

TEST(Regex, EveryConstruct) {
  expect("abc", {"abc"}, {"", "ab", "abcd"});
  expect("a|bc|", {"a", "bc", ""}, {"ab", "b"});
  expect("(a|b)*c", {"c", "abac"}, {"ab", "abca"});
  expect("a+?b{2}c{1,}d{0,2}", {"abbc", "aabbcccdd"}, {"bbc", "abc", "abbcddd"});
  expect("(?:x(?<n>y)(?P<m>z))?", {"", "xyz"}, {"xy"});
  expect("^a$|^b", {"a", "b"}, {"ab"});
  expect("[a-cx\\-\\]]", {"a", "b", "c", "x", "-", "]"}, {"d", "\\"});
  expect("[^a-c\\d]", {"d", "é", "水", "😀"}, {"a", "1", "ab", "٣"});
  expect("[+--]", {"+", ",", "-"}, {"."});
  expect("[a-]", {"a", "-"}, {"b"});
  expect(".", {"x", "é", "水", "😀", " "}, {"", "\n", "xx", "\xC3", "\xED\xA0\x80"});
  expect("\\d\\w\\s", {"1a ", "0_\t"}, {"٣a ", "1é "});
  expect("\\D\\W\\S", {"a-b", "é-水"}, {"1-b", "a1b", "٣-b", "a水b"});
  expect("\\x41\\u00e9\\u{1F600}\\n\\.\\/", {"Aé😀\n./"}, {"Aé😀n./"});
  expect("[а-я]+", {"привет"}, {"hello", "Привет"});
}

TEST(Regex, EmptyPatternMatchesTheEmptyText) { expect("", {""}, {"a"}); }

TEST(Regex, SearchesWhereItNeedNotMatchTheWhole) {
  auto matcher = matcher_of("ab|^c|d$", {.matches_whole = false});
  ASSERT_TRUE(matcher);
  for (const char* text : {"ab", "xaby", "c", "cx", "xd"}) EXPECT_TRUE(matcher->matches(text));
  for (const char* text : {"", "a", "xc", "dx"}) EXPECT_FALSE(matcher->matches(text));
}

TEST(Regex, KnowsTheLengthsOfWhatMatches) {
  GrammarSource source;
  const auto lengths = [&](std::string_view pattern) {
    const Regex regex = *parse_regex(pattern, source);
    return std::pair(regex.min_length, regex.max_length);
  };
  EXPECT_EQ(lengths("水{2,3}(a|bcd)"), std::pair(int64_t{3}, int64_t{6}));
  EXPECT_EQ(lengths("a*"), std::pair(int64_t{0}, kUnbounded));
  EXPECT_EQ(lengths("(a{9}){9}"), std::pair(int64_t{81}, int64_t{81}));
}

TEST(Regex, RefusesTheRestByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"a(?=b)", "look-around"},
      {"(?<!a)b", "look-around"},
      {"(a)\\1", "back reference"},
      {"\\bword", "\\b"},
      {"\\p{L}", "\\p"},
      {"(?i)a", "(?i"},
      {"a++", "possessive"},
      {"a**", "quantifier"},
      {"(a", ")"},
      {"a)", ")"},
      {"[a", "]"},
      {"*a", "repeat"},
      {"a{2,1}", "second count"},
      {"a{x}", "{m}"},
      {"b^a", "^"},
      {"a$b", "$"},
      {"(a$)", "$"},
      {"[b-a]", "range"},
      {"\\u12", "hexadecimal"},
      {"\\", "end"},
      {"[[:alpha:]]", "POSIX"},
      {"a{100001}", "100000"},
      {"\xFF", "UTF-8"},
      {"\\uD800", "surrogate"},
  };
  for (const auto& [pattern, what] : cases) {
    GrammarSource source;
    const auto regex = parse_regex(pattern, source);
    ASSERT_FALSE(regex.has_value()) << pattern;
    EXPECT_NE(regex.error().message().find(what), std::string::npos) << regex.error().message();
  }
}

TEST(Regex, HostilePatternsAreBoundedOrRefused) {
  std::string deep;
  for (int i = 0; i < 10000; ++i) deep += "(";
  EXPECT_FALSE(matcher_of(deep).has_value());
  std::string wide;
  for (int i = 0; i < 5000; ++i) wide += "(a|b|[^xyz]{7,9}){9}";
  EXPECT_FALSE(matcher_of(wide).has_value());
  // These make a backtracking matcher run for ever.
  for (const char* pattern :
       {"(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*)*b", "((a{1,90}){1,90}){1,90}b"}) {
    auto matcher = matcher_of(pattern);
    ASSERT_TRUE(matcher.has_value()) << pattern;
    EXPECT_FALSE(matcher->matches(std::string(2000, 'a') + "c"));
  }
  auto matcher = matcher_of("(a{1,60}){1,60}b");
  ASSERT_TRUE(matcher.has_value());
  EXPECT_TRUE(matcher->matches(std::string(3600, 'a') + "b"));
  EXPECT_FALSE(matcher->matches(std::string(3601, 'a') + "b"));
}

// Random patterns over a small alphabet against std::regex.
std::string random_pattern(RngStream& rng, int depth) {
  const auto pick = [&](uint32_t n) { return rng.next_u32() % n; };
  if (depth == 0 || pick(4) == 0) {
    constexpr const char* kAtoms[] = {"a", "b", "c", "[ab]", "[^a]", "."};
    return kAtoms[pick(6)];
  }
  switch (pick(6)) {
    case 0: return random_pattern(rng, depth - 1) + random_pattern(rng, depth - 1);
    case 1:
      return "(" + random_pattern(rng, depth - 1) + "|" + random_pattern(rng, depth - 1) + ")";
    case 2: return "(" + random_pattern(rng, depth - 1) + ")*";
    case 3: return "(" + random_pattern(rng, depth - 1) + ")?";
    case 4: return "(" + random_pattern(rng, depth - 1) + "){1,3}";
    default: return "(" + random_pattern(rng, depth - 1) + "){2,}";
  }
}

TEST(Regex, AgreesWithTheStandardLibrary) {
  RngStream rng(1, RngPurpose::data, 0);
  int num_matches = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string pattern = random_pattern(rng, 3);
    const std::regex standard(pattern);
    auto ours = matcher_of(pattern);
    ASSERT_TRUE(ours.has_value()) << pattern;
    for (int k = 0; k < 60; ++k) {
      std::string text;
      for (uint32_t n = rng.next_u32() % 7; n > 0; --n)
        text += static_cast<char>('a' + rng.next_u32() % 3);
      const bool matches = std::regex_match(text, standard);
      num_matches += matches;
      ASSERT_EQ(ours->matches(text), matches) << pattern << " : " << text;
    }
  }
  EXPECT_GT(num_matches, 1000);
}

}  // namespace
}  // namespace cachalot::grammar
