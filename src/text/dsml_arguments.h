// The values of tool parameters as JSON, with the schema's help where the model's text is no JSON
// (reference/chat 3.2).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace cachalot::text {

// `text` with U+FFFD for bytes that are no UTF-8.
std::string valid_utf8(std::string_view text);
// The same as a JSON string, quotes included.
std::string quoted_utf8(std::string_view text);

class ParameterSchema {
 public:
  // Borrows the JSON schema of a function's parameters; empty if it is unknown.
  explicit ParameterSchema(const json::object* schema);

  // False as well if no properties are declared.
  bool is_known() const { return properties_ != nullptr; }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  // True if the property may be a string.
  bool is_string(std::string_view key) const { return types(key).string; }
  // Every name under "required" is among `keys`.
  template <typename Keys>
  bool required_in(const Keys& keys) const {
    if (!required_) return true;
    for (const json::value& name : *required_) {
      if (name.is_string() && !keys.contains(std::string(std::string_view(name.get_string()))))
        return false;
    }
    return true;
  }

  // The JSON of a value that was announced as JSON: itself if it is; else what the property's type
  // makes of it; else a string. Sets `coerced` in the latter cases.
  std::string json_value(std::string_view key, std::string_view raw, bool& coerced) const;

 private:
  struct Types {
    bool string = false, boolean = false, integer = false, number = false, null = false;
  };
  const json::object* find(std::string_view key) const;
  Types types(std::string_view key) const;
  static void collect_types(const json::object& schema, int depth, Types& out);

  const json::object* properties_ = nullptr;
  const json::array* required_ = nullptr;
};

}  // namespace cachalot::text
