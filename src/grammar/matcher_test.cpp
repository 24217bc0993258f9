// Masks against trying every token, going back against never having been there.
#include "grammar/matcher.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "base/test_data.h"
#include "grammar/completion_grammar.h"
#include "grammar/grammar_test_data.h"
#include "grammar/grammar_text.h"
#include "grammar/json_schema.h"
#include "text/chat_literals.h"

namespace cachalot::grammar {
namespace {

std::shared_ptr<const Vocabulary> nano() {
  static const auto kNano = [] {
    const auto tokenizer = text::Tokenizer::load(test_data("../models/nano/tokenizer.json"));
    return std::make_shared<const Vocabulary>(*Vocabulary::create(*tokenizer));
  }();
  return kNano;
}

std::shared_ptr<TokenAutomaton> automaton_of(std::string_view text) {
  const auto source = parse_grammar_text(text);
  CACHALOT_CHECK_MSG(source.has_value(), source ? "" : source.error().message());
  auto automaton = TokenAutomaton::create(*source, nano());
  CACHALOT_CHECK_MSG(automaton.has_value(), automaton ? "" : automaton.error().message());
  return *automaton;
}

constexpr std::string_view kGrammars[] = {
    "root ::= [a-z ]*",
    "root ::= \"yes\" | \"no\" | \"not sure\"",
    "root ::= \"[\" (root (\", \" root)*)? \"]\" | \"\\\"\" [^\"\\\\]* \"\\\"\" | [0-9]+",
    "root ::= word{2,400}\nword ::= [a-z]+ \" \"?",
    "root ::= \"{\" pair{3,40} \"}\"\npair ::= \"\\\"\" .{2,100} \"\\\": \" root? \";\"",
    "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"é\"?",
    "root ::= line root | line\nline ::= .{0,20} \"\\n\"",
    "root ::= ([a-f]{1,9} | [d-k]{1,9}){1,30} \"!\"",
    "root ::= \"(\" root \")\" | \"((\" root \"))\" | \"x\"",
    "root ::= .* ",
};

std::vector<uint32_t> row_of(Matcher& matcher) {
  std::vector<uint32_t> row(matcher.vocabulary().row_words(), 0xFFFFFFFF);
  const Status status = matcher.fill_row(row);
  EXPECT_TRUE(status.ok()) << status.message();
  return row;
}
bool has(const std::vector<uint32_t>& row, int32_t token) {
  return (row[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
}
std::vector<int32_t> allowed(const std::vector<uint32_t>& row) {
  std::vector<int32_t> tokens;
  for (int32_t t = 0; t < static_cast<int32_t>(row.size()) * 32; ++t) {
    if (has(row, t)) tokens.push_back(t);
  }
  return tokens;
}

// Brackets and other rare tokens come up as often as words.
int32_t pick(const std::vector<int32_t>& tokens, RngStream& rng) {
  int32_t best = tokens[rng.next_u32() % tokens.size()];
  for (int i = 0; i < 2; ++i) {
    const int32_t other = tokens[rng.next_u32() % tokens.size()];
    if (nano()->text_bytes(other).size() < nano()->text_bytes(best).size()) best = other;
  }
  return best;
}

struct Case {
  std::string name;
  GrammarSource source;
  std::string begin = {};  // walks start after it
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const std::string_view text : kGrammars)
    out.push_back({std::string(text), *parse_grammar_text(text)});
  // Just below the limit on nesting, where what is begun must still be ended.
  const GrammarSource nested = *parse_grammar_text("root ::= \" \" root \"\\n\" | \"x\"");
  auto text = *TextMatcher::create(nested);
  std::string open;
  while (text.begins(open + " ")) open += " ";
  for (const size_t left : {0, 1, 2, 5})
    out.push_back({"deep", nested, open.substr(0, open.size() - left)});
  const auto schema = parse_json(
      R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 300}, "n": {"type": "integer", "minimum": -5},
          "short": {"type": "string", "minLength": 3, "maxLength": 9}, "list": {"type": "array", "items": {"$ref": "#"}, "maxItems": 40},
          "code": {"type": "string", "pattern": "^[A-Z]+-[a-f0-9]{2,40}$"}}, "required": ["name"], "additionalProperties": true})",
      "schema");
  out.push_back({"schema", *json_schema_grammar(*schema)});
  for (const char* begin : {"{\"name\": \"", "{\"name\": \"x\", \"short\": \"",
                            "{\"name\": \"x\", \"n\": -", "{\"name\": \"x\", \"list\": [",
                            "{\"name\": \"x\", \"code\": \"", "{\"name\": \"x\", \"q"}) {
    out.push_back({begin, *json_schema_grammar(*schema), begin});
  }
  static const std::vector<CallableTool> kTools = {{{"f", schema->as_object()}, true}};
  for (const bool reasons : {false, true}) {
    ToolGrammarOptions options;
    options.starts_in_reasoning = reasons;
    options.tools = kTools;
    out.push_back({"tools", *tool_grammar(options, *nano())});
  }
  return out;
}

TEST(Matcher, MasksAreWhatTryingEveryTokenGives) {
  for (const Case& one : cases()) {
    const auto automaton = *TokenAutomaton::create(one.source, nano());
    // The definition, on sets of its own.
    Pushdown plain(std::make_shared<const Automaton>(*Automaton::compile(one.source)));
    const auto step = [&](SetId set, int32_t token) {
      if (nano()->is_end(token)) return plain.may_end(set) ? Pushdown::kEnded : Pushdown::kDead;
      if (nano()->is_control(token)) return plain.step_control(set, token);
      const std::string_view bytes = nano()->text_bytes(token);
      for (const char c : bytes) set = plain.step(set, static_cast<uint8_t>(c));
      return bytes.empty() ? Pushdown::kDead : set;
    };
    for (uint64_t walk = 0; walk < 4; ++walk) {
      RngStream rng(7, RngPurpose::data, walk);
      Matcher matcher(automaton);
      SetId set = plain.start();
      const auto take = [&](int32_t token) {
        EXPECT_TRUE(matcher.accept(token).ok()) << one.name;
        set = step(set, token);
      };
      for (const char c : one.begin) {
        int32_t token = 0;
        while (nano()->text_bytes(token) != std::string_view(&c, 1)) ++token;
        take(token);
      }
      for (int i = 0; i < 40 && !matcher.is_ended(); ++i) {
        const std::vector<uint32_t> row = row_of(matcher);
        for (int32_t token = 0; token < nano()->size(); ++token) {
          const bool is_allowed = step(set, token) != Pushdown::kDead;
          ASSERT_EQ(has(row, token), is_allowed)
              << one.name << ", step " << i << ": " << nano()->text_bytes(token);
          if (i % 8 == 0) {
            ASSERT_EQ(matcher.allows(token), is_allowed);
          }
        }
        take(pick(allowed(row), rng));
      }
    }
  }
}

TEST(Matcher, GoingBackIsAsIfItHadNeverBeen) {
  for (const std::string_view text : kGrammars) {
    const auto automaton = automaton_of(text);
    RngStream rng(3, RngPurpose::data, 0);
    Matcher matcher(automaton);
    std::vector<int32_t> taken;
    for (int round = 0; round < 40; ++round) {
      const size_t keep = rng.next_u32() % (taken.size() + 1);
      matcher.rewind(static_cast<int64_t>(keep));
      taken.resize(keep);
      while (taken.size() < 12 && !matcher.is_ended()) {
        const std::vector<int32_t> tokens = allowed(row_of(matcher));
        taken.push_back(pick(tokens, rng));
        ASSERT_TRUE(matcher.accept(taken.back()).ok());
      }
      Matcher straight(automaton_of(text));
      ASSERT_EQ(straight.count_allowed(taken), taken.size());
      EXPECT_EQ(straight.num_tokens(), 0);
      for (const int32_t token : taken) ASSERT_TRUE(straight.accept(token).ok());
      EXPECT_EQ(straight.may_end(), matcher.may_end());
      EXPECT_EQ(row_of(straight), row_of(matcher)) << text;
    }
  }
}

TEST(Matcher, ForksGoTheirOwnWays) {
  Matcher one(automaton_of("root ::= \"a\" (\"b\" | \"c\")"));
  const auto token = [](char c) {
    for (int32_t t = 0; t < nano()->size(); ++t) {
      if (nano()->text_bytes(t) == std::string(1, c)) return t;
    }
    return -1;
  };
  ASSERT_TRUE(one.accept(token('a')).ok());
  Matcher other = one;
  ASSERT_TRUE(one.accept(token('b')).ok());
  EXPECT_FALSE(one.accept(token('c')).ok());
  EXPECT_EQ(one.num_tokens(), 2);
  ASSERT_TRUE(other.accept(token('c')).ok());
  EXPECT_TRUE(other.may_end());
  const int32_t drafts[] = {token('a'), token('c'), token('c')};
  Matcher fresh(automaton_of("root ::= \"a\" (\"b\" | \"c\")"));
  EXPECT_EQ(fresh.count_allowed(drafts), 2u);
}

TEST(Matcher, EndsWhereTheGrammarMayAndOnlyThere) {
  const int32_t end = *nano()->control(text::kEos);
  Matcher matcher(automaton_of("root ::= \"aa\" \"a\"?"));
  int32_t a = 0;
  while (nano()->text_bytes(a) != "a") ++a;
  for (int taken = 0; taken <= 3; ++taken) {
    EXPECT_EQ(matcher.may_end(), taken >= 2);
    EXPECT_EQ(has(row_of(matcher), end), taken >= 2);
    EXPECT_EQ(matcher.allows(end), taken >= 2);
    if (taken < 3) {
      ASSERT_TRUE(matcher.accept(a).ok());
    }
  }
  EXPECT_EQ(allowed(row_of(matcher)), std::vector<int32_t>{end});
  ASSERT_TRUE(matcher.accept(end).ok());
  EXPECT_TRUE(matcher.is_ended());
  EXPECT_TRUE(allowed(row_of(matcher)).empty());
  EXPECT_FALSE(matcher.accept(end).ok());
  EXPECT_FALSE(matcher.accept(a).ok());
  matcher.rewind(2);
  EXPECT_TRUE(matcher.allows(a));
}

TEST(Matcher, ControlTokensNeverCountAsText) {
  Matcher matcher(automaton_of("root ::= .*"));
  const std::vector<uint32_t> row = row_of(matcher);
  for (int32_t token = 0; token < nano()->size(); ++token) {
    if (nano()->is_control(token)) {
      EXPECT_EQ(has(row, token), nano()->is_end(token)) << token;
    }
  }
  EXPECT_FALSE(matcher.allows(*nano()->control("</think>")));
  EXPECT_FALSE(matcher.allows(-1));
  EXPECT_FALSE(matcher.allows(1 << 30));
}

TEST(Matcher, NamedControlTokensComeWhereTheGrammarHasThem) {
  const int32_t think_end = *nano()->control("</think>");
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  source.set_body(root, source.sequence({source.repeat(source.bytes('a', 'z'), 1, kUnbounded),
                                         source.control(think_end), source.literal("!")}));
  Matcher matcher(*TokenAutomaton::create(source, nano()));
  EXPECT_FALSE(has(row_of(matcher), think_end));
  int32_t a = 0;
  while (nano()->text_bytes(a) != "a") ++a;
  ASSERT_TRUE(matcher.accept(a).ok());
  EXPECT_TRUE(has(row_of(matcher), think_end));
  ASSERT_TRUE(matcher.accept(think_end).ok());
  const std::vector<int32_t> last = allowed(row_of(matcher));
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(nano()->text_bytes(last[0]), "!");
}

TEST(Matcher, HostileGrammarsCostABoundedRow) {
  // Thousands of configurations, and another set for every text.
  Matcher matcher(
      automaton_of("root ::= [ab]* \"a\" ([ab] | \"c\" [ab]){2000} | ([a-z]{1,90}){1,90} \"!\""));
  std::vector<uint32_t> row(nano()->row_words());
  for (int i = 0; i < 30; ++i) {
    const Status status = matcher.fill_row(row);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), StatusCode::resource_exhausted);
      return;
    }
    int32_t a = 0;
    while (nano()->text_bytes(a) != "ab") ++a;
    if (!matcher.accept(a).ok()) return;
  }
}

}  // namespace
}  // namespace cachalot::grammar
