// How much memory a test has had at most.
#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace cachalot::post::testing {

// The largest resident set since the last call, in bytes.
inline int64_t peak_since_last() {
  std::ifstream status("/proc/self/status");
  int64_t peak = 0;
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("VmHWM:")) continue;
    std::istringstream(line.substr(6)) >> peak;
  }
  std::ofstream("/proc/self/clear_refs") << "5";
  return peak * 1024;
}

}  // namespace cachalot::post::testing
