#include "device/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "device/buffer.h"

namespace cachalot::device {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRepeats = 25;  // the best counts: a limit is what nothing disturbs

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double measure_peak(ThreadPool& pool, PeakLoop loop) {
  std::vector<float> sinks(static_cast<size_t>(pool.num_threads()) * 16);
  std::vector<double> done(static_cast<size_t>(pool.num_threads()));
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const auto begin = Clock::now();
    pool.run(pool.num_threads(),
             [&](int64_t task, int) { done[task] = loop(1 << 18, &sinks[task * 16]); });
    best = std::max(best, std::accumulate(done.begin(), done.end(), 0.0) / seconds_since(begin));
  }
  return best;
}

double f32_chain_reference(int64_t steps, float* sink) {
  float acc[8] = {};
  for (int64_t step = 0; step < steps; ++step) {
    for (float& value : acc) value = std::fma(value, 0.5f, 1.25f);
  }
  *sink = std::accumulate(acc, acc + 8, 0.0f);
  return static_cast<double>(steps) * 16;
}

}  // namespace

double measure_f32_peak(ThreadPool& pool, Isa isa) {
  if (isa >= Isa::avx512) return measure_peak(pool, f32_peak_avx512);
  return measure_peak(pool, isa == Isa::avx2 ? f32_peak_avx2 : f32_chain_reference);
}

double measure_bf16_peak(ThreadPool& pool, Isa isa) {
  return isa == Isa::avx512bf16 ? measure_peak(pool, bf16_peak_avx512bf16)
                                : measure_f32_peak(pool, isa);
}

double measure_read_bandwidth(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kLeastPieces = 16, kMostPieceBytes = int64_t{1} << 20;
  constexpr int64_t kLeastBytes = int64_t{16} << 20;  // of a timing
  const int64_t piece_bytes =
      std::clamp(bytes / kLeastPieces / 64 * 64, int64_t{4096}, kMostPieceBytes);
  const int64_t num_pieces = std::max(kLeastPieces, bytes / piece_bytes);
  const int64_t num_passes = (kLeastBytes + bytes - 1) / std::max<int64_t>(bytes, 4096);
  Buffer memory(num_pieces * piece_bytes);
  // Pages that nobody wrote to are all one page of zeros, which lies in the nearest cache.
  std::memset(memory.data(), 1, static_cast<size_t>(memory.size()));
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()) * 8);
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const auto begin = Clock::now();
    pool.run(num_pieces * num_passes, [&](int64_t piece, int worker) {
      const auto* words =
          reinterpret_cast<const uint64_t*>(memory.data() + piece % num_pieces * piece_bytes);
      uint64_t sum[8] = {};
      for (int64_t j = 0; j < piece_bytes / 8; j += 8) {
        for (int64_t lane = 0; lane < 8; ++lane) sum[lane] ^= words[j + lane];
      }
      for (uint64_t lane : sum) sums[worker * 8] ^= lane;
    });
    best = std::max(best, static_cast<double>(memory.size() * num_passes) / seconds_since(begin));
  }
  return best;
}

}  // namespace cachalot::device
