// Logging to standard error, one line per call: "I 12:34:56 message". Library code logs; it never
// prints or exits. Level from CACHALOT_LOG (debug, info, warning, error). Thread-safe.
#pragma once

#include <string_view>

namespace cachalot {
void log_debug(std::string_view message);
void log_info(std::string_view message);
void log_warning(std::string_view message);
void log_warning_once(std::string_view message);  // not again what has been said word for word
void log_error(std::string_view message);
}  // namespace cachalot
