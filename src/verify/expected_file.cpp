#include "verify/expected_file.h"

#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "data/byte_stream.h"

namespace cachalot::verify {

Result<formats::SafetensorsFile> open_expected(const std::string& folder) {
  const std::string path = folder + "/expected.safetensors", compressed = path + ".zst";
  std::error_code error;
  if (std::filesystem::exists(path, error) || !std::filesystem::exists(compressed, error))
    return formats::SafetensorsFile::open(path);
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
