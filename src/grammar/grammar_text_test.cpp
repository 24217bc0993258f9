#include "grammar/grammar_text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grammar/grammar_test_data.h"

namespace cachalot::grammar {
namespace {

constexpr Notation kGbnf = {parse_grammar_text};

TEST(GrammarText, EveryConstruct) {
  kGbnf.expect("root ::= \"a\" [b-d] [^x]? .", {"abx", "aby!", "ab水é"}, {"ab", "axy", "abx!"});
  kGbnf.expect("root ::= (\"a\" | \"b\" \"c\")+ \"d\"{2} \"e\"{1,} \"f\"{0,1}",
               {"addee", "abcaddef"}, {"dde", "ade", "addeff"});
  kGbnf.expect("# a comment\nroot ::= item # another\n  item*\nitem ::= \"x\"\n  | \"y\"", {"xyx"},
               {""});
  kGbnf.expect("root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\\"\\\\\" [\\]\\^\\-]",
               {"Aé😀\n\t\"\\]", "Aé😀\n\t\"\\-"}, {"A"});
  kGbnf.expect("root ::= \"\" | \"a\"", {"", "a"}, {"aa"});
  kGbnf.expect("root-rule ::= \"b\"\nroot ::= root-rule", {"b"}, {"a"});
}

TEST(GrammarText, RecursionNests) {
  kGbnf.expect("root ::= \"(\" root* \")\"", {"()", "(()(()))"}, {"(", "(()", "())"});
  // Palindromes need both halves at once.
  kGbnf.expect("root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"c\"?",
               {"", "abba", "abcba", "aabaabaa"}, {"ab", "abca"});
  // Ambiguous: the middle of every addition may come first.
  std::string sum = "1";
  for (int i = 0; i < 200; ++i) sum += "+1";
  kGbnf.expect("root ::= term (\"+\" root)?\nterm ::= \"1\" | \"(\" root \")\"", {sum, "(1+1)+1"},
               {sum + "+"});
}

// Each element is one call, and the call is the last thing its rule does: no limit on depth.
TEST(GrammarText, ListsByRightRecursionAreUnbounded) {
  auto matcher = kGbnf.matcher_of("root ::= \"a\" root | \"b\" other | \"\"\nother ::= \"c\" root");
  ASSERT_TRUE(matcher);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += i % 3 == 0 ? "bc" : "a";
  EXPECT_TRUE(matcher->matches(text));
}

TEST(GrammarText, NestingIsBounded) {
  auto matcher = kGbnf.matcher_of("root ::= \"(\" root \")\" | \"x\"");
  ASSERT_TRUE(matcher);
  const auto nested = [](size_t n) { return std::string(n, '(') + "x" + std::string(n, ')'); };
  EXPECT_TRUE(matcher->matches(nested(250)));
  EXPECT_FALSE(matcher->begins(std::string(300, '(')));
  // What is begun can be ended, also at the limit.
  std::string open;
  while (matcher->begins(open + "(")) open += "(";
  EXPECT_TRUE(matcher->matches(open + "x" + std::string(open.size(), ')')));
}

TEST(GrammarText, ErrorsNameThePlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "\"root\""},
      {"a ::= \"x\"", "\"root\""},
      {"root ::= b", "\"b\""},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2"},
      {"root ::= root \"a\" | \"b\"", "left recursion"},
      {"root ::= x root \"a\" | \"b\"\nx ::= \"\" | \"x\"", "left recursion"},
      {"root ::= a\na ::= b\nb ::= a \"x\" | \"y\"", "left recursion"},
      {"root ::= \"a\" root", "none"},
      {"root ::= \"a", "line 1"},
      {"root ::= (\"a\"", ")"},
      {"root ::= \"a\")", "a rule"},
      {"root := \"a\"", "::="},
      {"root ::= [b-a]", "rises"},
      {"root ::= \"\\q\"", "escape"},
      {"root ::= \"a\"{3,2}", "counts"},
      {"root ::= \"a\"{100001}", "100000"},
      {"root ::= *", "a rule name"},
  };
  kGbnf.expect_errors(cases);
}

TEST(GrammarText, HostileGrammarsAreBounded) {
  EXPECT_FALSE(kGbnf.matcher_of("root ::= " + std::string(100000, '(')).has_value());
  EXPECT_FALSE(kGbnf.matcher_of(std::string(kMaxGrammarBytes + 1, '#')).has_value());
  // Rules that may be empty, each by the next.
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 5000; ++i)
    chain += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "\n";
  chain += "r5000 ::= \"\" | \"a\"\n";
  auto empty_chain = kGbnf.matcher_of(chain);
  ASSERT_TRUE(empty_chain.has_value());
  EXPECT_TRUE(empty_chain->matches("a"));
  // Every rule twice as large as the one before.
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 60; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    doubling += "r" + std::to_string(i) + " ::= " + next + " " + next + "\n";
  }
  auto doubled = kGbnf.matcher_of(doubling + "r60 ::= \"a\" | \"aa\"\n");
  ASSERT_TRUE(doubled.has_value());
  EXPECT_TRUE(doubled->begins(std::string(3000, 'a')));
}

}  // namespace
}  // namespace cachalot::grammar
