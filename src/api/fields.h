// Reading a JSON object that a client sent: null and absent are one, and so are empty and absent
// where nothing is asked by an empty text, list or object.
// Errors   The first one is kept: invalid_argument with the field's place, what was expected and
//          what was found.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::api {

class Fields {
 public:
  // Borrows the object. `where` is its place: empty for the body, else as "thinking".
  explicit Fields(const json::object& object, std::string where = {})
      : object_(object), where_(std::move(where)) {}

  // Null where there is none.
  const json::value* find(std::string_view key) const;
  const json::object& object() const { return object_; }
  // The same for values that are not empty.
  const json::value* filled(std::string_view key) const;

  // Each leaves `out` as it is where the field is absent. Whole numbers may be spelled 3.0.
  void boolean(std::string_view key, bool* out);
  void integer(std::string_view key, int64_t* out, int64_t low, int64_t high);
  void number(std::string_view key, double* out, double low, double high);
  void text(std::string_view key, std::string* out);
  // Null where there is none, or where it is empty.
  const json::object* object(std::string_view key);
  const json::array* array(std::string_view key);
  // One text, or a list of them.
  void texts(std::string_view key, std::vector<std::string>* out);
  // Ids in [0, limit).
  void ids(std::string_view key, int64_t limit, std::vector<int32_t>* out);

  // For a field that changes the answer and that nothing here does: refused by name where it asks
  // for something, which empty, false, 0 and `neutral` do not.
  void refuse(std::string_view key, double neutral = 0);

  void fail(std::string_view key, std::string_view expected, const json::value& found);
  void fail(Status status);
  std::string place(std::string_view key) const;
  const Status& status() const { return status_; }

 private:
  const json::object& object_;
  std::string where_;
  Status status_;
};

// A value as an error shows it: a short text, a number, or its kind.
std::string shown(const json::value& value);
// The value, where it is a whole number.
bool whole_number(const json::value& value, int64_t* out);

// For a field that changes the answer and that nothing here does.
Status not_done(std::string_view place, const json::value& found);

// The body as an object. Errors: not JSON, or no object.
Result<json::object> parse_body(std::string_view body);

}  // namespace cachalot::api
