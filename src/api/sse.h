// Server-sent events.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace cachalot::api {

// "data: {...}\n\n".
void append_data(const json::value& data, std::string& out);
// The same after a line "event: TYPE".
void append_event(std::string_view type, const json::value& data, std::string& out);

inline constexpr std::string_view kDone = "data: [DONE]\n\n";
// A comment: readers pass over it, connections see bytes.
inline constexpr std::string_view kKeepAliveComment = ": keep-alive\n\n";

}  // namespace cachalot::api
