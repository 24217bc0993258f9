#include "verify/expected_file.h"

#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "data/byte_stream.h"

namespace cachalot::verify {
namespace {

std::string compressed_path(const std::string& path) { return path + ".zst"; }

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

bool has_expected(const std::string& path) { return exists(path) || exists(compressed_path(path)); }

Result<formats::SafetensorsFile> open_expected(const std::string& path) {
  const std::string compressed = compressed_path(path);
  if (exists(path) || !exists(compressed)) return formats::SafetensorsFile::open(path);
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<data::ByteStream> stream,
                            data::ByteStream::open(compressed));
  constexpr size_t kMaxBytes = size_t{1} << 30, kPiece = size_t{1} << 20;
  std::vector<std::byte> bytes;
  for (size_t count = kPiece; count == kPiece;) {
    if (bytes.size() >= kMaxBytes) {
      return invalid_argument(
          fmt::format("{}: expected at most {} bytes, found more", compressed, kMaxBytes));
    }
    const size_t size = bytes.size();
    bytes.resize(size + kPiece);
    CACHALOT_ASSIGN_OR_RETURN(count,
                              stream->read({reinterpret_cast<char*>(bytes.data() + size), kPiece}));
    bytes.resize(size + count);
  }
  return formats::SafetensorsFile::from_bytes(std::move(bytes), compressed);
}

}  // namespace cachalot::verify
