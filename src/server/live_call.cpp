#include "server/live_call.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace cachalot::server {
namespace {

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void LiveCall::add_request(size_t request, engine::RequestId id, int64_t num_answers) {
  requests_[request].id = id;
  requests_[request].num_unfinished = num_answers;
  requests_[request].last_token.resize(static_cast<size_t>(num_answers));
  ++num_unfinished_;
  ++metrics_.num_waiting;
}

std::optional<engine::RequestId> LiveCall::unfinished_id(size_t request) const {
  const OneRequest& one = requests_[request];
  return one.num_unfinished > 0 ? std::optional(one.id) : std::nullopt;
}

void LiveCall::arrive(Arrived arrived) {
  count(requests_[arrived.request], arrived);
  if (is_abandoned_) return;
  inbox_.push_back(std::move(arrived));
  wake();
}

void LiveCall::count(OneRequest& request, const Arrived& arrived) {
  if (!request.has_run) {
    request.has_run = true;
    --metrics_.num_waiting;
    ++metrics_.num_running;
  }
  using Kind = engine::Event::Kind;
  if (arrived.event.kind == Kind::token) {
    Clock::time_point& last = request.last_token[static_cast<size_t>(arrived.event.answer)];
    if (last != Clock::time_point()) {
      metrics_.between_tokens.add(seconds_between(last, arrived.time));
    } else if (!has_first_token_) {
      has_first_token_ = true;
      metrics_.to_first_token.add(seconds_between(begun_, arrived.time));
    }
    last = arrived.time;
    ++num_tokens_;
  }
  if (arrived.event.kind != Kind::finished || --request.num_unfinished > 0) return;
  --num_unfinished_;
  --metrics_.num_running;
  ++metrics_.num_finished;
}

void LiveCall::abandon() {
  is_abandoned_ = true;
  inbox_.clear();
}

void LiveCall::wake() {
  if (is_woken_) return;
  is_woken_ = true;
  wake_.cancel();
}

boost::asio::awaitable<void> LiveCall::wait_until(Clock::time_point time) {
  if (inbox_.empty() && !is_woken_) {
    wake_.expires_at(time);
    co_await wake_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
  }
  is_woken_ = false;
}

}  // namespace cachalot::server
