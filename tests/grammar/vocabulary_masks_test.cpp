// Masks over V4's own vocabulary against walking its whole trie, on sets of its own.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "grammar/completion_grammar.h"
#include "grammar/grammar_text.h"
#include "grammar/json_schema.h"
#include "grammar/matcher.h"
#include "grammar/regex.h"
#include "tokenizer/v3_vocabulary.h"

namespace cachalot::grammar {
namespace {

std::shared_ptr<const Vocabulary> v4() {
  static const auto kV4 =
      std::make_shared<const Vocabulary>(*Vocabulary::create(text::v4_tokenizer()));
  return kV4;
}

// The definition: each token's bytes, one by one.
class Plain {
 public:
  explicit Plain(const GrammarSource& source)
      : pushdown_(std::make_shared<const Automaton>(*Automaton::compile(source))),
        set_(pushdown_.start()),
        path_(static_cast<size_t>(v4()->longest_token()) + 1) {}

  std::vector<uint32_t> row() {
    std::vector<uint32_t> row(v4()->row_words());
    const auto set = [&](int32_t token) {
      row[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
    };
    const auto nodes = v4()->trie();
    path_[0] = set_;
    for (uint32_t i = 0; i + 1 < nodes.size();) {
      const SetId next = pushdown_.step(path_[nodes[i].depth], nodes[i].byte);
      path_[nodes[i].depth + 1u] = next;
      if (next == Pushdown::kDead) {
        i = nodes[i].skip;
        continue;
      }
      for (uint32_t t = nodes[i].tokens; t < nodes[i + 1].tokens; ++t) set(v4()->trie_tokens()[t]);
      ++i;
    }
    for (const int32_t token : pushdown_.controls(set_)) set(token);
    if (pushdown_.may_end(set_)) {
      for (const int32_t token : v4()->end_tokens()) set(token);
    }
    return row;
  }
  void take(int32_t token) {
    if (v4()->is_control(token)) {
      set_ = pushdown_.step_control(set_, token);
    } else {
      for (const char c : v4()->text_bytes(token))
        set_ = pushdown_.step(set_, static_cast<uint8_t>(c));
    }
  }

 private:
  Pushdown pushdown_;
  SetId set_;
  std::vector<SetId> path_;
};

struct Case {
  std::string name;
  GrammarSource source;
  std::string begin = {};  // walks start after it
};

constexpr std::string_view kSchema = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 40}, "nickname": {"type": "string", "minLength": 2},
  "age": {"type": "integer", "minimum": 0, "maximum": 130}, "height": {"type": "number"},
  "born": {"type": "string", "format": "date"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 8},
  "kind": {"enum": ["person", "robot"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[^,.0-9]*[0-9]{4}$"},
  "friends": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name"], "additionalProperties": true})";

// Regular expressions of which any two differ in what they repeat, how often, and what follows.
std::string random_pattern(RngStream& rng) {
  static constexpr std::string_view kAtoms[] = {"[a-z ]",
                                                "[A-Za-z0-9_]",
                                                ".",
                                                "[^x]",
                                                "[^\"\\\\]",
                                                "[^<\\n]",
                                                "\\S",
                                                "\\w",
                                                "[^，。e]",
                                                "[一-龥]",
                                                "[ -~]",
                                                "(?:ab|cde|[f-z])",
                                                "(?:the|a| and)",
                                                "[\\t ]",
                                                "\\D",
                                                "[^\\u3000-\\u303F]",
                                                "é|[a-m]",
                                                "[Α-ωа-яё ]",
                                                "[가-힣 ]",
                                                "[一-鿿ぁ-んァ-ヶ]",
                                                "[A-Za-zÀ-ÿ]",
                                                "[一-迿 ]",
                                                "\\W",
                                                "[^一-龥]",
                                                "[a-zéèà ]",
                                                "[^😀-🙏]",
                                                "[a-z\\u00A0\\uFEFF]",
                                                "[ｂ-ｙ\\u205F ]"};
  static constexpr std::string_view kRepeats[] = {"",       "*",       "+",       "{3}", "{0,20}",
                                                  "{5,33}", "{2,100}", "{1,400}", "{40}"};
  std::string out;
  const auto pick = [&](const auto& list) { return list[rng.next_u32() % std::size(list)]; };
  const uint32_t parts = 1 + rng.next_u32() % 3;
  for (uint32_t i = 0; i < parts; ++i) {
    const uint32_t kind = rng.next_u32() % 6;
    const std::string atom(pick(kAtoms));
    if (kind == 0) {
      out += fmt::format("(?:{}{}\\n)*", atom, pick(kRepeats));
    } else if (kind == 1) {
      out += fmt::format("(?:{}|{}{})", atom, pick(kAtoms), pick(kRepeats));
    } else {
      out += fmt::format("(?:{}){}", atom, pick(kRepeats));
    }
  }
  return out;
}

// Of classes that overlap, counted in one another.
std::string random_counts(RngStream& rng, int depth) {
  static constexpr std::string_view kAtoms[] = {"[a-z ]",   "\\w",      ".",         "[^x]",
                                                "\\S",      "[a-m]",    "[k-z]",     "[aeiou]",
                                                "[^,.0-9]", "[一-龥 ]", "the|[a-f]", "[A-Z]"};
  const auto pick = [&rng](uint32_t n) { return rng.next_u32() % n; };
  if (depth == 0) return std::string(kAtoms[pick(std::size(kAtoms))]);
  std::string out = "(?:" + random_counts(rng, depth - 1);
  for (uint32_t more = pick(3); more > 0; --more) {
    if (pick(2) == 0) out += '|';
    out += random_counts(rng, depth - 1);
  }
  const uint32_t min = pick(9);
  return fmt::format("{}){{{},{}}}", out, min, min + 1 + pick(4) * pick(12));
}

std::vector<Case> cases() {
  std::vector<Case> out;
  const auto schema = *parse_json(kSchema, "schema");
  for (const char* begin :
       {"", "{\"name\": \"", "{\"name\": \"a\", \"nickname\": \"", "{\"name\": \"a\", \"height\": ",
        "{\"name\": \"a\", \"tags\": [\"", "{\"name\": \"a\", \"code\": \"AB-",
        "{\"name\": \"a\", \"friends\": [{\"name\": \"b", "{\"name\": \"a\", \"x"}) {
    out.push_back({"schema", *json_schema_grammar(schema), begin});
  }
  out.push_back({"json", json_object_grammar(), "{\"a\": [[[1, \""});
  out.push_back(
      {"sums",
       *parse_grammar_text(
           "root ::= atom (\" + \" atom)*\natom ::= [0-9]+ | [a-z] [a-z0-9_]* | \"(\" root \")\""),
       "((a"});
  out.push_back(
      {"lists", *parse_grammar_text("root ::= line{2,90}\nline ::= \"- \" [^\\n]+ \"\\n\" | \"> \" "
                                    "word{1,12} \"\\n\"\nword ::= [a-z]+ \" \"?")});
  const std::vector<CallableTool> tools = {{{"lookup", schema.as_object()}, true},
                                           {{"say", {}}, false}};
  for (const bool reasons : {false, true}) {
    out.push_back(
        {"tools", *tool_grammar({.starts_in_reasoning = reasons, .tools = tools}, *v4())});
    out.push_back({"one call", *tool_grammar({.starts_in_reasoning = reasons,
                                              .choice = ToolChoice::required,
                                              .parallel = false,
                                              .tools = tools},
                                             *v4())});
  }
  RngStream rng(5, RngPurpose::data, 0);
  while (out.size() < 110) {
    const int depth = static_cast<int>(out.size()) % 4;
    const std::string pattern = depth == 0 ? random_pattern(rng) : random_counts(rng, depth);
    GrammarSource source;
    const RuleId root = source.add_rule("root");
    const auto regex = parse_regex(pattern, source);
    EXPECT_TRUE(regex.has_value()) << pattern;
    source.set_body(root, regex->expression);
    out.push_back({pattern, std::move(source)});
  }
  return out;
}

TEST(VocabularyMasks, AreWhatWalkingEveryTokenGives) {
  size_t num_rows = 0, num_refused = 0;
  bool is_prepared = false;  // every other one
  for (const Case& one : cases()) {
    const auto automaton = *TokenAutomaton::create(one.source, v4());
    if (is_prepared && !automaton->prepare().ok()) continue;
    is_prepared = !is_prepared;
    Plain plain(one.source);
    Matcher matcher(automaton);
    RngStream rng(11, RngPurpose::data, num_rows);
    const auto take = [&](int32_t token) {
      ASSERT_TRUE(matcher.accept(token).ok()) << one.name;
      plain.take(token);
    };
    for (const char c : one.begin) {
      int32_t token = 0;
      while (v4()->text_bytes(token) != std::string_view(&c, 1)) ++token;
      take(token);
    }
    std::vector<uint32_t> row(v4()->row_words());
    for (int step = 0; step < 12 && !matcher.is_ended(); ++step, ++num_rows) {
      if (const Status status = matcher.fill_row(row); !status.ok()) {
        EXPECT_EQ(status.code(), StatusCode::resource_exhausted) << one.name;
        ++num_refused;
        break;
      }
      const std::vector<uint32_t> expected = plain.row();
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token < v4()->size(); ++token) {
        const auto bit = [&](const auto& words) {
          return words[static_cast<size_t>(token) / 32] >> (token % 32) & 1;
        };
        ASSERT_EQ(bit(row), bit(expected)) << one.name << ", step " << step << ": token " << token
                                           << ": \"" << v4()->text_bytes(token) << '"';
        if (bit(row) != 0) allowed.push_back(token);
      }
      // Short ones, quotes and brackets come up often.
      int32_t next = allowed[rng.next_u32() % allowed.size()];
      for (uint32_t i = rng.next_u32() % 4; i > 0; --i) {
        const int32_t other = allowed[rng.next_u32() % allowed.size()];
        if (v4()->text_bytes(other).size() < v4()->text_bytes(next).size()) next = other;
      }
      if (v4()->is_end(next)) break;
      take(next);
    }
  }
  EXPECT_GT(num_rows, 600u);
  EXPECT_LT(num_refused, 10u);
}

}  // namespace
}  // namespace cachalot::grammar
