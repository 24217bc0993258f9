// The disk tier of the prefix cache: records in segment files, an index of them, and a bound on
// their bytes. Any number of processes may share a directory.
//
// Safe    a record is served only if it is the one asked for, whole and undamaged: its identity,
//         keys, tokens and both checksums are compared each time. So a kill, a full disk, a torn or
//         changed file and a lost index cost what they took and no more. Where the machine itself
//         fails, what had not reached the disk is such a loss.
// Bound   segment files hold at most max_bytes, the room that a writer may still fill included; the
//         index takes some 200 bytes a record beside them. The segment that was used least recently
//         goes as a whole. Files of a live writer stay.
// Start   open() does not read the cache. A segment that is not indexed, or not to its end, is read
//         (its headers are) by recover(), a slice at a time; find() does one where it finds
//         nothing.
// Full    a write that fails leaves the store as it was.
// Threads one owner.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "cache/disk_index.h"
#include "cache/segment_file.h"

namespace cachalot::cache {

struct DiskStoreOptions {
  std::string directory;  // made where it is missing
  int64_t max_bytes = 0;
  int64_t segment_bytes = 0;  // 0: a 64th of max_bytes, within a megabyte and a gigabyte
};

struct DiskSegment {
  std::string name;
  int64_t num_bytes;  // reserved ones of a live writer included
  int64_t used;       // nanoseconds since 1970
  bool is_written;    // by a live process
};

struct DiskCheck {
  int64_t num_records = 0;           // sound ones
  int64_t num_bytes = 0;             // of theirs
  std::vector<std::string> damages;  // one line each; what is damaged has been forgotten
};

struct ReadRequest {
  RecordHeader expected;
  RecordPlace place;
  std::span<std::byte> payload;
  bool is_read = false;  // what read() gives
};

class DiskStore {
 public:
  // Errors  invalid_argument: a bound below 0; those of the system.
  static Result<std::unique_ptr<DiskStore>> open(const DiskStoreOptions& options);

  std::optional<RecordPlace> find(const BlockKey& key, RecordKind kind);
  // The rows of the record at `place`; false, and forgotten, where it is not the expected one.
  // payload then holds anything.
  bool read(const RecordHeader& expected, const RecordPlace& place, std::span<std::byte> payload);
  // Likewise, many at once and by several threads, which end before it returns.
  void read_all(std::span<ReadRequest> requests);
  // Closes the segment files that reading has opened; the next read opens them again.
  void close_files() { readers_.clear(); }

  // Where the record is now, or was before.
  Result<RecordPlace> write(const RecordHeader& header, std::span<const std::byte> payload);
  // The segment is the most recently used one; at most once a minute.
  void mark_used(int64_t segment);

  bool is_recovering() const { return !pending_.empty(); }
  // Indexes at most max_records records that are there without. Files that cannot be read are left
  // out; an error is the index's.
  Status recover(int64_t max_records);

  Result<std::vector<DiskSegment>> segments() const;
  Result<std::vector<IndexSummary>> summary();
  Result<std::vector<IndexedRecord>> children(const BlockKey& parent);
  Result<RecordHeader> read_header(const RecordPlace& place);
  // Reads everything.
  Result<DiskCheck> check();
  // Removes segments, the least recently used first, until at most max_bytes are left; the number
  // of bytes that went.
  Result<int64_t> prune(int64_t max_bytes);

  // From any thread.
  int64_t num_damaged() const { return num_damaged_; }
  int64_t num_written_bytes() const { return num_written_bytes_; }  // of records

 private:
  DiskStore(const DiskStoreOptions& options, DiskIndex index, int64_t index_number);

  std::string path_of(const std::string& name) const { return options_.directory + "/" + name; }
  std::string index_path() const;
  // Compares the directory, whose lock is held, with the index: what is new there is pending, what
  // is gone is forgotten.
  Status list_segments();
  // Another index, for one that is damaged or was replaced; then runs again what failed.
  template <typename Fn>
  auto with_index(Fn&& fn) -> decltype(fn());
  Status renew_index();
  Status renew_index_locked();
  Result<const SegmentReader*> reader_of(int64_t segment);
  // What a read has come to; a record that is not there, or not right, is forgotten.
  bool settle(const RecordHeader& expected, const RecordPlace& place, const Status& status);
  Status start_segment(int64_t num_bytes);
  Result<int64_t> remove_until(int64_t max_bytes);

  DiskStoreOptions options_;
  DiskIndex index_;
  int64_t index_number_;                            // in its name
  std::unordered_map<int64_t, std::string> names_;  // of segments
  std::unordered_map<int64_t, int64_t> marked_;     // seconds: when mark_used() last wrote
  std::vector<IndexedSegment> pending_;             // not scanned to their end
  std::unordered_map<int64_t, SegmentReader> readers_;
  std::optional<SegmentWriter> writer_;
  int64_t writer_segment_ = 0;
  std::atomic<int64_t> num_damaged_ = 0;
  std::atomic<int64_t> num_written_bytes_ = 0;
};

}  // namespace cachalot::cache
