#include "formats/transformers_files.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "formats/json_text.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;

// Consecutive messages of users are one turn.
constexpr char kChatTemplate[] = R"({%- if tools %}
{{- raise_exception('tools are encoded by cachalot, not by this template') }}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content }}
{%- elif message.role == 'user' %}
{%- if loop.index0 > 0 and messages[loop.index0 - 1].role == 'user' %}
{{- '\n\n' + message.content }}
{%- else %}
{{- '<｜User｜>' + message.content }}
{%- endif %}
{%- elif message.role == 'assistant' %}
{{- '<｜Assistant｜></think>' + message.content + eos_token }}
{%- else %}
{{- raise_exception('expected the role system, user or assistant, found ' + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<｜Assistant｜>' + ('<think>' if thinking is defined and thinking else '</think>') }}
{%- endif %})";

Status write_if_absent(const fs::path& path, const std::string& text) {
  std::error_code error;
  return fs::exists(path, error) ? Status() : write_file_atomically(path.string(), text);
}

// The text of an added token; empty where the tokenizer has none of this id.
std::string token_text(const json::value& tokenizer, int64_t id) {
  const json::value* added =
      tokenizer.is_object() ? tokenizer.get_object().if_contains("added_tokens") : nullptr;
  if (added == nullptr || !added->is_array()) return {};
  for (const json::value& token : added->get_array()) {
    if (!token.is_object()) continue;
    const json::value* token_id = token.get_object().if_contains("id");
    const json::value* content = token.get_object().if_contains("content");
    if (token_id != nullptr && token_id->is_int64() && token_id->get_int64() == id &&
        content != nullptr && content->is_string())
      return std::string(content->get_string());
  }
  return {};
}

}  // namespace

Status write_transformers_files(const std::string& directory, const ModelConfig& config) {
  const fs::path base(directory);
  const json::object generation = {{"bos_token_id", config.bos_token_id},
                                   {"do_sample", true},
                                   {"eos_token_id", to_json(config).at("eos_token_id")},
                                   {"temperature", 1.0},
                                   {"top_p", 1.0}};
  CACHALOT_RETURN_IF_ERROR(
      write_if_absent(base / "generation_config.json", to_pretty_json(generation)));
  const std::string tokenizer_path = (base / "tokenizer.json").string();
  std::error_code error;
  if (!fs::exists(tokenizer_path, error)) return {};
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(tokenizer_path));
  CACHALOT_ASSIGN_OR_RETURN(const json::value tokenizer, parse_json(text, tokenizer_path));
  const std::string bos = token_text(tokenizer, config.bos_token_id);
  const std::string eos = token_text(tokenizer, config.eos_token_id.front());
  json::object settings = {{"add_bos_token", false},
                           {"add_eos_token", false},
                           {"clean_up_tokenization_spaces", false},
                           {"model_max_length", config.max_position_embeddings},
                           {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (!bos.empty()) settings["bos_token"] = bos;
  for (const char* key : {"eos_token", "pad_token"}) {
    if (!eos.empty()) settings[key] = eos;
  }
  CACHALOT_RETURN_IF_ERROR(
      write_if_absent(base / "tokenizer_config.json", to_pretty_json(settings)));
  return write_if_absent(base / "chat_template.jinja", kChatTemplate);
}

std::vector<int64_t> ratios_unknown_to_transformers(const ModelConfig& config) {
  std::set<int64_t> unknown(config.compress_ratios.begin(), config.compress_ratios.end());
  for (const int64_t known : {0, 4, 128}) unknown.erase(known);
  return {unknown.begin(), unknown.end()};
}

}  // namespace cachalot::formats
