// Another program, run without a shell.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

// Standard output of argv[0] run with argv in `directory` (empty: here); standard input is empty, standard error ours.
// Errors  not_found: no such program; io_error: it failed (its exit status), or said more than max_bytes.
Result<std::string> run_program(const std::vector<std::string>& argv, const std::string& directory,
                                size_t max_bytes = size_t{1} << 31);

}  // namespace cachalot::data
