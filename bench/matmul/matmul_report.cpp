#include <fmt/format.h>

#include "matmul/matmul_bench.h"

namespace cachalot::bench {

std::string MatmulReport::to_text() const {
  std::string out = fmt::format("instruction set: {}\n", isa);
  for (const MatmulLimits& l : limits) {
    out += fmt::format(
        "limits, {} thread(s): f32 {:.1f} GFLOP/s, bf16 {:.1f} GFLOP/s, reading memory {:.1f} "
        "GB/s\n",
        l.num_threads, l.f32_flops / 1e9, l.bf16_flops / 1e9, l.bytes_per_s / 1e9);
  }
  out += fmt::format(
      "{:>7} {:>17} {:>4} {:>7} {:>5} {:<13} {:>9} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8} {:>6}\n",
      "threads", "m x n x k", "op", "weights", "math", "by", "median ms", "min ms", "GFLOP/s",
      "GB/s", "Gweight/s", "of peak", "of read", "ratio");
  for (const MatmulTiming& t : timings) {
    out += fmt::format(
        "{:>7} {:>17} {:>4} {:>7} {:>5} {:<13} {:>9.3f} {:>9.3f} {:>9.1f} {:>7.1f} {:>8.1f} "
        "{:>7.1f}% "
        "{:>7.1f}% {}\n",
        t.num_threads, fmt::format("{}x{}x{}", t.m, t.n, t.k), t.op, t.weights, t.math,
        t.implementation, t.median_s * 1e3, t.min_s * 1e3, t.flops() / t.median_s / 1e9,
        t.bytes / t.median_s / 1e9, static_cast<double>(t.n * t.k) / t.median_s / 1e9,
        t.compute_share * 100, t.memory_share * 100,
        t.yardstick_ratio > 0 ? fmt::format("{:>6.3f}", t.yardstick_ratio) : "");
  }
  return out;
}

std::string MatmulReport::to_json() const {
  std::string out = fmt::format("{{\"isa\": \"{}\", \"limits\": [", isa);
  for (size_t i = 0; i < limits.size(); ++i) {
    const MatmulLimits& l = limits[i];
    out += fmt::format(
        "{}{{\"threads\": {}, \"f32_flops\": {:.6g}, \"bf16_flops\": {:.6g}, \"read_bytes_per_s\": "
        "{:.6g}}}",
        i == 0 ? "" : ", ", l.num_threads, l.f32_flops, l.bf16_flops, l.bytes_per_s);
  }
  out += "], \"timings\": [";
  for (size_t i = 0; i < timings.size(); ++i) {
    const MatmulTiming& t = timings[i];
    out += fmt::format(
        "{}\n  {{\"by\": \"{}\", \"op\": \"{}\", \"weights\": \"{}\", \"math\": \"{}\", "
        "\"threads\": {}, \"m\": "
        "{}, \"n\": {}, \"k\": {}, "
        "\"runs\": {}, \"median_s\": {:.6g}, \"min_s\": {:.6g}, \"bytes\": {:.6g}, \"flops\": "
        "{:.6g}, "
        "\"share_of_compute_peak\": {:.4f}, \"share_of_read_bandwidth\": {:.4f}, "
        "\"yardstick_ratio\": {}}}",
        i == 0 ? "" : ",", t.implementation, t.op, t.weights, t.math, t.num_threads, t.m, t.n, t.k,
        t.num_runs, t.median_s, t.min_s, t.bytes, t.flops(), t.compute_share, t.memory_share,
        t.yardstick_ratio > 0 ? fmt::format("{:.4f}", t.yardstick_ratio) : "null");
  }
  out += "\n]}\n";
  return out;
}

}  // namespace cachalot::bench
