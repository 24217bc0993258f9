// Keyed random streams: a value is a pure function of (seed, purpose, index, counter), so batching,
// threads and restarts never change a sample. Generator: Philox 4x32-10 (Salmon et al., "Parallel
// random numbers: as easy as 1, 2, 3").
#pragma once

#include <array>
#include <cstdint>

namespace cachalot {

// What a stream is for; part of the key, so that two uses of one seed never share numbers.
enum class RngPurpose : uint32_t {
  sampling = 1,
  weights = 4,
  data = 5,
};

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class RngStream {
 public:
  RngStream(uint64_t seed, RngPurpose purpose, uint64_t index)
      : seed_(seed), purpose_(purpose), index_(index) {}

  uint32_t next_u32();
  double next_unit();    // uniform in [0, 1), 53 bits
  double next_normal();  // mean 0, variance 1 (Box-Muller, one value a call)

 private:
  uint64_t seed_;
  RngPurpose purpose_;
  uint64_t index_;
  uint32_t counter_ = 0;
  std::array<uint32_t, 4> buffer_{};
  int num_buffered_ = 0;
};

}  // namespace cachalot
