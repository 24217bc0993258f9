#include "grammar/grammar_text.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>

#include "grammar/grammar_reader.h"

namespace cachalot::grammar {
namespace {

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

class Parser : GrammarReader {
 public:
  explicit Parser(std::string_view text) : GrammarReader(text) {}

  Result<GrammarSource> parse() {
    CACHALOT_RETURN_IF_ERROR(check_size());
    rule("root");
    skip_space();
    while (!in_.at_end()) {
      const std::string_view name = read_name();
      skip_space();
      if (name.empty() || !in_.take("::=")) return found("a rule: name ::= ...");
      const RuleId id = rule(name);
      if (is_defined_[static_cast<size_t>(id)])
        return invalid_argument(
            fmt::format("grammar, line {}: rule \"{}\": expected one definition, "
                        "found a second",
                        line(), name));
      is_defined_[static_cast<size_t>(id)] = true;
      CACHALOT_ASSIGN_OR_RETURN(const Expression body, alternatives(0));
      source_.set_body(id, body);
    }
    for (const auto& [name, id] : rules_) {
      if (!is_defined_[static_cast<size_t>(id)]) {
        return invalid_argument(
            fmt::format("grammar: rule \"{}\": expected a definition, found none", name));
      }
    }
    return std::move(source_);
  }

 private:
  void skip_space() { skip_space(in_); }
  static void skip_space(Utf8Reader& in) {
    for (; !in.at_end(); in.skip(1)) {
      const char c = in.peek();
      if (c == '#') {
        while (!in.at_end() && in.peek() != '\n') in.skip(1);
        if (in.at_end()) return;
      } else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
        return;
      }
    }
  }
  std::string_view read_name() { return read_name(in_); }
  static std::string_view read_name(Utf8Reader& in) {
    const size_t begin = in.at();
    while (is_name_character(in.peek())) in.skip(1);
    return in.since(begin);
  }
  RuleId rule(std::string_view name) {
    const auto [it, is_new] = rules_.try_emplace(std::string(name), 0);
    if (is_new) {
      it->second = source_.add_rule(it->first);
      is_defined_.push_back(false);
    }
    return it->second;
  }
  // A name here begins the next rule, if ::= follows it.
  bool at_next_rule() const {
    Utf8Reader ahead = in_;
    read_name(ahead);
    skip_space(ahead);
    return ahead.starts_with("::=");
  }

  Result<Expression> alternatives(int depth) {
    if (depth > kMaxDepth) return found(fmt::format("groups nested at most {} deep", kMaxDepth));
    std::vector<Expression> options;
    do {
      CACHALOT_ASSIGN_OR_RETURN(const Expression option, sequence(depth));
      options.push_back(option);
    } while (in_.take("|"));
    return source_.choice(std::move(options));
  }

  Result<Expression> sequence(int depth) {
    std::vector<Expression> parts;
    for (;;) {
      skip_space();
      const char c = in_.peek();
      if (in_.at_end() || c == '|' || c == ')' || (is_name_character(c) && at_next_rule())) break;
      CACHALOT_ASSIGN_OR_RETURN(Expression part, atom(depth));
      for (;;) {
        int64_t min = 0, max = kUnbounded;
        skip_space();
        if (in_.take("+")) {
          min = 1;
        } else if (in_.take("?")) {
          max = 1;
        } else if (in_.peek() == '{') {
          CACHALOT_RETURN_IF_ERROR(counts(min, max));
        } else if (!in_.take("*")) {
          break;
        }
        part = source_.repeat(part, min, max);
      }
      parts.push_back(part);
    }
    return source_.sequence(std::move(parts));
  }

  Status counts(int64_t& min, int64_t& max) {
    in_.skip(1);
    const auto number = [this]() -> std::optional<int64_t> {
      skip_space();
      uint32_t value = 0;
      const std::string_view rest = in_.rest();
      const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
      if (error != std::errc()) return std::nullopt;
      in_.skip(static_cast<size_t>(end - rest.data()));
      skip_space();
      return value;
    };
    const auto first = number();
    if (!first) return found("a count");
    std::optional<int64_t> last = first;
    if (in_.take(",")) {
      skip_space();
      last = in_.peek() == '}' ? kUnbounded : number();
    }
    if (!last || !in_.take("}")) return found("{m}, {m,} or {m,n}");
    if (*first > kMaxCount || (*last > kMaxCount && *last != kUnbounded) || *last < *first)
      return found(fmt::format("rising counts of at most {} before this", kMaxCount));
    min = *first;
    max = *last;
    return {};
  }

  Result<Expression> atom(int depth) {
    if (in_.take("(")) {
      CACHALOT_ASSIGN_OR_RETURN(const Expression inner, alternatives(depth + 1));
      if (!in_.take(")")) return found(")");
      return inner;
    }
    if (in_.take("\"")) {
      std::vector<Expression> parts;
      while (!in_.take("\"")) {
        CACHALOT_ASSIGN_OR_RETURN(const uint32_t c, character());
        parts.push_back(source_.code_points({{c, c}}));
      }
      return source_.sequence(std::move(parts));
    }
    if (in_.take("[")) {
      const bool is_negated = in_.take("^");
      CodePoints set;
      while (!in_.take("]")) {
        CACHALOT_ASSIGN_OR_RETURN(const uint32_t first, character());
        uint32_t last = first;
        if (in_.peek() == '-' && in_.peek(1) != ']') {
          in_.skip(1);
          CACHALOT_ASSIGN_OR_RETURN(last, character());
          if (last < first) return found("a range that rises before this");
        }
        set.push_back({first, last});
      }
      set = merged(std::move(set));
      return source_.code_points(is_negated ? complement(set) : set);
    }
    if (in_.take(".")) return source_.code_points({{0, kMaxCodePoint}});
    const std::string_view name = read_name();
    if (name.empty()) return found("a rule name, a \"text\", a [class] or a group");
    return source_.call(rule(name));
  }

  Result<uint32_t> character() {
    if (in_.take("\\")) return escape("\\\"[]-^/");
    if (in_.peek() == '\n') return found("the end of the text or class in its line");
    const auto c = in_.next();
    if (!c) return found("a character");
    return *c;
  }
  GrammarSource source_;
  std::map<std::string, RuleId> rules_;
  std::vector<bool> is_defined_;
};

}  // namespace

Result<GrammarSource> parse_grammar_text(std::string_view text) { return Parser(text).parse(); }

}  // namespace cachalot::grammar
