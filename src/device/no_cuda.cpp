// The GPU of a build without CUDA.
#include "device/gpu.h"

namespace cachalot::device {

Result<std::unique_ptr<Gpu>> Gpu::open(int) {
  return unsupported("device cuda: expected a build with CUDA, found one without");
}

}  // namespace cachalot::device
