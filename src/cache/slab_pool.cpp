#include "cache/slab_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace cachalot::cache {

SlabPool::SlabPool(std::string what, int64_t item_bytes, int64_t max_items, int64_t slab_items,
                   device::Gpu* gpu, bool is_pinned)
    : what_(std::move(what)),
      item_bytes_(item_bytes),
      max_items_(max_items),
      slab_items_(std::clamp<int64_t>(slab_items, 1, std::max<int64_t>(max_items, 1))),
      gpu_(gpu),
      is_pinned_(is_pinned) {
  CACHALOT_CHECK(item_bytes >= 0 && max_items >= 0 &&
                 max_items <= std::numeric_limits<int32_t>::max());
}

Status SlabPool::grow() {
  const int64_t num_items = static_cast<int64_t>(num_references_.size());
  const int64_t added = std::min(slab_items_, max_items_ - num_items);
  const int64_t num_bytes = added * item_bytes_;
  CACHALOT_ASSIGN_OR_RETURN(device::Buffer slab,
                            is_pinned_ ? device::Buffer::create_pinned(num_bytes, gpu_)
                                       : device::Buffer::create(num_bytes, gpu_));
  slabs_.push_back(std::move(slab));
  num_references_.resize(static_cast<size_t>(num_items + added), 0);
  is_kept_.resize(num_references_.size(), 0);
  free_ids_.reserve(num_references_.size());
  // Highest first: ids are handed out from the back, so a fresh slab is used in address order.
  for (int64_t id = num_items + added - 1; id >= num_items; --id)
    free_ids_.push_back(static_cast<int32_t>(id));
  return {};
}

Status SlabPool::allocate(int64_t n, std::vector<int32_t>& ids) {
  if (n > num_free()) {
    return resource_exhausted(
        fmt::format("{}: needed {}, free {} of {}", what_, n, num_free(), max_items_));
  }
  while (static_cast<int64_t>(free_ids_.size()) < n) CACHALOT_RETURN_IF_ERROR(grow());
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = free_ids_.back();
    free_ids_.pop_back();
    num_references_[id] = 1;
    ids.push_back(id);
  }
  num_used_ += n;
  return {};
}

void SlabPool::add_reference(int32_t id) {
  CACHALOT_CHECK(num_references_[id] > 0);
  if (++num_references_[id] == 2) num_idle_ -= is_kept_[id];
}

void SlabPool::set_kept(int32_t id, bool is_kept) {
  CACHALOT_CHECK(num_references_[id] > 0 && this->is_kept(id) != is_kept);
  is_kept_[id] = is_kept ? 1 : 0;
  if (num_references_[id] == 1) num_idle_ += is_kept ? 1 : -1;
}

void SlabPool::release(int32_t id) {
  CACHALOT_CHECK(num_references_[id] > 1 || (num_references_[id] == 1 && !is_kept(id)));
  if (--num_references_[id] == 1) num_idle_ += is_kept_[id];
  if (num_references_[id] > 0) return;
  free_ids_.push_back(id);
  --num_used_;
}

int64_t SlabPool::reserved_bytes() const {
  int64_t total = 0;
  for (const device::Buffer& slab : slabs_) total += slab.size();
  return total;
}

}  // namespace cachalot::cache
