// What Hugging Face's transformers wants beside weights and config.json: tokenizer_config.json and
// chat_template.jinja, where the model has a tokenizer.json, and generation_config.json.
// Source  reference/chat 2 (the template: system, user and assistant text; `thinking` opens the
//         reasoning; tools are refused, since their encoding is no template's).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/config.h"

namespace cachalot::formats {

// Writes those that the directory does not have yet. Errors  io_error; a tokenizer.json that is no
// JSON.
Status write_transformers_files(const std::string& directory, const ModelConfig& config);

// Ratios of the model's layers that transformers has no layer type for, ascending.
std::vector<int64_t> ratios_unknown_to_transformers(const ModelConfig& config);

}  // namespace cachalot::formats
