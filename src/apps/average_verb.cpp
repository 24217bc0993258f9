// cachalot average: models of one shape whose weights are the mean of others', the baseline beside
// distillation (reference/post-training 1, PL2).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <memory>

#include "apps/command_line.h"
#include "apps/model_argument.h"
#include "apps/verbs.h"
#include "base/file.h"
#include "formats/config.h"
#include "train/average_weights.h"
#include "train/checkpoint.h"

namespace cachalot::apps {
namespace {

struct AverageOptions {
  std::vector<std::string> models;  // PATH or PATH=WEIGHT
  std::string run_dir;
};

Result<train::WeightedModel> part_of(const std::string& text) {
  train::WeightedModel part{text};
  const size_t equals = text.rfind('=');
  if (equals != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + equals + 1, end, part.weight);
    if (error != std::errc() || rest != end || !(part.weight >= 0 && part.weight <= 1e6)) {
      return invalid_argument(fmt::format(
          "average: expected MODEL=WEIGHT with a weight from 0 to 1e6, found \"{}\"", text));
    }
    part.directory = text.substr(0, equals);
  }
  CACHALOT_RETURN_IF_ERROR(check_model_path(part.directory));
  part.directory = model_path(part.directory);
  return part;
}

Status average(const AverageOptions& options) {
  std::vector<train::WeightedModel> parts;
  for (const std::string& text : options.models) {
    CACHALOT_ASSIGN_OR_RETURN(parts.emplace_back(), part_of(text));
  }
  CACHALOT_ASSIGN_OR_RETURN(const train::ParameterStore mean, train::average_weights(parts));
  const std::string& first = parts[0].directory;
  CACHALOT_ASSIGN_OR_RETURN(formats::ModelConfig config, formats::load_config(first));
  // Masters are fp32, whatever the first one's are.
  config.quantization_config = {};
  config.expert_dtype = formats::ExpertDType::none;
  CACHALOT_ASSIGN_OR_RETURN(const std::string tokenizer, read_text_file(first + "/tokenizer.json"));
  CACHALOT_RETURN_IF_ERROR(train::save_checkpoint(
      options.run_dir, {config, mean, {}, json::object{}, "", tokenizer, 0, ""}));
  fmt::print("{}\n", train::checkpoint_directory(options.run_dir, 0));
  return {};
}

}  // namespace

void add_average_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<AverageOptions>();
  CLI::App* command =
      app.add_subcommand("average", "a model whose weights are the mean of others' of its shape");
  set_example(command, "average runs/mathematics runs/lists=2 --run_dir=runs/average");
  command->add_option("models", options->models, "MODEL or MODEL=WEIGHT; runs stand for models")
      ->required();
  command->add_option("--run_dir", options->run_dir, "directory to write a checkpoint to")
      ->required();
  command->callback([options, exit_code] { *exit_code = exit_code_of(average(*options)); });
}

}  // namespace cachalot::apps
