#include "base/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <limits>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/env.h"
#include "base/usable_cores.h"

namespace cachalot {
namespace {
// Longer than the gap between two kernels of a step.
constexpr int kSpins = 20000;

// Between two looks at what is waited for. Another process may have taken the core of the thread
// that is waited for: now and then the scheduler is asked.
void pause_spin(int spin) {
  if (spin % 256 == 255) {
    std::this_thread::yield();
  } else {
    _mm_pause();
  }
}
}  // namespace

struct ThreadPool::Workers {
  std::vector<std::jthread> threads;
};

ThreadPool::ThreadPool(int num_threads) {
  const int num_cores = usable_cores();
  if (num_threads <= 0) num_threads = env_threads();
  if (num_threads <= 0) num_threads = num_cores;
  num_spins_ = num_threads <= num_cores ? kSpins : 0;
  num_threads_ = num_threads;
  shares_ = std::make_unique<Share[]>(static_cast<size_t>(num_threads));
  workers_ = std::make_unique<Workers>();
  workers_->threads.reserve(num_threads - 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    workers_->threads.emplace_back([this, worker] { work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
}

void ThreadPool::run_erased(int64_t num_tasks, void* fn, Invoke invoke) {
  if (num_threads_ == 1 || num_tasks == 1) {
    for (int64_t task = 0; task < num_tasks; ++task) invoke(fn, task, 0);
    return;
  }
  CACHALOT_CHECK(num_tasks <= std::numeric_limits<int32_t>::max());
  fn_ = fn;
  invoke_ = invoke;
  num_tasks_ = static_cast<int32_t>(num_tasks);
  pending_.store(num_tasks_, std::memory_order_relaxed);
  for (int worker = 0; worker < num_threads_; ++worker) {
    const int64_t count = share_begin(worker + 1) - share_begin(worker);
    shares_[worker].left.store(static_cast<int32_t>(count), std::memory_order_release);
  }
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_one();
  drain(0);
  for (int spin = 0;; ++spin) {
    const int32_t pending = pending_.load(std::memory_order_acquire);
    if (pending == 0) return;
    if (spin < num_spins_) {
      pause_spin(spin);
    } else {
      pending_.wait(pending, std::memory_order_acquire);
    }
  }
}

// Whoever lowers what is left of a share from above 0 holds a task of the run that stored it, and
// so may read that run's fields: it is not over before this worker has said what it did. It says so
// once a share, since all workers write where they say it.
void ThreadPool::drain(int worker_idx) {
  for (int i = 0; i < num_threads_; ++i) {
    int32_t num_done = 0;
    const int owner = (worker_idx + i) % num_threads_;
    std::atomic<int32_t>& share = shares_[owner].left;
    while (share.load(std::memory_order_relaxed) > 0) {
      const int32_t left = share.fetch_sub(1, std::memory_order_acquire);
      if (left <= 0) break;
      invoke_(fn_, share_begin(owner + 1) - left, worker_idx);
      ++num_done;
    }
    if (num_done > 0 && pending_.fetch_sub(num_done, std::memory_order_acq_rel) == num_done)
      pending_.notify_one();
  }
}

bool ThreadPool::has_tasks_left() const {
  return std::any_of(shares_.get(), shares_.get() + num_threads_, [](const Share& share) {
    return share.left.load(std::memory_order_relaxed) > 0;
  });
}

void ThreadPool::work(int worker_idx) {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < num_spins_) {
        pause_spin(spin);
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    // Who finds work wakes the next sleeper: a run that is over by then wakes no more of them.
    if (num_threads_ > 2 && has_tasks_left()) generation_.notify_one();
    drain(worker_idx);
  }
}

}  // namespace cachalot
