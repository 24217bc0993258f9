// The tensors of a model directory: one model.safetensors, or shards named by
// model.safetensors.index.json.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "formats/safetensors.h"

namespace cachalot::formats {

// Owns the mappings. Move-only; views live no longer than it. Threads: all const.
class Checkpoint {
 public:
  struct Entry {
    std::string_view name;
    const tensor::TensorView* view;
    const StoredAs* stored;  // how its header spells it (safetensors.h)
    int file;                // index into files()
  };

  // `path`: a directory (model.safetensors, else the index), a .safetensors file, or an index file.
  // Where a directory holds model.safetensors and an index, it is said which is read; where the
  // index's shards are there too, they must hold the same tensors, byte for byte (invalid_argument
  // names the first that differs).
  // The index's weight_map decides which shard a tensor comes from; tensors of a shard that it does
  // not name are not part of the checkpoint.
  // Errors  also: a shard name that is not a plain file name in the same directory, a mapped tensor
  //         missing in its shard.
  static Result<Checkpoint> open(const std::string& path);

  const tensor::TensorView* find(std::string_view name) const;  // null where there is none
  // How its header spells it; null where there is none.
  const StoredAs* stored_as(std::string_view name) const;
  // Path of the file that holds it, or path().
  std::string_view file_of(std::string_view name) const;
  // By file, then by position in the file: the order in which reading is sequential.
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const std::string& path() const { return path_; }

 private:
  explicit Checkpoint(std::string path) : path_(std::move(path)) {}
  static Result<Checkpoint> open_single(const std::string& path);
  static Result<Checkpoint> open_index(const std::string& path);
  static Status check_stray(const Checkpoint& single, const std::string& index_path);

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, uint32_t> by_name_;  // index into entries_
};

}  // namespace cachalot::formats
