#include "bench_run.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace cachalot::bench {
namespace {
double now(const BenchOptions& options) {
  timespec t;
  clock_gettime(options.cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  const double seconds = static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  return options.cpu_clock ? seconds / options.num_threads : seconds;
}
}  // namespace

bool take_option(const std::string& arg, BenchOptions& options) {
  const std::string value = arg.substr(std::min(arg.find('=') + 1, arg.size()));
  if (arg == "--json") {
    options.json = true;
  } else if (arg == "--cpu-clock") {
    options.cpu_clock = true;
  } else if (arg.starts_with("--threads=")) {
    options.num_threads = std::max(1, std::atoi(value.c_str()));
  } else if (arg.starts_with("--seconds=")) {
    options.seconds = std::atof(value.c_str());
  } else if (arg.starts_with("--isa=")) {
    const auto isa = device::parse_isa(value);
    if (!isa.has_value() || *isa > device::machine_isa()) return false;
    options.isa = *isa;
  } else {
    return false;
  }
  return true;
}

double time_once(const BenchOptions& options, const std::function<void()>& work) {
  const double begin = now(options);
  work();
  return now(options) - begin;
}

Timing measure(const BenchOptions& options, const std::function<void()>& work) {
  work();
  std::vector<double> times;
  const double end = now(options) + options.seconds;
  while (times.size() < 3 || (now(options) < end && times.size() < 1000))
    times.push_back(time_once(options, work));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[0], times.size()};
}

}  // namespace cachalot::bench
