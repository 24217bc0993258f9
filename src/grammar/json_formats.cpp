#include "grammar/json_formats.h"

#include <fmt/format.h>

namespace cachalot::grammar {
namespace {

std::string date_pattern() {
  constexpr std::string_view kYear = "(\\d{3}[1-9]|\\d{2}[1-9]\\d|\\d[1-9]\\d{2}|[1-9]\\d{3})";
  constexpr std::string_view kFourths = "(0[48]|[2468][048]|[13579][26])";
  constexpr std::string_view kDays28 = "(0[1-9]|1\\d|2[0-8])";
  return fmt::format(
      "({0}-((0[13578]|1[02])-({2}|29|3[01])|(0[469]|11)-({2}|29|30)|02-{2})"
      "|(\\d\\d{1}|{1}00)-02-29)",
      kYear, kFourths, kDays28);
}

constexpr std::string_view kTime =
    "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";

}  // namespace

std::optional<std::string> json_format_pattern(std::string_view format) {
  if (format == "date") return date_pattern();
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return date_pattern() + "T" + std::string(kTime);
  if (format == "uuid") return "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
  return std::nullopt;
}

}  // namespace cachalot::grammar
