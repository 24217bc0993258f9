#include "apps/model_argument.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <vector>

#include "base/closest.h"
#include "base/file.h"
#include "train/checkpoint.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

bool is_model(const std::string& path) {
  std::error_code error;
  return fs::exists(model_path(path) + "/config.json", error);
}

// The folders within `path` that are models or runs with a checkpoint.
std::vector<std::string> models_in(const fs::path& path) {
  std::vector<std::string> models;
  const Result<std::vector<std::string>> names = list_directory(path.empty() ? "." : path.string());
  if (!names) return models;
  for (const std::string& name : *names) {
    if (is_model((path / name).string())) models.push_back(name);
  }
  return models;
}

// The same name in the folders where models usually lie, or a slip of the last name.
std::string meant(const fs::path& path) {
  for (const char* folder : {"models", "runs"}) {
    if (path.is_relative() && is_model((folder / path).string())) return (folder / path).string();
  }
  const fs::path clean = path.has_filename() ? path : path.parent_path();
  for (const fs::path& folder : {clean.parent_path(), fs::path("models"), fs::path("runs")}) {
    const std::string near = closest(clean.filename().string(), models_in(folder));
    if (!near.empty()) return (folder / near).string();
  }
  return {};
}

std::string described(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    const std::string near = meant(path);
    return near.empty() ? "no such path" : fmt::format("no such path; did you mean {}?", near);
  }
  if (fs::exists(path + "/run.toml", error) || fs::exists(path + "/checkpoints", error))
    return "a run without a checkpoint yet";
  std::vector<std::string> models = models_in(path);
  if (models.empty()) return "a folder without a model (no config.json)";
  constexpr size_t kShown = 5;
  const bool has_more = models.size() > kShown;
  if (has_more) models.resize(kShown);
  return fmt::format("a folder of them; name one: {}{}", fmt::join(models, ", "),
                     has_more ? ", ..." : "");
}

}  // namespace

Status check_model_path(const std::string& path) {
  std::error_code error;
  if (is_model(path) || (fs::exists(path, error) && !fs::is_directory(path, error))) return {};
  return invalid_argument(fmt::format(
      "{}: expected a model's directory or a run of train, found {}", path, described(path)));
}

std::string model_path(const std::string& path) {
  std::error_code error;
  if (fs::exists(path + "/config.json", error)) return path;
  const std::vector<int64_t> steps = train::list_checkpoints(path);
  return steps.empty() ? path : train::checkpoint_directory(path, steps.back());
}

CLI::Option* add_model_option(CLI::App* command, const std::string& name, std::string* out,
                              const std::string& help) {
  return command->add_option(name, *out, help)
      ->transform([](const std::string& path) { return model_path(path); }, "");
}

}  // namespace cachalot::apps
