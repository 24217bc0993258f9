#include "apps/model_argument.h"

#include <CLI/CLI.hpp>
#include <filesystem>

#include "train/checkpoint.h"

namespace cachalot::apps {

std::string model_path(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path + "/config.json", error)) return path;
  const std::vector<int64_t> steps = train::list_checkpoints(path);
  return steps.empty() ? path : train::checkpoint_directory(path, steps.back());
}

CLI::Option* add_model_option(CLI::App* command, const std::string& name, std::string* out,
                              const std::string& help) {
  return command->add_option(name, *out, help)
      ->transform([](const std::string& path) { return model_path(path); }, "");
}

}  // namespace cachalot::apps
