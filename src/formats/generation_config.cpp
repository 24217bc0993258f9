#include "formats/generation_config.h"

#include <algorithm>
#include <filesystem>

#include "formats/config_internal.h"
#include "formats/json_fields.h"

namespace cachalot::formats {

Result<std::vector<int32_t>> end_tokens(const std::string& directory, const ModelConfig& config) {
  namespace fs = std::filesystem;
  std::vector<int64_t> ids = config.eos_token_id;
  const std::string path = (fs::path(directory) / "generation_config.json").string();
  std::error_code error;
  if (fs::exists(path, error)) {
    CACHALOT_ASSIGN_OR_RETURN(const json::object object, read_json_object(path, kMaxConfigBytes));
    JsonFields fields(object, path);
    std::vector<int64_t> more;
    fields.one_or_more("eos_token_id", &more, 0, config.vocab_size - 1, kMaxEndTokens);
    CACHALOT_RETURN_IF_ERROR(fields.status());
    ids.insert(ids.end(), more.begin(), more.end());
  }
  std::vector<int32_t> out;
  for (const int64_t id : ids) {
    const auto token = static_cast<int32_t>(id);
    if (std::find(out.begin(), out.end(), token) == out.end()) out.push_back(token);
  }
  return out;
}

}  // namespace cachalot::formats
