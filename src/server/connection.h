// One client's connection from its first byte to its last: each request in turn is judged (Host,
// Origin, key, limits), read and answered.
// Threads  the I/O thread's. It lives as long as run() does.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "api/call.h"
#include "server/http_stream.h"
#include "server/live_call.h"
#include "server/server_state.h"

namespace cachalot::server {

// A call under way, for people who look after the server.
struct Session {
  std::string id;  // the answer's x-request-id
  std::string path;
  std::string key;  // its name; empty: none
  double seconds = 0;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;  // so far
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerState& state, boost::asio::ip::tcp::socket socket);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  boost::asio::awaitable<void> run();

  // Several times a second: ends what has waited too long, notices clients that went away.
  void tick(Clock::time_point now);
  // Since when it waits for a request; nothing: one is being answered.
  std::optional<Clock::time_point> waits_since() const { return stream_.waits_since(); }
  // Ends it where it waits for one.
  void end_waiting();
  // Ends the call under way with what it has.
  void end_call();
  std::optional<Session> session() const;

 private:
  // What is known of the request at hand.
  struct Exchange {
    std::string id;
    std::string path;
    std::string origin;  // an allowed one that was sent; empty: none
    ApiKey* key = nullptr;
    Clock::time_point begun;
    bool is_head = false;
    bool keeps_alive = false;
  };

  // Those that write say in is_gone_ and in keeps_alive whether the connection goes on.
  boost::asio::awaitable<void> serve();
  boost::asio::awaitable<void> report(HttpStream::Read read);
  // What is answered without the request's body, if anything.
  std::optional<api::HttpAnswer> judge();
  std::optional<api::HttpAnswer> judge_origin(std::string_view host);
  std::optional<api::HttpAnswer> judge_key(bool is_admin_page);
  api::HttpAnswer answer_options() const;
  boost::asio::awaitable<void> answer_call(std::unique_ptr<api::Call> call);
  // Submits the call's requests and gives its events to it until it is over.
  boost::asio::awaitable<void> run_call(api::Call& call);
  boost::asio::awaitable<void> finish_plain(api::Call& call);
  boost::asio::awaitable<void> write(std::string bytes);
  boost::asio::awaitable<void> write_answer(api::HttpAnswer answer);
  boost::asio::awaitable<void> write_stream_head(const api::Call& call);
  boost::asio::awaitable<void> write_piece(std::string bytes);
  void submit_requests(api::Call& call, std::string& out);
  void cancel_requests(const api::Call& call);
  Headers common_headers() const;

  ServerState& state_;
  HttpStream stream_;
  bool is_local_;  // the client is on this machine
  Exchange exchange_;
  std::shared_ptr<LiveCall> live_;  // of the call under way
  std::vector<bool> is_cancelled_;  // its requests
  int64_t prompt_tokens_ = 0;       // of them
  bool is_gone_ = false;            // the client
  int num_ticks_ = 0;
  bool wants_end_ = false;  // end_call()
};

}  // namespace cachalot::server
