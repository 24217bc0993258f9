// The server: listens, opens the model, answers until it is told to stop.
//
// Threads  The one that calls run() does all input and output; the engine has one of its own
//          (engine_thread.h), long work two (workers.h).
// Order    It listens before the model is there: until then /health says so with 503.
// End      SIGTERM or SIGINT, stop(), or /admin/drain: no new connections and calls; answers under
//          way have drain_seconds, then they end with what they have. A second signal ends the
//          process.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/status.h"
#include "server/server_state.h"

namespace cachalot::server {

class Server {
 public:
  // Takes the port. Errors: invalid_argument for an origin or a host that is none; io_error where
  // the port is taken.
  static Result<std::unique_ptr<Server>> listen(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const { return port_; }
  // Only this machine can reach it.
  bool is_local() const { return is_local_; }
  // Once. `open` runs on the engine's thread; on_ready here, once calls are answered. Without
  // handles_signals only stop() and /admin/drain end it. The error is that of `open`.
  Status run(EngineThread::Open open, std::function<void()> on_ready, bool handles_signals);
  // Any thread.
  void stop();

 private:
  Server(ServerOptions options, AccessRules rules);
  Status bind();
  boost::asio::awaitable<void> accept();
  boost::asio::awaitable<void> tick();
  void begin(boost::asio::ip::tcp::socket socket);
  void drain();

  std::unique_ptr<boost::asio::io_context> io_;  // goes before state_, which its coroutines use
  ServerState state_;
  std::optional<boost::asio::ip::tcp::acceptor> acceptor_;
  std::optional<boost::asio::signal_set> signals_;
  uint16_t port_ = 0;
  bool is_local_ = false;
  Clock::time_point drain_end_;
  Status status_;
};

}  // namespace cachalot::server
