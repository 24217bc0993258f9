// The published models as configurations, and smaller ones of the same kind to train on one
// machine.
// Source  reference/forward 1.1, 1.2.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/config.h"

namespace cachalot::formats {

ModelConfig flash_config();
ModelConfig pro_config();
// Every part of V4 at a size that two CPU cores train in minutes: about 4 M active parameters
// beside the embedding.
ModelConfig nano_config();
// For one GPU: about 283 M parameters.
ModelConfig mini_config();

// Those of preset_config(), and as a sentence has them.
std::vector<std::string> preset_names();
inline constexpr std::string_view kPresetNames = "nano, mini, flash or pro";

// One of kPresetNames.
// Errors  invalid_argument: another name.
Result<ModelConfig> preset_config(std::string_view name);

}  // namespace cachalot::formats
