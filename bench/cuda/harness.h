// Timing of kernels on the GPU: calls captured in one graph over buffers that differ from call to
// call, the L2 cache flushed before each replay; and the limit that they are compared with,
// measured
// in the same run.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "device/cuda/device.h"
#include "device/cuda/memory.h"

namespace cachalot::bench {

namespace cuda = device::cuda;

class Harness {
 public:
  explicit Harness(const cuda::Device& device);

  const cuda::Device& device() const { return device_; }
  const cuda::Stream& stream() const { return stream_; }
  double read_gb_per_s() const { return read_gb_per_s_; }

  cuda::DeviceBuffer room(int64_t num_bytes);
  template <typename T>
  cuda::DeviceBuffer put(const std::vector<T>& values) {
    cuda::DeviceBuffer buffer = room(static_cast<int64_t>(values.size() * sizeof(T)));
    cuda::copy_to_device(stream_, buffer.data(), values.data(), buffer.size());
    stream_.synchronize();
    return buffer;
  }
  template <typename T>
  std::vector<T> get(const cuda::DeviceBuffer& buffer) {
    std::vector<T> values(static_cast<size_t>(buffer.size()) / sizeof(T));
    cuda::copy_to_host(stream_, values.data(), buffer.data(), buffer.size());
    stream_.synchronize();
    return values;
  }
  // `copies` times the bytes, one after the other.
  cuda::DeviceBuffer repeat(const std::vector<std::byte>& bytes, int64_t copies);

  // Median of the replays of a graph of calls 0 .. num_calls - 1, in microseconds a call.
  double time(int num_calls, const std::function<void(int)>& call);
  // One line of the table. floor_bytes: what must be read. error: of the check, printed; a line
  // whose error is above `bound` is marked and makes the program fail.
  void report(const std::string& kernel, const std::string& shape, double us, double bytes,
              double error, double bound);
  bool all_checked() const { return all_checked_; }

 private:
  void flush();

  cuda::Device device_;
  cuda::Stream stream_;
  cuda::DeviceBuffer flush_;
  cuda::DeviceBuffer sink_;
  double read_gb_per_s_ = 0;
  bool all_checked_ = true;
};

void bench_dense(Harness& harness);
void bench_bf16(Harness& harness);
void bench_experts(Harness& harness);
void bench_boundary(Harness& harness);
void bench_index(Harness& harness);
void bench_index_prefill(Harness& harness);
void bench_attention(Harness& harness);

}  // namespace cachalot::bench
