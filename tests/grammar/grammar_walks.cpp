// The grammar's side of compare_oracles.py. Both verbs read a file with a list of JSON schemas.
//   grammar_walks walk SCHEMAS COUNT TOKENS   COUNT random texts of each schema under nano's masks,
//                                             of at most TOKENS tokens; a line each: the schema's
//                                             index, whether it ended, the text as a JSON string
//   grammar_walks check SCHEMAS               reads such lines (the second word is passed over) and
//                                             writes 1 or 0 for each: whether the schema's grammar
//                                             takes the text
// A schema that is refused gives one line: its index, "refused" and the message.
#include <fmt/format.h>

#include <iostream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/python_json.h"
#include "base/rng.h"
#include "base/test_data.h"
#include "grammar/json_schema.h"
#include "grammar/matcher.h"
#include "text/tokenizer.h"

namespace {

using namespace cachalot;
using namespace cachalot::grammar;

using Automata = std::vector<std::shared_ptr<TokenAutomaton>>;

// Ends come up often enough to be met: every other token is one of those that bring them nearer.
int32_t pick(const Vocabulary& vocabulary, const std::vector<uint32_t>& row, RngStream& rng) {
  std::vector<int32_t> all, ends;
  for (int32_t t = 0; t < vocabulary.size(); ++t) {
    if ((row[static_cast<size_t>(t) / 32] >> (t % 32) & 1) == 0) continue;
    all.push_back(t);
    const std::string_view bytes = vocabulary.text_bytes(t);
    if (bytes.find_first_of("\"]}") != std::string_view::npos || vocabulary.is_end(t))
      ends.push_back(t);
  }
  const auto& from = !ends.empty() && rng.next_u32() % 2 == 0 ? ends : all;
  return from[rng.next_u32() % from.size()];
}

int walk(const Automata& automata, uint64_t count, int64_t max_tokens) {
  for (size_t i = 0; i < automata.size(); ++i) {
    if (!automata[i]) continue;
    const Vocabulary& vocabulary = automata[i]->vocabulary();
    std::vector<uint32_t> row(vocabulary.row_words());
    for (uint64_t k = 0; k < count; ++k) {
      RngStream rng(i, RngPurpose::data, k);
      Matcher matcher(automata[i]);
      std::string text;
      while (!matcher.is_ended() && matcher.num_tokens() < max_tokens) {
        if (const Status status = matcher.fill_row(row); !status.ok()) {
          fmt::print(stderr, "{}\n", status.message());
          return 1;
        }
        const int32_t token = pick(vocabulary, row, rng);
        // Drafts that are thrown away must leave nothing behind.
        if (k % 2 == 1) {
          Matcher draft = matcher;
          const int64_t at = draft.num_tokens();
          if (draft.accept(pick(vocabulary, row, rng)).ok()) draft.rewind(at);
          matcher = draft;
        }
        if (!matcher.accept(token).ok()) return 1;
        text += vocabulary.text_bytes(token);
      }
      fmt::print("{}\t{}\t{}\n", i, matcher.is_ended() ? 1 : 0,
                 matcher.is_ended() ? json_quoted(text) : "\"\"");
    }
  }
  return 0;
}

int check(const Automata& automata) {
  std::string line;
  while (std::getline(std::cin, line)) {
    const size_t end = line.find('\t'), text_at = line.find('\t', end + 1) + 1;
    const auto& automaton = automata.at(std::stoul(line.substr(0, end)));
    const auto text = parse_json(std::string_view(line).substr(text_at), "text");
    if (!automaton || !text || !text->is_string()) return 1;
    Pushdown& pushdown = automaton->pushdown();
    SetId set = pushdown.start();
    for (const char c : text->get_string()) set = pushdown.step(set, static_cast<uint8_t>(c));
    fmt::print("{}\n", pushdown.may_end(set) ? 1 : 0);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 2 ? argv[1] : "";
  if ((verb != "walk" || argc != 5) && (verb != "check" || argc != 3)) {
    fmt::print(stderr, "usage: grammar_walks walk SCHEMAS COUNT TOKENS | check SCHEMAS\n");
    return 2;
  }
  const auto text = read_text_file(argv[2]);
  const auto schemas = text ? parse_json(*text, argv[2]) : Result<json::value>(text.error());
  const auto tokenizer = text::Tokenizer::load(test_data("../models/nano/tokenizer.json"));
  if (!schemas || !tokenizer) {
    fmt::print(stderr, "{}\n", (schemas ? tokenizer.error() : schemas.error()).to_string());
    return 1;
  }
  const auto vocabulary = std::make_shared<const Vocabulary>(*Vocabulary::create(*tokenizer));
  Automata automata;
  for (const json::value& schema : schemas->as_array()) {
    const auto source = json_schema_grammar(schema);
    auto automaton = source ? TokenAutomaton::create(*source, vocabulary)
                            : Result<std::shared_ptr<TokenAutomaton>>(source.error());
    if (!automaton)
      fmt::print("{}\trefused\t{}\n", automata.size(), json_quoted(automaton.error().message()));
    automata.push_back(automaton ? *automaton : nullptr);
  }
  return verb == "walk" ? walk(automata, std::stoull(argv[3]), std::stoll(argv[4]))
                        : check(automata);
}
