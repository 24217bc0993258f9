// Typed look-ups in a JSON object that came from outside. A reader states its fields one after
// another and asks status() once, which tells what is wrong with all of them, one error a key. Each
// error names origin, key, expected and found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::formats {

// Up to max_chars of a value's JSON text, for error messages.
std::string json_excerpt(const json::value& value, size_t max_chars = 48);

// A file that is an object, at most 16 deep, none of whose keys stands twice.
Result<json::object> read_json_object(const std::string& path, size_t max_bytes);

// One error that tells all of them, a line each (a line end within one becomes "\\u000a"), with the
// first one's code; no error where there is none.
Status joined(const std::vector<Status>& errors);

class JsonFields {
 public:
  // Another spelling of a key; used where the object's author had one.
  struct Alias {
    std::string_view key;
    std::string_view spelling;
  };

  // Borrows all arguments. `prefix` goes before key names in errors ("rope_scaling.").
  JsonFields(const json::object& object, std::string_view origin, std::string_view prefix = {},
             const std::vector<Alias>* aliases = nullptr)
      : object_(object), origin_(origin), prefix_(prefix), aliases_(aliases) {}

  Status status() const { return joined(errors_); }
  // Null counts as absent, as writers of such files use it.
  const json::value* find(std::string_view key) const;

  // Each leaves *out as it was where the key is absent, unless `required`.
  void integer(std::string_view key, int64_t* out, int64_t min, int64_t max, bool required = false);
  void real(std::string_view key, double* out, double min, double max);
  void boolean(std::string_view key, bool* out);
  void text(std::string_view key, std::string* out);
  // A text that must be one of `allowed`; the error's code is unsupported.
  void choice(std::string_view key, std::string* out, const std::vector<std::string_view>& allowed);
  void integers(std::string_view key, std::vector<int64_t>* out, int64_t min, int64_t max,
                size_t max_count);
  // One integer, or an array of them that is not empty.
  void one_or_more(std::string_view key, std::vector<int64_t>* out, int64_t min, int64_t max,
                   size_t max_count);
  // One text, or an array of texts: one value stands for all layers.
  void texts(std::string_view key, std::vector<std::string>* out, size_t max_count);
  const json::object* object(std::string_view key);

  // Unless the key has an error already.
  void fail(std::string_view key, std::string_view expected, std::string_view found,
            StatusCode code = StatusCode::invalid_argument);
  // The errors of an object within this one.
  void add_errors(const JsonFields& inner);

 private:
  std::string_view spelling(std::string_view key) const;
  std::optional<int64_t> as_integer(std::string_view key, const json::value& value, int64_t min,
                                    int64_t max);

  const json::object& object_;
  std::string_view origin_;
  std::string_view prefix_;
  const std::vector<Alias>* aliases_;
  std::vector<std::string> failed_;  // keys
  std::vector<Status> errors_;
};

}  // namespace cachalot::formats
