// Threads for what would hold up the I/O thread: reading, rendering and tokenizing what clients
// send. Two lanes, so that a short call never waits for a prompt of megabytes.
// Threads  run() is the I/O thread's.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>

namespace cachalot::server {

class Workers {
 public:
  explicit Workers(boost::asio::io_context& io) : io_(io) {}

  // Waits for the jobs that run; those that have not begun never do, and are awaited in vain.
  void stop();

  // Awaits the job, which reads or writes about num_bytes. False: it ran out of memory.
  boost::asio::awaitable<bool> run(size_t num_bytes, std::function<void()> job);

 private:
  boost::asio::io_context& io_;
  boost::asio::thread_pool short_{1};
  boost::asio::thread_pool long_{1};
};

}  // namespace cachalot::server
