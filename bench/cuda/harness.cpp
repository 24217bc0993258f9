#include "cuda/harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "cuda/read_stream.h"
#include "device/cuda/error.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kFlushBytes = int64_t{400} << 20;
constexpr int kReplays = 9;

}  // namespace

Harness::Harness(const cuda::Device& device)
    : device_(device), stream_(cuda::Stream::create()), flush_(room(kFlushBytes)), sink_(room(4)) {
  const int64_t bytes = int64_t{2} << 30;
  const cuda::DeviceBuffer large = room(bytes);
  const double us =
      time(2, [&](int) { read_stream(stream_, large.data(), bytes, sink_.as<uint32_t>()); });
  read_gb_per_s_ = static_cast<double>(bytes) / us / 1e3;
  std::printf("limit: read-only stream of 2 GiB, %.0f GB/s; %d SMs\n", read_gb_per_s_,
              device_.num_sms);
  std::printf("%-34s %-26s %9s %9s %7s %6s  %s\n", "kernel", "shape", "us", "MB", "GB/s", "share",
              "check");
}

cuda::DeviceBuffer Harness::room(int64_t num_bytes) {
  Result<cuda::DeviceBuffer> buffer = cuda::DeviceBuffer::create(stream_, num_bytes);
  CACHALOT_CHECK_MSG(buffer.has_value(), buffer.error().message());
  cuda::fill(stream_, (*buffer).data(), 1, num_bytes);
  return *std::move(buffer);
}

cuda::DeviceBuffer Harness::repeat(const std::vector<std::byte>& bytes, int64_t copies) {
  const auto size = static_cast<int64_t>(bytes.size());
  cuda::DeviceBuffer buffer = room(size * copies);
  cuda::copy_to_device(stream_, buffer.data(), bytes.data(), size);
  for (int64_t done = 1; done < copies; done *= 2) {
    CACHALOT_CUDA_CHECK(cudaMemcpyAsync(buffer.data() + done * size, buffer.data(),
                                        static_cast<size_t>(std::min(done, copies - done) * size),
                                        cudaMemcpyDeviceToDevice, stream_.get()));
  }
  stream_.synchronize();
  return buffer;
}

void Harness::flush() { read_stream(stream_, flush_.data(), kFlushBytes, sink_.as<uint32_t>()); }

double Harness::time(int num_calls, const std::function<void(int)>& call) {
  const cuda::Graph graph = cuda::Graph::capture(stream_, [&] {
    for (int i = 0; i < num_calls; ++i) call(i);
  });
  const cuda::Event begin = cuda::Event::create(), end = cuda::Event::create();
  std::vector<double> us;
  for (int replay = 0; replay < kReplays + 2; ++replay) {
    if (flush_.size() > 0) flush();
    begin.record(stream_);
    graph.launch(stream_);
    end.record(stream_);
    stream_.synchronize();
    if (replay >= 2) us.push_back(cuda::Event::elapsed_us(begin, end) / num_calls);
  }
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

void Harness::report(const std::string& kernel, const std::string& shape, double us, double bytes,
                     double error, double bound) {
  const double rate = bytes / us / 1e3;
  std::printf("%-34s %-26s %9.2f %9.2f %7.0f %5.0f%%  %s %.1e\n", kernel.c_str(), shape.c_str(), us,
              bytes / 1e6, rate, 100 * rate / read_gb_per_s_, error <= bound ? "ok" : "WRONG",
              error);
  std::fflush(stdout);
  if (!(error <= bound)) all_checked_ = false;
}

}  // namespace cachalot::bench
