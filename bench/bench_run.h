// What benchmarks of single kernels share: their common options, a clock, and medians.
#pragma once

#include <functional>
#include <string>

#include "device/isa.h"

namespace cachalot::bench {

// [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]
struct BenchOptions {
  bool json = false;
  bool cpu_clock = false;  // the process's time over its threads: for a machine that others use too
  int num_threads = 1;
  double seconds = 1;  // of each case, after one run that warms up
  device::Isa isa = device::machine_isa();
};

// True if arg is one of the options, with a value that this machine can take.
bool take_option(const std::string& arg, BenchOptions& options);

double time_once(const BenchOptions& options, const std::function<void()>& work);

struct Timing {
  double median;
  double min;
  size_t num_runs;
};
Timing measure(const BenchOptions& options, const std::function<void()>& work);

}  // namespace cachalot::bench
