// Reference-counted memory items of one size, carved from slabs that are allocated as they are
// first needed, up to a limit. An item keeps its address for its life, and its number (id) names
// it. Freed items are reused as they are, uncleared. One reference of an item may be
// that of a keeper, who gives it up when others need the room. Threads: one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/buffer.h"

namespace cachalot::cache {

class SlabPool {
 public:
  // what: the items' name in messages, as in "KV blocks". item_bytes >= 0, 0 <= max_items < 2^31,
  // slab_items >= 1.
  // gpu: whose memory the items are; null: the host's. is_pinned: the host's in any case, from
  // which copies to the GPU are fast.
  SlabPool(std::string what, int64_t item_bytes, int64_t max_items, int64_t slab_items,
           device::Gpu* gpu = nullptr, bool is_pinned = false);

  // Appends n ids, each with one reference. resource_exhausted names needed, free and limit and
  // leaves everything as it was.
  Status allocate(int64_t n, std::vector<int32_t>& ids);
  void add_reference(int32_t id);
  void release(int32_t id);  // frees the item with its last reference; never allocates
  int32_t num_references(int32_t id) const { return num_references_[id]; }
  // One of the references is the keeper's, or is so no more.
  void set_kept(int32_t id, bool is_kept);
  bool is_kept(int32_t id) const { return is_kept_[id] != 0; }
  int64_t num_idle() const { return num_idle_; }  // kept, and nobody else has a reference

  std::byte* data(int32_t id) {
    return slabs_[id / slab_items_].data() + id % slab_items_ * item_bytes_;
  }

  device::Gpu* gpu() const { return gpu_; }
  int64_t item_bytes() const { return item_bytes_; }
  int64_t max_items() const { return max_items_; }
  int64_t num_used() const { return num_used_; }
  int64_t num_free() const { return max_items_ - num_used_; }
  int64_t reserved_bytes() const;

 private:
  Status grow();

  std::string what_;
  int64_t item_bytes_;
  int64_t max_items_;
  int64_t slab_items_;
  device::Gpu* gpu_;
  bool is_pinned_;
  int64_t num_used_ = 0;
  std::vector<device::Buffer> slabs_;
  int64_t num_idle_ = 0;
  std::vector<int32_t> num_references_;  // one per item in the slabs
  std::vector<uint8_t> is_kept_;         // likewise
  std::vector<int32_t> free_ids_;        // has room for every item
};

}  // namespace cachalot::cache
