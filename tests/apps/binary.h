// Runs the cachalot binary as a person or a script would, and a small random model to run it on.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace cachalot::apps {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};
// Arguments reach the binary as they are, without a shell between. `input` is its standard input;
// `environment` has names and values beside those of the test; `output`, where it is given, is a
// file or device that standard output leads to. Once standard output holds `interrupt_at`, if that
// is given, the binary gets the signal of Ctrl-C. exit_code: 128 + N where signal N has ended it.
Outcome run_binary(const std::vector<std::string>& arguments, const std::string& input = "",
                   const std::vector<std::pair<std::string, std::string>>& environment = {},
                   const std::string& output = "", const std::string& interrupt_at = "");

// The same with a terminal for input, output and errors, all of which is in `out`. `input` is typed
// ahead; it must end the program.
Outcome run_in_terminal(const std::vector<std::string>& arguments, const std::string& input);

// The JSON object that is all of standard output; fails the test where it is not that.
json::object run_json(const std::vector<std::string>& arguments);
std::vector<int64_t> ids_of(const json::object& completion);

// A directory with a random bf16 model (window, CSA and HCA layers, an MTP block) and the tokenizer
// of 2,048 tokens from tests/tokenizer; made once, removed at the end.
const std::string& model_directory();
std::string scratch_path(const std::string& name);

}  // namespace cachalot::apps
