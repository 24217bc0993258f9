#include "base/json.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <optional>
#include <unordered_set>

#include "base/file.h"
#include "base/python_json.h"

namespace cachalot {
namespace {

// Builds the value as Boost's own parser does, except that fractions are rounded correctly: Boost
// 1.81 may be off by one in the last place.
class ValueHandler {
 public:
  static constexpr size_t max_object_size = json::object::max_size();
  static constexpr size_t max_array_size = json::array::max_size();
  static constexpr size_t max_key_size = json::string::max_size();
  static constexpr size_t max_string_size = json::string::max_size();
  using error_code = json::error_code;
  using string_view = json::string_view;

  explicit ValueHandler(RepeatedKeys repeated_keys)
      : refuses_(repeated_keys == RepeatedKeys::refused) {
    stack_.reset();
  }
  json::value release() { return stack_.release(); }
  const std::optional<std::string>& repeated_key() const { return repeated_key_; }

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) {
    if (refuses_) keys_.emplace_back();
    return true;
  }
  bool on_array_begin(error_code&) { return true; }
  bool on_object_end(size_t size, error_code&) {
    if (refuses_) keys_.pop_back();
    return stack_.push_object(size), true;
  }
  bool on_array_end(size_t size, error_code&) { return stack_.push_array(size), true; }
  bool on_key_part(string_view part, size_t, error_code&) {
    if (refuses_) key_.append(part.data(), part.size());
    return stack_.push_chars(part), true;
  }
  bool on_key(string_view part, size_t, error_code& error) {
    if (refuses_) {
      key_.append(part.data(), part.size());
      if (!keys_.back().insert(key_).second) {
        repeated_key_ = std::move(key_);
        error = json::make_error_code(json::error::syntax);
        return false;
      }
      key_.clear();
    }
    return stack_.push_key(part), true;
  }
  bool on_string_part(string_view part, size_t, error_code&) {
    return stack_.push_chars(part), true;
  }
  bool on_string(string_view part, size_t, error_code&) { return stack_.push_string(part), true; }
  bool on_number_part(string_view part, error_code&) {
    return number_.append(part.data(), part.size()), true;
  }
  bool on_int64(int64_t value, string_view, error_code&) {
    number_.clear();
    return stack_.push_int64(value), true;
  }
  bool on_uint64(uint64_t value, string_view, error_code&) {
    number_.clear();
    return stack_.push_uint64(value), true;
  }
  bool on_double(double value, string_view part, error_code&) {
    number_.append(part.data(), part.size());
    // Out of range, the value stays Boost's: 0 or infinity.
    std::from_chars(number_.data(), number_.data() + number_.size(), value);
    number_.clear();
    return stack_.push_double(value), true;
  }
  bool on_bool(bool value, error_code&) { return stack_.push_bool(value), true; }
  bool on_null(error_code&) { return stack_.push_null(), true; }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

 private:
  json::value_stack stack_;
  std::string number_;
  bool refuses_;
  std::string key_;                                    // what has been read of it
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects around
  std::optional<std::string> repeated_key_;
};

}  // namespace

Result<json::value> parse_json(std::string_view text, std::string_view origin, size_t max_depth,
                               RepeatedKeys repeated_keys) {
  json::parse_options options;
  options.max_depth = max_depth;
  json::basic_parser<ValueHandler> parser(options, repeated_keys);
  json::error_code error;
  const size_t begin = text.size() - without_byte_order_mark(text).size();
  const size_t consumed =
      begin + parser.write_some(false, text.data() + begin, text.size() - begin, error);
  if (const std::optional<std::string>& key = parser.handler().repeated_key()) {
    return invalid_argument(
        fmt::format("{}: expected every key once, found {} again", origin, json_quoted(*key)));
  }
  if (error) {
    return invalid_argument(
        fmt::format("{}: not valid JSON at byte {}: {}", origin, consumed, error.message()));
  }
  if (text.find_first_not_of(" \t\r\n", consumed) != std::string_view::npos) {
    return invalid_argument(
        fmt::format("{}: expected the JSON value to end at byte {}, found {} more", origin,
                    consumed, text.size() - consumed));
  }
  return parser.handler().release();
}

std::string_view json_kind_name(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return "null";
    case json::kind::bool_: return "boolean";
    case json::kind::string: return "string";
    case json::kind::array: return "array";
    case json::kind::object: return "object";
    default: return "number";
  }
}

}  // namespace cachalot
