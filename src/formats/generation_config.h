// generation_config.json: what stands beside a model to say how it is run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/config.h"

namespace cachalot::formats {

// The tokens that end a text: eos_token_id of the configuration, then those that the directory's
// generation_config.json adds, one or a list; each once. The file may be missing.
// Errors  the file's: no JSON object, an id that the vocabulary does not have.
Result<std::vector<int32_t>> end_tokens(const std::string& directory, const ModelConfig& config);

}  // namespace cachalot::formats
