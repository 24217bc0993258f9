// libFuzzer target: the configuration of a training run from any files and assignments. Each step
// gives an error that says where, or what the next step takes; what is printed reads back.
//
// Parts end at lines "---": one that begins with "--" is an assignment of the command line, any
// other the text of a file.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "text/dsml_arguments.h"
#include "train/config_tree.h"
#include "train/memory_plan.h"
#include "train/train_config.h"

namespace {
using namespace cachalot;
using namespace cachalot::train;

constexpr std::string_view kEnd = "\n---\n";

// Errors begin with an origin, stand on lines of their own, and print as they are.
void check_error(const Status& error) {
  const std::string& message = error.message();
  const bool has_origin = message.starts_with("input:") || message.starts_with("--") ||
                          message.starts_with("configuration:");
  CACHALOT_CHECK_MSG(has_origin, message);
  CACHALOT_CHECK(text::valid_utf8(message) == message);
  for (const char c : message)
    CACHALOT_CHECK_MSG(c == '\n' || (static_cast<unsigned char>(c) >= 0x20 && c != '\x7f'),
                       message);
}

template <typename T>
bool accepted(const Result<T>& result) {
  if (!result) check_error(result.error());
  return result.has_value();
}

// False at the first part that is refused.
bool read_parts(std::string_view input, ConfigTree& tree) {
  for (size_t begin = 0; begin <= input.size();) {
    const size_t end = std::min(input.find(kEnd, begin), input.size());
    const std::string_view part = input.substr(begin, end - begin);
    begin = end + kEnd.size();
    if (part.starts_with("--")) {
      const Status status = assign(tree, std::string(part.substr(2)));
      if (!status.ok()) return check_error(status), false;
      continue;
    }
    const Result<ConfigTree> over = parse_config_tree(part, "input");
    if (!accepted(over)) return false;
    overlay(tree, *over);
  }
  return true;
}

ConfigTree read_back(const std::string& text) {
  const Result<ConfigTree> again = parse_config_tree(text, "printed");
  CACHALOT_CHECK_MSG(again.has_value(), again.error().message());
  return *again;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ConfigTree tree;
  if (!read_parts({reinterpret_cast<const char*>(data), size}, tree)) return 0;
  const std::string text = to_toml(tree.root);
  const bool has_nan = text.find("nan") != std::string::npos;  // equals nothing
  CACHALOT_CHECK(read_back(text).root == tree.root || has_nan);

  const Result<TrainConfig> config = train_config_from(tree);
  if (!accepted(config)) return 0;
  const std::string printed = resolved_toml(*config);
  const Result<TrainConfig> again = train_config_from(read_back(printed));
  CACHALOT_CHECK_MSG(again.has_value(), again.error().message());
  CACHALOT_CHECK(resolved_toml(*again) == printed);
  CACHALOT_CHECK(config_hash(*again) == config_hash(*config));

  // Other models are files, which an input must not name.
  if (!config->model.config.empty() || !config->model.init_from.empty()) return 0;
  const Result<formats::ModelConfig> model = model_config(*config);
  // The list of tensors is bounded, but long for a model with many experts.
  if (!accepted(model) || model->n_routed_experts * model->num_all_layers() > 2000) return 0;
  const Result<MemoryPlan> plan = memory_plan(*config);
  if (!accepted(plan)) return 0;
  CACHALOT_CHECK(plan->total_bytes() > 0 && plan->checkpoint_bytes > 0);
  CACHALOT_CHECK(plan->total_tokens >= config->schedule.batch.total_tokens);
  CACHALOT_CHECK(!plan->to_text(100).empty());
  return 0;
}
