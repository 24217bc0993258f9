// What an op runs on: threads, instruction set and scratch, or a GPU. Borrowed, never owned.
// Concurrent calls need distinct contexts.
#pragma once

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/gpu.h"
#include "device/isa.h"
#include "device/work.h"

namespace cachalot::device {

struct ExecContext {
  ThreadPool* pool;
  Arena* arena;  // of the GPU's memory where there is one: the host does not touch it
  Isa isa;
  Gpu* gpu = nullptr;    // null: ops run on the CPU
  Work* work = nullptr;  // null: nobody counts

  // Host memory of the step, for what kernels read by its twin or the host reads alone.
  template <typename T>
  T* table(int64_t count) const {
    return gpu == nullptr ? arena->allocate<T>(count) : gpu->table<T>(count);
  }
};

}  // namespace cachalot::device
