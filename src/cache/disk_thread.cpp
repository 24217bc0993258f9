#include "cache/disk_thread.h"

#include <algorithm>
#include <utility>

namespace cachalot::cache {

DiskThread::DiskThread(std::unique_ptr<DiskStore> store, int64_t max_queued_bytes,
                       std::function<void()> on_job)
    : store_(std::move(store)),
      max_queued_bytes_(max_queued_bytes),
      on_job_(std::move(on_job)),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

DiskThread::~DiskThread() { wait_for_all(); }

void DiskThread::push(RecordHeader header, std::span<const std::byte> payload) {
  Item record{std::move(header), {payload.begin(), payload.end()}, {}};
  std::unique_lock lock(mutex_);
  const auto bytes = static_cast<int64_t>(payload.size());
  changed_.wait(lock,
                [&] { return queued_bytes_ == 0 || queued_bytes_ + bytes <= max_queued_bytes_; });
  queued_bytes_ += bytes;
  queue_.push_back(std::move(record));
  changed_.notify_all();
}

int64_t DiskThread::run(Job job) {
  const std::scoped_lock lock(mutex_);
  queue_.push_back({{}, {}, std::move(job)});
  changed_.notify_all();
  return ++num_jobs_;
}

bool DiskThread::is_done(int64_t job) {
  const std::scoped_lock lock(mutex_);
  return num_done_ >= job;
}

void DiskThread::wait_for(int64_t job) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return num_done_ >= job; });
}

std::vector<DiskThread::Written> DiskThread::take_written() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(written_, {});
}

void DiskThread::wait_for_all() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty(); });
}

void DiskThread::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !queue_.empty(); })) {
    if (queue_.front().job) {
      const Job job = std::move(queue_.front().job);
      lock.unlock();
      job(*store_);
      lock.lock();
      queue_.pop_front();
      ++num_done_;
      changed_.notify_all();
      lock.unlock();
      if (on_job_) on_job_();
      lock.lock();
    } else {
      write(lock);
      changed_.notify_all();
    }
  }
}

// The first record.
void DiskThread::write(std::unique_lock<std::mutex>& lock) {
  const Item& record = queue_.front();  // stays where it is while others are pushed
  lock.unlock();
  const Result<RecordPlace> place = store_->write(record.header, record.payload);
  lock.lock();
  if (place) {
    written_.push_back({record.header.key, record.header.kind, place->segment, {}});
    queued_bytes_ -= static_cast<int64_t>(record.payload.size());
    queue_.pop_front();
    return;
  }
  bool is_first = true;
  for (const Item& lost : queue_) {
    if (lost.job) continue;
    written_.push_back({lost.header.key, lost.header.kind, -1,
                        std::exchange(is_first, false) ? place.error() : Status()});
  }
  queued_bytes_ = 0;
  std::erase_if(queue_, [](const Item& item) { return !item.job; });
}

}  // namespace cachalot::cache
