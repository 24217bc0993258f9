#include "cache/disk_writer.h"

#include <algorithm>
#include <utility>

namespace cachalot::cache {

DiskWriter::DiskWriter(std::unique_ptr<DiskStore> store, int64_t max_queued_bytes)
    : store_(std::move(store)),
      max_queued_bytes_(max_queued_bytes),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

DiskWriter::~DiskWriter() { wait_for_all(); }

void DiskWriter::push(RecordHeader header, std::span<const std::byte> payload) {
  Record record{std::move(header), {payload.begin(), payload.end()}};
  std::unique_lock lock(mutex_);
  const auto bytes = static_cast<int64_t>(payload.size());
  changed_.wait(lock, [&] { return queue_.empty() || queued_bytes_ + bytes <= max_queued_bytes_; });
  queued_bytes_ += bytes;
  queue_.push_back(std::move(record));
  changed_.notify_all();
}

std::vector<DiskWriter::Written> DiskWriter::take_written() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(written_, {});
}

void DiskWriter::wait_for(const BlockKey& key) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return std::none_of(queue_.begin(), queue_.end(),
                        [&](const Record& record) { return record.header.key == key; });
  });
}

void DiskWriter::wait_for_all() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty(); });
}

void DiskWriter::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !queue_.empty(); })) {
    const Record& record = queue_.front();  // stays where it is while others are pushed
    lock.unlock();
    const Result<RecordPlace> place = store()->write(record.header, record.payload);
    lock.lock();
    if (place) {
      written_.push_back({record.header.key, record.header.kind, place->segment, {}});
      queued_bytes_ -= static_cast<int64_t>(record.payload.size());
      queue_.pop_front();
    } else {
      for (const Record& lost : queue_)
        written_.push_back({lost.header.key, lost.header.kind, -1,
                            &lost == &queue_.front() ? place.error() : Status()});
      queued_bytes_ = 0;
      queue_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace cachalot::cache
