// Where a model lies, as people name it: its directory, or that of a training run, which stands for
// the run's newest checkpoint.
#pragma once

#include <string>

#include "base/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cachalot::apps {

// The newest checkpoint of a run's directory; any other path as it is.
std::string model_path(const std::string& path);

// What a path is that names no model: nothing there (with what was probably meant), a folder of
// models or runs, a run without a checkpoint yet, another folder. Files are for their readers to
// judge.
Status check_model_path(const std::string& path);

// An option whose value is a path that may go through a model's directory: model_path() of it.
CLI::Option* add_model_option(CLI::App* command, const std::string& name, std::string* out,
                              const std::string& help);

}  // namespace cachalot::apps
