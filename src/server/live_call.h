// A call whose requests are in the engine, as the I/O thread sees it: the events that have come and
// that nobody has taken yet, and what they say about the engine's load.
// Threads  the I/O thread; the engine's thread only carries a shared_ptr of it.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "api/call.h"
#include "server/http_stream.h"
#include "server/metrics.h"

namespace cachalot::server {

struct Arrived {
  size_t request;  // of its call
  api::AnswerEvent event;
  Clock::time_point time;
};

class LiveCall {
 public:
  // Of so many requests, which are submitted one by one, by their place.
  LiveCall(boost::asio::io_context& io, Metrics& metrics, size_t num_requests,
           Clock::time_point begun)
      : wake_(io), metrics_(metrics), begun_(begun), requests_(num_requests) {}
  LiveCall(const LiveCall&) = delete;
  LiveCall& operator=(const LiveCall&) = delete;

  // The engine has taken a request.
  void add_request(size_t request, engine::RequestId id, int64_t num_answers);
  size_t num_requests() const { return requests_.size(); }
  // Of one that the engine has not finished.
  std::optional<engine::RequestId> unfinished_id(size_t request) const;
  bool are_all_finished() const { return num_unfinished_ == 0; }
  int64_t num_tokens() const { return num_tokens_; }  // that have been generated

  void arrive(Arrived arrived);
  std::vector<Arrived> take_inbox() { return std::exchange(inbox_, {}); }
  size_t num_untaken() const { return inbox_.size(); }
  // Nobody will take events any more; those that come are only counted.
  void abandon();

  // Until something has arrived, wake() was called, or the time has come.
  boost::asio::awaitable<void> wait_until(Clock::time_point time);
  void wake();

 private:
  struct OneRequest {
    engine::RequestId id = 0;
    int64_t num_unfinished = 0;  // answers
    bool has_run = false;
    std::vector<Clock::time_point> last_token;  // by answer; the epoch: none yet
  };
  void count(OneRequest& request, const Arrived& arrived);

  boost::asio::steady_timer wake_;
  bool is_woken_ = false;
  Metrics& metrics_;
  Clock::time_point begun_;
  bool has_first_token_ = false;
  std::vector<OneRequest> requests_;
  size_t num_unfinished_ = 0;  // requests
  int64_t num_tokens_ = 0;
  std::vector<Arrived> inbox_;
  bool is_abandoned_ = false;
};

}  // namespace cachalot::server
