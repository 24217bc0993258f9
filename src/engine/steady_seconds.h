// Seconds on a clock that never steps back.
#pragma once

#include <chrono>

namespace cachalot::engine {

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace cachalot::engine
