// The table of kernels on the GPU: calls captured in one graph over buffers that differ from call
// to call, the L2 cache flushed before each replay; the limits that they are compared with,
// measured in the same run; and what others' kernels give.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/matrix_rate.h"
#include "tests/cuda/device_arrays.h"

namespace cachalot::bench {

namespace cuda = device::cuda;

// Of one call, in microseconds.
struct Timing {
  double us;       // median of the replays
  double host_us;  // to check the arguments and to put the launches off, without the driver
};

// What the products of a kernel run on.
enum class Cores { none, bf16, e4m3 };

struct Row {
  std::string kernel, shape;
  Timing time;
  double bytes;  // that must be read, and what is written of activations
  double flops;  // of its products, a multiply-add being two
  Cores cores;
  // Of the check before the timing: a row whose error is above its bound is marked and makes the
  // program fail.
  double error, bound;
};

class Harness : public testing::DeviceArrays {
 public:
  Harness(const cuda::Device& device, const MatrixRates& matrix_rates);

  // `copies` times the bytes, one after the other.
  cuda::DeviceBuffer repeat(const std::vector<std::byte>& bytes, int64_t copies);

  // Of a graph of calls 0 .. num_calls - 1, which launch kernels alone.
  Timing time(int num_calls, const std::function<void(int)>& call);
  // Prints the row.
  void report(const Row& row);

  bool all_checked() const { return all_checked_; }
  // All rows as Markdown: the file's section of docs/benchmarks.md.
  std::string markdown() const;

 private:
  void flush();
  double host_us(int num_calls, const std::function<void(int)>& call);
  // Of the greater of the two limits.
  double share(const Row& row) const;

  cuda::DeviceBuffer flush_;
  cuda::DeviceBuffer sink_;
  double read_bytes_per_s_ = 0;
  MatrixRates matrix_rates_;
  bool all_checked_ = true;
  std::vector<Row> rows_;
};

inline std::string tokens_of(int64_t count) {
  return ", " + std::to_string(count) + (count == 1 ? " token" : " tokens");
}

void bench_dense(Harness& harness);
void bench_bf16(Harness& harness);
void bench_experts(Harness& harness);
void bench_boundary(Harness& harness);
void bench_index(Harness& harness);
void bench_index_prefill(Harness& harness);
void bench_attention(Harness& harness);
void bench_order(Harness& harness);

}  // namespace cachalot::bench
