#include "model/packed_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <array>
#include <cstring>

namespace cachalot::model {
namespace {

constexpr std::array<char, 8> kMagic = {'C', 'A', 'C', 'H', 'P', 'A', 'C', 'K'};
constexpr uint64_t kVersion = 1;
constexpr uint64_t kAlignment = 64;   // of a matrix
constexpr uint64_t kDataStep = 4096;  // of the first one

struct Header {
  std::array<char, 8> magic;
  uint64_t version;
  uint64_t checksum;  // XXH3-64 of what follows, up to the data
  uint64_t file_bytes;
  uint64_t weights_fingerprint;
  uint64_t identity_bytes;
  uint64_t num_matrices;
};

struct Entry {
  uint64_t num_bytes;
  uint64_t has_nan_codes;
};

constexpr size_t kUnchecked = offsetof(Header, file_bytes);

uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

uint64_t data_offset(const Header& header) {
  return round_up(sizeof(Header) + header.num_matrices * sizeof(Entry) + header.identity_bytes,
                  kDataStep);
}

// Header, entries, identity, and zeros up to the data.
std::string head_of(const PackedOrigin& origin, std::span<const PackedMatrix> matrices) {
  Header header{kMagic,         kVersion, 0, 0, origin.weights_fingerprint, origin.identity.size(),
                matrices.size()};
  std::string head(data_offset(header), '\0');
  header.file_bytes = head.size();
  size_t at = sizeof(Header);
  for (const PackedMatrix& matrix : matrices) {
    const Entry entry{matrix.bytes.size(), matrix.has_nan_codes ? 1u : 0u};
    std::memcpy(head.data() + at, &entry, sizeof entry);
    at += sizeof entry;
    header.file_bytes += round_up(matrix.bytes.size(), kAlignment);
  }
  std::memcpy(head.data() + at, origin.identity.data(), origin.identity.size());
  std::memcpy(head.data(), &header, sizeof header);
  header.checksum = XXH3_64bits(head.data() + kUnchecked, head.size() - kUnchecked);
  std::memcpy(head.data(), &header, sizeof header);
  return head;
}

Status wrong(const std::string& path, std::string_view what, uint64_t expected, uint64_t found) {
  return data_loss(fmt::format("{}: {}: expected {}, found {}", path, what, expected, found));
}

}  // namespace

int64_t packed_file_bytes(const PackedOrigin& origin, std::span<const PackedMatrix> matrices) {
  uint64_t total = head_of(origin, matrices).size();
  for (const PackedMatrix& matrix : matrices) total += round_up(matrix.bytes.size(), kAlignment);
  return static_cast<int64_t>(total);
}

Status write_packed_file(Sink& sink, const PackedOrigin& origin,
                         std::span<const PackedMatrix> matrices) {
  constexpr std::array<std::byte, kAlignment> kZeros{};
  const std::string head = head_of(origin, matrices);
  CACHALOT_RETURN_IF_ERROR(sink.write(std::as_bytes(std::span(head))));
  for (const PackedMatrix& matrix : matrices) {
    CACHALOT_RETURN_IF_ERROR(sink.write(matrix.bytes));
    const size_t size = matrix.bytes.size();
    CACHALOT_RETURN_IF_ERROR(
        sink.write(std::span(kZeros).first(round_up(size, kAlignment) - size)));
  }
  return {};
}

Result<PackedFile> PackedFile::open(const std::string& path, const std::string& identity) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(path));
  PackedFile file(std::move(mapped));
  const std::span<const std::byte> bytes = file.file_.bytes();
  if (bytes.size() < sizeof(Header)) return wrong(path, "bytes", sizeof(Header), bytes.size());
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) return data_loss(path + ": expected packed weights, found others");
  if (header.version != kVersion) return wrong(path, "version", kVersion, header.version);
  if (header.file_bytes != bytes.size())
    return wrong(path, "bytes", header.file_bytes, bytes.size());
  // The counts are only believed within the file; the checksum then covers them.
  if (header.num_matrices > bytes.size() / sizeof(Entry) || header.identity_bytes > bytes.size() ||
      data_offset(header) > bytes.size())
    return wrong(path, "bytes of the header", data_offset(header), bytes.size());
  const uint64_t checksum =
      XXH3_64bits(bytes.data() + kUnchecked, data_offset(header) - kUnchecked);
  if (header.checksum != checksum) return wrong(path, "checksum", header.checksum, checksum);

  const size_t identity_offset = sizeof(Header) + header.num_matrices * sizeof(Entry);
  const std::string_view made_of(reinterpret_cast<const char*>(bytes.data()) + identity_offset,
                                 header.identity_bytes);
  if (made_of != identity)
    return data_loss(fmt::format("{}: expected packed weights of\n{}found those of\n{}", path,
                                 identity, made_of));
  file.weights_fingerprint_ = header.weights_fingerprint;
  file.matrices_.reserve(header.num_matrices);
  uint64_t at = data_offset(header);
  for (uint64_t i = 0; i < header.num_matrices; ++i) {
    Entry entry;
    std::memcpy(&entry, bytes.data() + sizeof(Header) + i * sizeof entry, sizeof entry);
    if (entry.num_bytes > bytes.size() - at)
      return wrong(path, "bytes of a matrix", bytes.size() - at, entry.num_bytes);
    file.matrices_.push_back({bytes.subspan(at, entry.num_bytes), entry.has_nan_codes != 0});
    at += round_up(entry.num_bytes, kAlignment);
    if (at > bytes.size()) return wrong(path, "bytes", at, bytes.size());
  }
  if (at != bytes.size()) return wrong(path, "bytes", at, bytes.size());
  return file;
}

}  // namespace cachalot::model
