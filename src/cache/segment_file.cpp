#include "cache/segment_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace cachalot::cache {
namespace {
static_assert(std::endian::native == std::endian::little, "segment files are little-endian");

constexpr int64_t kLine = 64;
constexpr std::array<char, 8> kSegmentMagic = {'C', 'A', 'C', 'H', 'S', 'E', 'G', '1'};
constexpr std::array<char, 8> kRecordMagic = {'\xF5', 'C', 'A', 'C', 'H', 'B', 'L', 'K'};
constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr int64_t kMaxPayload = int64_t{1} << 36;
constexpr int64_t kScanBytes = int64_t{1} << 16;

struct SegmentHead {
  std::array<char, 8> magic = kSegmentMagic;
  std::array<char, 56> reserved = {};
};
static_assert(sizeof(SegmentHead) == kLine);

struct RecordHead {
  std::array<char, 8> magic = kRecordMagic;
  uint32_t kind = 0;
  uint32_t num_tokens = 0;
  CacheIdentity identity;
  BlockKey parent;
  BlockKey key;
  int64_t payload_bytes = 0;
  uint64_t payload_checksum = 0;
  int64_t first_position = 0;
  uint64_t reserved[2] = {};
  uint64_t checksum = 0;  // of all before it, and the tokens
};
static_assert(sizeof(RecordHead) == 2 * kLine && offsetof(RecordHead, checksum) == 120);

int64_t round_up(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// The head, the tokens and the zeros up to the payload.
int64_t front_bytes(int64_t num_tokens) {
  return round_up(static_cast<int64_t>(sizeof(RecordHead)) + 4 * num_tokens);
}

uint64_t head_checksum(const RecordHead& head, std::span<const std::byte> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size(),
                              XXH3_64bits(&head, offsetof(RecordHead, checksum)));
}

std::vector<std::byte> encode_front(const RecordHeader& header,
                                    std::span<const std::byte> payload) {
  RecordHead head;
  head.kind = static_cast<uint32_t>(header.kind);
  head.num_tokens = static_cast<uint32_t>(header.tokens.size());
  head.identity = header.identity;
  head.parent = header.parent;
  head.key = header.key;
  head.payload_bytes = header.payload_bytes;
  head.payload_checksum = XXH3_64bits(payload.data(), payload.size());
  head.first_position = header.first_position;
  const auto tokens = std::as_bytes(std::span(header.tokens));
  head.checksum = head_checksum(head, tokens);
  std::vector<std::byte> front(
      static_cast<size_t>(front_bytes(static_cast<int64_t>(header.tokens.size()))));
  std::memcpy(front.data(), &head, sizeof(head));
  if (!tokens.empty()) std::memcpy(front.data() + sizeof(head), tokens.data(), tokens.size());
  return front;
}

struct DecodedFront {
  RecordHeader header;
  uint64_t payload_checksum;
};

Status no_record(int64_t offset) {
  return data_loss(fmt::format("segment: offset {}: expected a record, found other bytes", offset));
}

// front: front_bytes() of the record.
Result<DecodedFront> decode_front(std::span<const std::byte> front, int64_t offset) {
  RecordHead head;
  std::memcpy(&head, front.data(), sizeof(head));
  const auto tokens = front.subspan(sizeof(head), 4 * size_t{head.num_tokens});
  if (head.checksum != head_checksum(head, tokens)) return no_record(offset);
  DecodedFront decoded;
  decoded.payload_checksum = head.payload_checksum;
  RecordHeader& header = decoded.header;
  header.kind = static_cast<RecordKind>(head.kind);
  header.identity = head.identity;
  header.parent = head.parent;
  header.key = head.key;
  header.payload_bytes = head.payload_bytes;
  header.first_position = head.first_position;
  header.tokens.resize(head.num_tokens);
  if (!tokens.empty()) std::memcpy(header.tokens.data(), tokens.data(), tokens.size());
  return decoded;
}

// Sizes that a head claims, before anything is allocated for them.
bool is_plausible(const RecordHead& head, int64_t offset, int64_t file_bytes) {
  const bool is_kind = head.kind == static_cast<uint32_t>(RecordKind::block) ||
                       head.kind == static_cast<uint32_t>(RecordKind::state);
  if (head.magic != kRecordMagic || !is_kind || head.num_tokens > kMaxTokens ||
      head.payload_bytes < 0 || head.payload_bytes > kMaxPayload || head.first_position < 0) {
    return false;
  }
  return front_bytes(head.num_tokens) + round_up(head.payload_bytes) <= file_bytes - offset;
}

Result<DecodedFront> read_front(const BytesAt& file, int64_t offset) {
  RecordHead head;
  if (offset < kLine || offset % kLine != 0 ||
      offset > file.size() - static_cast<int64_t>(sizeof(head))) {
    return no_record(offset);
  }
  CACHALOT_RETURN_IF_ERROR(file.read(offset, std::as_writable_bytes(std::span(&head, 1)), {}));
  if (!is_plausible(head, offset, file.size())) return no_record(offset);
  std::vector<std::byte> front(static_cast<size_t>(front_bytes(head.num_tokens)));
  CACHALOT_RETURN_IF_ERROR(file.read(offset, front, {}));
  // Read twice: a file that changes in between is damaged, not dangerous.
  if (std::memcmp(front.data(), &head, sizeof(head)) != 0) return no_record(offset);
  return decode_front(front, offset);
}

// The first offset from `offset` on where a record may begin; the file's size where none does.
Result<int64_t> next_magic(const BytesAt& file, int64_t offset) {
  std::vector<std::byte> bytes;
  while (offset < file.size()) {
    bytes.resize(static_cast<size_t>(std::min(kScanBytes, file.size() - offset)));
    CACHALOT_RETURN_IF_ERROR(file.read(offset, bytes, {}));
    for (size_t at = 0; at + kRecordMagic.size() <= bytes.size(); at += kLine) {
      if (std::memcmp(bytes.data() + at, kRecordMagic.data(), kRecordMagic.size()) == 0)
        return offset + static_cast<int64_t>(at);
    }
    offset += static_cast<int64_t>(bytes.size());
  }
  return file.size();
}

Status system_error(const std::string& path, const char* operation) {
  const int error = errno;
  std::string message = fmt::format("{}: {}: {}", path, operation, std::strerror(error));
  if (error == ENOENT) return not_found(std::move(message));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    return resource_exhausted(std::move(message));
  return io_error(std::move(message));
}

// Calls preadv or pwritev until both spans are done.
template <typename Call>
Status transfer(const std::string& path, const char* operation, std::span<std::byte> a,
                std::span<std::byte> b, int64_t offset, Call&& call) {
  while (!a.empty() || !b.empty()) {
    const iovec parts[] = {{a.data(), a.size()}, {b.data(), b.size()}};
    const ssize_t count = call(parts, 2, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path, operation);
    if (count == 0)
      return data_loss(fmt::format("{}: expected {} more bytes at {}, found the end", path,
                                   a.size() + b.size(), offset));
    const size_t from_a = std::min(a.size(), static_cast<size_t>(count));
    a = a.subspan(from_a);
    b = b.subspan(static_cast<size_t>(count) - from_a);
    offset += count;
  }
  return {};
}

std::span<std::byte> writable(std::span<const std::byte> bytes) {  // iovec knows no const
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

}  // namespace

int64_t record_bytes(const RecordHeader& header) {
  return front_bytes(static_cast<int64_t>(header.tokens.size())) + round_up(header.payload_bytes);
}

Result<SegmentReader> SegmentReader::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return system_error(path, "open");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return system_error(path, "stat");
  if (!S_ISREG(info.st_mode)) return data_loss(path + ": expected a regular file");
  return SegmentReader(path, std::move(fd), info.st_size);
}

Status SegmentReader::read(int64_t offset, std::span<std::byte> a, std::span<std::byte> b) const {
  return transfer(path_, "read", a, b, offset, [&](const iovec* parts, int count, int64_t at) {
    return ::preadv(fd_.get(), parts, count, at);
  });
}

void SegmentReader::read_ahead(int64_t offset, int64_t num_bytes) const {
  ::posix_fadvise(fd_.get(), offset, num_bytes, POSIX_FADV_WILLNEED);
}

Status read_record(const BytesAt& file, int64_t offset, const RecordHeader& expected,
                   std::span<std::byte> payload) {
  CACHALOT_CHECK(static_cast<int64_t>(payload.size()) == expected.payload_bytes);
  if (offset < kLine || offset > file.size() - record_bytes(expected)) return no_record(offset);
  std::vector<std::byte> front(
      static_cast<size_t>(front_bytes(static_cast<int64_t>(expected.tokens.size()))));
  CACHALOT_RETURN_IF_ERROR(file.read(offset, front, payload));
  RecordHead head;
  std::memcpy(&head, front.data(), sizeof(head));
  if (!is_plausible(head, offset, file.size()) || head.num_tokens != expected.tokens.size())
    return no_record(offset);
  CACHALOT_ASSIGN_OR_RETURN(const DecodedFront decoded, decode_front(front, offset));
  if (decoded.header != expected) {
    return data_loss(fmt::format("segment: offset {}: expected the record {}, found {}", offset,
                                 to_string(expected.key), to_string(decoded.header.key)));
  }
  const uint64_t checksum = XXH3_64bits(payload.data(), payload.size());
  if (checksum != decoded.payload_checksum) {
    return data_loss(
        fmt::format("segment: offset {}: rows: expected checksum {:016x}, found {:016x}", offset,
                    decoded.payload_checksum, checksum));
  }
  return {};
}

Result<RecordHeader> read_record_header(const BytesAt& file, int64_t offset) {
  CACHALOT_ASSIGN_OR_RETURN(DecodedFront decoded, read_front(file, offset));
  return std::move(decoded.header);
}

Result<ScanEnd> scan_segment(const BytesAt& file, int64_t offset, int64_t max_records,
                             const std::function<void(RecordHeader, RecordPlace)>& found) {
  ScanEnd end{offset};
  if (offset == 0) {
    SegmentHead head;
    if (file.size() < kLine) return ScanEnd{file.size(), file.size() > 0 ? 1 : 0};
    CACHALOT_RETURN_IF_ERROR(file.read(0, std::as_writable_bytes(std::span(&head, 1)), {}));
    if (head.magic != kSegmentMagic) return ScanEnd{file.size(), 1};
    end.offset = kLine;
  }
  while (end.offset < file.size() && max_records-- > 0) {
    Result<DecodedFront> front = read_front(file, end.offset);
    if (front) {
      const int64_t num_bytes = record_bytes(front->header);
      found(std::move(front->header), {0, end.offset, num_bytes});
      end.offset += num_bytes;
      continue;
    }
    if (front.error().code() != StatusCode::data_loss) return front.error();
    ++end.num_damaged;
    CACHALOT_ASSIGN_OR_RETURN(end.offset, next_magic(file, end.offset + kLine));
  }
  return end;
}

Result<SegmentWriter> SegmentWriter::create(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return system_error(path, "create");
  SegmentWriter writer(path, std::move(fd));
  const SegmentHead head;
  Status status;
  if (::flock(writer.fd_.get(), LOCK_EX) != 0) status = system_error(path, "lock");
  if (status.ok()) status = writer.write_all(std::as_bytes(std::span(&head, 1)), {});
  if (!status.ok()) {
    ::unlink(path.c_str());
    return status;
  }
  writer.size_ = kLine;
  return writer;
}

Status SegmentWriter::write_all(std::span<const std::byte> a, std::span<const std::byte> b) {
  return transfer(path_, "write", writable(a), writable(b), size_,
                  [&](const iovec* parts, int count, int64_t at) {
                    return ::pwritev(fd_.get(), parts, count, at);
                  });
}

Result<RecordPlace> SegmentWriter::append(const RecordHeader& header,
                                          std::span<const std::byte> payload) {
  CACHALOT_CHECK(static_cast<int64_t>(payload.size()) == header.payload_bytes && !is_broken_);
  const RecordPlace place{0, size_, record_bytes(header)};
  Status status = write_all(encode_front(header, payload), payload);
  // The padding, too, so that the file's size says whether the record is whole.
  if (status.ok() && ::ftruncate(fd_.get(), size_ + place.num_bytes) != 0)
    status = system_error(path_, "extend");
  if (!status.ok()) {
    is_broken_ = ::ftruncate(fd_.get(), size_) != 0;
    return status;
  }
  size_ += place.num_bytes;
  return place;
}

bool is_being_written(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return false;
  return ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

}  // namespace cachalot::cache
