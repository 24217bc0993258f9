#include "server/server.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <exception>

#include "base/log.h"
#include "server/connection.h"
#include "server/listen.h"

namespace cachalot::server {
namespace {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr auto kTick = std::chrono::milliseconds(50);
// After the last answer of a server that stops: for bytes to leave.
constexpr auto kCloseTime = std::chrono::seconds(3);
constexpr size_t kOtherFiles = 128;  // beside connections: weights, the cache's segments

// As many files as the system lets us have; the connections that leaves room for.
size_t raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kOtherFiles;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return std::max<size_t>(limit.rlim_cur, 2 * kOtherFiles) - kOtherFiles;
}

}  // namespace

Server::Server(ServerOptions options, AccessRules rules)
    : io_(std::make_unique<asio::io_context>(1)),
      state_(*io_, std::move(options), std::move(rules)),
      acceptor_(*io_),
      signals_(*io_) {
  state_.drain = [this] { drain(); };
}

// The other threads end before what they send messages to, and that before what its coroutines use.
Server::~Server() {
  state_.engine.reset();
  state_.workers.stop();
  acceptor_.reset();
  signals_.reset();
  io_.reset();
}

Result<std::unique_ptr<Server>> Server::listen(ServerOptions options) {
  CACHALOT_ASSIGN_OR_RETURN(AccessRules rules, make_access_rules(options.host, options.origins));
  options.max_connections = std::min(options.max_connections, raise_file_limit());
  std::unique_ptr<Server> server(new Server(std::move(options), std::move(rules)));
  CACHALOT_RETURN_IF_ERROR(server->bind());
  return server;
}

Status Server::bind() {
  CACHALOT_RETURN_IF_ERROR(listen_on(*acceptor_, state_.options.host, state_.options.port));
  port_ = acceptor_->local_endpoint().port();
  is_local_ = acceptor_->local_endpoint().address().is_loopback();
  return {};
}

Status Server::run(EngineThread::Open open, std::function<void()> on_ready, bool handles_signals) {
  const auto on_open = [this, on_ready = std::move(on_ready),
                        handles_signals](const Status& status) {
    if (!status.ok()) {
      status_ = status;
      drain();
      return;
    }
    if (state_.phase != Phase::loading) return;  // told to stop meanwhile
    state_.phase = Phase::serving;
    if (handles_signals) {
      // Until here a signal ends the process, as does a second one.
      signals_->add(SIGTERM);
      signals_->add(SIGINT);
      signals_->async_wait([this](const boost::system::error_code& cancelled, int) {
        if (cancelled) return;
        signals_->clear();
        drain();
      });
    }
    on_ready();
  };
  state_.engine = std::make_unique<EngineThread>(*io_, std::move(open), on_open);
  asio::co_spawn(*io_, accept(), asio::detached);
  asio::co_spawn(*io_, tick(), asio::detached);
  io_->run();
  return status_;
}

void Server::stop() {
  asio::post(*io_, [this] { drain(); });
}

void Server::drain() {
  if (state_.phase == Phase::draining) return;
  state_.phase = Phase::draining;
  drain_end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                  std::chrono::duration<double>(state_.options.drain_seconds));
  boost::system::error_code ignored;
  acceptor_->close(ignored);
  for (Connection* connection : state_.connections) connection->end_waiting();
}

asio::awaitable<void> Server::accept() {
  while (acceptor_->is_open()) {
    auto [failed, socket] = co_await acceptor_->async_accept(kAwait);
    if (!failed) {
      begin(std::move(socket));
      continue;
    }
    if (!acceptor_->is_open()) break;
    // Out of files or memory: what is open goes on, and may end.
    log_warning_once(fmt::format("cannot accept a connection: {}", failed.message()));
    asio::steady_timer pause(*io_, std::chrono::milliseconds(100));
    co_await pause.async_wait(kAwait);
  }
}

void Server::begin(Tcp::socket socket) {
  if (state_.connections.size() >= state_.options.max_connections) {
    // The one that has waited longest for a request makes room; where none waits, the new one goes.
    const auto longer = [](const Connection* a, const Connection* b) {
      return a->waits_since().value_or(Clock::time_point::max()) <
             b->waits_since().value_or(Clock::time_point::max());
    };
    const auto longest =
        std::min_element(state_.connections.begin(), state_.connections.end(), longer);
    if (!(*longest)->waits_since()) return;
    (*longest)->end_waiting();
  }
  const auto connection = std::make_shared<Connection>(state_, std::move(socket));
  asio::co_spawn(*io_, connection->run(), [connection](const std::exception_ptr& thrown) {
    if (!thrown) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& e) {
      log_error(fmt::format("connection: {}", e.what()));
    }
  });
}

asio::awaitable<void> Server::tick() {
  asio::steady_timer timer(*io_);
  while (true) {
    timer.expires_after(kTick);
    co_await timer.async_wait(kAwait);
    const Clock::time_point now = Clock::now();
    for (Connection* connection : state_.connections) connection->tick(now);
    if (state_.phase != Phase::draining) continue;
    if (now >= drain_end_) {
      for (Connection* connection : state_.connections) connection->end_call();
    }
    if (state_.connections.empty() || now >= drain_end_ + kCloseTime) break;
  }
  boost::system::error_code ignored;
  signals_->cancel(ignored);
  io_->stop();
}

}  // namespace cachalot::server
