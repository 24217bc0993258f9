#include "server/workers.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <string>

#include "base/log.h"

namespace cachalot::server {
namespace {

constexpr size_t kShortBytes = size_t{1} << 20;

}  // namespace

void Workers::stop() {
  short_.stop();
  long_.stop();
  short_.join();
  long_.join();
}

boost::asio::awaitable<bool> Workers::run(size_t num_bytes, std::function<void()> job) {
  namespace asio = boost::asio;
  asio::steady_timer done(io_, asio::steady_timer::time_point::max());
  bool has_run = false;
  asio::post(num_bytes <= kShortBytes ? short_ : long_, [&] {
    try {
      job();
      has_run = true;
    } catch (const std::exception& e) {
      log_error(std::string("a call: ") + e.what());
    }
    // The I/O thread, which is busy starting the wait below or waits, comes to this after it.
    asio::post(io_, [&] { done.cancel(); });
  });
  co_await done.async_wait(asio::as_tuple(asio::use_awaitable));
  co_return has_run;
}

}  // namespace cachalot::server
