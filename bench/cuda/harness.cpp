#include "cuda/harness.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>

#include "apps/commit.h"
#include "base/check.h"
#include "cuda/bars.h"
#include "cuda/read_stream.h"
#include "device/cuda/error.h"
#include "device/cuda/launch_list.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kFlushBytes = int64_t{400} << 20;
constexpr int kReplays = 9;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

Harness::Harness(const cuda::Device& device, const MatrixRates& matrix_rates)
    : matrix_rates_(matrix_rates) {
  open(device);
  flush_ = room(kFlushBytes);
  sink_ = room(4);
  const int64_t bytes = int64_t{2} << 30;
  const cuda::DeviceBuffer large = room(bytes);
  const double us =
      time(2, [&](int) { read_stream(stream_, large.data(), bytes, sink_.as<uint32_t>()); }).us;
  read_bytes_per_s_ = static_cast<double>(bytes) / us * 1e6;
  std::printf("%-28s %-42s %9s %7s %9s %9s %6s  %s\n", "kernel", "shape", "us", "host us", "MB",
              "GFLOP", "share", "check");
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

Timing Harness::time(int num_calls, const std::function<void(int)>& call) {
  const cuda::Graph graph = cuda::Graph::capture(stream_, [&] {
    for (int i = 0; i < num_calls; ++i) call(i);
  });
  const cuda::Event begin = cuda::Event::create(), end = cuda::Event::create();
  std::vector<double> us;
  for (int replay = 0; replay < kReplays + 2; ++replay) {
    flush();
    begin.record(stream_);
    graph.launch(stream_);
    end.record(stream_);
    stream_.synchronize();
    if (replay >= 2) us.push_back(cuda::Event::elapsed_us(begin, end) / num_calls);
  }
  return {median(std::move(us)), host_us(num_calls, call)};
}

// Many calls in a row, whose code is at hand; the list has room from its second run on: as in the
// steps of an engine.
double Harness::host_us(int num_calls, const std::function<void(int)>& call) {
  constexpr int kCalls = 24;
  const int all_calls = std::max(num_calls, kCalls);
  cuda::LaunchList list([] {});
  std::vector<double> us;
  for (int run = 0; run < (num_calls < kCalls ? 5 : kReplays); ++run) {
    stream_.put_off(&list);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < all_calls; ++i) call(i % num_calls);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    list.run(stream_);
    stream_.put_off(nullptr);
    stream_.synchronize();
    if (run >= 2) us.push_back(taken.count() * 1e6 / all_calls);
  }
  return median(std::move(us));
}

double Harness::share(const Row& row) const {
  double limit_s = row.bytes / read_bytes_per_s_;
  if (row.cores != Cores::none) {
    const double rate = row.cores == Cores::bf16 ? matrix_rates_.bf16 : matrix_rates_.e4m3;
    limit_s = std::max(limit_s, row.flops / rate);
  }
  return limit_s / row.time.us * 1e6;
}

void Harness::report(const Row& row) {
  const bool holds = row.error <= row.bound;
  std::printf("%-28s %-42s %9.2f %7.2f %9.2f %9.2f %5.1f%%  %s %.1e\n", row.kernel.c_str(),
              row.shape.c_str(), row.time.us, row.time.host_us, row.bytes / 1e6, row.flops / 1e9,
              100 * share(row), holds ? "ok" : "WRONG", row.error);
  std::fflush(stdout);
  if (!holds) all_checked_ = false;
  rows_.push_back(row);
}

std::string Harness::markdown() const {
  std::string text = fmt::format(
      "Commit {}, {:%Y-%m-%d}; limits of the run: {:.0f} GB/s read, {:.0f} TFLOP/s in bf16, {:.0f} "
      "in e4m3.\n\n"
      "| kernel | shape | us | MB | GFLOP | share of the limit | published, us | bar, us | host us "
      "| error |\n|---|---|---|---|---|---|---|---|---|---|\n",
      apps::kCommit, fmt::localtime(std::time(nullptr)), read_bytes_per_s_ / 1e9,
      matrix_rates_.bf16 / 1e12, matrix_rates_.e4m3 / 1e12);
  for (const Row& row : rows_) {
    const Bar bar = bar_of(row.kernel, row.shape);
    text += fmt::format(
        "| {} | {} | {:.1f} | {:.1f} | {:.2f} | {:.1f} % | {} | {} | {:.2f} | {:.0e} |\n",
        row.kernel, row.shape, row.time.us, row.bytes / 1e6, row.flops / 1e9, 100 * share(row),
        bar.published, bar.bar, row.time.host_us, row.error);
  }
  return text;
}

}  // namespace cachalot::bench
