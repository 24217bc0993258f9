#include "base/python_json.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <charconv>
#include <cmath>
#include <unordered_map>

namespace cachalot {
namespace {

void append_python(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: out += "null"; return;
    case json::kind::bool_: out += value.get_bool() ? "true" : "false"; return;
    case json::kind::int64: out += std::to_string(value.get_int64()); return;
    case json::kind::uint64: out += std::to_string(value.get_uint64()); return;
    case json::kind::double_: out += python_float(value.get_double()); return;
    case json::kind::string:
      out += '"';
      append_json_escaped(out, value.get_string());
      out += '"';
      return;
    case json::kind::array: {
      out += '[';
      std::string_view separator;
      for (const json::value& item : value.get_array()) {
        out += separator;
        append_python(out, item);
        separator = ", ";
      }
      out += ']';
      return;
    }
    case json::kind::object: {
      out += '{';
      std::string_view separator;
      for (const auto& [key, item] : value.get_object()) {
        out += separator;
        out += '"';
        append_json_escaped(out, key);
        out += "\": ";
        append_python(out, item);
        separator = ", ";
      }
      out += '}';
      return;
    }
  }
}

// Receives parse events and writes each value's Python spelling, innermost first. The top-level
// object's members stay apart; a level below it is joined into text when it closes.
class PythonTextHandler {
 public:
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  using error_code = boost::json::error_code;
  using string_view = boost::json::string_view;

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) { return open('{'); }
  bool on_array_begin(error_code&) { return open('['); }
  bool on_object_end(size_t, error_code&) { return close('}'); }
  bool on_array_end(size_t, error_code&) { return close(']'); }
  bool on_key_part(string_view part, size_t, error_code&) { return append(part); }
  bool on_key(string_view part, size_t, error_code&) {
    append(part);
    levels_.back().key = std::move(scratch_);
    scratch_.clear();
    return true;
  }
  bool on_string_part(string_view part, size_t, error_code&) { return append(part); }
  bool on_string(string_view part, size_t, error_code&) {
    append(part);
    std::string text = std::move(scratch_);
    scratch_.clear();
    return put(true, std::move(text));
  }
  bool on_number_part(string_view part, error_code&) { return append(part); }
  bool on_int64(int64_t value, string_view, error_code&) {
    return put_number(std::to_string(value));
  }
  bool on_uint64(uint64_t value, string_view, error_code&) {
    return put_number(std::to_string(value));
  }
  bool on_double(double value, string_view part, error_code&) {
    append(part);
    // An integer too long for 64 bits arrives here as well; Python keeps its digits.
    if (scratch_.find_first_of(".eE") == std::string::npos) return put_number(scratch_);
    // Boost's own value may be off by one in the last place; out of range it is right (0 or
    // infinity).
    std::from_chars(scratch_.data(), scratch_.data() + scratch_.size(), value);
    return put_number(python_float(value));
  }
  bool on_bool(bool value, error_code&) { return put(false, value ? "true" : "false"); }
  bool on_null(error_code&) { return put(false, "null"); }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

  bool top_is_object() const { return top_is_object_; }
  std::vector<PythonJsonMember>& members() { return top_; }

 private:
  struct Level {
    bool is_object;
    std::string key;  // of the member being read
    std::vector<PythonJsonMember> members;
    std::unordered_map<std::string, size_t> places;  // key -> index in members, objects only
  };

  bool append(string_view part) {
    scratch_.append(part.data(), part.size());
    return true;
  }
  bool open(char bracket) {
    levels_.push_back({bracket == '{', {}, {}, {}});
    return true;
  }
  bool close(char bracket) {
    Level level = std::move(levels_.back());
    levels_.pop_back();
    if (levels_.empty()) {
      top_is_object_ = level.is_object;
      top_ = std::move(level.members);
      return true;
    }
    std::string text(1, level.is_object ? '{' : '[');
    std::string_view separator;
    for (const PythonJsonMember& member : level.members) {
      text += separator;
      if (level.is_object) text += json_quoted(member.key) + ": ";
      text += member.is_string ? json_quoted(member.text) : member.text;
      separator = ", ";
    }
    text += bracket;
    return put(false, std::move(text));
  }
  bool put_number(std::string text) {
    scratch_.clear();
    return put(false, std::move(text));
  }
  bool put(bool is_string, std::string text) {
    if (levels_.empty()) return true;  // a scalar document: not an object, refused by the caller
    Level& level = levels_.back();
    if (level.is_object) {
      const auto [place, is_new] = level.places.emplace(level.key, level.members.size());
      if (!is_new) {
        PythonJsonMember& member = level.members[place->second];
        member.is_string = is_string;
        member.text = std::move(text);
        return true;
      }
    }
    level.members.push_back({level.key, is_string, std::move(text)});
    return true;
  }

  std::string scratch_;
  std::vector<Level> levels_;
  std::vector<PythonJsonMember> top_;
  bool top_is_object_ = false;
};

}  // namespace

std::string python_json(const json::value& value) {
  std::string out;
  append_python(out, value);
  return out;
}

std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  // repr() takes the shortest digits, and an exponent when the decimal point would fall outside
  // 10^-5 .. 10^16.
  char buffer[64];
  const auto scientific =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(scientific.ptr - buffer));
  const size_t e_pos = text.find('e');
  int exponent = 0;
  const size_t digits_pos = e_pos + (text[e_pos + 1] == '+' ? 2 : 1);
  std::from_chars(text.data() + digits_pos, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
  std::string out(buffer, static_cast<size_t>(fixed.ptr - buffer));
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

void append_json_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
}

std::string json_quoted(std::string_view text) {
  std::string out = "\"";
  append_json_escaped(out, text);
  out += '"';
  return out;
}

Result<std::vector<PythonJsonMember>> parse_python_object(std::string_view text,
                                                          std::string_view origin,
                                                          size_t max_depth) {
  json::parse_options options;
  options.max_depth = max_depth;
  json::basic_parser<PythonTextHandler> parser(options);
  json::error_code error;
  const size_t consumed = parser.write_some(false, text.data(), text.size(), error);
  if (error) {
    return invalid_argument(
        fmt::format("{}: not valid JSON at byte {}: {}", origin, consumed, error.message()));
  }
  if (text.find_first_not_of(" \t\r\n", consumed) != std::string_view::npos) {
    return invalid_argument(
        fmt::format("{}: expected the JSON value to end at byte {}, found {} more", origin,
                    consumed, text.size() - consumed));
  }
  if (!parser.handler().top_is_object()) {
    return invalid_argument(fmt::format("{}: expected a JSON object, found another value", origin));
  }
  return std::move(parser.handler().members());
}

}  // namespace cachalot
