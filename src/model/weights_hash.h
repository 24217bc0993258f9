// A fingerprint of a model's weights: of every byte that the loader reads, in the loader's order.
// How the checkpoint is cut into files does not count.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/thread_pool.h"

namespace cachalot::model {

class WeightsHash {
 public:
  // The value does not depend on the number of threads.
  void add(ThreadPool& pool, std::string_view name, std::span<const std::byte> bytes);
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

}  // namespace cachalot::model
