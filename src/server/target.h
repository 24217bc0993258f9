// The target of a request, "/v1/models?limit=2", in its parts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cachalot::server {

struct Target {
  std::string path;   // percent-decoded, without a slash at its end; "/" alone stays; "*"
  std::string query;  // as it came, without the question mark
  std::string host;   // of the absolute form ("http://host/path"), which goes before the header
};

// Nothing for what is no target: no slash at its start, a bad percent sign, control characters.
std::optional<Target> parse_target(std::string_view text);

}  // namespace cachalot::server
