#include "grammar/lark_text.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <string>

#include "grammar/grammar_reader.h"
#include "grammar/regex.h"

namespace cachalot::grammar {
namespace {

// What %import common has, in the notation itself.
constexpr std::string_view kCommon = R"(
DIGIT: "0".."9"
HEXDIGIT: "a".."f" | "A".."F" | DIGIT
INT: DIGIT+
SIGNED_INT: ["+" | "-"] INT
DECIMAL: INT "." INT? | "." INT
_EXP: ("e" | "E") SIGNED_INT
FLOAT: INT _EXP | DECIMAL _EXP?
SIGNED_FLOAT: ["+" | "-"] FLOAT
NUMBER: FLOAT | INT
SIGNED_NUMBER: ["+" | "-"] NUMBER
ESCAPED_STRING: /"([^"\\\n]|\\[^\n])*"/
LCASE_LETTER: "a".."z"
UCASE_LETTER: "A".."Z"
LETTER: UCASE_LETTER | LCASE_LETTER
WORD: LETTER+
CNAME: ("_" | LETTER) ("_" | LETTER | DIGIT)*
WS_INLINE: (" " | "\t")+
WS: /[ \t\f\r\n]/+
CR: "\r"
LF: "\n"
NEWLINE: (CR? LF)+
SH_COMMENT: /#[^\n]*/
CPP_COMMENT: /\/\/[^\n]*/
C_COMMENT: /\/\*([^*]|\*+[^*\/])*\*+\//
SQL_COMMENT: /--[^\n]*/
)";

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_name_character(char c) {
  return is_upper(c) || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}
bool is_terminal(std::string_view name) {
  const size_t at = name.find_first_not_of('_');
  return at != std::string_view::npos && is_upper(name[at]);
}

class Parser : GrammarReader {
 public:
  Parser(std::string_view text, const CodePoints& left_out)
      : GrammarReader(text), left_out_(left_out) {}

  Result<GrammarSource> parse() {
    CACHALOT_RETURN_IF_ERROR(check_size());
    const RuleId root = source_.add_rule("a text");
    if (text_.find("%ignore") != std::string_view::npos) {
      const Expression between = source_.call(source_.add_rule("what is ignored"));
      ignored_ = source_.repeat(between, 0, kUnbounded);
    }
    source_.set_body(root, source_.sequence({ignored_, source_.call(rule("start").id)}));
    CACHALOT_RETURN_IF_ERROR(definitions());
    if (ignored_ != source_.empty()) source_.set_body(root + 1, source_.choice(ignored_terminals_));
    if (has_imports_) {
      text_ = kCommon;
      in_ = Utf8Reader(text_);
      prefix_ = "common.";
      CACHALOT_RETURN_IF_ERROR(definitions());
    }
    for (const auto& [name, rule] : rules_) {
      if (!rule.is_defined) {
        return invalid_argument(
            fmt::format("grammar: \"{}\": expected a definition, found none", name));
      }
    }
    return std::move(source_);
  }

 private:
  struct Rule {
    RuleId id = 0;
    bool is_defined = false;
  };

  Rule& rule(std::string_view name) {
    const auto [it, is_new] = rules_.try_emplace(prefix_ + std::string(name));
    if (is_new) it->second.id = source_.add_rule(it->first);
    return it->second;
  }
  Status not_done(std::string_view what) const {
    return unsupported(fmt::format("grammar, line {}: {} is not supported", line(), what));
  }

  void skip_space() { skip_space(in_); }
  static void skip_space(Utf8Reader& in) {
    for (; !in.at_end(); in.skip(1)) {
      const char c = in.peek();
      if (c == '#' || in.starts_with("//")) {
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
  // ".5" after a name.
  static void skip_priority(Utf8Reader& in) {
    if (in.peek() != '.' || in.peek(1) == '.') return;
    in.skip(1);
    in.take("-");
    while (in.peek() >= '0' && in.peek() <= '9') in.skip(1);
  }
  // A name here begins the next rule, if a colon follows it.
  bool at_next_rule() const {
    Utf8Reader ahead = in_;
    if (read_name(ahead).empty()) return false;
    skip_priority(ahead);
    skip_space(ahead);
    return ahead.starts_with(":");
  }

  Status definitions() {
    for (skip_space(); !in_.at_end(); skip_space()) {
      if (in_.take("%")) {
        CACHALOT_RETURN_IF_ERROR(directive());
        continue;
      }
      while (in_.take("?") || in_.take("!")) {
      }
      const std::string_view name = read_name();
      if (in_.peek() == '{') return not_done("a template");
      skip_priority(in_);
      skip_space();
      if (name.empty() || !in_.take(":")) return found("a rule, name: ...");
      Rule& defined = rule(name);
      if (defined.is_defined) {
        return invalid_argument(fmt::format(
            "grammar, line {}: \"{}\": expected one definition, found a second", line(), name));
      }
      defined.is_defined = true;
      const RuleId id = defined.id;
      is_in_terminal_ = is_terminal(name);
      std::vector<Expression> options;
      CACHALOT_RETURN_IF_ERROR(alternatives(0, options));
      source_.set_body(id, is_in_terminal_ ? source_.choice(std::move(options))
                                           : without_left_recursion(id, options));
    }
    return {};
  }
  // a: a x | y  is  y x*.
  Expression without_left_recursion(RuleId id, std::span<const Expression> options) {
    const Expression self = source_.call(id);
    std::vector<Expression> first, more;
    for (const Expression option : options) {
      const GrammarSource::Node& node = source_.node(option);
      if (node.kind == GrammarSource::Kind::sequence && node.children[0] == self) {
        more.push_back(source_.sequence({node.children.begin() + 1, node.children.end()}));
      } else if (option != self) {
        first.push_back(option);
      }
    }
    const Expression rest = source_.repeat(source_.choice(std::move(more)), 0, kUnbounded);
    return source_.sequence({source_.choice(std::move(first)), rest});
  }

  Status directive() {
    const std::string_view name = read_name();
    skip_space();
    if (name == "ignore") {
      is_in_terminal_ = true;
      return alternatives(0, ignored_terminals_);
    }
    if (name != "import") return not_done(fmt::format("%{}", name));
    if (!in_.take("common")) return not_done("%import of anything but common");
    has_imports_ = true;
    skip_space();
    if (in_.take(".")) return import();
    if (!in_.take("(")) return found(". or ( after common");
    do {
      skip_space();
      CACHALOT_RETURN_IF_ERROR(import());
      skip_space();
    } while (in_.take(","));
    return in_.take(")") ? Status() : found(")");
  }
  Status import() {
    const std::string_view name = read_name();
    if (!is_terminal(name)) return found("the name of a terminal");
    std::string_view as = name;
    skip_space();
    if (in_.take("->")) {
      skip_space();
      as = read_name();
      if (!is_terminal(as)) return found("the name of a terminal");
    }
    Rule& here = rule(as);
    here.is_defined = true;
    const RuleId id = here.id;
    prefix_ = "common.";
    source_.set_body(id, source_.call(rule(name).id));
    prefix_.clear();
    return {};
  }

  Status alternatives(int depth, std::vector<Expression>& options) {
    if (depth > kMaxDepth) return found(fmt::format("groups nested at most {} deep", kMaxDepth));
    skip_space();
    in_.take("|");
    do {
      CACHALOT_ASSIGN_OR_RETURN(const Expression option, sequence(depth));
      options.push_back(option);
    } while (in_.take("|"));
    return {};
  }
  Result<Expression> sequence(int depth) {
    std::vector<Expression> parts;
    for (;;) {
      skip_space();
      if (in_.take("->")) {
        skip_space();
        if (read_name().empty()) return found("a name after ->");
        continue;
      }
      const char c = in_.peek();
      if (in_.at_end() || std::string_view("|)]%?!").find(c) != std::string_view::npos ||
          at_next_rule())
        break;
      CACHALOT_ASSIGN_OR_RETURN(Expression part, atom(depth));
      CACHALOT_ASSIGN_OR_RETURN(part, repeated(part));
      parts.push_back(part);
    }
    return source_.sequence(std::move(parts));
  }
  Result<Expression> repeated(Expression part) {
    for (;;) {
      skip_space();
      // The mark of the next rule, which may begin with one, is none of this.
      const char next = in_.peek(1);
      const bool is_mark = next == '_' || (next >= 'a' && next <= 'z');
      if (in_.take("+")) {
        part = source_.repeat(part, 1, kUnbounded);
      } else if (in_.take("*")) {
        part = source_.repeat(part, 0, kUnbounded);
      } else if (!is_mark && in_.take("?")) {
        part = source_.optional(part);
      } else if (in_.take("~")) {
        skip_space();
        const auto min = number();
        if (!min) return found(fmt::format("a count of at most {}", kMaxCount));
        std::optional<int64_t> max = min;
        if (in_.take("..")) max = number();
        if (!max || *max < *min) return found(fmt::format("a count up to {}", kMaxCount));
        part = source_.repeat(part, *min, *max);
      } else {
        return part;
      }
    }
  }
  std::optional<int64_t> number() {
    uint32_t value = 0;
    const std::string_view rest = in_.rest();
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc() || value > kMaxCount) return std::nullopt;
    in_.skip(static_cast<size_t>(end - rest.data()));
    return value;
  }

  Result<Expression> atom(int depth) {
    for (const auto& [open, close] : {std::pair("(", ")"), std::pair("[", "]")}) {
      if (!in_.take(open)) continue;
      std::vector<Expression> options;
      CACHALOT_RETURN_IF_ERROR(alternatives(depth + 1, options));
      if (!in_.take(close)) return found(close);
      const Expression inner = source_.choice(std::move(options));
      return *open == '[' ? source_.optional(inner) : inner;
    }
    if (in_.peek() == '"') {
      CACHALOT_ASSIGN_OR_RETURN(const Expression text, this->text());
      return terminal(text);
    }
    if (in_.take("/")) {
      CACHALOT_ASSIGN_OR_RETURN(const Expression pattern, this->pattern());
      return terminal(pattern);
    }
    const std::string_view name = read_name();
    if (name.empty()) return found("a name, a \"text\", a /regex/ or a group");
    if (in_.peek() == '{') return not_done("a template");
    const Expression call = source_.call(rule(name).id);
    if (is_terminal(name)) return terminal(call);
    if (is_in_terminal_) return found("terminals alone in a terminal, before this");
    return call;
  }
  Expression terminal(Expression e) {
    return is_in_terminal_ ? e : source_.sequence({e, ignored_});
  }
  Expression characters(const CodePoints& set) {
    return source_.code_points(without(set, left_out_));
  }

  Result<Expression> text() {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<uint32_t> first, quoted());
    if (in_.take("..")) {
      if (in_.peek() != '"') return found("a \"text\" after ..");
      CACHALOT_ASSIGN_OR_RETURN(const std::vector<uint32_t> last, quoted());
      if (first.size() != 1 || last.size() != 1 || last[0] < first[0])
        return found("two rising characters around .. before this");
      return characters({{first[0], last[0]}});
    }
    const bool is_either_case = in_.peek() == 'i' && !is_name_character(in_.peek(1));
    if (is_either_case) in_.skip(1);
    std::vector<Expression> parts;
    for (const uint32_t c : first) {
      CodePoints set = {{c, c}};
      const uint32_t lower = c | 0x20;
      if (is_either_case && c < 0x80 && lower >= 'a' && lower <= 'z')
        set = {{lower - 0x20, lower - 0x20}, {lower, lower}};
      if (is_either_case && c >= 0x80) return not_done("\"i\" after characters beyond ASCII");
      parts.push_back(characters(set));
    }
    return source_.sequence(std::move(parts));
  }
  Result<std::vector<uint32_t>> quoted() {
    in_.skip(1);
    std::vector<uint32_t> out;
    while (!in_.take("\"")) {
      CACHALOT_ASSIGN_OR_RETURN(const uint32_t c, character());
      out.push_back(c);
    }
    return out;
  }
  Result<uint32_t> character() {
    if (in_.peek() == '\n') return found("the end of the text in its line");
    if (in_.take("\\")) return escape("\\\"/");
    const auto c = in_.next();
    if (!c) return found("a character");
    return *c;
  }
  Result<Expression> pattern() {
    std::string pattern;
    for (; in_.at_end() || in_.peek() != '/'; in_.skip(1)) {
      if (in_.at_end() || in_.peek() == '\n') return found("the end of the /regex/ in its line");
      if (in_.peek() == '\\') {
        in_.skip(1);
        if (in_.at_end()) return found("the end of the /regex/");
        if (in_.peek() != '/') pattern += '\\';
      }
      pattern += in_.peek();
    }
    in_.skip(1);
    if (const std::string_view flags = read_name(); !flags.empty())
      return not_done(fmt::format("\"{}\" after a /regex/", flags));
    RegexOptions options;
    options.write = [this](const CodePoints& set) { return characters(set); };
    const auto regex = parse_regex(pattern, source_, options);
    if (regex) return regex->expression;
    return Status(regex.error().code(),
                  fmt::format("grammar, line {}: {}", line(), regex.error().message()));
  }

  const CodePoints& left_out_;
  GrammarSource source_;
  std::map<std::string, Rule> rules_;
  std::string prefix_;  // of the names of what is read
  bool has_imports_ = false, is_in_terminal_ = false;
  Expression ignored_ = 0;  // what may stand after a terminal; empty
  std::vector<Expression> ignored_terminals_;
};

}  // namespace

Result<GrammarSource> parse_lark_text(std::string_view text, const CodePoints& left_out) {
  return Parser(text, left_out).parse();
}

}  // namespace cachalot::grammar
