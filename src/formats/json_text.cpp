#include "formats/json_text.h"

#include <algorithm>
#include <boost/json/serialize.hpp>

#include "base/python_json.h"

namespace cachalot::formats {
namespace {

bool is_flat(const json::array& array) {
  return std::none_of(array.begin(), array.end(), [](const json::value& element) {
    return element.is_object() || element.is_array();
  });
}

void append(const json::value& value, int indent, std::string* out) {
  const std::string margin(static_cast<size_t>(indent) * 2, ' ');
  if (value.is_double()) {
    // Integral values keep their ".0": transformers refuses an integer where it expects a float.
    *out += python_float(value.get_double());
  } else if (value.is_object() && !value.get_object().empty()) {
    *out += "{\n";
    bool first = true;
    for (const auto& [key, element] : value.get_object()) {
      if (!first) *out += ",\n";
      first = false;
      *out += margin + "  " + json::serialize(json::string(key)) + ": ";
      append(element, indent + 1, out);
    }
    *out += "\n" + margin + "}";
  } else if (value.is_array() && !value.get_array().empty()) {
    const bool flat = is_flat(value.get_array());
    *out += flat ? "[" : "[\n";
    bool first = true;
    for (const json::value& element : value.get_array()) {
      if (!first) *out += flat ? ", " : ",\n";
      first = false;
      if (!flat) *out += margin + "  ";
      append(element, indent + 1, out);
    }
    *out += flat ? "]" : "\n" + margin + "]";
  } else {
    *out += json::serialize(value);
  }
}

}  // namespace

std::string to_pretty_json(const json::value& value) {
  std::string out;
  append(value, 0, &out);
  out += '\n';
  return out;
}

}  // namespace cachalot::formats
