// Mask rows over V4's own 129,280 tokens, by processor time of one thread: grammar_bench [SECONDS]
// prints a line per grammar,
//   name, rows, us to compile and prepare, us of the first row, us of new rows (median, 99 %,
//   highest), us of rows seen before (median), us to accept a token (median)
// A row is new when its set of configurations comes up for the first time in this grammar. Texts
// are random walks under the mask in which short tokens and ends come up often; each is walked
// again on automata that know nothing yet, and the lowest of its times counts.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
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
// drawn; after that they are `steps`', and each time is the lowest so far.
void walk(const std::shared_ptr<TokenAutomaton>& automaton, RngStream rng,
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
    if (!status.ok()) std::abort();
    if (is_first) {
      steps.push_back(
          {automaton->num_rows_made() != rows_before, row_us, 1e9, pick(vocabulary, row, rng)});
    }
    steps[i].row_us = std::min(steps[i].row_us, row_us);
    const double b = microseconds();
    if (!matcher.accept(steps[i].token).ok()) std::abort();
    steps[i].accept_us = std::min(steps[i].accept_us, microseconds() - b);
  }
}

void measure(std::string_view name, const std::shared_ptr<const Vocabulary>& vocabulary,
             double seconds, const std::function<GrammarSource()>& source) {
  constexpr uint64_t kWalks = 4, kReplays = 5;
  std::vector<double> fresh, seen, accepts, first;
  double compile = 1e9;
  const double begin = microseconds();
  for (uint64_t round = 0; microseconds() - begin < seconds * 1e6; ++round) {
    std::vector<std::vector<Step>> walks(kWalks);
    for (uint64_t replay = 0; replay < kReplays; ++replay) {
      const double start = microseconds();
      const auto automaton = *TokenAutomaton::create(source(), vocabulary);
      automaton->prepare();
      compile = std::min(compile, microseconds() - start);
      for (uint64_t i = 0; i < kWalks; ++i)
        walk(automaton, RngStream(round, RngPurpose::data, i), walks[i]);
    }
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
}

constexpr std::string_view kSchema = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
  "born": {"type": "string", "format": "date"}, "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
  "kind": {"enum": ["person", "robot"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
  "friends": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name", "age", "kind"]})";

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 2;
  const auto tokenizer = text::v4_tokenizer();
  const double begin = microseconds();
  const auto vocabulary = std::make_shared<const Vocabulary>(*Vocabulary::create(tokenizer));
  fmt::print(stderr, "trie of {} nodes in {:.0f} us\n", vocabulary->trie().size(),
             microseconds() - begin);
  const auto schema = *parse_json(kSchema, "schema");
  measure("schema", vocabulary, seconds, [&] { return *json_schema_grammar(schema); });
  measure("json_object", vocabulary, seconds, [] { return json_object_grammar(); });
  measure("regex", vocabulary, seconds, [] {
    GrammarSource source;
    const RuleId root = source.add_rule("root");
    source.set_body(root, parse_regex("([A-Za-z ,.]{1,200}\\n){3}[^x]*", source)->expression);
    return source;
  });
  measure("grammar", vocabulary, seconds, [] {
    return *parse_grammar_text(
        "root ::= sum\nsum ::= product (\" + \" product)*\nproduct ::= atom (\" * \" atom)*\n"
        "atom ::= [0-9]+ | [a-z] [a-z0-9_]* | \"(\" sum \")\"");
  });
  const std::vector<CallableTool> tools = {{{"lookup", schema.as_object()}, true}};
  measure("tools", vocabulary, seconds, [&] {
    return *tool_grammar({.starts_in_reasoning = true, .tools = tools}, *vocabulary);
  });
}
