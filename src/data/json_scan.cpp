#include "data/json_scan.h"

#include <array>
#include <string>

#include "base/json.h"

namespace cachalot::data {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
// A number or a word ends before one of these.
constexpr std::string_view kScalarEnd = " \t\r\n,:]}[{\"";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_number(std::string_view word) {
  size_t at = 0;
  const auto digits = [&] {
    const size_t first = at;
    while (at < word.size() && is_digit(word[at])) ++at;
    return at > first;
  };
  if (at < word.size() && word[at] == '-') ++at;
  const size_t first = at;
  if (!digits() || (word[first] == '0' && at > first + 1)) return false;
  if (at < word.size() && word[at] == '.' && (++at, !digits())) return false;
  if (at < word.size() && (word[at] == 'e' || word[at] == 'E')) {
    ++at;
    if (at < word.size() && (word[at] == '+' || word[at] == '-')) ++at;
    if (!digits()) return false;
  }
  return at == word.size();
}

bool is_scalar(std::string_view word) {
  for (const std::string_view known :
       {"true", "false", "null", "NaN", "Infinity", "-Infinity", "-NaN"}) {
    if (word == known) return true;
  }
  return is_number(word);
}

class Scanner {
 public:
  Scanner(std::string_view text, std::string_view member) : text_(text), member_(member) {}

  JsonScan run() {
    while (!done_) {
      at_ = text_.find_first_not_of(kSpace, at_);
      if (at_ == std::string_view::npos) at_ = text_.size();
      if (at_ == text_.size()) {
        stop(JsonScan::Outcome::cut);
      } else {
        step(text_[at_]);
      }
    }
    return found_;
  }

 private:
  enum class Next { value, value_or_close, key, key_or_close, colon, comma_or_close };

  void step(char c) {
    switch (next_) {
      case Next::value_or_close:
        if (c == ']') return close();
        [[fallthrough]];
      case Next::value:
        if (open_.size() == 1) value_begin_ = at_;
        return value(c);
      case Next::key_or_close:
        if (c == '}') return close();
        [[fallthrough]];
      case Next::key: return key(c);
      case Next::colon:
        if (c != ':') return stop(JsonScan::Outcome::malformed);
        ++at_;
        next_ = Next::value;
        return;
      case Next::comma_or_close:
        if (c == (open_.back() == '{' ? '}' : ']')) return close();
        if (c != ',') return stop(JsonScan::Outcome::malformed);
        ++at_;
        next_ = open_.back() == '{' ? Next::key : Next::value;
        return;
    }
  }

  void value(char c) {
    if (c == '{' || c == '[') {
      open_.push_back(c);
      ++at_;
      next_ = c == '{' ? Next::key_or_close : Next::value_or_close;
    } else if (c == '"') {
      if (skip_string()) ended_value();
    } else {
      const size_t end = text_.find_first_of(kScalarEnd, at_);
      // A word at the text's end may go on behind it.
      if (end == std::string_view::npos) return stop(JsonScan::Outcome::cut);
      if (!is_scalar(text_.substr(at_, end - at_))) return stop(JsonScan::Outcome::malformed);
      at_ = end;
      ended_value();
    }
  }

  void key(char c) {
    if (c != '"') return stop(JsonScan::Outcome::malformed);
    const size_t begin = at_;
    if (!skip_string()) return;
    if (open_.size() == 1) is_member_ = names_member(text_.substr(begin, at_ - begin));
    next_ = Next::colon;
  }

  bool names_member(std::string_view quoted) const {
    if (quoted.find('\\') == std::string_view::npos)
      return quoted.substr(1, quoted.size() - 2) == member_;
    const Result<json::value> decoded = parse_json(quoted, "key");
    return decoded && std::string_view(decoded->get_string()) == member_;
  }

  bool skip_string() {
    size_t i = at_ + 1;
    while ((i = text_.find_first_of("\"\\", i)) != std::string_view::npos) {
      if (text_[i] == '"') {
        at_ = i + 1;
        return true;
      }
      i += 2;  // a backslash and what it stands before
    }
    at_ = text_.size();
    stop(JsonScan::Outcome::cut);
    found_.expected = "the string's end";
    return false;
  }

  void close() {
    open_.pop_back();
    ++at_;
    if (!open_.empty()) return ended_value();
    stop(JsonScan::Outcome::complete);
  }

  void ended_value() {
    if (open_.size() == 1 && is_member_)
      found_.member = text_.substr(value_begin_, at_ - value_begin_);
    next_ = Next::comma_or_close;
  }

  void stop(JsonScan::Outcome outcome) {
    constexpr std::array<std::string_view, 6> kExpected = {
        "a value", "a value or ]", "a key", "a key or }", "a colon", "a comma or the end"};
    done_ = true;
    found_.outcome = outcome;
    found_.end = at_;
    found_.expected = kExpected[static_cast<size_t>(next_)];
  }

  std::string_view text_;
  std::string_view member_;
  size_t at_ = 0;
  Next next_ = Next::value;
  std::string open_;  // the brackets around
  bool is_member_ = false;
  size_t value_begin_ = 0;
  bool done_ = false;
  JsonScan found_;
};

}  // namespace

JsonScan scan_json_object(std::string_view text, std::string_view member) {
  return Scanner(text, member).run();
}

}  // namespace cachalot::data
