// What the order of sums costs where inputs are cut among blocks (order.h).
#include <cmath>
#include <random>

#include "cuda/harness.h"
#include "cuda/order.h"

namespace cachalot::bench {

void bench_order(Harness& h) {
  constexpr int64_t kColumns = 16384;  // four streams of Flash
  constexpr int kSets = 64;
  std::mt19937 rng(21);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> w(kColumns * kOrderOutputs);
  for (float& value : w) value = 0.02f * uniform(rng);
  std::vector<std::byte> w_bytes(w.size() * sizeof(float));
  std::memcpy(w_bytes.data(), w.data(), w_bytes.size());
  const cuda::DeviceBuffer w_there = h.repeat(w_bytes, kSets);
  for (const int64_t tokens : {1, 8, 64, 512}) {
    std::vector<float> x(static_cast<size_t>(tokens * kColumns));
    for (float& value : x) value = uniform(rng);
    const cuda::DeviceBuffer x_there = h.put(x), y_there = h.room(tokens * kOrderOutputs * 4, 0),
                             partial = h.room(tokens * kOrderBlocks * kOrderOutputs * 4),
                             count = h.room(tokens * 4, 0);
    double expected = 0, size = 0;
    for (int64_t k = 0; k < kColumns; ++k) {
      const double term = double{x[(tokens - 1) * kColumns + k]} * w[k * kOrderOutputs + 5];
      expected += term;
      size += std::fabs(term);
    }
    for (const bool in_order : {true, false}) {
      const auto call = [&](int i) {
        launch_order_product(
            h.stream(),
            {x_there.as<float>(), w_there.as<float>() + i % kSets * kColumns * kOrderOutputs,
             y_there.as<float>(), partial.as<float>(), count.as<uint32_t>(), tokens, kColumns,
             in_order});
      };
      cuda::fill(h.stream(), y_there.data(), 0, y_there.size());
      call(0);
      const float found = h.get<float>(y_there)[(tokens - 1) * kOrderOutputs + 5];
      h.report(
          {in_order ? "mHC product alone, sums in order" : "mHC product alone, sums as they come",
           "Flash" + tokens_of(tokens), h.time(32, call),
           static_cast<double>(w.size() * 4 + x.size() * 4),
           2.0 * kOrderOutputs * static_cast<double>(tokens * kColumns), Cores::none,
           std::fabs(found - expected) / size, 1e-6});
    }
  }
}

}  // namespace cachalot::bench
