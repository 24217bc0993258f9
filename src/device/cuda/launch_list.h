// Launches that have been put off, and run together: as a graph when the same kernels have run in
// the same order before.
//
// Graphs  a list is known by its kernels, their blocks, shared memory and edges. The first time it
//         runs launch by launch; the second time it is captured; from then on the graph is run,
//         after the nodes whose grids or arguments differ have got the new ones. So any host number
//         may change from step to step, and no caller names what does.
// Threads one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "device/cuda/handles.h"

namespace cachalot::device::cuda {

// More dynamic shared memory has to be asked for: with a kernel's static one, of at most 16 KiB, it
// may be over the 48 KiB that every kernel has.
inline constexpr int64_t kSmemWithoutAsking = 32 << 10;

class LaunchList {
 public:
  struct Launch {
    const void* kernel;
    dim3 grid;
    int block;
    int64_t smem_bytes;
    bool is_programmatic;  // its edge (launch.cuh)
  };
  struct Param {
    const void* value;
    size_t num_bytes;
  };

  // when_full: runs this list. Called where more launches would keep the device waiting: soon where
  // it has nothing else to do, as after a list that was not full, and later from list to list.
  explicit LaunchList(std::function<void()> when_full) : when_full_(std::move(when_full)) {}
  LaunchList(const LaunchList&) = delete;
  LaunchList& operator=(const LaunchList&) = delete;

  void add(const Launch& launch, std::span<const Param> params);
  // Submits all that were added, and forgets them.
  void run(const Stream& stream);

  int64_t num_runs() const { return num_runs_; }
  int64_t num_replays() const { return num_replays_; }  // of num_runs()
  int64_t num_updates() const { return num_updates_; }  // nodes of graphs that were replayed

 private:
  struct Record {
    Launch launch;
    size_t first_param;  // of Launches::params
    size_t num_params;
    size_t begin, end;  // of Launches::bytes
  };
  // Launches with copies of their arguments.
  struct Launches {
    std::vector<Record> records;
    std::vector<size_t> params;  // where each begins in bytes
    std::vector<std::byte> bytes;

    bool has_kernels_of(const Launches& other) const;
    bool has_arguments_of(const Launches& other, size_t i) const;
  };
  struct Known {
    uint64_t hash;
    int64_t last_run;
    Launches launches;       // as the graph has them; empty before the capture
    GraphTemplate captured;  // owns the nodes
    std::vector<cudaGraphNode_t> nodes;
    Graph graph;
  };

  uint64_t hash() const;
  void forget_oldest();
  void** arguments(const Record& record);
  static void allow_smem(const Launch& launch);
  void launch(const Stream& stream, const Record& record);
  void capture(const Stream& stream, Known& known);
  void update(Known& known);

  static constexpr size_t kFirstLimit = 16;
  std::function<void()> when_full_;
  size_t limit_ = kFirstLimit;  // of launches
  Launches launches_;
  std::vector<void*> arguments_;
  std::vector<Known> known_;
  int64_t num_runs_ = 0;
  int64_t num_replays_ = 0;
  int64_t num_updates_ = 0;
};

// Hands one to the device now. arguments: where the kernel's parameters lie.
void launch_kernel(const Stream& stream, const LaunchList::Launch& launch, void** arguments);

}  // namespace cachalot::device::cuda
