#include "formats/json_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json/serializer.hpp>
#include <cmath>

#include "base/file.h"

namespace cachalot::formats {

std::string json_excerpt(const json::value& value, size_t max_chars) {
  // Serialised in one bounded piece: the value may be megabytes.
  std::string buffer(max_chars, '\0');
  json::serializer serializer;
  serializer.reset(&value);
  const auto text = serializer.read(buffer.data(), buffer.size());
  std::string out(text.data(), text.size());
  if (!serializer.done()) out += "...";
  return out;
}

std::string_view JsonFields::spelling(std::string_view key) const {
  if (aliases_ != nullptr) {
    for (const Alias& alias : *aliases_) {
      if (alias.key == key) return alias.spelling;
    }
  }
  return key;
}

Result<json::object> read_json_object(const std::string& path, size_t max_bytes) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, max_bytes));
  CACHALOT_ASSIGN_OR_RETURN(json::value document,
                            parse_json(text, path, 16, RepeatedKeys::refused));
  if (!document.is_object()) {
    return data_loss(
        fmt::format("{}: expected an object, found {}", path, json_kind_name(document)));
  }
  return std::move(document.get_object());
}

Status joined(const std::vector<Status>& errors) {
  if (errors.empty()) return {};
  std::string text;
  for (const Status& error : errors) {
    if (!text.empty()) text += '\n';
    for (const char c : error.message()) c == '\n' ? text += "\\u000a" : text += c;
  }
  return {errors[0].code(), std::move(text)};
}

const json::value* JsonFields::find(std::string_view key) const {
  const json::value* value = object_.if_contains(spelling(key));
  return value == nullptr || value->is_null() ? nullptr : value;
}

void JsonFields::fail(std::string_view key, std::string_view expected, std::string_view found,
                      StatusCode code) {
  if (std::ranges::find(failed_, key) != failed_.end()) return;
  failed_.emplace_back(key);
  errors_.emplace_back(code, fmt::format("{}: {}{}: expected {}, found {}", origin_, prefix_,
                                         spelling(key), expected, found));
}

void JsonFields::add_errors(const JsonFields& inner) {
  errors_.insert(errors_.end(), inner.errors_.begin(), inner.errors_.end());
}

std::optional<int64_t> JsonFields::as_integer(std::string_view key, const json::value& value,
                                              int64_t min, int64_t max) {
  if (value.is_int64() && value.get_int64() >= min && value.get_int64() <= max) {
    return value.get_int64();
  }
  fail(key, fmt::format("an integer from {} to {}", min, max), json_excerpt(value));
  return std::nullopt;
}

void JsonFields::integer(std::string_view key, int64_t* out, int64_t min, int64_t max,
                         bool required) {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (required) fail(key, fmt::format("an integer from {} to {}", min, max), "no such key");
    return;
  }
  if (auto number = as_integer(key, *value, min, max)) *out = *number;
}

void JsonFields::real(std::string_view key, double* out, double min, double max) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  double number = std::nan("");
  if (value->is_double()) number = value->get_double();
  if (value->is_int64()) number = static_cast<double>(value->get_int64());
  if (value->is_uint64()) number = static_cast<double>(value->get_uint64());
  if (!(number >= min && number <= max)) {  // false for NaN
    return fail(key, fmt::format("a number from {} to {}", min, max), json_excerpt(*value));
  }
  *out = number;
}

void JsonFields::boolean(std::string_view key, bool* out) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (!value->is_bool()) return fail(key, "true or false", json_excerpt(*value));
  *out = value->get_bool();
}

void JsonFields::text(std::string_view key, std::string* out) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return fail(key, "a string", json_excerpt(*value));
  *out = std::string(value->get_string());
}

void JsonFields::choice(std::string_view key, std::string* out,
                        const std::vector<std::string_view>& allowed) {
  text(key, out);
  for (std::string_view name : allowed) {
    if (*out == name) return;
  }
  fail(key, fmt::format("{}", fmt::join(allowed, " or ")), out->substr(0, 48),
       StatusCode::unsupported);
}

void JsonFields::integers(std::string_view key, std::vector<int64_t>* out, int64_t min, int64_t max,
                          size_t max_count) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return fail(key, "an array of integers", json_excerpt(*value));
  const json::array& array = value->get_array();
  if (array.size() > max_count) {
    return fail(key, fmt::format("at most {} entries", max_count), fmt::format("{}", array.size()));
  }
  out->clear();
  for (const json::value& element : array) {
    auto number = as_integer(key, element, min, max);
    if (!number) return;
    out->push_back(*number);
  }
}

void JsonFields::one_or_more(std::string_view key, std::vector<int64_t>* out, int64_t min,
                             int64_t max, size_t max_count) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (value->is_array()) {
    if (value->get_array().empty()) return fail(key, "one integer or more", "an empty array");
    return integers(key, out, min, max, max_count);
  }
  if (auto number = as_integer(key, *value, min, max)) *out = {*number};
}

void JsonFields::texts(std::string_view key, std::vector<std::string>* out, size_t max_count) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (value->is_string()) {
    *out = {std::string(value->get_string())};
    return;
  }
  if (!value->is_array()) return fail(key, "a string or an array of strings", json_excerpt(*value));
  const json::array& array = value->get_array();
  if (array.size() > max_count) {
    return fail(key, fmt::format("at most {} entries", max_count), fmt::format("{}", array.size()));
  }
  out->clear();
  for (const json::value& element : array) {
    if (!element.is_string()) return fail(key, "strings", json_excerpt(element));
    out->emplace_back(element.get_string());
  }
}

const json::object* JsonFields::object(std::string_view key) {
  const json::value* value = find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) {
    fail(key, "an object", json_excerpt(*value));
    return nullptr;
  }
  return &value->get_object();
}

}  // namespace cachalot::formats
