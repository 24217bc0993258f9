#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "base/rng.h"

namespace cachalot {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceForAnyNumberOfThreads) {
  for (int num_threads = 1; num_threads <= 8; ++num_threads) {
    ThreadPool pool(num_threads);
    ASSERT_EQ(pool.num_threads(), num_threads);
    for (int64_t num_tasks : {0, 1, 2, 7, 8, 9, 1000}) {
      // Plain ints: each belongs to one task, and run() returning makes them visible. TSan checks
      // both claims.
      std::vector<int> num_runs(num_tasks, 0);
      pool.run(num_tasks, [&](int64_t task, int) { ++num_runs[task]; });
      EXPECT_EQ(std::count(num_runs.begin(), num_runs.end(), 1), num_tasks);
    }
  }
}

TEST(ThreadPool, AWorkerIndexBelongsToOneThreadAtATime) {
  ThreadPool pool(4);
  std::vector<int64_t> per_worker(4 * 16, 0);  // unsynchronised on purpose, one cache line each
  for (int generation = 0; generation < 200; ++generation) {
    pool.run(50, [&](int64_t, int worker) { ++per_worker.at(worker * 16); });
  }
  EXPECT_EQ(std::accumulate(per_worker.begin(), per_worker.end(), int64_t{0}), 200 * 50);
}

TEST(ThreadPool, TheCallerIsWorkerZeroAndTheOthersHaveTheirOwnIndexes) {
  constexpr int kThreads = 3;
  ThreadPool pool(kThreads);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> num_started{0};
  std::vector<std::thread::id> ids(kThreads);  // by worker
  pool.run(kThreads, [&](int64_t, int worker) {
    for (++num_started; num_started.load() < kThreads;) std::this_thread::yield();  // one task each
    ids.at(worker) = std::this_thread::get_id();
  });
  EXPECT_EQ(ids[0], caller);
  EXPECT_NE(ids[1], std::thread::id());
  EXPECT_NE(ids[2], std::thread::id());
}

TEST(ThreadPool, AWorkerBeginsWithItsShareOfTheTasks) {
  constexpr int kThreads = 3;
  ThreadPool pool(kThreads);
  for (const int64_t num_tasks : {3, 12, 13}) {
    std::atomic<int> num_started{0};
    std::vector<int64_t> first(kThreads, -1);  // by worker
    pool.run(num_tasks, [&](int64_t task, int worker) {
      if (first.at(worker) >= 0) return;
      first.at(worker) = task;
      for (++num_started; num_started.load() < kThreads;) std::this_thread::yield();
    });
    EXPECT_EQ(first, std::vector<int64_t>({0, num_tasks / 3, num_tasks * 2 / 3}));
  }
}

TEST(ThreadPool, WhoHasDoneItsShareHelpsTheOthers) {
  ThreadPool pool(2);
  constexpr int kTasks = 8;
  std::atomic<int> num_done{0};
  bool was_helped = true;
  pool.run(kTasks, [&](int64_t, int worker) {
    // The other worker waits in its first task.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (worker != 0 && num_done.load() < kTasks - 1 && was_helped) {
      was_helped = std::chrono::steady_clock::now() < end;
      std::this_thread::yield();
    }
    ++num_done;
  });
  EXPECT_TRUE(was_helped);
}

TEST(ThreadPool, ManyGenerationsInARow) {
  for (int num_threads : {2, 3, 8}) {
    const int64_t num_generations = num_threads > 3 ? 50 : 400;  // more threads than cores are slow
    ThreadPool pool(num_threads);
    int64_t total = 0;
    std::vector<int64_t> parts(num_threads);
    for (int64_t generation = 0; generation < num_generations; ++generation) {
      pool.run(num_threads, [&](int64_t task, int) { parts[task] = generation + task; });
      total += std::accumulate(parts.begin(), parts.end(), int64_t{0});
    }
    const int64_t n = num_threads;
    EXPECT_EQ(total, n * (num_generations * (num_generations - 1) / 2) +
                         num_generations * (n * (n - 1) / 2));
  }
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(4);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // far longer than the spin
    std::atomic<int> num_done{0};
    pool.run(64, [&](int64_t, int) { ++num_done; });
    EXPECT_EQ(num_done.load(), 64);
  }
}

TEST(ThreadPool, TheCallerWaitsForTheSlowestTask) {
  ThreadPool pool(2);
  std::atomic<int> num_started{0};
  std::vector<int> done(2, 0);
  pool.run(2, [&](int64_t task, int worker) {
    for (++num_started; num_started.load() < 2;)
      std::this_thread::yield();  // one task for each thread
    if (worker != 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    done[task] = 1;
  });
  EXPECT_EQ(done, std::vector<int>({1, 1}));
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 200; ++i) ThreadPool pool(1 + i % 8);
}

TEST(ThreadPool, BitsDoNotDependOnTheNumberOfThreads) {
  constexpr int kTasks = 37, kValues = 1000;
  auto sums = [&](int num_threads) {
    ThreadPool pool(num_threads);
    std::vector<float> out(kTasks);
    pool.run(kTasks, [&](int64_t task, int) {
      RngStream stream(1, RngPurpose::data, static_cast<uint64_t>(task));
      float sum = 0;
      for (int i = 0; i < kValues; ++i) sum += static_cast<float>(stream.next_normal());
      out[task] = sum;
    });
    return out;
  };
  const std::vector<float> expected = sums(1);
  for (int num_threads = 2; num_threads <= 8; ++num_threads) EXPECT_EQ(sums(num_threads), expected);
}

}  // namespace
}  // namespace cachalot
