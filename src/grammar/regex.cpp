#include "grammar/regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "grammar/utf8_reader.h"
#include "text/unicode_tables.h"

namespace cachalot::grammar {
namespace {

constexpr int kMaxDepth = 128;
constexpr int64_t kMaxCount = 100'000;

// A class as every dialect has it, and as the widest has it: a negated class is without the latter.
struct Class {
  CodePoints narrow, wide;
};

CodePoints with_unicode_class(CodePoints ascii, bool (*is_in)(text::CharClass)) {
  for (uint32_t c = 0x80; c <= kMaxCodePoint; ++c) {
    if (!is_in(text::char_class(c))) continue;
    const uint32_t first = c;
    while (c < kMaxCodePoint && is_in(text::char_class(c + 1))) ++c;
    ascii.push_back({first, c});
  }
  return merged(std::move(ascii));
}

const Class& digits() {
  static const Class kDigits = {
      {{'0', '9'}}, with_unicode_class({{'0', '9'}}, [](auto c) { return c == text::kNumber; })};
  return kDigits;
}
const Class& word_characters() {
  static const CodePoints kAscii = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  static const Class kWord = {kAscii, with_unicode_class(kAscii, [](auto c) {
                                return c == text::kNumber || c == text::kLetter ||
                                       c == text::kCjkLetter || c == text::kCjkOther;
                              })};
  return kWord;
}
const Class& spaces() {
  static const CodePoints kAscii = {{'\t', '\r'}, {' ', ' '}};
  // Python counts four separators among the spaces, ECMAScript the byte order mark.
  static const Class kSpaces = {
      kAscii, merged([] {
        CodePoints wide = with_unicode_class(kAscii, [](auto c) { return c == text::kSpace; });
        wide.insert(wide.end(), {{0x1C, 0x1F}, {0x85, 0x85}, {0x2028, 0x2029}, {0xFEFF, 0xFEFF}});
        return wide;
      }())};
  return kSpaces;
}

// A part of the pattern with the lengths of what it matches.
struct Part {
  Expression expression = 0;
  int64_t min = 0, max = 0;
};
int64_t bounded(int64_t length) { return std::min(length, kUnbounded); }
int64_t times(int64_t length, int64_t count) {
  if (length == 0 || count == 0) return 0;
  return length == kUnbounded || count == kUnbounded ? kUnbounded : bounded(length * count);
}

class Parser {
 public:
  Parser(std::string_view pattern, GrammarSource& source, const RegexOptions& options)
      : pattern_(pattern), in_(pattern), source_(source), options_(options) {}

  Result<Regex> parse() {
    if (pattern_.size() > kMaxRegexBytes) {
      return resource_exhausted(fmt::format("regex: expected at most {} bytes, found {}",
                                            kMaxRegexBytes, pattern_.size()));
    }
    CACHALOT_ASSIGN_OR_RETURN(const Part part, alternatives(0));
    if (!in_.at_end()) return found("an unmatched )", "a group to close");
    return Regex{part.expression, part.min, part.max};
  }

 private:
  Status error(StatusCode code, std::string_view what, std::string_view expected) const {
    std::string shown(pattern_.substr(0, 64));
    if (pattern_.size() > shown.size()) shown += "...";
    return {code, fmt::format("regex \"{}\", byte {}: expected {}, found {}", shown, in_.at(),
                              expected, what)};
  }
  Status found(std::string_view what, std::string_view expected) const {
    return error(StatusCode::invalid_argument, what, expected);
  }
  Status refused(std::string_view what) const {
    return error(StatusCode::unsupported, what, "a construct that is supported");
  }

  Part one_of(const CodePoints& set) {
    const Expression e = options_.write ? options_.write(set) : source_.code_points(set);
    return {e, 1, 1};
  }
  Part any_text() {
    return {source_.repeat(one_of({{0, kMaxCodePoint}}).expression, 0, kUnbounded), 0, kUnbounded};
  }

  Result<Part> alternatives(int depth) {
    if (depth > kMaxDepth)
      return found("more", fmt::format("groups nested at most {} deep", kMaxDepth));
    std::vector<Expression> options;
    Part out = {0, kUnbounded, 0};
    do {
      CACHALOT_ASSIGN_OR_RETURN(const Part part, alternative(depth));
      options.push_back(part.expression);
      out.min = std::min(out.min, part.min);
      out.max = std::max(out.max, part.max);
    } while (in_.take("|"));
    out.expression = source_.choice(std::move(options));
    return out;
  }

  Result<Part> alternative(int depth) {
    std::vector<Expression> parts;
    Part out;
    const auto append = [&](const Part& part) {
      parts.push_back(part.expression);
      out.min = bounded(out.min + part.min);
      out.max = bounded(out.max + part.max);
    };
    const bool is_anchored = depth == 0 && in_.take("^");
    if (depth == 0 && !is_anchored && !options_.matches_whole) append(any_text());
    bool is_ended = false;
    while (!in_.at_end() && in_.peek() != '|' && in_.peek() != ')') {
      if (is_ended) return refused("$ before the end of an alternative");
      if (in_.peek() == '$') {
        if (depth > 0) return refused("$ inside a group");
        in_.skip(1);
        is_ended = true;
        continue;
      }
      CACHALOT_ASSIGN_OR_RETURN(const Part atom, quantified(depth));
      append(atom);
    }
    if (depth == 0 && !is_ended && !options_.matches_whole) append(any_text());
    out.expression = source_.sequence(std::move(parts));
    return out;
  }

  Result<Part> quantified(int depth) {
    CACHALOT_ASSIGN_OR_RETURN(Part part, atom(depth));
    int64_t min = 1, max = 1;
    if (in_.take("*")) {
      min = 0;
      max = kUnbounded;
    } else if (in_.take("+")) {
      max = kUnbounded;
    } else if (in_.take("?")) {
      min = 0;
    } else if (in_.peek() == '{') {
      CACHALOT_RETURN_IF_ERROR(counts(min, max));
    } else {
      return part;
    }
    if (in_.peek() == '+') return refused("a possessive quantifier");
    in_.take("?");
    if (in_.peek() == '*' || in_.peek() == '?' || in_.peek() == '{')
      return found("a second quantifier", "one");
    return Part{source_.repeat(part.expression, min, max), times(part.min, min),
                times(part.max, max)};
  }

  Status counts(int64_t& min, int64_t& max) {
    in_.skip(1);
    const auto number = [this]() -> std::optional<int64_t> {
      int64_t value = 0;
      const std::string_view rest = in_.rest();
      const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
      if (error != std::errc() || rest.starts_with('-')) return std::nullopt;
      in_.skip(static_cast<size_t>(end - rest.data()));
      return value;
    };
    const auto first = number();
    std::optional<int64_t> last = first;
    if (first && in_.take(",")) last = in_.peek() == '}' ? kUnbounded : number();
    if (!first || !last || !in_.take("}"))
      return found("another form", "{m}, {m,} or {m,n} (a literal { is \\{)");
    if (*first > kMaxCount || (*last > kMaxCount && *last != kUnbounded)) {
      return error(StatusCode::resource_exhausted, "more",
                   fmt::format("counts of at most {}", kMaxCount));
    }
    if (*last < *first) return found("less", "the second count to be at least the first");
    min = *first;
    max = *last;
    return {};
  }

  Result<Part> atom(int depth) {
    switch (in_.peek()) {
      case '(': return group(depth);
      case '[': {
        CACHALOT_ASSIGN_OR_RETURN(const CodePoints set, bracketed());
        return one_of(set);
      }
      case '.': {
        in_.skip(1);
        return one_of(complement({{'\n', '\n'}, {'\r', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}}));
      }
      case '*':
      case '+':
      case '?':
      case '{': return found(fmt::format("{}", in_.peek()), "something to repeat");
      case '^': return refused("^ after the start of an alternative");
      case '\\': {
        Class set;
        CACHALOT_RETURN_IF_ERROR(escape(set, false));
        return one_of(set.narrow);
      }
      default: break;
    }
    const auto c = in_.next();
    if (!c) return found("bytes that are no UTF-8", "UTF-8");
    return one_of({{*c, *c}});
  }

  Result<Part> group(int depth) {
    in_.skip(1);
    if (in_.take("?")) {
      if (in_.starts_with("=") || in_.starts_with("!") || in_.starts_with("<=") ||
          in_.starts_with("<!")) {
        return refused("look-around");
      }
      if (in_.take("P<") || in_.take("<")) {
        while (!in_.at_end() && in_.peek() != '>') in_.skip(1);
        if (!in_.take(">")) return found("the end", "a group name and >");
      } else if (!in_.take(":")) {
        return refused(fmt::format("(?{}", in_.rest().substr(0, 1)));
      }
    }
    CACHALOT_ASSIGN_OR_RETURN(const Part part, alternatives(depth + 1));
    if (!in_.take(")")) return found("the end", ")");
    return part;
  }

  // An escape, as a set; inside brackets \b is a backspace and - may be escaped.
  Status escape(Class& out, bool in_brackets) {
    in_.skip(1);
    const auto single = [&out](uint32_t c) {
      out.narrow = out.wide = {{c, c}};
      return Status();
    };
    // Negated: all but the widest reading; the widest reading of that is all but the narrowest.
    const auto negated = [&out](const Class& c) {
      out = {complement(c.wide), complement(c.narrow)};
      return Status();
    };
    const char c = in_.peek();
    if (in_.at_end()) return found("the end", "a character after \\");
    if (static_cast<unsigned char>(c) >= 0x80) return refused("an escape of a letter");
    in_.skip(1);
    switch (c) {
      case 'd': out = digits(); return {};
      case 'w': out = word_characters(); return {};
      case 's': out = spaces(); return {};
      case 'D': return negated(digits());
      case 'W': return negated(word_characters());
      case 'S': return negated(spaces());
      case 'n': return single('\n');
      case 'r': return single('\r');
      case 't': return single('\t');
      case 'f': return single('\f');
      case 'v': return single('\v');
      case '0':
        if (in_.peek() >= '0' && in_.peek() <= '9') return refused("an octal escape");
        return single(0);
      case 'x': return hex(2, 2, single);
      case 'u':
        if (in_.take("{")) {
          CACHALOT_RETURN_IF_ERROR(hex(1, 6, single));
          return in_.take("}") ? Status() : found("another character", "}");
        }
        return hex(4, 4, single);
      case 'b':
        if (in_brackets) return single('\b');
        return refused("\\b");
      default: break;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return refused(fmt::format("\\{}", c));
    if (c >= '0' && c <= '9') return refused("a back reference");
    return single(static_cast<uint32_t>(c));
  }

  template <typename Single>
  Status hex(size_t min, size_t max, const Single& single) {
    uint32_t value = 0;
    const std::string_view rest = in_.rest().substr(0, max);
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value, 16);
    const auto length = static_cast<size_t>(end - rest.data());
    if (error != std::errc() || length < min || value > kMaxCodePoint)
      return found("another form", fmt::format("{} hexadecimal digits of a code point", max));
    if (value >= 0xD800 && value <= 0xDFFF) return refused("a surrogate");
    in_.skip(length);
    return single(value);
  }

  // [...]
  Result<CodePoints> bracketed() {
    in_.skip(1);
    const bool is_negated = in_.take("^");
    Class all;
    bool is_empty = true;
    while (is_empty || in_.peek() != ']') {
      if (in_.at_end()) return found("the end", "]");
      if (is_empty && in_.peek() == ']')
        return refused("] first in a class, on which dialects differ (write \\])");
      if (in_.starts_with("[:")) return refused("a POSIX class");
      if (in_.starts_with("&&") || in_.starts_with("--")) return refused("an operation on classes");
      is_empty = false;
      Class item;
      CACHALOT_RETURN_IF_ERROR(class_item(item));
      if (in_.peek() == '-' && in_.peek(1) != ']' && is_single(item)) {
        in_.skip(1);
        Class last;
        CACHALOT_RETURN_IF_ERROR(class_item(last));
        if (!is_single(last)) return found("a class", "the last character of a range");
        const uint32_t from = item.narrow[0].first, to = last.narrow[0].first;
        if (to < from) return found("a lower one", "the last character of a range above its first");
        item.narrow = item.wide = {{from, to}};
      }
      all.narrow.insert(all.narrow.end(), item.narrow.begin(), item.narrow.end());
      all.wide.insert(all.wide.end(), item.wide.begin(), item.wide.end());
      if (all.narrow.size() > kMaxRegexBytes) {
        all.narrow = merged(std::move(all.narrow));
        all.wide = merged(std::move(all.wide));
      }
    }
    in_.skip(1);
    return is_negated ? complement(merged(std::move(all.wide))) : merged(std::move(all.narrow));
  }
  Status class_item(Class& out) {
    if (in_.peek() == '\\') return escape(out, true);
    const auto c = in_.next();
    if (!c) return found(in_.at_end() ? "the end" : "bytes that are no UTF-8", "a character");
    out.narrow = out.wide = {{*c, *c}};
    return {};
  }
  static bool is_single(const Class& c) {
    return c.narrow.size() == 1 && c.narrow[0].first == c.narrow[0].last;
  }

  std::string_view pattern_;
  Utf8Reader in_;
  GrammarSource& source_;
  const RegexOptions& options_;
};

}  // namespace

Result<Regex> parse_regex(std::string_view pattern, GrammarSource& source,
                          const RegexOptions& options) {
  return Parser(pattern, source, options).parse();
}

}  // namespace cachalot::grammar
