#include "grammar/lark_text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grammar/grammar_test_data.h"

namespace cachalot::grammar {
namespace {

constexpr Notation kLark = {[](std::string_view text) { return parse_lark_text(text); }};

TEST(LarkText, EveryConstruct) {
  kLark.expect(
      "start: \"a\" b? [C] // a comment\n  | (\"x\" -> x)+ # another\n  | D~2 D~1..2\n"
      "?b: \"b\"\nC.2: \"c\"i | /[0-9]{2}/\nD: \"d\"..\"f\"",
      {"a", "ab", "abc", "aC", "a17", "xx", "def", "defd"}, {"b", "ac1", "de", "defde", "ax"});
  kLark.expect("start:\n  | \"\\n\\t\\\"\\\\\\x41\\u00e9\"\n  | /\\/\\w+\\//",
               {"\n\t\"\\Aé", "/ab/"}, {"//"});
  kLark.expect("start: \"水\"* \"é\"", {"é", "水水é"}, {"水"});
  kLark.expect("start: \"a\" |", {"", "a"}, {"aa"});
}

TEST(LarkText, ARuleMayCallItselfFirst) {
  kLark.expect(
      "start: start \"+\" term | start \"-\" term | term\nterm: /[0-9]+/ | \"(\" start \")\"",
      {"1", "1+2-3", "(1+2)-(3)"}, {"+", "1+", "(1"});
}

TEST(LarkText, WhatIsIgnoredStandsBetweenTerminalsAlone) {
  kLark.expect(
      "start: \"let\" NAME \"=\" NUMBER\nNAME: LETTER+\n%import common (LETTER, NUMBER)\n"
      "%import common.WS\n%ignore WS\n%ignore /#[^\\n]*/",
      {"letx=1", "let x = 2.5e3", " let x # why\n= 1 "}, {"le t x = 1", "let x = 1 2", "let="});
}

TEST(LarkText, CommonTerminalsAreLarks) {
  kLark.expect(
      "start: I \" \" S \" \" C\n%import common.SIGNED_NUMBER -> I\n"
      "%import common.ESCAPED_STRING -> S\n%import common.CNAME -> C",
      {"-1.5 \"a\\\"b\" _x1", "+.5 \"\" a"}, {"1 \"a\"b\" x", "1 \"a\\\" x", "1 \"\" 1x"});
}

// What Codex sends with its tool for patches is of this kind.
TEST(LarkText, PatchesByLines) {
  kLark.expect(
      R"(start: begin hunk+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?

hunk: add | update
add: "*** Add File: " filename LF add_line+
update: "*** Update File: " filename LF change?
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change: (context | line)+ last?
context: ("@@" | "@@ " /(.+)/) LF
line: ("+" | "-" | " ") /(.*)/ LF
last: "*** End of File" LF

%import common.LF
)",
      {"*** Begin Patch\n*** Add File: a b.c\n+x\n+\n*** End Patch",
       "*** Begin Patch\n*** Update File: é\n@@ f()\n-x\n+y\n z\n*** End of File\n"
       "*** Add File: b\n+1\n*** End Patch\n"},
      {"*** Begin Patch\n*** End Patch", "*** Begin Patch\n*** Add File: a\nx\n*** End Patch",
       "*** Begin Patch\n*** Update File: \n*** End Patch"});
}

TEST(LarkText, LeavesCharactersOut) {
  const auto source = parse_lark_text("start: /[^x]+/ \"!\"", {{0xFF5C, 0xFF5C}});
  ASSERT_TRUE(source);
  auto matcher = TextMatcher::create(*source);
  ASSERT_TRUE(matcher);
  EXPECT_TRUE(matcher->matches("a水!"));
  EXPECT_FALSE(matcher->begins("a｜"));
}

TEST(LarkText, ErrorsNameThePlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "\"start\""},
      {"start: a", "\"a\""},
      {"start: \"a\"\nstart: \"b\"", "line 2"},
      {"start: a\na: b \"x\"\nb: a \"y\" | \"z\"", "left recursion"},
      {"start: \"a", "line 1"},
      {"start: (\"a\"", ")"},
      {"start \"a\"", "name: ..."},
      {"start: \"b\"..\"a\"", "rising"},
      {"start: \"ab\"..\"c\"", "rising"},
      {"start: \"\\q\"", "escape"},
      {"start: \"a\"~3..2", "count"},
      {"start: A\nA: b\nb: \"x\"", "terminals"},
      {"start: /a/i", "\"i\""},
      {"start: /a", "regex"},
      {"start: /a\\", "regex"},
      {"start: /(?=a)b/", "line 1"},
      {"start: list{\"a\"}", "template"},
      {"list{x}: x\nstart: \"a\"", "template"},
      {"%declare A\nstart: \"a\"", "%declare"},
      {"%import python.NAME\nstart: NAME", "common"},
      {"%import common.NOTHING\nstart: NOTHING", "common.NOTHING"},
  };
  kLark.expect_errors(cases);
  EXPECT_FALSE(kLark.matcher_of("start: " + std::string(100000, '(')).has_value());
}

}  // namespace
}  // namespace cachalot::grammar
