#include "cache/disk_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <iterator>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "base/usable_cores.h"

namespace cachalot::cache {
namespace {

constexpr std::string_view kPrefix = "seg-", kEnding = ".kv";
// A new index has a new number: SQLite removes its log by name, and whoever has an older one open
// must not meet the new one's.
constexpr std::string_view kIndexPrefix = "index-", kIndexEnding = ".sqlite";
constexpr int64_t kMinSegment = int64_t{1} << 20, kMaxSegment = int64_t{1} << 30;
constexpr int64_t kSegmentsOfBound = 64;
constexpr int64_t kRecordsOfFind = 1024;  // that find() indexes at most
constexpr int64_t kRecordsAtOnce = 256;   // of a transaction
constexpr int64_t kMarkSeconds = 60;
constexpr size_t kMaxReaders = 32;    // files open at a time
constexpr int kMaxReadThreads = 15;   // beside the caller's
constexpr size_t kReadsOfThread = 4;  // a thread for fewer is not worth its start
constexpr std::chrono::milliseconds kLockPause{2};
// A start can wait; a step that stores a block cannot.
constexpr std::chrono::milliseconds kLockAtStart{5000}, kLockInStep{100};

bool is_segment_name(const std::string& name) {
  return name.starts_with(kPrefix) && name.ends_with(kEnding);
}

std::string new_segment_name() {
  uint64_t number = 0;
  while (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
  }
  return fmt::format("{}{:016x}{}", kPrefix, number, kEnding);
}

int64_t seconds_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string index_path(const std::string& directory, int64_t number) {
  return fmt::format("{}/{}{}{}", directory, kIndexPrefix, number, kIndexEnding);
}

// The highest number of an index there is; 1 where there is none.
Result<int64_t> newest_index(const std::string& directory) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory));
  int64_t newest = 1;
  for (const std::string& name : names) {
    if (!name.starts_with(kIndexPrefix) || !name.ends_with(kIndexEnding)) continue;
    int64_t number = 0;
    std::from_chars(name.data() + kIndexPrefix.size(), name.data() + name.size(), number);
    newest = std::max(newest, number);
  }
  return newest;
}

// Held by who changes which segments there are; it ends with its process.
Result<Fd> lock_directory(const std::string& path, std::chrono::milliseconds patience) {
  Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.get() < 0) return io_error(fmt::format("{}: open: {}", path, std::strerror(errno)));
  for (std::chrono::milliseconds waited{0}; waited <= patience; waited += kLockPause) {
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    std::this_thread::sleep_for(kLockPause);
  }
  return resource_exhausted(path + ": another process holds the lock");
}

}  // namespace

DiskStore::DiskStore(const DiskStoreOptions& options, DiskIndex index, int64_t index_number)
    : options_(options), index_(std::move(index)), index_number_(index_number) {
  if (options_.segment_bytes == 0) {
    options_.segment_bytes =
        std::clamp(options_.max_bytes / kSegmentsOfBound, kMinSegment, kMaxSegment);
  }
}

Result<std::unique_ptr<DiskStore>> DiskStore::open(const DiskStoreOptions& options) {
  if (options.max_bytes < 0 || options.segment_bytes < 0) {
    return invalid_argument(fmt::format("{}: bytes: expected 0 or more, found {} in segments of {}",
                                        options.directory, options.max_bytes,
                                        options.segment_bytes));
  }
  CACHALOT_RETURN_IF_ERROR(create_directories(options.directory));
  CACHALOT_ASSIGN_OR_RETURN(const Fd lock,
                            lock_directory(options.directory + "/lock", kLockAtStart));
  CACHALOT_ASSIGN_OR_RETURN(int64_t number, newest_index(options.directory));
  Result<DiskIndex> index = DiskIndex::open(cache::index_path(options.directory, number));
  if (!index && index.error().code() == StatusCode::data_loss) {
    log_warning(index.error().message() + "; the index is made anew");
    DiskIndex::remove(cache::index_path(options.directory, number++));
    index = DiskIndex::open(cache::index_path(options.directory, number));
  }
  if (!index) return index.error();
  std::unique_ptr<DiskStore> store(new DiskStore(options, *std::move(index), number));
  Status listed = store->list_segments();
  if (listed.code() == StatusCode::data_loss) listed = store->renew_index_locked();
  CACHALOT_RETURN_IF_ERROR(listed);
  return store;
}

std::string DiskStore::index_path() const {
  return cache::index_path(options_.directory, index_number_);
}

namespace {
const Status& status_of(const Status& status) { return status; }
template <typename T>
const Status& status_of(const Result<T>& result) {
  return result.error();
}
}  // namespace

template <typename Fn>
auto DiskStore::with_index(Fn&& fn) -> decltype(fn()) {
  auto result = fn();
  if (status_of(result).code() != StatusCode::data_loss) return result;
  CACHALOT_RETURN_IF_ERROR(renew_index());
  return fn();
}

Status DiskStore::renew_index() {
  CACHALOT_ASSIGN_OR_RETURN(const Fd lock, lock_directory(path_of("lock"), kLockInStep));
  return renew_index_locked();
}

Status DiskStore::renew_index_locked() {
  CACHALOT_ASSIGN_OR_RETURN(int64_t number, newest_index(options_.directory));
  if (number <= index_number_) {  // else another process has been faster
    log_warning(index_path() + ": damaged; the index is made anew");
    DiskIndex::remove(index_path());
    number = index_number_ + 1;
  }
  CACHALOT_ASSIGN_OR_RETURN(index_, DiskIndex::open(cache::index_path(options_.directory, number)));
  index_number_ = number;
  writer_.reset();  // its segment has another number now, or none
  readers_.clear();
  return list_segments();
}

Status DiskStore::list_segments() {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            list_directory(options_.directory));
  std::vector<std::string> there;
  std::copy_if(names.begin(), names.end(), std::back_inserter(there), is_segment_name);
  CACHALOT_RETURN_IF_ERROR(index_.set_segments(there));
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexedSegment> indexed, index_.segments());
  names_.clear();
  pending_.clear();
  for (const IndexedSegment& segment : indexed) {
    names_.emplace(segment.id, segment.name);
    struct stat info {};
    if (::stat(path_of(segment.name).c_str(), &info) == 0 && info.st_size > segment.scanned)
      pending_.push_back({segment.id, segment.name, segment.scanned});
  }
  return {};
}

Status DiskStore::recover(int64_t max_records) {
  while (!pending_.empty() && max_records > 0) {
    IndexedSegment& segment = pending_.back();
    // A live writer indexes its own.
    Result<SegmentReader> file = is_being_written(path_of(segment.name))
                                     ? Result<SegmentReader>(not_found("in use"))
                                     : SegmentReader::open(path_of(segment.name));
    if (!file) {
      pending_.pop_back();
      continue;
    }
    std::vector<IndexedRecord> records;
    const Result<ScanEnd> end =
        scan_segment(*file, segment.scanned, std::min(max_records, kRecordsAtOnce),
                     [&](RecordHeader header, RecordPlace place) {
                       records.push_back({std::move(header), place});
                     });
    if (!end) {
      log_warning(end.error().message());
      pending_.pop_back();
      continue;
    }
    const Status added = index_.add(records, segment.id, segment.scanned, end->offset);
    // Another index has all segments before it again.
    if (added.code() == StatusCode::data_loss) return renew_index();
    CACHALOT_RETURN_IF_ERROR(added);
    max_records -= std::max<int64_t>(1, static_cast<int64_t>(records.size()));
    segment.scanned = end->offset;
    if (end->offset >= file->size()) pending_.pop_back();
  }
  return {};
}

std::optional<RecordPlace> DiskStore::find(const BlockKey& key, RecordKind kind) {
  for (bool is_last = false;; is_last = true) {
    const Result<std::optional<RecordPlace>> place =
        with_index([&] { return index_.find(key, kind); });
    if (place && place->has_value()) return *place;
    if (is_last || pending_.empty()) return std::nullopt;
    if (!recover(kRecordsOfFind).ok()) return std::nullopt;
  }
}

Result<const SegmentReader*> DiskStore::reader_of(int64_t segment) {
  if (const auto open = readers_.find(segment); open != readers_.end()) return &open->second;
  if (!names_.contains(segment)) {  // another process has made it
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexedSegment> indexed, index_.segments());
    for (const IndexedSegment& other : indexed) names_.emplace(other.id, other.name);
    if (!names_.contains(segment)) return not_found("segment");
  }
  CACHALOT_ASSIGN_OR_RETURN(SegmentReader reader, SegmentReader::open(path_of(names_.at(segment))));
  if (readers_.size() >= kMaxReaders) readers_.clear();
  return &readers_.emplace(segment, std::move(reader)).first->second;
}

bool DiskStore::settle(const RecordHeader& expected, const RecordPlace& place,
                       const Status& status) {
  if (status.ok()) {
    mark_used(place.segment);
    return true;
  }
  if (status.code() == StatusCode::data_loss) {
    ++num_damaged_;
    log_warning(fmt::format("{}: {}", options_.directory, status.message()));
  }
  if (status.code() == StatusCode::data_loss || status.code() == StatusCode::not_found)
    (void)with_index([&] { return index_.remove(expected.key, expected.kind, place); });
  return false;
}

bool DiskStore::read(const RecordHeader& expected, const RecordPlace& place,
                     std::span<std::byte> payload) {
  ReadRequest request{expected, place, payload};
  read_all({&request, 1});
  return request.is_read;
}

void DiskStore::read_all(std::span<ReadRequest> requests) {
  // As many as are open at a time; records of one prompt lie in few segments.
  std::vector<const SegmentReader*> files;
  std::vector<Status> results(requests.size());
  for (size_t first = 0; first < requests.size(); first += files.size()) {
    files.clear();
    readers_.clear();  // a file may have grown since it was opened
    for (size_t i = first; i < requests.size(); ++i) {
      const int64_t segment = requests[i].place.segment;
      if (!readers_.contains(segment) && readers_.size() + 1 >= kMaxReaders) break;
      const Result<const SegmentReader*> file = reader_of(segment);
      results[i] = file.error();
      files.push_back(file ? *file : nullptr);
    }
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t i; (i = next.fetch_add(1)) < files.size();) {
        const ReadRequest& request = requests[first + i];
        if (files[i] == nullptr) continue;
        results[first + i] =
            read_record(*files[i], request.place.offset, request.expected, request.payload);
      }
    };
    std::vector<std::jthread> threads;
    static const int cores = usable_cores();
    const auto most = static_cast<size_t>(std::clamp(cores - 1, 3, kMaxReadThreads));
    for (size_t i = 0; i < std::min(most, files.size() / kReadsOfThread); ++i)
      threads.emplace_back(work);
    if (!threads.empty()) {
      for (size_t i = 0; i < files.size(); ++i) {
        const RecordPlace& place = requests[first + i].place;
        if (files[i] != nullptr) files[i]->read_ahead(place.offset, place.num_bytes);
      }
    }
    work();
  }
  for (size_t i = 0; i < requests.size(); ++i)
    requests[i].is_read = settle(requests[i].expected, requests[i].place, results[i]);
}

void DiskStore::mark_used(int64_t segment) {
  const auto name = names_.find(segment);
  if (name == names_.end()) return;
  const int64_t now = seconds_now();
  const auto marked = marked_.find(segment);
  if (marked != marked_.end() && now - marked->second < kMarkSeconds) return;
  marked_[segment] = now;
  ::utimensat(AT_FDCWD, path_of(name->second).c_str(), nullptr, 0);
}

Result<std::vector<DiskSegment>> DiskStore::segments() const {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            list_directory(options_.directory));
  std::vector<DiskSegment> found;
  for (const std::string& name : names) {
    struct stat info {};
    if (!is_segment_name(name) || ::stat(path_of(name).c_str(), &info) != 0) continue;
    const bool is_written = is_being_written(path_of(name));
    found.push_back(
        {name, is_written ? std::max<int64_t>(info.st_size, options_.segment_bytes) : info.st_size,
         info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec, is_written});
  }
  return found;
}

Result<int64_t> DiskStore::remove_until(int64_t max_bytes) {
  CACHALOT_ASSIGN_OR_RETURN(std::vector<DiskSegment> found, segments());
  std::sort(found.begin(), found.end(),
            [](const DiskSegment& a, const DiskSegment& b) { return a.used < b.used; });
  std::unordered_map<std::string, int64_t> ids;
  if (const Result<std::vector<IndexedSegment>> indexed = index_.segments(); indexed) {
    for (const IndexedSegment& segment : *indexed) ids.emplace(segment.name, segment.id);
  }
  int64_t total = 0, removed = 0;
  for (const DiskSegment& segment : found) total += segment.num_bytes;
  for (const DiskSegment& segment : found) {
    if (total <= max_bytes) break;
    if (segment.is_written || ::unlink(path_of(segment.name).c_str()) != 0) continue;
    total -= segment.num_bytes;
    removed += segment.num_bytes;
    if (const auto id = ids.find(segment.name); id != ids.end()) {
      (void)index_.remove_segment(id->second);  // a row that stays costs a miss
      names_.erase(id->second);
    }
  }
  if (total > max_bytes) {
    return resource_exhausted(
        fmt::format("{}: expected at most {} bytes beside those that are being written, found {}",
                    options_.directory, max_bytes, total));
  }
  return removed;
}

Status DiskStore::start_segment(int64_t num_bytes) {
  writer_.reset();
  const int64_t needed = std::max(num_bytes, options_.segment_bytes);
  if (needed > options_.max_bytes) {
    return resource_exhausted(fmt::format("{}: expected at most {} bytes, found {}",
                                          options_.directory, options_.max_bytes, needed));
  }
  CACHALOT_ASSIGN_OR_RETURN(const Fd lock, lock_directory(path_of("lock"), kLockInStep));
  CACHALOT_RETURN_IF_ERROR(remove_until(options_.max_bytes - needed).error());
  const std::string name = new_segment_name();
  CACHALOT_ASSIGN_OR_RETURN(SegmentWriter writer, SegmentWriter::create(path_of(name)));
  const Result<int64_t> id = index_.add_segment(name);
  if (!id) {
    ::unlink(path_of(name).c_str());
    return id.error();
  }
  writer_ = std::move(writer);
  writer_segment_ = *id;
  names_.emplace(*id, name);
  return {};
}

Result<RecordPlace> DiskStore::write(const RecordHeader& header,
                                     std::span<const std::byte> payload) {
  if (const std::optional<RecordPlace> there = find(header.key, header.kind)) return *there;
  const int64_t num_bytes = record_bytes(header);
  const bool has_room =
      writer_ && !writer_->is_broken() && writer_->size() + num_bytes <= options_.segment_bytes;
  if (!has_room) CACHALOT_RETURN_IF_ERROR(start_segment(kSegmentHeadBytes + num_bytes));
  CACHALOT_ASSIGN_OR_RETURN(RecordPlace place, writer_->append(header, payload));
  place.segment = writer_segment_;
  num_written_bytes_ += num_bytes;
  const IndexedRecord record{header, place};
  // Without a row it is found when the segment is scanned, at a start after this process.
  const Status added = index_.add({&record, 1}, writer_segment_, place.offset, writer_->size());
  if (added.code() == StatusCode::data_loss) CACHALOT_RETURN_IF_ERROR(renew_index());
  return place;
}

Result<std::vector<IndexSummary>> DiskStore::summary() {
  return with_index([&] { return index_.summary(); });
}

Result<std::vector<IndexedRecord>> DiskStore::children(const BlockKey& parent) {
  return with_index([&] { return index_.children(parent); });
}

Result<RecordHeader> DiskStore::read_header(const RecordPlace& place) {
  CACHALOT_ASSIGN_OR_RETURN(const SegmentReader* file, reader_of(place.segment));
  return read_record_header(*file, place.offset);
}

Result<DiskCheck> DiskStore::check() {
  DiskCheck report;
  while (is_recovering()) CACHALOT_RETURN_IF_ERROR(recover(kRecordsOfFind));
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexedSegment> indexed, index_.segments());
  for (const IndexedSegment& segment : indexed) {
    const Result<SegmentReader> file = SegmentReader::open(path_of(segment.name));
    if (!file) {
      report.damages.push_back(file.error().message());
      continue;
    }
    std::vector<IndexedRecord> records;
    const Result<ScanEnd> end =
        scan_segment(*file, 0, file->size(), [&](RecordHeader header, RecordPlace place) {
          place.segment = segment.id;
          records.push_back({std::move(header), place});
        });
    if (!end) return end.error();
    if (end->num_damaged > 0 && !is_being_written(path_of(segment.name))) {
      report.damages.push_back(
          fmt::format("{}: {} places without a record", segment.name, end->num_damaged));
    }
    std::vector<std::byte> payload;
    for (const IndexedRecord& record : records) {
      payload.resize(static_cast<size_t>(record.header.payload_bytes));
      const Status sound = read_record(*file, record.place.offset, record.header, payload);
      if (sound.ok()) {
        ++report.num_records;
        report.num_bytes += record.place.num_bytes;
        continue;
      }
      report.damages.push_back(segment.name + ": " + sound.message());
      CACHALOT_RETURN_IF_ERROR(index_.remove(record.header.key, record.header.kind, record.place));
    }
  }
  return report;
}

Result<int64_t> DiskStore::prune(int64_t max_bytes) {
  CACHALOT_ASSIGN_OR_RETURN(const Fd lock, lock_directory(path_of("lock"), kLockAtStart));
  return remove_until(max_bytes);
}

}  // namespace cachalot::cache
