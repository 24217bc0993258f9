// Another program, run without a shell.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

struct Program {
  std::vector<std::string> argv;
  std::string debian_package;  // that has argv[0]; the error of its absence tells what to install
  std::string directory = {};  // empty: here
  std::vector<std::string> environment = {};  // NAME=VALUE, beside ours and before it
  size_t max_bytes = size_t{1} << 31;
};

// Its standard output; standard input is empty, standard error ours.
// Errors  not_found: no such program; io_error: no such directory, the program failed (its exit
//         status), or said more than max_bytes.
Result<std::string> run_program(const Program& program);

}  // namespace cachalot::data
