#include "formats/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/log.h"
#include "formats/json_fields.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{256} << 20;
constexpr size_t kMaxShards = 4096;

// A plain name: anything else could reach files outside the model's directory.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

struct ShardIndex {
  // Shard name -> names of its tensors. Sorted, so that errors and order do not depend on hashing.
  std::map<std::string, std::vector<std::string>> shards;
};

Result<ShardIndex> read_index(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxIndexBytes));
  CACHALOT_ASSIGN_OR_RETURN(const json::value document, parse_json(text, path, 8));
  if (!document.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", path, json_kind_name(document)));
  }
  JsonFields fields(document.get_object(), path);
  const json::object* map = fields.object("weight_map");
  if (map == nullptr) fields.fail("weight_map", "an object of tensor name to file", "no such key");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  ShardIndex index;
  for (const auto& [name, shard] : *map) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_string())) {
      return invalid_argument(fmt::format(
          "{}: weight_map: tensor {}: expected the name of a file in the same directory, found {}",
          path, std::string_view(name).substr(0, 120), json_excerpt(shard)));
    }
    index.shards[std::string(shard.get_string())].emplace_back(name);
  }
  if (index.shards.size() > kMaxShards) {
    return invalid_argument(fmt::format("{}: weight_map: expected at most {} files, found {}", path,
                                        kMaxShards, index.shards.size()));
  }
  return index;
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return path.ends_with(".json") ? open_index(path) : open_single(path);
  }
  const std::string single = (fs::path(path) / kSingleName).string();
  const std::string index = (fs::path(path) / kIndexName).string();
  if (fs::exists(single, error)) {
    CACHALOT_ASSIGN_OR_RETURN(Checkpoint checkpoint, open_single(single));
    if (fs::exists(index, error)) CACHALOT_RETURN_IF_ERROR(check_stray(checkpoint, index));
    return checkpoint;
  }
  if (fs::exists(index, error)) return open_index(index);
  return not_found(
      fmt::format("{}: expected {} or {}, found neither", path, kSingleName, kIndexName));
}

// Two copies of one model in a directory are fine, two models are not: which is meant?
Status Checkpoint::check_stray(const Checkpoint& single, const std::string& index_path) {
  CACHALOT_ASSIGN_OR_RETURN(const ShardIndex index, read_index(index_path));
  if (index.shards.size() == 1 && index.shards.contains(kSingleName)) return {};
  std::error_code error;
  for (const auto& [shard, names] : index.shards) {
    if (!fs::exists(fs::path(index_path).parent_path() / shard, error)) {
      log_warning_once(fmt::format("{} is read; {} is not, whose {} is missing", single.path(),
                                   index_path, shard));
      return {};
    }
  }
  CACHALOT_ASSIGN_OR_RETURN(const Checkpoint sharded, open_index(index_path));
  const auto differs = [&](std::string_view tensor, std::string_view expected,
                           std::string_view found) {
    return invalid_argument(
        fmt::format("{}: tensor {}: expected {} as in the shards of {}, found {}; one of the two "
                    "does not belong "
                    "here",
                    single.path(), tensor, expected, index_path, found));
  };
  for (const Entry& entry : sharded.entries()) {
    const tensor::TensorView* view = single.find(entry.name);
    if (view == nullptr) return differs(entry.name, "it", "no such tensor");
    if (view->dtype != entry.view->dtype || view->shape != entry.view->shape)
      return differs(entry.name, "the dtype and shape", "others");
    if (std::memcmp(view->data, entry.view->data, view->bytes().size()) != 0)
      return differs(entry.name, "the values", "others");
  }
  for (const Entry& entry : single.entries()) {
    if (sharded.find(entry.name) == nullptr) return differs(entry.name, "no such tensor", "it");
  }
  log_warning_once(
      fmt::format("{} is read; {} and its shards hold the same", single.path(), index_path));
  return {};
}

Result<Checkpoint> Checkpoint::open_single(const std::string& path) {
  Checkpoint checkpoint(path);
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(path));
  checkpoint.files_.push_back(std::move(file));
  for (const NamedTensor& tensor : checkpoint.files_[0].tensors()) {
    checkpoint.by_name_.emplace(tensor.name, static_cast<uint32_t>(checkpoint.entries_.size()));
    checkpoint.entries_.push_back({tensor.name, &tensor.view, &tensor.stored, 0});
  }
  return checkpoint;
}

Result<Checkpoint> Checkpoint::open_index(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const ShardIndex index, read_index(path));
  Checkpoint checkpoint(path);
  const fs::path directory = fs::path(path).parent_path();
  checkpoint.files_.reserve(index.shards.size());
  for (const auto& [shard, names] : index.shards) {
    CACHALOT_ASSIGN_OR_RETURN(SafetensorsFile file,
                              SafetensorsFile::open((directory / shard).string()));
    checkpoint.files_.push_back(std::move(file));
    const SafetensorsFile& opened = checkpoint.files_.back();
    std::unordered_map<std::string_view, bool> wanted;
    for (const std::string& name : names) {
      if (opened.find(name) == nullptr) {
        return invalid_argument(
            fmt::format("{}: weight_map: tensor {}: expected it in {}, found no such tensor there",
                        path, std::string_view(name).substr(0, 120), opened.path()));
      }
      wanted.emplace(name, true);
    }
    const int file_idx = static_cast<int>(checkpoint.files_.size()) - 1;
    for (const NamedTensor& tensor : opened.tensors()) {
      if (!wanted.contains(tensor.name)) continue;
      checkpoint.by_name_.emplace(tensor.name, static_cast<uint32_t>(checkpoint.entries_.size()));
      checkpoint.entries_.push_back({tensor.name, &tensor.view, &tensor.stored, file_idx});
    }
  }
  return checkpoint;
}

const tensor::TensorView* Checkpoint::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : entries_[it->second].view;
}

const StoredAs* Checkpoint::stored_as(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : entries_[it->second].stored;
}

std::string_view Checkpoint::file_of(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? std::string_view(path_)
                              : files_[static_cast<size_t>(entries_[it->second].file)].path();
}

}  // namespace cachalot::formats
