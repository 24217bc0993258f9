#include "grammar/expression.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "grammar/pattern_table.h"
#include "grammar/utf8_bytes.h"
#include "grammar/utf8_reader.h"

namespace cachalot::grammar {
namespace {

// One stretch of code points whose UTF-8 differs only within a byte range at each place.
struct ByteSequence {
  std::array<uint8_t, 4> first{}, last{};
  size_t length = 0;
};

// Cuts where the length changes, and where a continuation byte does not run over its whole range.
void add_sequences(uint32_t first, uint32_t last, std::vector<ByteSequence>& out) {
  for (const uint32_t border : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (first <= border && border < last) {
      add_sequences(first, border, out);
      add_sequences(border + 1, last, out);
      return;
    }
  }
  ByteSequence sequence;
  sequence.length = encode_utf8(first, sequence.first);
  for (uint32_t i = 1; i < sequence.length; ++i) {
    const uint32_t mask = (1u << (6 * i)) - 1;
    if ((first & ~mask) == (last & ~mask)) break;
    if ((first & mask) != 0) {
      add_sequences(first, first | mask, out);
      add_sequences((first | mask) + 1, last, out);
      return;
    }
    if ((last & mask) != mask) {
      add_sequences(first, (last & ~mask) - 1, out);
      add_sequences(last & ~mask, last, out);
      return;
    }
  }
  encode_utf8(last, sequence.last);
  out.push_back(sequence);
}

uint64_t hash_of(const GrammarSource::Node& node) {
  uint64_t hash = static_cast<uint64_t>(node.kind);
  const auto add = [&hash](int32_t value) {
    hash = (hash ^ static_cast<uint32_t>(value)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  };
  add(node.a);
  add(node.b);
  for (const Expression child : node.children) add(child);
  for (const auto& [from, label, to] : node.edges) {
    add(from);
    add(label);
    add(to);
  }
  return hash;
}

}  // namespace

CodePoints merged(CodePoints ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.first < b.first; });
  CodePoints out;
  for (const CodePointRange& range : ranges) {
    if (!out.empty() && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

CodePoints complement(const CodePoints& set) {
  CodePoints out;
  uint32_t next = 0;
  for (const CodePointRange& range : set) {
    if (range.first > next) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kMaxCodePoint) out.push_back({next, kMaxCodePoint});
  return out;
}

CodePoints intersection(const CodePoints& a, const CodePoints& b) {
  CodePoints out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const uint32_t first = std::max(a[i].first, b[j].first);
    const uint32_t last = std::min(a[i].last, b[j].last);
    if (first <= last) out.push_back({first, last});
    if (a[i].last < b[j].last) {
      ++i;
    } else {
      ++j;
    }
  }
  return out;
}

CodePoints without(const CodePoints& set, const CodePoints& removed) {
  return intersection(set, complement(removed));
}

GrammarSource::GrammarSource() {
  nodes_.push_back({.kind = Kind::empty, .children = {}, .edges = {}});
  nodes_.push_back({.kind = Kind::never, .children = {}, .edges = {}});
}

Expression GrammarSource::add(Node node) {
  const uint64_t hash = hash_of(node);
  const Expression known =
      ids_.find(hash, [&](Expression e) { return nodes_[static_cast<size_t>(e)] == node; });
  if (known >= 0) return known;
  weight_ += 1 + node.children.size() + node.edges.size();
  if (weight_ > kMaxExpressions) {
    overflowed_ = true;
    return never();
  }
  nodes_.push_back(std::move(node));
  const auto id = static_cast<Expression>(nodes_.size() - 1);
  ids_.add(hash, id);
  return id;
}

Expression GrammarSource::bytes(uint8_t first, uint8_t last) {
  return add({.kind = Kind::bytes, .a = first, .b = last, .children = {}, .edges = {}});
}

Expression GrammarSource::literal(std::string_view text) {
  std::vector<Expression> parts;
  for (const char c : text)
    parts.push_back(bytes(static_cast<uint8_t>(c), static_cast<uint8_t>(c)));
  return sequence(std::move(parts));
}

Expression GrammarSource::code_points(const CodePoints& set) {
  std::vector<ByteSequence> sequences;
  for (const CodePointRange& range : without(set, {{0xD800, 0xDFFF}}))
    add_sequences(range.first, range.last, sequences);
  // Sequences that share their first bytes share them here too: alphabets have hundreds of ranges.
  using Key = std::pair<uint8_t, uint8_t>;
  const auto build = [&](const auto& self, std::span<const ByteSequence> some,
                         size_t at) -> Expression {
    std::vector<Expression> options;
    for (size_t i = 0; i < some.size();) {
      const Key key = {some[i].first[at], some[i].last[at]};
      size_t end = i + 1;
      while (end < some.size() && Key{some[end].first[at], some[end].last[at]} == key &&
             some[end].length == some[i].length) {
        ++end;
      }
      const Expression head = bytes(key.first, key.second);
      options.push_back(at + 1 == some[i].length
                            ? head
                            : sequence({head, self(self, some.subspan(i, end - i), at + 1)}));
      i = end;
    }
    return choice(std::move(options));
  };
  return build(build, sequences, 0);
}

Expression GrammarSource::control(int32_t token) {
  return add({.kind = Kind::control, .a = token, .children = {}, .edges = {}});
}

Expression GrammarSource::sequence(std::vector<Expression> parts) {
  std::erase(parts, empty());
  if (parts.empty()) return empty();
  if (std::find(parts.begin(), parts.end(), never()) != parts.end()) return never();
  if (parts.size() == 1) return parts[0];
  return add({.kind = Kind::sequence, .children = std::move(parts), .edges = {}});
}

Expression GrammarSource::choice(std::vector<Expression> options) {
  std::erase(options, never());
  if (options.empty()) return never();
  if (options.size() == 1) return options[0];
  return add({.kind = Kind::choice, .children = std::move(options), .edges = {}});
}

Expression GrammarSource::repeat(Expression part, int64_t min, int64_t max) {
  CACHALOT_CHECK(0 <= min && min <= max);
  min = std::min(min, kUnbounded - 1);
  max = std::min(max, kUnbounded);
  if (max == 0 || part == empty()) return empty();
  if (part == never()) return min == 0 ? empty() : never();
  if (min == 1 && max == 1) return part;
  if (const Node& inner = node(part); inner.kind == Kind::repeat) {
    // So many of n rounds make any number from n * least to n * most; from `min` on without a gap?
    const int64_t least = inner.a, most = inner.b, from = std::max<int64_t>(min, 1);
    if (min == max || ((min > 0 || least <= 1) && from * (most - least) >= least - 1)) {
      const bool is_unbounded = max == kUnbounded || most == kUnbounded;
      return repeat(inner.children[0], std::min(min * least, kUnbounded),
                    is_unbounded ? kUnbounded : max * most);
    }
  }
  return add({.kind = Kind::repeat,
              .a = static_cast<int32_t>(min),
              .b = static_cast<int32_t>(max),
              .children = {part},
              .edges = {}});
}

Expression GrammarSource::graph(int32_t num_states, int32_t final, std::vector<GraphEdge> edges) {
  return add({.kind = Kind::graph,
              .a = num_states,
              .b = final,
              .children = {},
              .edges = std::move(edges)});
}

Expression GrammarSource::text_without(std::span<const std::string> patterns) {
  const PatternTable table(patterns);
  const int32_t final = table.num_states();
  std::vector<GraphEdge> edges;
  for (int32_t from = 0; from < final; ++from) {
    if (table.is_found(from)) continue;
    edges.push_back({from, empty(), final});
    for (uint32_t first = 0; first < 256;) {
      const int32_t to = table.next(from, static_cast<uint8_t>(first));
      uint32_t last = first;
      while (last < 255 && table.next(from, static_cast<uint8_t>(last + 1)) == to) ++last;
      if (!table.is_found(to))
        edges.push_back({from, bytes(static_cast<uint8_t>(first), static_cast<uint8_t>(last)), to});
      first = last + 1;
    }
  }
  return graph(final + 1, final, std::move(edges));
}

Expression GrammarSource::other_than(std::span<const std::string> texts, const CodePoints& set) {
  // A trie of the texts, by characters; state 1 is off it, state 2 is the end.
  struct State {
    std::map<uint32_t, int32_t> next;
    bool is_text = false;
  };
  std::vector<State> states(3);
  for (const std::string& text : texts) {
    int32_t at = 0;
    for (Utf8Reader in(text); !in.at_end();) {
      const auto c = in.next();
      if (!c) break;
      const auto [it, is_new] =
          states[static_cast<size_t>(at)].next.try_emplace(*c, static_cast<int32_t>(states.size()));
      at = it->second;
      if (is_new) states.emplace_back();
    }
    states[static_cast<size_t>(at)].is_text = true;
  }
  std::vector<GraphEdge> edges;
  for (size_t i = 0; i < states.size(); ++i) {
    if (i == 2) continue;
    const auto from = static_cast<int32_t>(i);
    CodePoints taken;
    for (const auto& [c, to] : states[i].next) {
      if (intersection(set, {{c, c}}).empty()) continue;
      taken.push_back({c, c});
      edges.push_back({from, code_points({{c, c}}), to});
    }
    edges.push_back({from, code_points(without(set, merged(taken))), 1});
    if (!states[i].is_text) edges.push_back({from, empty(), 2});
  }
  return graph(static_cast<int32_t>(states.size()), 2, std::move(edges));
}

Expression GrammarSource::ordered(std::span<const Item> items, Expression others,
                                  Expression separator) {
  // At item i there are two states: nothing stands before it (or a separator does, and so one more
  // must come), or something does. The graph starts at its state 0.
  const auto n = static_cast<int32_t>(items.size());
  const auto before = [](int32_t i) { return 2 + 2 * i; };
  const auto after = [](int32_t i) { return 3 + 2 * i; };
  constexpr int32_t kStart = 0, kEnd = 1;
  std::vector<GraphEdge> edges = {{before(n), others, after(n)}};
  bool is_rest_optional = true;
  for (int32_t i = n; i >= 0; --i) {
    if (i < n) {
      const Item& item = items[static_cast<size_t>(i)];
      edges.push_back({before(i), item.item, after(i + 1)});
      if (!item.is_required) edges.push_back({before(i), empty(), before(i + 1)});
      is_rest_optional &= !item.is_required;
    }
    edges.push_back({after(i), separator, before(i)});
    if (is_rest_optional) edges.push_back({after(i), empty(), kEnd});
  }
  if (is_rest_optional) edges.push_back({kStart, empty(), kEnd});
  edges.push_back({kStart, empty(), before(0)});
  std::reverse(edges.begin(), edges.end());
  return graph(2 * n + 4, kEnd, std::move(edges));
}

RuleId GrammarSource::add_rule(std::string name) {
  rules_.push_back({std::move(name), never()});
  return static_cast<RuleId>(rules_.size() - 1);
}

Expression GrammarSource::call(RuleId rule) {
  return add({.kind = Kind::rule, .a = rule, .children = {}, .edges = {}});
}

Expression GrammarSource::include(const GrammarSource& other) {
  const auto first_rule = static_cast<RuleId>(rules_.size());
  for (const Rule& rule : other.rules_) add_rule(rule.name);
  overflowed_ = overflowed_ || other.overflowed_;
  max_nesting_ = std::max(max_nesting_, other.max_nesting_);
  // Parts stand before what they are parts of; the first two nodes are every grammar's.
  std::vector<Expression> places = {empty(), never()};
  for (size_t i = places.size(); i < other.nodes_.size(); ++i) {
    Node node = other.nodes_[i];
    if (node.kind == Kind::rule) node.a += first_rule;
    for (Expression& child : node.children) child = places[static_cast<size_t>(child)];
    for (GraphEdge& edge : node.edges) edge.label = places[static_cast<size_t>(edge.label)];
    places.push_back(add(std::move(node)));
  }
  for (size_t i = 0; i < other.rules_.size(); ++i) {
    rules_[static_cast<size_t>(first_rule) + i].body =
        places[static_cast<size_t>(other.rules_[i].body)];
  }
  return call(first_rule + other.root_);
}

}  // namespace cachalot::grammar
