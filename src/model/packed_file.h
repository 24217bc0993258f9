// A model's packed matrices in one file, which later starts map: the same bytes that packing leaves
// in memory.
// Layout  docs/formats/packed.md
// Refused with data_loss: a file that is cut short or longer, another version, a header that fails
// its checksum, and one that was made of something else than `identity` says. What stands between
// the header and the end is not read to find out: it was synced before the file took its name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace cachalot::model {

struct PackedMatrix {
  std::span<const std::byte> bytes;  // at a multiple of 64
  bool has_nan_codes;
};

// What a file was made of, in full (identity), and the fingerprint of the weights it holds.
struct PackedOrigin {
  std::string identity;
  uint64_t weights_fingerprint = 0;
};

int64_t packed_file_bytes(const PackedOrigin& origin, std::span<const PackedMatrix> matrices);
Status write_packed_file(Sink& sink, const PackedOrigin& origin,
                         std::span<const PackedMatrix> matrices);

// Owns the mapping; views live no longer than it.
class PackedFile {
 public:
  static Result<PackedFile> open(const std::string& path, const std::string& identity);

  uint64_t weights_fingerprint() const { return weights_fingerprint_; }
  const std::vector<PackedMatrix>& matrices() const { return matrices_; }
  const std::string& path() const { return file_.path(); }

 private:
  explicit PackedFile(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  uint64_t weights_fingerprint_ = 0;
  std::vector<PackedMatrix> matrices_;
};

}  // namespace cachalot::model
