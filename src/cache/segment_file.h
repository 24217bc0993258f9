// Segment files, where the disk tier of the prefix cache lies: records one after another, written
// once and never changed.
// Layout   docs/formats/prefix_cache.md.
// A record says whose rows it holds and of which tokens, and carries two checksums: one of that
// header and the tokens, so that a scan need not read the rows, and one of the rows. What does not
// hold against them is not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "cache/block_key.h"

namespace cachalot::cache {

enum class RecordKind : uint32_t {
  block = 1,  // a block's bytes, as they lie in the pool
  state = 2,  // the state at the end of that block (boundary_state.h)
};

struct RecordHeader {
  RecordKind kind = RecordKind::block;
  CacheIdentity identity;
  BlockKey parent;
  BlockKey key;
  int64_t first_position = 0;   // of the block, counted from the text's start
  std::vector<int32_t> tokens;  // of the block
  int64_t payload_bytes = 0;
  bool operator==(const RecordHeader&) const = default;
};
inline constexpr int64_t kSegmentHeadBytes = 64;
int64_t record_bytes(const RecordHeader& header);  // with everything around it

struct RecordPlace {
  int64_t segment = 0;  // the owner's number for the file
  int64_t offset = 0;
  int64_t num_bytes = 0;
};

// Bytes that can be read anywhere: a file, or in tests anything.
class BytesAt {
 public:
  virtual ~BytesAt() = default;
  virtual int64_t size() const = 0;
  // Fills first `a`, then `b`; data_loss where the bytes end before that.
  virtual Status read(int64_t offset, std::span<std::byte> a, std::span<std::byte> b) const = 0;
};

class SegmentReader : public BytesAt {
 public:
  static Result<SegmentReader> open(const std::string& path);
  int64_t size() const override { return size_; }
  Status read(int64_t offset, std::span<std::byte> a, std::span<std::byte> b) const override;
  // The system is told that these bytes will be read.
  void read_ahead(int64_t offset, int64_t num_bytes) const;

 private:
  SegmentReader(std::string path, Fd fd, int64_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  std::string path_;
  Fd fd_;
  int64_t size_;
};

// The record at `offset` if it is the expected one, whole and undamaged; its rows go to `payload`,
// which is expected.payload_bytes long and holds anything otherwise. data_loss where it is not.
Status read_record(const BytesAt& file, int64_t offset, const RecordHeader& expected,
                   std::span<std::byte> payload);

// As above for a record that is only known to be there.
Result<RecordHeader> read_record_header(const BytesAt& file, int64_t offset);

struct ScanEnd {
  int64_t offset;           // go on here; the file's size where it is through
  int64_t num_damaged = 0;  // places where something else than a record stood
};
// Calls found(header, place with segment 0) for records from `offset` on (0: the first), at most
// max_records of them. Rows are not read. Behind something damaged it looks for the next record.
Result<ScanEnd> scan_segment(const BytesAt& file, int64_t offset, int64_t max_records,
                             const std::function<void(RecordHeader, RecordPlace)>& found);

// Appends to a file of its own, which is locked as long as the writer lives, and no longer than its
// process does.
class SegmentWriter {
 public:
  static Result<SegmentWriter> create(const std::string& path);
  SegmentWriter(SegmentWriter&&) noexcept = default;
  SegmentWriter& operator=(SegmentWriter&&) noexcept = default;

  int64_t size() const { return size_; }
  // payload: header.payload_bytes of it. On an error the file is as before; where not even that can
  // be had, is_broken().
  Result<RecordPlace> append(const RecordHeader& header, std::span<const std::byte> payload);
  bool is_broken() const { return is_broken_; }

 private:
  SegmentWriter(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Status write_all(std::span<const std::byte> a, std::span<const std::byte> b);

  std::string path_;
  Fd fd_;
  int64_t size_ = 0;
  bool is_broken_ = false;
};

// Whether a process has a SegmentWriter on this file.
bool is_being_written(const std::string& path);

}  // namespace cachalot::cache
