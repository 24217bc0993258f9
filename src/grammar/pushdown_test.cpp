// Counted repetitions against their definition, and what ambiguous ones cost.
#include "grammar/pushdown.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

#include "base/rng.h"
#include "grammar/grammar_text.h"

namespace cachalot::grammar {
namespace {

// The places at which a text of an expression may end, as bits; texts of less than 64 bytes.
class Definition {
 public:
  Definition(const GrammarSource& source, std::string_view text) : source_(source), text_(text) {}

  bool matches_prefix(size_t size) { return (ends(root(), 0) >> size & 1) != 0; }

 private:
  using Node = GrammarSource::Node;

  Expression root() const { return source_.rules()[static_cast<size_t>(source_.root())].body; }
  uint64_t ends(Expression e, size_t begin) {
    const auto [it, is_new] = known_.try_emplace({e, begin}, 0);
    if (!is_new) return it->second;
    const uint64_t found = find(source_.node(e), begin);
    return known_[{e, begin}] = found;
  }
  uint64_t ends_from(Expression e, uint64_t begins) {
    uint64_t out = 0;
    for (size_t i = 0; i <= text_.size(); ++i) {
      if ((begins >> i & 1) != 0) out |= ends(e, i);
    }
    return out;
  }
  uint64_t find(const Node& node, size_t begin) {
    const uint64_t here = uint64_t{1} << begin;
    uint64_t out = 0;
    switch (node.kind) {
      case GrammarSource::Kind::empty: return here;
      case GrammarSource::Kind::bytes:
        if (begin == text_.size()) return 0;
        return text_[begin] >= node.a && text_[begin] <= node.b ? here << 1 : 0;
      case GrammarSource::Kind::sequence:
        out = here;
        for (const Expression child : node.children) out = ends_from(child, out);
        return out;
      case GrammarSource::Kind::choice:
        for (const Expression child : node.children) out |= ends(child, begin);
        return out;
      case GrammarSource::Kind::repeat: {
        uint64_t now = here;
        // No text has more rounds than bytes.
        for (int32_t round = 0; round <= node.b && round <= node.a + 64; ++round) {
          if (round >= node.a) out |= now;
          now = ends_from(node.children[0], now);
        }
        return out;
      }
      case GrammarSource::Kind::rule:
        return ends(source_.rules()[static_cast<size_t>(node.a)].body, begin);
      default: ADD_FAILURE() << "no definition"; return 0;
    }
  }

  const GrammarSource& source_;
  std::string text_;
  std::map<std::pair<Expression, size_t>, uint64_t> known_;
};

// Of bounds near the lengths of the texts; so many bytes in all that rounds are counted.
std::string random_repetition(RngStream& rng, int depth) {
  const auto pick = [&](uint32_t n) { return rng.next_u32() % n; };
  const auto counts = [&] {
    const uint32_t min = pick(12);
    return pick(4) == 0 ? fmt::format("{{{},}}", min)
                        : fmt::format("{{{},{}}}", min, min + 1 + pick(3) * pick(20));
  };
  constexpr const char* kAtoms[] = {"[ab]", "[a-c]", "\"a\"", "\"ab\"", "\"b\"", "\"ca\""};
  const auto part = [&] {
    return depth == 0 ? std::string(kAtoms[pick(6)]) : random_repetition(rng, depth - 1);
  };
  // What makes it large is a text that never comes up.
  return fmt::format("({} | {}{} \"c\"? | \"{}\"){}", part(), part(), pick(2) == 0 ? "{1,9}" : "",
                     std::string(100, 'z'), counts());
}

TEST(Pushdown, CountedRepetitionsAreWhatTheirDefinitionSays) {
  RngStream rng(21, RngPurpose::data, 0);
  int num_yes = 0, num_no = 0;
  for (int i = 0; i < 100; ++i) {
    const std::string grammar = fmt::format("root ::= {} \"d\"? {}", random_repetition(rng, i % 3),
                                            i % 2 == 0 ? "" : random_repetition(rng, 0));
    const auto source = parse_grammar_text(grammar);
    ASSERT_TRUE(source) << grammar;
    Pushdown pushdown(std::make_shared<const Automaton>(*Automaton::compile(*source)));
    for (int k = 0; k < 12; ++k) {
      std::string text;
      const char* letters = k % 3 == 0 ? "a" : k % 3 == 1 ? "ab" : "aaabbcd";
      while (text.size() < 40) text += letters[rng.next_u32() % std::string_view(letters).size()];
      Definition definition(*source, text);
      SetId set = pushdown.start();
      for (size_t size = 0; size <= text.size(); ++size) {
        const bool expected = definition.matches_prefix(size);
        (expected ? num_yes : num_no) += 1;
        ASSERT_EQ(set != Pushdown::kDead && pushdown.may_end(set), expected)
            << grammar << ": " << text.substr(0, size);
        if (size < text.size()) set = pushdown.step(set, static_cast<uint8_t>(text[size]));
      }
    }
  }
  EXPECT_GT(num_yes, 10000);
  EXPECT_GT(num_no, 10000);
}

TEST(Pushdown, RepetitionsOfRepetitionsHaveTheRoundsOfBoth) {
  for (int i = 0; i < 4 * 4 * 4 * 4; ++i) {
    const int least = i % 4, min = i / 4 % 4, most = least + i / 16 % 4, max = min + i / 64;
    GrammarSource source;
    const RuleId root = source.add_rule("root");
    const Expression inner = source.repeat(source.bytes('a', 'a'), least, most);
    source.set_body(root, source.repeat(inner, min, max));
    const auto automaton = Automaton::compile(source);
    ASSERT_TRUE(automaton);
    Pushdown pushdown(std::make_shared<const Automaton>(*automaton));
    SetId set = pushdown.start();
    for (int size = 0; size < 40; ++size) {
      bool expected = false;
      for (int rounds = min; rounds <= max; ++rounds)
        expected |= rounds * least <= size && size <= rounds * most;
      ASSERT_EQ(set != Pushdown::kDead && pushdown.may_end(set), expected)
          << fmt::format("(a{{{},{}}}){{{},{}}}, {}", least, most, min, max, size);
      set = pushdown.step(set, 'a');
    }
  }
}

// Words that a class of letters has all are no states of their own.
TEST(Pushdown, RulesAreTheSmallestAutomata) {
  for (const auto& [grammar, num_states] :
       {std::pair("root ::= \"cat\" | \"car\" | \"dog\" | [a-z]+", 2u),
        {"root ::= \"ab\" | \"cb\"", 3u},
        {"root ::= ([a-c] [d-f])* | ([a-b] [d-f])*", 2u},
        {"root ::= \"é\" | \"è\" | [à-ö]", 3u},
        {"root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"x\"", 4u}}) {
    const auto automaton = Automaton::compile(*parse_grammar_text(grammar));
    ASSERT_TRUE(automaton) << grammar;
    EXPECT_EQ(automaton->states().size(), num_states) << grammar;
  }
}

TEST(Pushdown, WaysToCutATextIntoRoundsDoNotMultiply) {
  for (const char* grammar : {"root ::= ([a-z]{1,90} | [a-f]{2,400} | [a-z ]{1,9}){1,300} \"!\"",
                              "root ::= (([a-z]{1,200}){1,200} \" \"?){1,200} \"!\"",
                              "root ::= ([a-z]{2,90} \" \"?){60,200} \"!\""}) {
    Pushdown pushdown(
        std::make_shared<const Automaton>(*Automaton::compile(*parse_grammar_text(grammar))));
    SetId set = pushdown.start();
    size_t most = 0;
    for (int i = 0; i < 1000; ++i) {
      set = pushdown.step(set, static_cast<uint8_t>(i % 7 == 6 ? ' ' : 'a'));
      ASSERT_NE(set, Pushdown::kDead) << grammar << ": " << i;
      most = std::max(most, pushdown.num_configurations(set));
    }
    EXPECT_LT(most, 24u) << grammar;
    EXPECT_LT(pushdown.memory_bytes(), size_t{4} << 20) << grammar;
  }
}

}  // namespace
}  // namespace cachalot::grammar
