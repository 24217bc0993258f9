// The matrix products beside the machine's limits and another library, all measured in one run:
// docs/kernels/matmul.md.
#pragma once

#include <string>
#include <vector>

#include "device/isa.h"
#include "matmul/yardstick.h"

namespace cachalot::bench {

struct MatmulBenchOptions {
  device::Isa isa = device::machine_isa();
  std::vector<int> num_threads = {1, 2};
  std::vector<int64_t> squares = {1024, 2048, 4096};
  std::vector<int64_t> rows = {1, 4, 16, 64};  // times 4096 x 4096 weights too large for the caches
  std::vector<int64_t> gradient_rows = {64, 2048};  // gradients of x and of 1024 x 1024 weights
  double seconds_per_case = 1.0;
  // processor time over threads instead of wall time: for a machine that others use too
  bool cpu_clock = false;
  Yardstick* yardstick = nullptr;
};

struct MatmulTiming {
  std::string implementation;  // "cachalot" or the yardstick's name
  std::string op;       // "y"; gradients "dx", "dw"; "pack": W and its transpose from floats, m = 0
  std::string weights;  // "f32", "bf16", "fp8", "fp4"
  std::string math;
  int num_threads;
  int64_t m, n, k;
  int num_runs;
  double median_s, min_s;
  double bytes;            // of weights, x and y
  double compute_share;    // of the measured peak
  double memory_share;     // of the measured read bandwidth
  double yardstick_ratio;  // its median over ours; 0 where it has no such product

  double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};

struct MatmulLimits {
  int num_threads;
  double f32_flops, bf16_flops, bytes_per_s;
};

struct MatmulReport {
  std::string isa;
  std::vector<MatmulLimits> limits;
  std::vector<MatmulTiming> timings;

  std::string to_text() const;
  std::string to_json() const;
};

MatmulReport run_matmul_bench(const MatmulBenchOptions& options);

}  // namespace cachalot::bench
