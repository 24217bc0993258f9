// Names of whole blocks by content: a chain of hashes, so that a block's key stands for all tokens
// up to its end and for whose rows they are.
// Source  reference/infrastructure 8.2, O5.
// Numerics XXH3-128. It is no proof against someone who looks for collisions: whoever finds a block
//         by its key compares its tokens and its parent as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace cachalot::cache {

struct BlockKey {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const BlockKey&) const = default;
};
std::string to_string(const BlockKey& key);  // 32 digits

struct BlockKeyHash {
  size_t operator()(const BlockKey& key) const { return static_cast<size_t>(key.low); }
};

// Whose rows: any difference here is another chain.
struct CacheIdentity {
  uint64_t fingerprint = 0;  // CacheLayout's: weights, configuration and precision
  uint64_t layout_hash = 0;  // CacheLayout's: where a row lies in a block
  uint64_t weights_version = 0;
  int64_t position_base = 0;  // of the first token
  bool operator==(const CacheIdentity&) const = default;
};

// A salt makes another chain, which only those find who give the same one; none is empty.
BlockKey root_key(const CacheIdentity& identity, std::string_view salt = {});
BlockKey next_key(const BlockKey& parent, std::span<const int32_t> block_tokens);

}  // namespace cachalot::cache
