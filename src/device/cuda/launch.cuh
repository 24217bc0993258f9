// Launching a kernel: its grid and shared memory, with or without a programmatic edge to the kernel
// before it in the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/error.h"
#include "device/cuda/handles.h"
#include "device/cuda/launch_list.h"

namespace cachalot::device::cuda {

// programmatic: the kernel may start when all blocks of the one before have called
// tile::launch_dependents or ended; it reads that kernel's results after tile::wait_for_producers
// only.
enum class Edge { full, programmatic };

struct LaunchShape {
  dim3 grid;
  int block = 0;
  int64_t smem_bytes = 0;
  Edge edge = Edge::programmatic;
};

template <typename... Params, typename... Args>
void launch(const Stream& stream, const LaunchShape& shape, void (*kernel)(Params...),
            Args... args) {
  [&](const Params&... params) {
    const LaunchList::Launch one{reinterpret_cast<const void*>(kernel), shape.grid, shape.block,
                                 shape.smem_bytes, shape.edge == Edge::programmatic};
    if (LaunchList* list = stream.list()) {
      const LaunchList::Param values[] = {{&params, sizeof(params)}...};
      list->add(one, values);
    } else {
      void* arguments[] = {const_cast<void*>(static_cast<const void*>(&params))...};
      launch_kernel(stream, one, arguments);
    }
  }(static_cast<Params>(args)...);
}

// Once for each kernel that takes more than kSmemWithoutAsking, when its plan is made.
template <typename... Params>
void allow_smem(void (*kernel)(Params...), int64_t smem_bytes) {
  CACHALOT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(smem_bytes)));
}

}  // namespace cachalot::device::cuda
