// The string formats of JSON Schema that are enforced, as regular expressions over whole strings.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cachalot::grammar {

// date (days that exist, years 0001 to 9999), time and date-time (RFC 3339, no leap seconds, with
// "T" and "Z" in capitals), uuid. Nothing for any other name.
std::optional<std::string> json_format_pattern(std::string_view format);

}  // namespace cachalot::grammar
