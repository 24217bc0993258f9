// Classes against stepping by each of their characters.
#include "grammar/character_classes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "grammar/grammar_text.h"
#include "grammar/json_schema.h"
#include "grammar/pushdown.h"
#include "grammar/utf8_bytes.h"

namespace cachalot::grammar {
namespace {

SetId step(Pushdown& pushdown, SetId set, uint32_t code_point) {
  std::array<uint8_t, 4> bytes{};
  const size_t size = encode_utf8(code_point, bytes);
  for (size_t i = 0; i < size; ++i) set = pushdown.step(set, bytes[i]);
  return set;
}

uint32_t random_character(RngStream& rng) {
  constexpr std::pair<uint32_t, uint32_t> kRanges[] = {
      {0, 0x7F},           {0x80, 0xFF},      {0x370, 0x4FF},   {0x800, 0x8FF},
      {0x2000, 0x206F},    {0x3000, 0x30FF},  {0x4E00, 0xD7FF}, {0xE000, 0xFFFF},
      {0x10000, 0x10FFFF}, {0x1F600, 0x1F64F}};
  const auto [first, last] = kRanges[rng.next_u32() % std::size(kRanges)];
  return first + rng.next_u32() % (last - first + 1);
}

TEST(CharacterClasses, WhatOneOfAClassDoesEachDoes) {
  size_t num_steps = 0;
  for (const char* grammar :
       {"root ::= ([^a-z] | [a-z]{1,5} [^a-z])+",
        "root ::= [α-ω]+ | ([а-яё] | [一-龥]){2,30} \"!\"",
        "root ::= ([^\\x00-\\x7F]{1,20} | [A-Za-zÀ-ÖØ-öø-ÿ]+ \" \"?){2,80}",
        "root ::= (\"é\" [^x] | \"😀\" [^é]* \"é\" | [\\U0001F600-\\U0001F64F] root)*",
        "root ::= line{2,9}\nline ::= [^\\n<，]{0,40} (\"\\n\" | \"，\" line)",
        // Words that single out more letters than are followed.
        "root ::= (\"<\" word \">\" | \"<\" [^<>]* \">\")+\nword ::= \"az\" | \"by\" | \"cx\" | "
        "\"dw\" | \"ev\" | \"fu\" | \"gt\" | \"hs\" | \"ir\" | \"jq\" | \"kp\" | \"lo\""}) {
    const auto source = parse_grammar_text(grammar);
    ASSERT_TRUE(source) << source.error().message();
    const auto automaton = std::make_shared<const Automaton>(*Automaton::compile(*source));
    const CharacterClasses classes(*automaton);
    EXPECT_TRUE(classes.is_useful()) << grammar;
    Pushdown pushdown(automaton);
    RngStream rng(3, RngPurpose::data, 0);
    SetId set = pushdown.start();
    for (int i = 0; i < 60; ++i) {
      set = pushdown.some_of(set, [&](const Configuration& c) { return classes.is_told(c.state); });
      if (set == Pushdown::kDead) {
        set = pushdown.start();
        continue;
      }
      std::map<uint32_t, SetId> leads;  // by class
      std::vector<SetId> alive;
      for (uint32_t cls = 0; cls < classes.num_classes(); ++cls) {
        SetId next = set;
        for (const char c : classes.example(cls))
          next = pushdown.step(next, static_cast<uint8_t>(c));
        leads[cls] = next;
        if (next != Pushdown::kDead && !classes.example(cls).empty()) alive.push_back(next);
      }
      for (int k = 0; k < 200; ++k, ++num_steps) {
        const uint32_t c = random_character(rng);
        ASSERT_EQ(step(pushdown, set, c), leads[classes.of(c)]) << grammar << ": " << c;
      }
      set = alive.empty() ? pushdown.start() : alive[rng.next_u32() % alive.size()];
    }
  }
  EXPECT_GT(num_steps, 40000u);
}

TEST(CharacterClasses, AreFewWhereNamesSingleOutLetters) {
  std::string properties;
  for (char c = 'a'; c <= 'z'; ++c) {
    properties += std::string(properties.empty() ? "" : ", ") + "\"" + c + "x" +
                  std::string(1, static_cast<char>('z' - c + 'a')) + R"(": {"type": "string"})";
  }
  const auto schema = parse_json(
      R"({"type": "object", "properties": {)" + properties + R"(}, "additionalProperties": true})",
      "schema");
  const auto automaton = *Automaton::compile(*json_schema_grammar(*schema));
  const CharacterClasses classes(automaton);
  EXPECT_TRUE(classes.is_useful());
  EXPECT_EQ(classes.of('a'), classes.of('z'));
  EXPECT_EQ(classes.of('a'), classes.of(0x6C34));
  EXPECT_NE(classes.of('a'), classes.of('"'));
  EXPECT_LT(classes.num_classes(), 32u);
}

// A rule that ends in the middle of a character is not told by characters.
TEST(CharacterClasses, PartsOfCharactersAreNotTold) {
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  const RuleId lead = source.add_rule("lead");
  source.set_body(lead, source.choice({source.bytes(0xC3, 0xC5), source.bytes('a', 'z')}));
  source.set_body(
      root,
      source.repeat(source.sequence({source.call(lead), source.optional(source.bytes(0x80, 0x9F))}),
                    0, kUnbounded));
  const auto automaton = std::make_shared<const Automaton>(*Automaton::compile(source));
  const CharacterClasses classes(*automaton);
  Pushdown pushdown(automaton);
  const auto start = pushdown.configurations(pushdown.start());
  EXPECT_FALSE(
      std::ranges::all_of(start, [&](const Configuration& c) { return classes.is_told(c.state); }));
}

}  // namespace
}  // namespace cachalot::grammar
