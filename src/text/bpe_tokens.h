// The base tokens: their bytes by id, and ids by bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe_pairs.h"

namespace cachalot::text {

inline constexpr uint32_t kNoToken = UINT32_MAX;

class TokenTable {
 public:
  explicit TokenTable(size_t num_tokens = 0)
      : slots_(table_slots(num_tokens)), filter_(table_slots(num_tokens) * 4 / 64) {}

  // Ids in order; empty where no token has the id.
  void append(std::string_view bytes);
  // Makes the token of this id one that find() returns, and longest_prefix() too if `part`. Not
  // empty; once per bytes.
  void enter(uint32_t id, bool part);

  uint32_t num_ids() const { return static_cast<uint32_t>(offsets_.size()) - 1; }
  std::string_view bytes(uint32_t id) const {
    return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }
  uint32_t length(uint32_t id) const { return offsets_[id + 1] - offsets_[id]; }

  // The token of exactly these bytes, or kNoToken.
  uint32_t find(std::string_view bytes) const;
  // The longest entered `part` that `text` begins with, or kNoToken.
  uint32_t longest_prefix(std::string_view text) const;

 private:
  // Tokens from this length on share one bit of lengths_.
  static constexpr size_t kLong = 63;

  struct Slot {
    uint64_t key = 0;     // the bytes themselves up to 8 of them, else a hash
    uint32_t length = 0;  // 0 = free
    uint32_t id : 31 = 0;
    uint32_t part : 1 = 0;
  };
  uint32_t find_slot(uint64_t key, uint64_t hash, std::string_view bytes) const;
  uint32_t find_part(std::string_view bytes) const;

  std::string bytes_;  // all tokens one after another, by id
  std::vector<uint32_t> offsets_ = {0};
  std::vector<Slot> slots_;  // open addressing
  // For longest_prefix, small enough to stay in the second-level cache: which lengths parts have by
  // a hash of their first three bytes, and one bit per hash of a part, so that most lengths that do
  // not match are dismissed without the table.
  std::array<uint64_t, 4096> lengths_{};
  std::vector<uint64_t> filter_;
  size_t longest_ = 0;
};

}  // namespace cachalot::text
