// Owners of CUDA's handles: one each, move-only, destroyed with their owner.
// Threads: a handle is used by one thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <utility>

namespace cachalot::device::cuda {

// Traits: Handle, and static void destroy(Handle), which may not fail.
template <typename Traits>
class Owner {
 public:
  using Handle = typename Traits::Handle;
  Owner() = default;
  explicit Owner(Handle handle) : handle_(handle) {}
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Owner() { reset(); }
  Handle get() const { return handle_; }

 private:
  void reset() {
    if (handle_ != nullptr) Traits::destroy(std::exchange(handle_, nullptr));
  }
  Handle handle_ = nullptr;
};

struct StreamTraits {
  using Handle = cudaStream_t;
  static void destroy(Handle handle) { cudaStreamDestroy(handle); }
};
struct EventTraits {
  using Handle = cudaEvent_t;
  static void destroy(Handle handle) { cudaEventDestroy(handle); }
};
struct GraphTemplateTraits {
  using Handle = cudaGraph_t;
  static void destroy(Handle handle) { cudaGraphDestroy(handle); }
};
struct GraphTraits {
  using Handle = cudaGraphExec_t;
  static void destroy(Handle handle) { cudaGraphExecDestroy(handle); }
};

class LaunchList;

// What a Graph was made from, by whose nodes its arguments are changed.
using GraphTemplate = Owner<GraphTemplateTraits>;

// Work in the order of submission, beside other streams.
class Stream : public Owner<StreamTraits> {
 public:
  static Stream create();
  void synchronize() const;
  // Launches go to this list from now on (launch_list.h), whose owner runs it; null: to the device.
  void put_off(LaunchList* list) { list_ = list; }
  LaunchList* list() const { return list_; }

 private:
  using Owner::Owner;
  LaunchList* list_ = nullptr;
};

class Event : public Owner<EventTraits> {
 public:
  static Event create();
  void record(const Stream& stream) const;
  void synchronize() const;
  // Of two events that have completed.
  static double elapsed_us(const Event& begin, const Event& end);

 private:
  using Owner::Owner;
};

// A step's launches, recorded once and replayed. Programmatic edges stay what they were recorded
// as.
class Graph : public Owner<GraphTraits> {
 public:
  using Owner::Owner;
  // Records what `work` submits to the stream; nothing of it runs. work may not synchronise.
  static Graph capture(const Stream& stream, const std::function<void()>& work);
  void launch(const Stream& stream) const;
};

}  // namespace cachalot::device::cuda
