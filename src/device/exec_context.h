// What an op runs on: threads, instruction set and scratch. Borrowed, never owned. Concurrent calls
// need distinct contexts.
#pragma once

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/isa.h"

namespace cachalot::device {

struct ExecContext {
  ThreadPool* pool;
  Arena* arena;
  Isa isa;
};

}  // namespace cachalot::device
