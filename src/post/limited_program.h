// A program from outside, run without a shell under limits of time, memory and output.
// Limits  It gets a process group of its own, which is killed as a whole when its time is over or
//         it has said too much. It is no sandbox: files and network stay reachable.
// Errors  not_found: no such program; io_error: it could not be started.
// Threads any.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::post {

struct ProgramLimits {
  double seconds = 10;                      // of the clock, and of each process's CPU time
  int64_t memory_bytes = int64_t{1} << 30;  // of address space, each process's
  int64_t output_bytes = int64_t{1} << 20;
};

struct ProgramRun {
  enum class End { exited, killed, timed_out, said_too_much };
  End end = End::exited;
  int code = 0;  // exit status, or the signal
  std::string output;
};
// "exit status 3", "signal 9", ...
std::string program_end_text(const ProgramRun& run, const ProgramLimits& limits);

// Its standard input is `input`, which it need not read; standard error is dropped.
Result<ProgramRun> run_limited(const std::vector<std::string>& argv, std::string_view input,
                               const ProgramLimits& limits);

}  // namespace cachalot::post
