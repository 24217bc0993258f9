// JSON from outside, parsed with limits; and the lookups that a config or header reader needs, each
// of whose errors names the object, what was expected and what was found. Values are Boost.JSON's;
// objects keep their key order.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "base/json_fwd.h"
#include "base/status.h"

namespace cachalot {

// `origin` names the text in errors (a path, "request body"). A byte order mark at its start is
// passed over. Nesting deeper than max_depth is an error, not a crash.
enum class RepeatedKeys { last_wins, refused };
Result<json::value> parse_json(std::string_view text, std::string_view origin,
                               size_t max_depth = 64,
                               RepeatedKeys repeated_keys = RepeatedKeys::last_wins);

// "object", "array", "string", "number", "boolean" or "null".
std::string_view json_kind_name(const json::value& value);

}  // namespace cachalot
