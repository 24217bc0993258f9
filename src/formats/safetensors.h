// Reader of one .safetensors file, mapped. The header is hostile input.
// Layout  docs/formats/safetensors.md; reference/forward 7.1.
// Errors  name the file, the tensor, what was expected and what was found. Refused: a header longer
//         than the file or than 100,000,000 bytes, JSON that is not the format's, duplicate names,
//         unknown dtypes, shapes whose size overflows, offsets that do not fit the shape, overlap,
//         leave holes, or end before or after the file does.
// Nothing is allocated beyond a small multiple of the header that is really there.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "formats/stored_dtype.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
inline constexpr size_t kMaxTensorRank = 8;

struct NamedTensor {
  std::string name;
  tensor::TensorView view;
  StoredAs stored = {};  // how the header spells it, where `view` is not that (stored_dtype.h)
};

struct SafetensorsContents {
  std::vector<NamedTensor> tensors;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

// Reads a whole file image; the views point into `bytes`. `origin` names it in errors.
Result<SafetensorsContents> parse_safetensors(std::span<const std::byte> bytes,
                                              std::string_view origin);

// A file and its tensors. Move-only; views live no longer than it. A mapped file that is cut short
// by someone else ends the process (SIGBUS), as with any mapping.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);  // mapped
  // Of a file's bytes; `path` names it in errors.
  static Result<SafetensorsFile> from_bytes(std::vector<std::byte> bytes, const std::string& path);

  const std::string& path() const { return path_; }
  size_t file_bytes() const { return file_ ? file_->bytes().size() : bytes_.size(); }
  const std::vector<NamedTensor>& tensors() const { return contents_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }
  // Null where there is none.
  const tensor::TensorView* find(std::string_view name) const;

 private:
  SafetensorsFile(std::string path, std::optional<MappedFile> file, std::vector<std::byte> bytes,
                  SafetensorsContents contents);
  std::string path_;
  std::optional<MappedFile> file_;  // or
  std::vector<std::byte> bytes_;    // those
  SafetensorsContents contents_;
  std::vector<uint32_t> by_name_;  // indexes into tensors, sorted by name
};

}  // namespace cachalot::formats
