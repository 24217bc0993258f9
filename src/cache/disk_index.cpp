#include "cache/disk_index.h"

#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace cachalot::cache {
namespace {

constexpr int kSchema = 1;  // user_version
constexpr int kBusyMilliseconds = 500;

constexpr char kTables[] = R"(
CREATE TABLE segments(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, scanned INTEGER NOT NULL);
CREATE TABLE identities(id INTEGER PRIMARY KEY, fingerprint INTEGER NOT NULL, layout INTEGER NOT NULL,
  weights_version INTEGER NOT NULL, position_base INTEGER NOT NULL,
  UNIQUE(fingerprint, layout, weights_version, position_base));
CREATE TABLE records(key BLOB NOT NULL, kind INTEGER NOT NULL, parent BLOB NOT NULL, identity INTEGER NOT NULL,
  first_position INTEGER NOT NULL, payload INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
  bytes INTEGER NOT NULL, PRIMARY KEY(key, kind)) WITHOUT ROWID;
CREATE INDEX records_of_segment ON records(segment);
CREATE INDEX records_of_parent ON records(parent);
)";

BlockKey read_key(sqlite3_stmt* row, int column) {
  BlockKey key;
  if (sqlite3_column_bytes(row, column) == sizeof(key))
    std::memcpy(&key, sqlite3_column_blob(row, column), sizeof(key));
  return key;
}

StatusCode code_of(int result) {
  // Another process has put a new index in its place.
  if (result == SQLITE_READONLY_DBMOVED) return StatusCode::data_loss;
  switch (result & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return StatusCode::data_loss;
    case SQLITE_FULL: return StatusCode::resource_exhausted;
    default: return StatusCode::io_error;
  }
}

}  // namespace

// A statement with its arguments, reset in the end.
class DiskIndex::Bound {
 public:
  explicit Bound(const Statement& statement) : statement_(statement.get()) {}
  ~Bound() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;

  Bound& with(int64_t value) {
    sqlite3_bind_int64(statement_, next_++, value);
    return *this;
  }
  Bound& with(const BlockKey& key) {
    sqlite3_bind_blob(statement_, next_++, &key, sizeof(key), SQLITE_TRANSIENT);
    return *this;
  }
  Bound& with(const std::string& text) {
    sqlite3_bind_text(statement_, next_++, text.data(), static_cast<int>(text.size()),
                      SQLITE_TRANSIENT);
    return *this;
  }
  Bound& with(const CacheIdentity& identity) {
    return with(static_cast<int64_t>(identity.fingerprint))
        .with(static_cast<int64_t>(identity.layout_hash))
        .with(static_cast<int64_t>(identity.weights_version))
        .with(identity.position_base);
  }
  int step() { return sqlite3_step(statement_); }
  int64_t number(int column) const { return sqlite3_column_int64(statement_, column); }
  BlockKey key(int column) const { return read_key(statement_, column); }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? "" : bytes;
  }
  CacheIdentity identity(int column) const {
    return {static_cast<uint64_t>(number(column)), static_cast<uint64_t>(number(column + 1)),
            static_cast<uint64_t>(number(column + 2)), number(column + 3)};
  }

 private:
  sqlite3_stmt* statement_;
  int next_ = 1;
};

void DiskIndex::Close::operator()(sqlite3* db) const { sqlite3_close_v2(db); }
void DiskIndex::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

DiskIndex::DiskIndex(std::string path, sqlite3* db) : path_(std::move(path)), db_(db) {}
DiskIndex::DiskIndex(DiskIndex&&) noexcept = default;
DiskIndex& DiskIndex::operator=(DiskIndex&& other) noexcept {
  std::swap(path_, other.path_);
  // Statements go before their connection, which is the other's to close.
  for (auto member :
       {&DiskIndex::find_, &DiskIndex::add_, &DiskIndex::remove_, &DiskIndex::segments_,
        &DiskIndex::add_segment_, &DiskIndex::set_scanned_, &DiskIndex::remove_segment_,
        &DiskIndex::remove_records_, &DiskIndex::add_identity_, &DiskIndex::identity_,
        &DiskIndex::children_, &DiskIndex::summary_}) {
    std::swap(this->*member, other.*member);
  }
  std::swap(db_, other.db_);
  return *this;
}
DiskIndex::~DiskIndex() = default;

Status DiskIndex::error(const char* what) const {
  const int result = sqlite3_extended_errcode(db_.get());
  return {code_of(result), fmt::format("{}: {}: {}", path_, what, sqlite3_errmsg(db_.get()))};
}

Status DiskIndex::run(const char* sql) {
  if (sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return error("index");
}

Status DiskIndex::in_transaction(const std::function<Status()>& work) {
  CACHALOT_RETURN_IF_ERROR(run("BEGIN IMMEDIATE"));
  Status status = work();
  if (status.ok()) status = run("COMMIT");
  if (!status.ok()) (void)run("ROLLBACK");
  return status;
}

void DiskIndex::remove(const std::string& path) {
  for (const char* ending : {"", "-wal", "-shm"}) ::unlink((path + ending).c_str());
}

Result<DiskIndex> DiskIndex::open(const std::string& path) {
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(
      path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  DiskIndex index(path, db);
  if (db == nullptr) return resource_exhausted(path + ": index: out of memory");
  if (opened != SQLITE_OK) return index.error("open");
  sqlite3_extended_result_codes(db, 1);
  sqlite3_busy_timeout(db, kBusyMilliseconds);
  CACHALOT_RETURN_IF_ERROR(index.run("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"));
  CACHALOT_RETURN_IF_ERROR(index.prepare());
  return index;
}

Status DiskIndex::prepare() {
  const auto version = [&]() -> Result<int64_t> {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v2(db_.get(), "PRAGMA user_version", -1, &statement, nullptr) != SQLITE_OK)
      return error("version");
    const Statement owner(statement);
    if (sqlite3_step(statement) != SQLITE_ROW) return error("version");
    return sqlite3_column_int64(statement, 0);
  };
  CACHALOT_ASSIGN_OR_RETURN(int64_t found, version());
  if (found == 0) {
    // Whoever gets the lock makes the tables; the others find them.
    CACHALOT_RETURN_IF_ERROR(in_transaction([&]() -> Status {
      CACHALOT_ASSIGN_OR_RETURN(found, version());
      if (found != 0) return {};
      CACHALOT_RETURN_IF_ERROR(run(kTables));
      return run(fmt::format("PRAGMA user_version={}", kSchema).c_str());
    }));
    CACHALOT_ASSIGN_OR_RETURN(found, version());
  }
  if (found != kSchema) {
    return data_loss(
        fmt::format("{}: index version: expected {}, found {}", path_, kSchema, found));
  }
  const std::pair<Statement DiskIndex::*, const char*> statements[] = {
      {&DiskIndex::find_, "SELECT segment, offset, bytes FROM records WHERE key=? AND kind=?"},
      {&DiskIndex::add_, "INSERT OR IGNORE INTO records VALUES(?,?,?,?,?,?,?,?,?)"},
      {&DiskIndex::remove_,
       "DELETE FROM records WHERE key=? AND kind=? AND segment=? AND offset=?"},
      {&DiskIndex::segments_, "SELECT id, name, scanned FROM segments"},
      {&DiskIndex::add_segment_, "INSERT INTO segments(name, scanned) VALUES(?,0)"},
      {&DiskIndex::set_scanned_,
       "UPDATE segments SET scanned=?1 WHERE id=?2 AND scanned<?1 AND max(scanned, 64)>=?3"},
      {&DiskIndex::remove_segment_, "DELETE FROM segments WHERE id=?"},
      {&DiskIndex::remove_records_, "DELETE FROM records WHERE segment=?"},
      {&DiskIndex::add_identity_,
       "INSERT OR IGNORE INTO identities(fingerprint, layout, weights_version, position_base) "
       "VALUES(?,?,?,?)"},
      {&DiskIndex::identity_,
       "SELECT id FROM identities WHERE fingerprint=? AND layout=? AND weights_version=? AND "
       "position_base=?"},
      {&DiskIndex::children_,
       "SELECT key, kind, parent, first_position, payload, segment, offset, bytes, fingerprint, "
       "layout, weights_version, position_base FROM records JOIN identities ON "
       "records.identity=identities.id WHERE parent=? AND kind=1 LIMIT 1000"},
      {&DiskIndex::summary_,
       "SELECT fingerprint, layout, weights_version, position_base, sum(kind=1), sum(kind=2), "
       "sum(bytes) FROM records JOIN identities ON records.identity=identities.id GROUP BY "
       "identities.id ORDER BY sum(bytes) DESC"},
  };
  for (const auto& [member, sql] : statements) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(db_.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
        SQLITE_OK) {
      const Status failed = error("statement");
      const bool lacks_table = sqlite3_errcode(db_.get()) == SQLITE_ERROR;
      return lacks_table ? data_loss(failed.message()) : failed;
    }
    (this->*member).reset(statement);
  }
  return {};
}

Result<std::optional<RecordPlace>> DiskIndex::find(const BlockKey& key, RecordKind kind) {
  Bound query(find_);
  const int result = query.with(key).with(static_cast<int64_t>(kind)).step();
  if (result == SQLITE_DONE) return std::optional<RecordPlace>();
  if (result != SQLITE_ROW) return error("find");
  return std::optional<RecordPlace>({query.number(0), query.number(1), query.number(2)});
}

Result<int64_t> DiskIndex::identity_id(const CacheIdentity& identity) {
  if (Bound add(add_identity_); add.with(identity).step() != SQLITE_DONE)
    return error("add identity");
  Bound query(identity_);
  if (query.with(identity).step() != SQLITE_ROW) return error("identity");
  return query.number(0);
}

Status DiskIndex::add(std::span<const IndexedRecord> records, int64_t segment, int64_t from,
                      int64_t to) {
  return in_transaction([&]() -> Status {
    for (const IndexedRecord& record : records) {
      const RecordHeader& header = record.header;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t identity, identity_id(header.identity));
      Bound add(add_);
      add.with(header.key).with(static_cast<int64_t>(header.kind)).with(header.parent);
      add.with(identity).with(header.first_position).with(header.payload_bytes);
      add.with(segment).with(record.place.offset).with(record.place.num_bytes);
      if (add.step() != SQLITE_DONE) return error("add");
    }
    Bound set(set_scanned_);
    return set.with(to).with(segment).with(from).step() == SQLITE_DONE ? Status()
                                                                       : error("scanned");
  });
}

Status DiskIndex::remove(const BlockKey& key, RecordKind kind, const RecordPlace& place) {
  Bound remove(remove_);
  remove.with(key).with(static_cast<int64_t>(kind)).with(place.segment).with(place.offset);
  return remove.step() == SQLITE_DONE ? Status() : error("remove");
}

Result<std::vector<IndexedSegment>> DiskIndex::segments() {
  std::vector<IndexedSegment> found;
  Bound query(segments_);
  int result;
  while ((result = query.step()) == SQLITE_ROW)
    found.push_back({query.number(0), query.text(1), query.number(2)});
  if (result != SQLITE_DONE) return error("segments");
  return found;
}

Result<int64_t> DiskIndex::add_segment(const std::string& name) {
  Bound add(add_segment_);
  if (add.with(name).step() != SQLITE_DONE) return error("add segment");
  return sqlite3_last_insert_rowid(db_.get());
}

Status DiskIndex::remove_segment(int64_t id) {
  return in_transaction([&] { return remove_segment_rows(id); });
}

Status DiskIndex::remove_segment_rows(int64_t id) {
  if (Bound records(remove_records_); records.with(id).step() != SQLITE_DONE)
    return error("remove records");
  Bound segment(remove_segment_);
  return segment.with(id).step() == SQLITE_DONE ? Status() : error("remove segment");
}

Status DiskIndex::set_segments(const std::vector<std::string>& names) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexedSegment> found, segments());
  return in_transaction([&]() -> Status {
    std::vector<std::string> known;
    for (const IndexedSegment& segment : found) {
      if (std::binary_search(names.begin(), names.end(), segment.name)) {
        known.push_back(segment.name);
      } else {
        CACHALOT_RETURN_IF_ERROR(remove_segment_rows(segment.id));
      }
    }
    std::sort(known.begin(), known.end());
    for (const std::string& name : names) {
      if (std::binary_search(known.begin(), known.end(), name)) continue;
      CACHALOT_RETURN_IF_ERROR(add_segment(name).error());
    }
    return {};
  });
}

Result<std::vector<IndexedRecord>> DiskIndex::children(const BlockKey& parent) {
  std::vector<IndexedRecord> found;
  Bound query(children_);
  query.with(parent);
  int result;
  while ((result = query.step()) == SQLITE_ROW) {
    IndexedRecord record;
    record.header.key = query.key(0);
    record.header.kind = static_cast<RecordKind>(query.number(1));
    record.header.parent = query.key(2);
    record.header.first_position = query.number(3);
    record.header.payload_bytes = query.number(4);
    record.place = {query.number(5), query.number(6), query.number(7)};
    record.header.identity = query.identity(8);
    found.push_back(std::move(record));
  }
  if (result != SQLITE_DONE) return error("children");
  return found;
}

Result<std::vector<IndexSummary>> DiskIndex::summary() {
  std::vector<IndexSummary> found;
  Bound query(summary_);
  int result;
  while ((result = query.step()) == SQLITE_ROW)
    found.push_back({query.identity(0), query.number(4), query.number(5), query.number(6)});
  if (result != SQLITE_DONE) return error("summary");
  return found;
}

}  // namespace cachalot::cache
