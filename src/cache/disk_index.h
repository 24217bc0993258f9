// Where the records of the disk tier lie: an SQLite file in WAL mode, which several processes
// share. It only says where to look: a record is believed for what it holds, so that a lost, stale
// or wrong row costs a miss. That is why it is not synced.
// Tables  docs/formats/prefix_cache.md.
// Errors  data_loss: the file is no index, or damaged; the owner makes a new one.
//         resource_exhausted: disk full. io_error: all else, a lock that others hold too long
//         included.
// Threads one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "cache/segment_file.h"

struct sqlite3;
struct sqlite3_stmt;

namespace cachalot::cache {

struct IndexedRecord {
  RecordHeader header;  // without its tokens
  RecordPlace place;
};

struct IndexedSegment {
  int64_t id;
  std::string name;
  int64_t scanned;  // all records before this offset have rows
};

struct IndexSummary {  // of what one identity has
  CacheIdentity identity;
  int64_t num_blocks = 0;
  int64_t num_states = 0;
  int64_t num_bytes = 0;
};

class DiskIndex {
 public:
  // Opens or makes it.
  static Result<DiskIndex> open(const std::string& path);
  // Removes the file with what SQLite keeps beside it.
  static void remove(const std::string& path);
  DiskIndex(DiskIndex&&) noexcept;
  DiskIndex& operator=(DiskIndex&&) noexcept;
  ~DiskIndex();

  Result<std::optional<RecordPlace>> find(const BlockKey& key, RecordKind kind);
  // All records of a segment that lie in [from, to); one that has a row keeps it.
  Status add(std::span<const IndexedRecord> records, int64_t segment, int64_t from, int64_t to);
  Status remove(const BlockKey& key, RecordKind kind, const RecordPlace& place);

  Result<std::vector<IndexedSegment>> segments();
  // Exactly these, sorted: adds those that have no row, and removes the others with their records.
  Status set_segments(const std::vector<std::string>& names);
  Result<int64_t> add_segment(const std::string& name);
  Status remove_segment(int64_t id);  // with its records

  // Blocks that continue the one with this key.
  Result<std::vector<IndexedRecord>> children(const BlockKey& parent);
  Result<std::vector<IndexSummary>> summary();

 private:
  struct Close {
    void operator()(sqlite3* db) const;
  };
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;
  class Bound;

  DiskIndex(std::string path, sqlite3* db);
  Status prepare();
  Status error(const char* what) const;
  Status run(const char* sql);
  Status in_transaction(const std::function<Status()>& work);
  Status remove_segment_rows(int64_t id);
  Result<int64_t> identity_id(const CacheIdentity& identity);

  std::string path_;
  std::unique_ptr<sqlite3, Close> db_;
  Statement find_, add_, remove_, segments_, add_segment_, set_scanned_, remove_segment_,
      remove_records_, add_identity_, identity_, children_, summary_;
};

}  // namespace cachalot::cache
