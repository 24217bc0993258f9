#include "cuda/read_rate.h"

#include <algorithm>

#include "cuda/read_stream.h"
#include "device/cuda/device.h"
#include "device/cuda/memory.h"

namespace cachalot::bench {

namespace cuda = device::cuda;

Result<double> gpu_read_rate(int ordinal) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  constexpr int kRuns = 5;
  CACHALOT_ASSIGN_OR_RETURN([[maybe_unused]] const cuda::Device device, cuda::open_device(ordinal));
  const cuda::Stream stream = cuda::Stream::create();
  CACHALOT_ASSIGN_OR_RETURN(const cuda::DeviceBuffer large,
                            cuda::DeviceBuffer::create(stream, kBytes));
  CACHALOT_ASSIGN_OR_RETURN(const cuda::DeviceBuffer sink, cuda::DeviceBuffer::create(stream, 4));
  cuda::fill(stream, large.data(), 1, kBytes);
  double best_us = 0;
  for (int run = 0; run < kRuns; ++run) {
    const cuda::Event begin = cuda::Event::create(), end = cuda::Event::create();
    begin.record(stream);
    read_stream(stream, large.data(), kBytes, sink.as<uint32_t>());
    end.record(stream);
    stream.synchronize();
    const double us = cuda::Event::elapsed_us(begin, end);
    best_us = run == 0 ? us : std::min(best_us, us);
  }
  return static_cast<double>(kBytes) / best_us * 1e6;
}

}  // namespace cachalot::bench
