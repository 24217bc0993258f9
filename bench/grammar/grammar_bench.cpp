// Mask rows over V4's own 129,280 tokens, by processor time of one thread:
//   grammar_bench [SECONDS [NAME]]
// prints a line per grammar, or for the one of that name,
//   name, rows, us to compile and prepare, us of the first row, us of new rows (median, 99 %,
//   highest), us of rows seen before (median), us to accept a token (median)
// and for several of one name how many of them are refused when they are prepared or in a walk, and
// how many have a row above 200 us: "random" is 40 expressions of classes that overlap, counted
// three deep in one another.
// A row is new when its set of configurations comes up for the first time in this grammar. Texts
// are random walks under the mask in which short tokens and ends come up often; each is walked
// again on automata that know nothing yet, and the lowest of its times counts.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "grammar/completion_grammar.h"
#include "grammar/grammar_text.h"
#include "grammar/json_schema.h"
#include "grammar/matcher.h"
#include "grammar/regex.h"
#include "tokenizer/v3_vocabulary.h"

namespace {

using namespace cachalot;
using namespace cachalot::grammar;

double microseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

double quantile(std::vector<double>& times, double q) {
  if (times.empty()) return 0;
  std::sort(times.begin(), times.end());
  return times[std::min(times.size() - 1,
                        static_cast<size_t>(q * static_cast<double>(times.size())))];
}

int32_t pick(const Vocabulary& vocabulary, const std::vector<uint32_t>& row, RngStream& rng) {
  std::vector<int32_t> allowed;
  for (int32_t t = 0; t < vocabulary.size(); ++t) {
    if (row[static_cast<size_t>(t) / 32] >> (t % 32) & 1) allowed.push_back(t);
  }
  int32_t best = allowed[rng.next_u32() % allowed.size()];
  const auto cost = [&](int32_t t) {
    const std::string_view bytes = vocabulary.text_bytes(t);
    return bytes.find_first_of("\"]}<>/\n") != std::string_view::npos ? 0 : bytes.size();
  };
  for (int i = 0; i < 12; ++i) {
    const int32_t other = allowed[rng.next_u32() % allowed.size()];
    if (cost(other) < cost(best)) best = other;
  }
  return best;
}

// One row or token of a walk.
struct Step {
  bool is_new = false;
  double row_us = 0, accept_us = 0;
  int32_t token = -1;
};

// Walks on from where the automaton's other walks have been. The first time through the tokens are
// drawn; after that they are `steps`', and each time is the lowest so far. False where a row is
// refused.
bool walk(const std::shared_ptr<TokenAutomaton>& automaton, RngStream rng,
          std::vector<Step>& steps) {
  const bool is_first = steps.empty();
  const Vocabulary& vocabulary = automaton->vocabulary();
  std::vector<uint32_t> row(vocabulary.row_words());
  Matcher matcher(automaton);
  for (size_t i = 0; i < (is_first ? 200 : steps.size()) && !matcher.is_ended(); ++i) {
    const size_t rows_before = automaton->num_rows_made();
    const double a = microseconds();
    const Status status = matcher.fill_row(row);
    const double row_us = microseconds() - a;
    if (!status.ok()) return false;
    if (is_first) {
      steps.push_back(
          {automaton->num_rows_made() != rows_before, row_us, 1e9, pick(vocabulary, row, rng)});
    }
    steps[i].row_us = std::min(steps[i].row_us, row_us);
    const double b = microseconds();
    if (!matcher.accept(steps[i].token).ok()) return false;
    steps[i].accept_us = std::min(steps[i].accept_us, microseconds() - b);
  }
  return true;
}

// Each round has a source.
void measure(std::string_view name, const std::shared_ptr<const Vocabulary>& vocabulary,
             double seconds, const std::function<GrammarSource(uint64_t)>& source,
             uint64_t min_rounds = 1) {
  constexpr uint64_t kWalks = 4, kReplays = 5;
  std::vector<double> fresh, seen, accepts, first;
  double compile = 1e9;
  uint64_t num_sources = 0, num_refused = 0, num_refused_late = 0, num_slow = 0;
  const double begin = microseconds();
  for (uint64_t round = 0; round < min_rounds || microseconds() - begin < seconds * 1e6; ++round) {
    std::vector<std::vector<Step>> walks(kWalks);
    bool is_refused = false;
    ++num_sources;
    for (uint64_t replay = 0; replay < kReplays; ++replay) {
      const double start = microseconds();
      const auto automaton = *TokenAutomaton::create(source(round), vocabulary);
      if (!automaton->prepare().ok()) break;
      compile = std::min(compile, microseconds() - start);
      for (uint64_t i = 0; i < kWalks; ++i)
        is_refused |= !walk(automaton, RngStream(round, RngPurpose::data, i), walks[i]);
    }
    if (walks[0].empty()) {
      ++num_refused;
      continue;
    }
    num_refused_late += is_refused;
    num_slow += std::ranges::any_of(walks, [](const auto& steps) {
      return std::ranges::any_of(steps, [](const Step& step) { return step.row_us > 200; });
    });
    first.push_back(walks[0][0].row_us);
    for (const auto& steps : walks) {
      for (const Step& step : steps) {
        (step.is_new ? fresh : seen).push_back(step.row_us);
        accepts.push_back(step.accept_us);
      }
    }
  }
  fmt::print("{}\t{}\t{:.0f}\t{:.0f}\t{:.1f}\t{:.1f}\t{:.1f}\t{:.2f}\t{:.2f}\n", name,
             fresh.size() + seen.size(), compile, quantile(first, 0.5), quantile(fresh, 0.5),
             quantile(fresh, 0.99), quantile(fresh, 1), quantile(seen, 0.5),
             quantile(accepts, 0.5));
  if (min_rounds > 1) {
    fmt::print("{} sources: {} refused when prepared, {} in a walk, {} with a row above 200 us\n",
               num_sources, num_refused, num_refused_late, num_slow);
  }
  std::fflush(stdout);
}

constexpr std::string_view kSchema = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
  "born": {"type": "string", "format": "date"}, "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
  "kind": {"enum": ["person", "robot"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
  "friends": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name", "age", "kind"]})";

// Expressions that could be slow: large classes and parts of them, which few tokens leave; counts;
// many ways on at once.
constexpr std::pair<std::string_view, std::string_view> kPatterns[] = {
    {"lines", "([A-Za-z ,.]{1,200}\\n){3}[^x]*"},
    {"ideographs", "[\\u4e00-\\u9fa5]{1,40}([，。！？][\\u4e00-\\u9fa5]+)*"},
    {"some ideographs", "[\\u4e00-\\u8b7f]+\\n"},
    {"no ideographs", "[^\\u4e00-\\u9fff\\n]{1,100}\\n"},
    {"accents", "[a-zàâçéèêëîïôûùüÿñæœ '-]{2,60}\\."},
    {"scripts", "([A-Za-zÀ-ÖØ-öø-ÿ]+|[α-ω]+|[а-яё]+|[가-힣]{1,9}| ){2,80}"},
    {"no spaces", "(\\S+ )*\\S{1,7}"},
    {"no words", "(\\W|[a-z]{1,5}\\W)+"},
    {"sentences", "([A-Z]\\w{0,30}( \\w{2,30}){3,90}\\.\\n)*"},
    {"hexadecimal", "[0-9a-f]{32}(-[0-9a-f]{4,12}){0,9}"},
    {"addresses", "([a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\\.[a-zA-Z]{2,};)+"},
    {"ambiguous", "(([a-z]{1,9}|[a-f]{2,40}|\\w+ ?){1,30}[.!])+"},
    {"table", "(([^,\\n]{0,30},){3,12}[^,\\n]{0,30}\\n){2,200}"},
    {"nested", "((([a-z]{1,3}){1,3}){1,3}){1,3}"},
    {"overlapping", "([a-e]|[d-h]|[g-k]|[j-n]|[m-q]|[p-t]|[s-w]|[v-z]|[aeiou]+ ){1,50}"},
};

GrammarSource regex_grammar(std::string_view pattern) {
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  source.set_body(root, parse_regex(pattern, source)->expression);
  return source;
}

std::string random_word(RngStream& rng, uint32_t longest) {
  std::string word;
  for (uint32_t n = 3 + rng.next_u32() % longest; n > 0; --n)
    word += static_cast<char>('a' + rng.next_u32() % 26);
  return word;
}

// So many words, with what else may stand in the place of one; up to 10 more after spaces.
std::string words(int count, std::string_view other) {
  RngStream rng(2, RngPurpose::data, 0);
  std::string any(other);
  for (int i = 0; i < count; ++i)
    any += fmt::format("{}{}", any.empty() ? "" : "|", random_word(rng, 8));
  return fmt::format("({0})( ({0})){{0,10}}", any);
}

std::string random_counts(RngStream& rng, int depth) {
  constexpr std::string_view kAtoms[] = {"[a-z ]", "\\w",   ".",       "[^x]",     "\\S",
                                         "[a-m]",  "[k-z]", "[aeiou]", "[^,.0-9]", "the|[a-f]"};
  const auto pick = [&rng](uint32_t n) { return rng.next_u32() % n; };
  if (depth == 0) return std::string(kAtoms[pick(std::size(kAtoms))]);
  std::string out = "(" + random_counts(rng, depth - 1);
  for (uint32_t more = pick(3); more > 0; --more)
    out += (pick(2) == 0 ? "|" : "") + random_counts(rng, depth - 1);
  const uint32_t min = pick(9);
  return fmt::format("{}){{{},{}}}", out, min, min + 1 + pick(4) * pick(12));
}

// Of which any may be meant.
std::string many_patterns() {
  RngStream rng(3, RngPurpose::data, 0);
  std::string patterns;
  for (int i = 0; i < 200; ++i) {
    patterns +=
        fmt::format(R"({}{{"type": "string", "pattern": "^{}[a-z0-9]{{{},{}}}(-[A-Z]+)?$"}})",
                    i == 0 ? "" : ", ", random_word(rng, 8).substr(0, static_cast<size_t>(i % 3)),
                    1 + i % 4, 5 + i % 20);
  }
  return fmt::format(R"({{"anyOf": [{}]}})", patterns);
}

// 3,000 values and 200 properties.
std::string large_schema() {
  RngStream rng(1, RngPurpose::data, 0);
  std::string values, properties;
  for (int i = 0; i < 3000; ++i) {
    const std::string value = random_word(rng, 20);
    values += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", value);
    if (i % 15 == 0) {
      properties +=
          fmt::format(R"({}"{}": {{"type": "string", "pattern": "^([a-z]{{2,9}} ?){{{},{}}}$"}})",
                      i == 0 ? "" : ", ", value, i % 7, 9 + i % 60);
    }
  }
  return fmt::format(
      R"({{"type": "object", "properties": {{"one": {{"enum": [{}]}}, {}}}, "required": ["one"]}})",
      values, properties);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 2;
  const auto tokenizer = text::v4_tokenizer();
  const double begin = microseconds();
  const auto vocabulary = std::make_shared<const Vocabulary>(*Vocabulary::create(tokenizer));
  fmt::print(stderr, "trie of {} nodes in {:.0f} us\n", vocabulary->trie().size(),
             microseconds() - begin);
  const auto run = [&](std::string_view name, const std::function<GrammarSource()>& source) {
    if (argc <= 2 || name == argv[2])
      measure(name, vocabulary, seconds, [&](uint64_t) { return source(); });
  };
  const auto schema = *parse_json(kSchema, "schema");
  run("schema", [&] { return *json_schema_grammar(schema); });
  run("json_object", [] { return json_object_grammar(); });
  for (const auto& one : kPatterns) run(one.first, [&] { return regex_grammar(one.second); });
  const auto large = *parse_json(large_schema(), "schema");
  run("large schema", [&] { return *json_schema_grammar(large); });
  for (const auto& [name, text] :
       {std::pair<std::string_view, std::string>{
            "bounded strings",
            R"({"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 226}})"},
        {"any of 200 patterns", many_patterns()}}) {
    const auto one = *parse_json(text, "schema");
    run(name, [&one] { return *json_schema_grammar(one); });
  }
  run("500 words", [] { return regex_grammar(words(500, "")); });
  run("300 words or letters", [] { return regex_grammar(words(300, "[a-z]+")); });
  if (argc <= 2 || std::string_view("random") == argv[2]) {
    measure(
        "random", vocabulary, seconds,
        [](uint64_t round) {
          RngStream rng(4, RngPurpose::data, round);
          return regex_grammar(random_counts(rng, 3));
        },
        40);
  }
  run("grammar", [] {
    return *parse_grammar_text(
        "root ::= sum\nsum ::= product (\" + \" product)*\nproduct ::= atom (\" * \" atom)*\n"
        "atom ::= [0-9]+ | [a-z] [a-z0-9_]* | \"(\" sum \")\"");
  });
  const std::vector<CallableTool> tools = {{{"lookup", schema.as_object()}, true}};
  run("tools",
      [&] { return *tool_grammar({.starts_in_reasoning = true, .tools = tools}, *vocabulary); });
}
