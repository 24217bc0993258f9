// The clocks of benchmarks that run an engine.
#pragma once

#include <time.h>

#include <algorithm>
#include <vector>

#include "engine/steady_seconds.h"

namespace cachalot::bench {

using Clock = double (*)();

// Of the whole process: all its threads. For a machine that others use too.
inline double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

inline Clock clock_of(bool cpu_clock) { return cpu_clock ? cpu_seconds : engine::steady_seconds; }

inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

}  // namespace cachalot::bench
