// One client's connection as HTTP/1.x: requests off the socket within limits of size and time,
// bytes onto it. What its bytes mean to us is connection.h's.
//
// Strict  on what proxies and servers have been set against each other with: a body with two
//         lengths, a length beside chunks, a coding other than chunked, two Host headers, a bare
//         line feed are bad requests.
// Time    The sockets' owner calls tick() every now and then; whatever waits longer than its limit
//         ends.
// Threads one: the io_context's.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "api/http_message.h"

namespace cachalot::server {

using Clock = std::chrono::steady_clock;

struct HttpLimits {
  size_t head_bytes = size_t{64} << 10;
  int64_t body_bytes = int64_t{96} << 20;
  int64_t all_bodies_bytes = int64_t{768} << 20;  // of all connections at a time
  double idle_seconds = 120;                      // between two requests
  double head_seconds = 30;                       // from its first byte to its last
  double body_stall_seconds = 30;                 // between two pieces of a body
  double body_seconds = 900;                      // of a body
  double write_stall_seconds = 60;                // in which a client takes nothing
};

class HttpStream {
 public:
  // `bodies_bytes`: what all connections hold together; borrowed.
  HttpStream(boost::asio::ip::tcp::socket socket, const HttpLimits& limits, int64_t& bodies_bytes);
  ~HttpStream();
  HttpStream(const HttpStream&) = delete;
  HttpStream& operator=(const HttpStream&) = delete;

  // closed: by the client, between requests or in one. expired: a limit of time. too_busy:
  // all_bodies_bytes.
  enum class Read { ok, closed, expired, malformed, head_too_large, body_too_large, too_busy };
  // The next request, up to its body, into request().
  boost::asio::awaitable<Read> read_head();
  // Where has_body(): the rest of it.
  boost::asio::awaitable<Read> read_body();
  const std::string& fault() const { return fault_; }  // of `malformed`, in words

  api::HttpRequest& request() { return request_; }
  const api::HttpRequest& request() const { return request_; }
  bool has_body() const { return has_body_; }
  bool is_http_1_0() const;
  bool is_from_this_machine() const { return is_from_this_machine_; }
  bool wants_keep_alive() const;
  // Gives its share of all_bodies_bytes back; the body itself is the caller's to free.
  void release_body();

  // All of it, or false where the client is gone or takes nothing.
  boost::asio::awaitable<bool> write(std::string_view bytes);
  // After the last answer: ends our side, and reads on for a moment, so that an unread request does
  // not make the system take the answer back.
  boost::asio::awaitable<void> linger();

  void tick(Clock::time_point now);
  // Since when it waits for a request's head; nothing: it is at something else.
  std::optional<Clock::time_point> waits_since() const { return waits_since_; }
  // The client has closed its side, or the network lost it.
  bool is_peer_gone() const;
  void cancel();
  void close();

 private:
  struct Parser;  // Beast's, in http_stream.cpp alone: it takes long to compile

  Read failed(Read read, std::string fault = "");
  void allow(double seconds);
  bool take_head();

  boost::asio::ip::tcp::socket socket_;
  int handle_;  // its
  bool is_from_this_machine_;
  const HttpLimits& limits_;
  int64_t& bodies_bytes_;
  int64_t held_bytes_ = 0;  // of bodies_bytes_
  std::unique_ptr<Parser> parser_;
  api::HttpRequest request_;
  std::string fault_;
  bool has_body_ = false;
  bool expects_continue_ = false;
  std::optional<Clock::time_point> waits_since_;
  Clock::time_point deadline_ = Clock::time_point::max();
};

}  // namespace cachalot::server
