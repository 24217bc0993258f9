// Ids by the hashes of what they stand for, which lies elsewhere.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cachalot::grammar {

class IdTable {
 public:
  // The id of that hash for which is_same holds; -1 if there is none.
  template <typename IsSame>
  int32_t find(uint64_t hash, const IsSame& is_same) const {
    for (size_t slot = place(hash); slots_[slot].id >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      if (slots_[slot].hash == hash && is_same(slots_[slot].id)) return slots_[slot].id;
    }
    return -1;
  }
  void add(uint64_t hash, int32_t id) {
    reserve(++size_);
    put({hash, id});
  }
  size_t size() const { return size_; }
  void reserve(size_t size) {
    if (2 * size <= slots_.size()) return;
    std::vector<Slot> before(std::bit_ceil(2 * size));
    before.swap(slots_);
    for (const Slot& slot : before) {
      if (slot.id >= 0) put(slot);
    }
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    int32_t id = -1;
  };

  size_t place(uint64_t hash) const {
    return (hash * 0x9E3779B97F4A7C15u) >> (64 - std::countr_zero(slots_.size()));
  }
  void put(const Slot& entry) {
    size_t slot = place(entry.hash);
    while (slots_[slot].id >= 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = entry;
  }

  std::vector<Slot> slots_ = std::vector<Slot>(16);
  size_t size_ = 0;
};

}  // namespace cachalot::grammar
