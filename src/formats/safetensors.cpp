#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "formats/safetensors_header.h"

namespace cachalot::formats {
namespace {

constexpr size_t kLengthBytes = 8;

Result<uint64_t> header_length(std::span<const std::byte> bytes, std::string_view origin) {
  if (bytes.size() < kLengthBytes) {
    return data_loss(fmt::format("{}: expected at least {} bytes, found {}", origin, kLengthBytes,
                                 bytes.size()));
  }
  uint64_t length = 0;  // little-endian, as the machines this builds for
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxSafetensorsHeader) {
    return invalid_argument(fmt::format("{}: header length: expected at most {}, found {}", origin,
                                        kMaxSafetensorsHeader, length));
  }
  if (length > bytes.size() - kLengthBytes) {
    return data_loss(
        fmt::format("{}: expected a header of {} bytes, found {} bytes after its length", origin,
                    length, bytes.size() - kLengthBytes));
  }
  return length;
}

std::string_view dtype_of(const HeaderEntry& entry) {
  return entry.stored ? entry.stored->name : tensor::dtype_name(entry.dtype);
}

// Bytes of a tensor, or nothing on overflow and where its bits are no whole bytes.
std::optional<uint64_t> checked_bytes(const HeaderEntry& entry) {
  constexpr int64_t kByte = 8;
  const bool is_packed = entry.stored && entry.stored->bits % kByte != 0;
  int64_t size = is_packed      ? entry.stored->bits
                 : entry.stored ? entry.stored->bits / kByte
                                : tensor::dtype_bytes(entry.dtype);
  for (int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(size, extent, &size)) return std::nullopt;
  }
  if (is_packed && size % kByte != 0) return std::nullopt;
  return static_cast<uint64_t>(is_packed ? size / kByte : size);
}

Status check_entry(const HeaderEntry& entry, uint64_t data_bytes, std::string_view origin) {
  const std::optional<uint64_t> expected = checked_bytes(entry);
  if (!expected) {
    return invalid_argument(
        fmt::format("{}: tensor {}: expected a size below 2^63, in whole bytes, found {} of {}",
                    origin, entry.name, tensor::shape_string(entry.shape), dtype_of(entry)));
  }
  if (entry.begin > entry.end || entry.end - entry.begin != *expected) {
    return invalid_argument(
        fmt::format("{}: tensor {}: data_offsets: expected {} bytes for {} of {}, found [{}, {}]",
                    origin, entry.name, *expected, tensor::shape_string(entry.shape),
                    dtype_of(entry), entry.begin, entry.end));
  }
  if (entry.end > data_bytes) {
    return data_loss(
        fmt::format("{}: tensor {}: expected data up to byte {}, found {} bytes of data", origin,
                    entry.name, entry.end, data_bytes));
  }
  return {};
}

Status check_names(std::vector<std::string_view> names, std::string_view origin) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return {};
  return invalid_argument(
      fmt::format("{}: tensor {}: expected each name once, found it twice", origin, *twice));
}

// Entries are in the order of their data: each begins where the one before ends, and the last ends
// with the file. The format's own library demands the same, so that no byte of a file is
// unaccounted for.
Status check_tiling(const std::vector<HeaderEntry>& entries, uint64_t data_bytes,
                    std::string_view origin) {
  uint64_t end = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.begin != end) {
      return invalid_argument(fmt::format(
          "{}: tensor {}: expected its data at byte {}, where the tensor before it ends, found {} "
          "({})",
          origin, entry.name, end, entry.begin, entry.begin < end ? "overlap" : "hole"));
    }
    end = entry.end;
  }
  if (end != data_bytes) {
    return invalid_argument(
        fmt::format("{}: expected {} bytes of data, found {}", origin, end, data_bytes));
  }
  return {};
}

}  // namespace

Result<SafetensorsContents> parse_safetensors(std::span<const std::byte> bytes,
                                              std::string_view origin) {
  CACHALOT_ASSIGN_OR_RETURN(const uint64_t length, header_length(bytes, origin));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsHeader header, parse_safetensors_header(text, origin));
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + length);
  std::vector<std::string_view> names;
  for (const HeaderEntry& entry : header.entries) {
    CACHALOT_RETURN_IF_ERROR(check_entry(entry, data.size(), origin));
    names.push_back(entry.name);
  }
  CACHALOT_RETURN_IF_ERROR(check_names(std::move(names), origin));
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const HeaderEntry& a, const HeaderEntry& b) {
                     return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
                   });
  CACHALOT_RETURN_IF_ERROR(check_tiling(header.entries, data.size(), origin));

  SafetensorsContents contents;
  contents.metadata = std::move(header.metadata);
  contents.tensors.reserve(header.entries.size());
  for (HeaderEntry& entry : header.entries) {
    NamedTensor& tensor = contents.tensors.emplace_back();
    tensor.name = std::move(entry.name);
    if (entry.stored) {
      tensor.stored = {entry.stored->name, std::move(entry.shape)};
      tensor.view = stored_view(tensor.stored, static_cast<int64_t>(entry.end - entry.begin));
    } else {
      tensor.view = {entry.dtype, std::move(entry.shape), nullptr};
    }
    tensor.view.data = data.data() + entry.begin;
  }
  return contents;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsContents contents, parse_safetensors(file.bytes(), path));
  return SafetensorsFile(path, std::move(file), {}, std::move(contents));
}

Result<SafetensorsFile> SafetensorsFile::from_bytes(std::vector<std::byte> bytes,
                                                    const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsContents contents, parse_safetensors(bytes, path));
  return SafetensorsFile(path, std::nullopt, std::move(bytes), std::move(contents));
}

SafetensorsFile::SafetensorsFile(std::string path, std::optional<MappedFile> file,
                                 std::vector<std::byte> bytes, SafetensorsContents contents)
    : path_(std::move(path)),
      file_(std::move(file)),
      bytes_(std::move(bytes)),
      contents_(std::move(contents)),
      by_name_(contents_.tensors.size()) {
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(), [this](uint32_t a, uint32_t b) {
    return contents_.tensors[a].name < contents_.tensors[b].name;
  });
}

const tensor::TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto& tensors = contents_.tensors;
  const auto it =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](uint32_t i, std::string_view key) { return tensors[i].name < key; });
  return it != by_name_.end() && tensors[*it].name == name ? &tensors[*it].view : nullptr;
}

}  // namespace cachalot::formats
