// A fixed set of threads that runs indexed tasks. Workers spin briefly, then sleep on a futex; with
// more threads than usable cores they sleep at once, since who spins keeps who works from running.
//
// What a task computes may not depend on which worker runs it, nor on how many there are: kernels
// cut their work by shape alone, so a result has the same bits for any thread count. A worker
// begins with its own share of the tasks, neighbours in order, and then helps with the others':
// ops that cut the same rows one after another find them in their core's cache. A run is over when
// its tasks are: a worker that has not woken up by then, its core being taken, is not waited for.
// Threads: one owner calls run(); run() may not be nested. The caller works too, as worker 0.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace cachalot {

class ThreadPool {
 public:
  // num_threads >= 1 counts the caller; 0 asks for CACHALOT_THREADS or, where that is
  // unset, one per usable core (usable_cores.h).
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls fn(task_idx, worker_idx) once for each task_idx in [0, num_tasks), num_tasks < 2^31;
  // returns when all are done.
  template <typename Fn>
  void run(int64_t num_tasks, Fn&& fn) {
    if (num_tasks <= 0) return;
    using F = std::remove_reference_t<Fn>;
    run_erased(num_tasks, const_cast<void*>(static_cast<const void*>(std::addressof(fn))),
               [](void* f, int64_t task, int worker) { (*static_cast<F*>(f))(task, worker); });
  }

 private:
  struct Workers;  // <thread> stays out of this header: half of the sources include it
  using Invoke = void (*)(void*, int64_t, int);
  void run_erased(int64_t num_tasks, void* fn, Invoke invoke);
  void work(int worker_idx);
  void drain(int worker_idx);
  int64_t share_begin(int worker_idx) const {
    return int64_t{num_tasks_} * worker_idx / num_threads_;
  }
  bool has_tasks_left() const;

  int num_threads_ = 1;
  int num_spins_ = 0;
  // Of the run that is on. Read only by who holds one of its tasks, and so before it is over.
  void* fn_ = nullptr;
  Invoke invoke_ = nullptr;
  int32_t num_tasks_ = 0;
  struct alignas(64) Share {
    std::atomic<int32_t> left{0};  // not handed out
  };
  std::unique_ptr<Share[]> shares_;              // by worker
  alignas(64) std::atomic<int32_t> pending_{0};  // not done
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::unique_ptr<Workers> workers_;  // last: they end before what they use
};

}  // namespace cachalot
