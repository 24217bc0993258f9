#include "model/weights_hash.h"

#include <xxhash.h>

#include <algorithm>
#include <vector>

namespace cachalot::model {

void WeightsHash::add(ThreadPool& pool, std::string_view name, std::span<const std::byte> bytes) {
  constexpr size_t kChunk = size_t{1} << 18;  // stays in a core's cache for the packing after it
  const size_t num_chunks = (bytes.size() + kChunk - 1) / kChunk;
  // What came before, the name, the size, then a hash of each chunk.
  std::vector<uint64_t> words(3 + num_chunks);
  words[0] = value_;
  words[1] = XXH3_64bits(name.data(), name.size());
  words[2] = bytes.size();
  pool.run(static_cast<int64_t>(num_chunks), [&](int64_t chunk, int) {
    const size_t begin = static_cast<size_t>(chunk) * kChunk;
    words[3 + static_cast<size_t>(chunk)] =
        XXH3_64bits(bytes.data() + begin, std::min(kChunk, bytes.size() - begin));
  });
  value_ = XXH3_64bits(words.data(), words.size() * sizeof(uint64_t));
}

}  // namespace cachalot::model
