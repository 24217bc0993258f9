#include "grammar/json_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/python_json.h"
#include "grammar/utf8_reader.h"

namespace cachalot::grammar {
namespace {

constexpr int64_t kLargest = 999'999'999'999'999'999;
constexpr int64_t kUsual = 9'999'999'999'999'999;

// Decimal digit strings of one length between two of them.
class Digits {
 public:
  explicit Digits(GrammarSource& source) : source_(source) {}

  Expression any(size_t count) {
    if (count == 0) return source_.empty();
    return source_.repeat(source_.bytes('0', '9'), static_cast<int64_t>(count),
                          static_cast<int64_t>(count));
  }
  Expression between(std::string_view low, std::string_view high) {
    if (low.find_first_not_of('0') == std::string_view::npos &&
        high.find_first_not_of('9') == std::string_view::npos) {
      return any(low.size());
    }
    const char first = low[0], last = high[0];
    if (first == last) return with(first, last, between(low.substr(1), high.substr(1)));
    const std::string nines(low.size() - 1, '9'), zeros(low.size() - 1, '0');
    std::vector<Expression> options = {with(first, first, between(low.substr(1), nines)),
                                       with(last, last, between(zeros, high.substr(1)))};
    if (first + 1 < last)
      options.push_back(
          with(static_cast<char>(first + 1), static_cast<char>(last - 1), any(low.size() - 1)));
    return source_.choice(std::move(options));
  }
  // 0 <= low <= high
  Expression numbers(int64_t low, int64_t high) {
    std::vector<Expression> options;
    while (low <= high) {
      const std::string digits = fmt::format("{}", low);
      const int64_t end = std::min<int64_t>(high, std::stoll(std::string(digits.size(), '9')));
      options.push_back(between(digits, fmt::format("{}", end)));
      low = end + 1;
    }
    return source_.choice(std::move(options));
  }

 private:
  Expression with(char first, char last, Expression rest) {
    return source_.sequence(
        {source_.bytes(static_cast<uint8_t>(first), static_cast<uint8_t>(last)), rest});
  }
  GrammarSource& source_;
};

std::string hex4(uint32_t c) { return fmt::format("\\u{:04x}", c); }

// Four hexadecimal digits of a \u escape, either case.
Expression hex_digits(GrammarSource& source, int64_t count) {
  return source.repeat(source.code_points({{'0', '9'}, {'A', 'F'}, {'a', 'f'}}), count, count);
}

}  // namespace

JsonText::JsonText(GrammarSource& source, CodePoints escaped)
    : source_(source), escaped_(std::move(escaped)) {}

// A rule that is written when it is first used; its body may use it.
Expression JsonText::shared(std::optional<Expression>& call, const char* name,
                            const std::function<Expression()>& body) {
  if (!call) {
    const RuleId rule = source_.add_rule(name);
    call = source_.call(rule);
    source_.set_body(rule, body());
  }
  return *call;
}

Expression JsonText::space() {
  return shared(space_, "white space", [this] {
    const Expression indent = source_.code_points({{'\t', '\t'}, {' ', ' '}});
    return source_.choice(
        {source_.empty(), source_.literal(" "),
         source_.sequence({source_.literal("\n"), source_.repeat(indent, 0, kMaxIndent)})});
  });
}

Expression JsonText::character(const CodePoints& set) {
  const CodePoints quote = {{'"', '"'}, {'\\', '\\'}};
  std::vector<Expression> options = {source_.code_points(
      without(without(intersection(set, {{0x20, kMaxCodePoint}}), quote), escaped_))};
  const auto has = [&](uint32_t c) { return !intersection(set, {{c, c}}).empty(); };
  constexpr std::pair<char, std::string_view> kShort[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
      {'\n', "\\n"}, {'\r', "\\r"},  {'\t', "\\t"}};
  CodePoints rest = {{0, 0x1F}};
  for (const auto& [c, escape] : kShort) {
    const auto code_point = static_cast<uint32_t>(c);
    if (has(code_point)) options.push_back(source_.literal(escape));
    rest = without(rest, {{code_point, code_point}});
  }
  rest.insert(rest.end(), escaped_.begin(), escaped_.end());
  for (const CodePointRange& range : intersection(merged(rest), set)) {
    for (uint32_t c = range.first; c <= range.last; ++c)
      options.push_back(source_.literal(hex4(c)));
  }
  return source_.choice(std::move(options));
}

// Besides what character() writes: any escape that JSON has.
Expression JsonText::any_character() {
  if (character_) return *character_;
  const auto byte = [this](std::string_view bytes) {
    std::vector<Expression> options;
    for (const char c : bytes) options.push_back(source_.literal(std::string(1, c)));
    return source_.choice(std::move(options));
  };
  const Expression high = source_.sequence({byte("dD"), byte("89abAB"), hex_digits(source_, 2)});
  const Expression low = source_.sequence({byte("dD"), byte("cdefCDEF"), hex_digits(source_, 2)});
  const Expression unit =
      source_.choice({source_.sequence({byte("0123456789abcefABCEF"), hex_digits(source_, 3)}),
                      source_.sequence({byte("dD"), byte("01234567"), hex_digits(source_, 2)}),
                      source_.sequence({high, source_.literal("\\u"), low})});
  const Expression raw =
      source_.code_points(without(complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}), escaped_));
  const Expression escape = source_.sequence(
      {source_.literal("\\"),
       source_.choice({byte("\"\\/bfnrt"), source_.sequence({source_.literal("u"), unit})})});
  character_ = source_.choice({raw, escape});
  return *character_;
}

Expression JsonText::quoted(Expression characters) {
  return source_.sequence({source_.literal("\""), characters, source_.literal("\"")});
}

Expression JsonText::string(int64_t min_length, int64_t max_length) {
  if (min_length > 0 || max_length < kUnbounded)
    return quoted(source_.repeat(any_character(), min_length, max_length));
  return shared(string_, "string",
                [this] { return quoted(source_.repeat(any_character(), 0, kUnbounded)); });
}

Expression JsonText::integer(std::optional<int64_t> min, std::optional<int64_t> max) {
  if (!min && !max) {
    return shared(integer_, "integer", [this] { return integer(-kUsual, kUsual); });
  }
  Digits digits(source_);
  int64_t low = std::clamp(min.value_or(-kUsual), -kLargest, kLargest);
  int64_t high = std::clamp(max.value_or(kUsual), -kLargest, kLargest);
  if (!min && low > high) low = -kLargest;
  if (!max && low > high) high = kLargest;
  if (low > high || (min && *min > kLargest) || (max && *max < -kLargest)) return source_.never();
  std::vector<Expression> options;
  if (high >= 0) options.push_back(digits.numbers(std::max<int64_t>(low, 0), high));
  if (low < 0) {
    const int64_t nearest = std::max<int64_t>(1, -std::min<int64_t>(high, -1));
    options.push_back(source_.sequence({source_.literal("-"), digits.numbers(nearest, -low)}));
  }
  return source_.choice(std::move(options));
}

Expression JsonText::number() {
  return shared(number_, "number", [this] {
    const Expression digit = source_.bytes('0', '9');
    const Expression whole =
        source_.choice({source_.literal("0"),
                        source_.sequence({source_.bytes('1', '9'), source_.repeat(digit, 0, 15)})});
    const Expression fraction =
        source_.sequence({source_.literal("."), source_.repeat(digit, 1, 16)});
    const Expression exponent =
        source_.sequence({source_.code_points({{'E', 'E'}, {'e', 'e'}}),
                          source_.optional(source_.code_points({{'+', '+'}, {'-', '-'}})),
                          source_.repeat(digit, 1, 2)});
    return source_.sequence({source_.optional(source_.literal("-")), whole,
                             source_.optional(fraction), source_.optional(exponent)});
  });
}

Expression JsonText::any_value() {
  return shared(value_, "value", [this] {
    return source_.choice({string(), number(), source_.literal("true"), source_.literal("false"),
                           source_.literal("null"), array({}, any_value(), 0, kUnbounded),
                           any_object()});
  });
}

Expression JsonText::any_object() {
  return shared(object_, "object", [this] {
    return object({}, Member{string(), any_value(), false});
  });
}

Expression JsonText::text(std::string_view characters) {
  std::string out;
  const std::string spelled = json_quoted(characters);
  for (Utf8Reader in(spelled); !in.at_end();) {
    const size_t begin = in.at();
    const auto c = in.next();
    if (c && !intersection(escaped_, {{*c, *c}}).empty()) {
      out += hex4(*c);
    } else {
      if (!c) in.skip(1);
      out += in.since(begin);
    }
  }
  return source_.literal(out);
}

Expression JsonText::value(const json::value& value) {
  if (value.is_string()) return text(std::string_view(value.get_string()));
  if (value.is_array()) {
    std::vector<Expression> items;
    for (const json::value& item : value.get_array()) items.push_back(this->value(item));
    const auto count = static_cast<int64_t>(items.size());
    return array(items, source_.never(), count, count);
  }
  if (value.is_object()) {
    std::vector<Member> members;
    for (const auto& [key, item] : value.get_object())
      members.push_back({text(key), this->value(item), true});
    return object(members, std::nullopt);
  }
  return source_.literal(python_json(value));
}

Expression JsonText::text_other_than(std::span<const std::string> names) {
  const CodePoints plain = without(complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}), escaped_);
  return quoted(source_.other_than(names, plain));
}

Expression JsonText::object(std::span<const Member> members, const std::optional<Member>& others) {
  const auto written = [this](const Member& member) {
    return source_.sequence({member.key, source_.literal(":"), space(), member.value});
  };
  std::vector<GrammarSource::Item> items;
  for (const Member& member : members) items.push_back({written(member), member.is_required});
  const Expression inner = source_.ordered(items, others ? written(*others) : source_.never(),
                                           source_.sequence({source_.literal(","), space()}));
  return source_.sequence({source_.literal("{"), space(), inner, space(), source_.literal("}")});
}

Expression JsonText::array(std::span<const Expression> prefix, Expression item, int64_t min_items,
                           int64_t max_items) {
  if (max_items < min_items) return source_.never();
  const Expression comma = source_.sequence({source_.literal(","), space()});
  // From the last place to the first: what may follow i items.
  Expression rest = source_.empty();
  const auto num_prefix = std::min(static_cast<int64_t>(prefix.size()), max_items);
  const auto followed = [&](int64_t i, Expression one, Expression then) {
    Expression more = source_.sequence({i == 0 ? source_.empty() : comma, one, then});
    return i >= min_items ? source_.choice({source_.empty(), more}) : more;
  };
  if (max_items > num_prefix && num_prefix == 0) {
    const Expression others =
        source_.repeat(source_.sequence({comma, item}), std::max<int64_t>(min_items - 1, 0),
                       max_items == kUnbounded ? kUnbounded : max_items - 1);
    rest = followed(0, item, others);
  } else if (max_items > num_prefix) {
    rest = source_.repeat(source_.sequence({comma, item}),
                          std::max<int64_t>(min_items - num_prefix, 0),
                          max_items == kUnbounded ? kUnbounded : max_items - num_prefix);
  }
  for (int64_t i = num_prefix; i-- > 0;) rest = followed(i, prefix[static_cast<size_t>(i)], rest);
  return source_.sequence({source_.literal("["), space(), rest, space(), source_.literal("]")});
}

}  // namespace cachalot::grammar
