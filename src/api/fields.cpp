#include "api/fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/python_json.h"

namespace cachalot::api {
namespace {

// Schemas nest; what reads them recursively has room for as much.
constexpr size_t kMaxDepth = 128;

bool is_empty(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return true;
    case json::kind::string: return value.get_string().empty();
    case json::kind::array: return value.get_array().empty();
    case json::kind::object: return value.get_object().empty();
    default: return false;
  }
}

}  // namespace

std::string shown(const json::value& value) {
  constexpr size_t kMaxShown = 64;
  if (value.is_array() || value.is_object()) return fmt::format("an {}", json_kind_name(value));
  if (value.is_string()) {
    std::string_view text = value.get_string();
    if (text.size() > kMaxShown) return fmt::format("a string of {} bytes", text.size());
  }
  return python_json(value);
}

bool whole_number(const json::value& value, int64_t* out) {
  if (value.is_int64()) return *out = value.get_int64(), true;
  if (value.is_uint64()) return false;  // beyond int64
  if (!value.is_double()) return false;
  const double number = value.get_double();
  constexpr double kExact = 9007199254740992;  // 2^53
  if (!(std::abs(number) <= kExact) || number != std::floor(number)) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

const json::value* Fields::find(std::string_view key) const {
  const json::value* value = object_.if_contains(key);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

const json::value* Fields::filled(std::string_view key) const {
  const json::value* value = find(key);
  return value != nullptr && !is_empty(*value) ? value : nullptr;
}

std::string Fields::place(std::string_view key) const {
  return where_.empty() ? std::string(key) : fmt::format("{}.{}", where_, key);
}

void Fields::refuse(std::string_view key, double neutral) {
  const json::value* value = filled(key);
  if (value == nullptr || (value->is_bool() && !value->get_bool())) return;
  const double number = value->is_number() ? value->to_number<double>() : NAN;
  if (number == neutral || number == 0) return;
  fail(not_done(place(key), *value));
}

void Fields::fail(std::string_view key, std::string_view expected, const json::value& found) {
  fail(invalid_argument(
      fmt::format("{}: expected {}, found {}", place(key), expected, shown(found))));
}

void Fields::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void Fields::boolean(std::string_view key, bool* out) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (!value->is_bool()) return fail(key, "true or false", *value);
  *out = value->get_bool();
}

void Fields::integer(std::string_view key, int64_t* out, int64_t low, int64_t high) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  int64_t number = 0;
  if (!whole_number(*value, &number) || number < low || number > high)
    return fail(key, fmt::format("a whole number from {} to {}", low, high), *value);
  *out = number;
}

void Fields::number(std::string_view key, double* out, double low, double high) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  const double number = value->is_number() ? value->to_number<double>() : NAN;
  if (!(number >= low && number <= high))
    return fail(key, fmt::format("a number from {} to {}", low, high), *value);
  *out = number;
}

void Fields::text(std::string_view key, std::string* out) {
  const json::value* value = find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return fail(key, "a string", *value);
  *out = std::string_view(value->get_string());
}

const json::object* Fields::object(std::string_view key) {
  const json::value* value = filled(key);
  if (value == nullptr) return nullptr;
  if (value->is_object()) return &value->get_object();
  fail(key, "an object", *value);
  return nullptr;
}

const json::array* Fields::array(std::string_view key) {
  const json::value* value = filled(key);
  if (value == nullptr) return nullptr;
  if (value->is_array()) return &value->get_array();
  fail(key, "a list", *value);
  return nullptr;
}

void Fields::texts(std::string_view key, std::vector<std::string>* out) {
  const json::value* value = filled(key);
  if (value == nullptr) return;
  if (value->is_string()) {
    out->emplace_back(std::string_view(value->get_string()));
    return;
  }
  if (!value->is_array()) return fail(key, "a string or a list of strings", *value);
  for (const json::value& one : value->get_array()) {
    if (!one.is_string()) return fail(key, "a list of strings", one);
    out->emplace_back(std::string_view(one.get_string()));
  }
}

void Fields::ids(std::string_view key, int64_t limit, std::vector<int32_t>* out) {
  const json::array* list = array(key);
  if (list == nullptr) return;
  out->reserve(out->size() + list->size());
  for (const json::value& one : *list) {
    int64_t id = 0;
    if (!whole_number(one, &id) || id < 0 || id >= limit)
      return fail(key, fmt::format("token ids of 0 to {}", limit - 1), one);
    out->push_back(static_cast<int32_t>(id));
  }
}

Status not_done(std::string_view place, const json::value& found) {
  return unsupported(fmt::format("{}: expected none, as this server does not do it, found {}",
                                 place, shown(found)));
}

Result<json::object> parse_body(std::string_view body) {
  CACHALOT_ASSIGN_OR_RETURN(json::value value, parse_json(body, "body", kMaxDepth));
  if (!value.is_object()) {
    return invalid_argument(fmt::format("body: expected a JSON object, found {}", shown(value)));
  }
  return std::move(value.get_object());
}

}  // namespace cachalot::api
