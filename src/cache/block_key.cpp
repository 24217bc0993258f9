#include "cache/block_key.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <array>
#include <cstring>

#include "base/sha256.h"

namespace cachalot::cache {

std::string to_string(const BlockKey& key) {
  return fmt::format("{:016x}{:016x}", key.high, key.low);
}

BlockKey root_key(const CacheIdentity& identity, std::string_view salt) {
  const std::array<uint64_t, 4> numbers = {identity.fingerprint, identity.layout_hash,
                                           identity.weights_version,
                                           static_cast<uint64_t>(identity.position_base)};
  // A client chooses its salt: one that meets another's chain must not be easy to find.
  const std::string secret = salt.empty() ? std::string() : sha256_hex(salt);
  std::string bytes(sizeof(numbers), '\0');
  std::memcpy(bytes.data(), numbers.data(), sizeof(numbers));
  bytes += secret;
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

BlockKey next_key(const BlockKey& parent, std::span<const int32_t> block_tokens) {
  // The parent as the seed of one half and the text of the other would mix worse than this.
  const XXH128_hash_t tokens =
      XXH3_128bits_withSeed(block_tokens.data(), block_tokens.size_bytes(), parent.low);
  const std::array<uint64_t, 4> numbers = {parent.low, parent.high, tokens.low64, tokens.high64};
  const XXH128_hash_t hash = XXH3_128bits(numbers.data(), sizeof(numbers));
  return {hash.low64, hash.high64};
}

}  // namespace cachalot::cache
