// Asks the memory for bytes before they are read. What is far from what was read last, as the next
// block of a cache is, no prefetcher foresees, and each line waits for memory once. A hint: it
// changes no value and fails at no address. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cachalot::tensor {

inline void ask_for(const std::byte* first, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(first + i);
  if (bytes > 0) __builtin_prefetch(first + bytes - 1);
}

}  // namespace cachalot::tensor
