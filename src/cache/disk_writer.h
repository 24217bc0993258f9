// The disk tier with a thread of its own that writes: who stores a block goes on at once.
//
// Order   records reach the store as they were pushed. Where one cannot be written, those that wait
//         behind it go too: they would be of no use without it.
// Bound   at most max_queued_bytes wait; push() waits for room.
// End     what has been pushed is written before the destructor returns.
// Threads one owner. The store is used by the owner and the writer in turn: store() holds it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "cache/disk_store.h"

namespace cachalot::cache {

class DiskWriter {
 public:
  // The store, while this object lives.
  class Access {
   public:
    Access(std::mutex& mutex, DiskStore& store) : lock_(mutex), store_(store) {}
    DiskStore* operator->() const { return &store_; }

   private:
    std::unique_lock<std::mutex> lock_;
    DiskStore& store_;
  };
  struct Written {
    BlockKey key;
    RecordKind kind = RecordKind::block;
    int64_t segment = -1;  // -1: it is not written
    Status status;         // of the write that failed
  };

  DiskWriter(std::unique_ptr<DiskStore> store, int64_t max_queued_bytes);
  ~DiskWriter();
  DiskWriter(const DiskWriter&) = delete;
  DiskWriter& operator=(const DiskWriter&) = delete;

  Access store() { return {store_mutex_, *store_}; }
  // These do not wait for a write.
  int64_t num_damaged() const { return store_->num_damaged(); }
  int64_t num_written_bytes() const { return store_->num_written_bytes(); }
  // Takes a copy of the payload.
  void push(RecordHeader header, std::span<const std::byte> payload);
  // What has come of the records since the last call.
  std::vector<Written> take_written();
  // Returns when no record of the key waits; or none at all. Not while store() is held.
  void wait_for(const BlockKey& key);
  void wait_for_all();

 private:
  struct Record {
    RecordHeader header;
    std::vector<std::byte> payload;
  };
  void work(const std::stop_token& stop);

  std::mutex store_mutex_;
  std::unique_ptr<DiskStore> store_;
  int64_t max_queued_bytes_;

  std::mutex mutex_;  // of those below
  std::condition_variable_any changed_;
  std::deque<Record> queue_;  // the first one is being written
  int64_t queued_bytes_ = 0;
  std::vector<Written> written_;

  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace cachalot::cache
