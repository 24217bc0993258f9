// Where a model lies, as people name it: its directory, or that of a training run, which stands for
// the run's newest checkpoint.
#pragma once

#include <string>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cachalot::apps {

// The newest checkpoint of a run's directory; any other path as it is.
std::string model_path(const std::string& path);

// An option whose value is a path that may go through a model's directory: model_path() of it.
CLI::Option* add_model_option(CLI::App* command, const std::string& name, std::string* out,
                              const std::string& help);

}  // namespace cachalot::apps
