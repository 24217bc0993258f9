// The disk tier with a thread of its own, which alone uses the store: who stores a block goes on at
// once, and so does who looks for one.
//
// Order   records and jobs reach the store as they came. Where a record cannot be written, those
//         that wait behind it go too: they would be of no use without it.
// Bound   records of at most max_queued_bytes wait; push() waits for room.
// End     what has been given is done before the destructor returns.
// Threads one owner.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "cache/disk_store.h"

namespace cachalot::cache {

class DiskThread {
 public:
  using Job = std::function<void(DiskStore&)>;
  struct Written {
    BlockKey key;
    RecordKind kind = RecordKind::block;
    int64_t segment = -1;  // -1: it is not written
    Status status;         // of the write that failed
  };

  // on_job, which may be empty, is called on the thread behind every job.
  DiskThread(std::unique_ptr<DiskStore> store, int64_t max_queued_bytes,
             std::function<void()> on_job = {});
  ~DiskThread();
  DiskThread(const DiskThread&) = delete;
  DiskThread& operator=(const DiskThread&) = delete;

  // These do not wait for the thread.
  int64_t num_damaged() const { return store_->num_damaged(); }
  int64_t num_written_bytes() const { return store_->num_written_bytes(); }
  // Takes a copy of the payload.
  void push(RecordHeader header, std::span<const std::byte> payload);
  // The job's number, above 0. What it has written is seen by who finds it done.
  int64_t run(Job job);
  bool is_done(int64_t job);
  void wait_for(int64_t job);
  // What has come of the records since the last call.
  std::vector<Written> take_written();
  void wait_for_all();

 private:
  struct Item {
    RecordHeader header;
    std::vector<std::byte> payload;
    Job job;  // in place of a record
  };
  void work(const std::stop_token& stop);
  void write(std::unique_lock<std::mutex>& lock);

  std::unique_ptr<DiskStore> store_;
  int64_t max_queued_bytes_;
  std::function<void()> on_job_;

  std::mutex mutex_;  // of those below
  std::condition_variable_any changed_;
  std::deque<Item> queue_;  // the first one is being done
  int64_t queued_bytes_ = 0;
  int64_t num_jobs_ = 0, num_done_ = 0;
  std::vector<Written> written_;

  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace cachalot::cache
