// libFuzzer target: scan_segment and read_record on any bytes. Whatever a scan finds lies within
// the file, in order, and reads back as what its head says; a record whose rows are read has the
// checksum that its head names.
//
// The first byte chooses: even, the rest is the file as it is; odd, it is a list of edits to a
// sound file of three records: offset (two bytes), new byte.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "cache/segment_file.h"

namespace {
using namespace cachalot;
using namespace cachalot::cache;

class BytesInMemory : public BytesAt {
 public:
  explicit BytesInMemory(std::span<const std::byte> bytes) : bytes_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  Status read(int64_t offset, std::span<std::byte> a, std::span<std::byte> b) const override {
    const size_t wanted = a.size() + b.size();
    if (offset < 0 || offset > size() || wanted > bytes_.size() - static_cast<size_t>(offset))
      return data_loss("input: the end");
    const std::byte* from = bytes_.data() + offset;
    if (!a.empty()) std::memcpy(a.data(), from, a.size());
    if (!b.empty()) std::memcpy(b.data(), from + a.size(), b.size());
    return {};
  }

 private:
  std::span<const std::byte> bytes_;
};

RecordHeader some_header(uint64_t n) {
  RecordHeader header;
  header.kind = n == 2 ? RecordKind::state : RecordKind::block;
  header.identity = {1, 2, 3, 4};
  header.parent = {n, n};
  header.key = {n + 1, n + 1};
  header.first_position = static_cast<int64_t>(n) * 8;
  header.tokens = {1, 2, 3, 4, 5, 6, 7, static_cast<int32_t>(n)};
  header.payload_bytes = 100 + static_cast<int64_t>(n);
  return header;
}

// Written once, by the writer itself.
const std::vector<std::byte>& sound_file() {
  static const std::vector<std::byte> bytes = [] {
    std::string path = std::filesystem::temp_directory_path() / "segment-XXXXXX";
    CACHALOT_CHECK(::mkdtemp(path.data()) != nullptr);
    const std::string file = path + "/segment";
    {
      Result<SegmentWriter> writer = SegmentWriter::create(file);
      for (uint64_t n = 0; n < 3; ++n) {
        const RecordHeader header = some_header(n);
        const std::vector<std::byte> payload(static_cast<size_t>(header.payload_bytes),
                                             static_cast<std::byte>(n));
        CACHALOT_CHECK(writer->append(header, payload).has_value());
      }
    }
    const Result<MappedFile> mapped = MappedFile::open(file);
    std::vector<std::byte> copy(mapped->bytes().begin(), mapped->bytes().end());
    std::filesystem::remove_all(path);
    return copy;
  }();
  return bytes;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> bytes(input.begin(), input.end());
  if (data[0] % 2 == 1) {
    bytes = sound_file();
    for (size_t at = 0; at + 3 <= input.size(); at += 3) {
      uint16_t offset = 0;
      std::memcpy(&offset, input.data() + at, 2);
      bytes[offset % bytes.size()] = input[at + 2];
    }
  }
  const BytesInMemory file(bytes);
  int64_t last = 0;
  const auto found = [&](RecordHeader header, RecordPlace place) {
    CACHALOT_CHECK(place.offset >= last && place.num_bytes == record_bytes(header));
    last = place.offset + place.num_bytes;
    CACHALOT_CHECK(last <= file.size());
    const Result<RecordHeader> again = read_record_header(file, place.offset);
    CACHALOT_CHECK(again.has_value() && *again == header);
    std::vector<std::byte> payload(static_cast<size_t>(header.payload_bytes));
    const bool is_sound = read_record(file, place.offset, header, payload).ok();
    // In an edited file an untouched record is served as it was written.
    for (uint64_t n = 0; is_sound && n < 3; ++n) {
      if (!(header == some_header(n)) || data[0] % 2 == 0) continue;
      for (const std::byte byte : payload) CACHALOT_CHECK(byte == static_cast<std::byte>(n));
    }
    ++header.tokens.emplace_back();
    CACHALOT_CHECK(!read_record(file, place.offset, header, payload).ok());
  };
  const Result<ScanEnd> end = scan_segment(file, 0, 1 << 20, found);
  CACHALOT_CHECK(end.has_value() && end->offset == file.size());
  return 0;
}
