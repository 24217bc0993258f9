#include "data/corpus_list.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "data/hex64.h"
#include "formats/json_fields.h"
#include "formats/json_text.h"

namespace cachalot::data {
namespace {
constexpr std::string_view kFormat = "cachalot-corpus";
constexpr int64_t kMaxCount = int64_t{1} << 60;
}  // namespace

std::string corpus_list_json(const CorpusSummary& summary, uint64_t tokenizer) {
  json::array shards;
  for (const CorpusShard& shard : summary.shards) {
    shards.push_back(json::object{{"file", shard.file},
                                  {"num_documents", shard.num_documents},
                                  {"num_tokens", shard.num_tokens},
                                  {"fingerprint", to_hex64(shard.fingerprint)}});
  }
  return formats::to_pretty_json(json::object{{"format", kFormat},
                                              {"version", 1},
                                              {"tokenizer", to_hex64(tokenizer)},
                                              {"num_documents", summary.num_documents},
                                              {"num_tokens", summary.num_tokens},
                                              {"text_bytes", summary.text_bytes},
                                              {"shards", std::move(shards)}});
}

Result<std::vector<CorpusShard>> read_corpus_list(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, path));
  if (!value.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", path, json_kind_name(value)));
  }
  formats::JsonFields fields(value.get_object(), path);
  std::string format;
  int64_t version = 0;
  fields.text("format", &format);
  if (format != kFormat) fields.fail("format", kFormat, format);
  fields.integer("version", &version, 1, 1, true);
  const json::value* shards = fields.find("shards");
  if (shards == nullptr || !shards->is_array()) {
    fields.fail("shards", "an array", shards == nullptr ? "nothing" : json_kind_name(*shards));
  }
  CACHALOT_RETURN_IF_ERROR(fields.status());

  std::vector<CorpusShard> listed;
  for (const json::value& entry : shards->get_array()) {
    if (!entry.is_object()) {
      fields.fail("shards", "an array of objects", json_kind_name(entry));
      return fields.status();
    }
    CorpusShard shard;
    std::string fingerprint;
    formats::JsonFields entries(entry.get_object(), path, "shards[].");
    entries.text("file", &shard.file);
    entries.integer("num_documents", &shard.num_documents, 0, kMaxCount, true);
    entries.integer("num_tokens", &shard.num_tokens, 0, kMaxCount, true);
    entries.text("fingerprint", &fingerprint);
    if (shard.file.empty() || shard.file == ".." || file_name(shard.file) != shard.file) {
      entries.fail("file", "a plain file name", shard.file);
    }
    const auto parsed = parse_hex64(fingerprint);
    if (!parsed) entries.fail("fingerprint", "16 hexadecimal digits", fingerprint);
    CACHALOT_RETURN_IF_ERROR(entries.status());
    shard.fingerprint = *parsed;
    listed.push_back(std::move(shard));
  }
  return listed;
}

std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

std::string beside(const std::string& path, const std::string& name) {
  return (std::filesystem::path(path).parent_path() / name).string();
}

}  // namespace cachalot::data
