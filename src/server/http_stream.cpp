#include "server/http_stream.h"

#include <fmt/format.h>
#include <netinet/tcp.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <limits>
#include <optional>

#include "server/ascii.h"

namespace cachalot::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
// So that a client who does not read holds this much and no more of ours.
constexpr int kSendBufferBytes = 256 << 10;
constexpr double kLingerSeconds = 2;

bool is_loopback(const asio::ip::tcp::socket& socket) {
  boost::system::error_code failed;
  const auto endpoint = socket.remote_endpoint(failed);
  if (failed) return false;
  const asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).is_loopback();
  return address.is_loopback();
}

}  // namespace

struct HttpStream::Parser {
  // Room for what lies behind a request, and no more: an endless line within a body stays there.
  explicit Parser(size_t head_bytes) : buffer(head_bytes + (size_t{128} << 10)) {}
  beast::flat_buffer buffer;
  std::optional<http::request_parser<http::string_body>> message;
};

HttpStream::HttpStream(asio::ip::tcp::socket socket, const HttpLimits& limits,
                       int64_t& bodies_bytes)
    : socket_(std::move(socket)),
      handle_(socket_.native_handle()),
      is_from_this_machine_(is_loopback(socket_)),
      limits_(limits),
      bodies_bytes_(bodies_bytes),
      parser_(std::make_unique<Parser>(limits.head_bytes)) {
  boost::system::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  socket_.set_option(asio::socket_base::send_buffer_size(kSendBufferBytes), ignored);
  // A machine that vanished is noticed within a few minutes.
  for (const auto& [option, value] :
       {std::pair(TCP_KEEPIDLE, 60), std::pair(TCP_KEEPINTVL, 15), std::pair(TCP_KEEPCNT, 4)})
    ::setsockopt(handle_, IPPROTO_TCP, option, &value, sizeof value);
}

HttpStream::~HttpStream() { release_body(); }

HttpStream::Read HttpStream::failed(Read read, std::string fault) {
  fault_ = std::move(fault);
  return read;
}

void HttpStream::allow(double seconds) {
  deadline_ = Clock::now() +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void HttpStream::tick(Clock::time_point now) {
  if (now < deadline_) return;
  deadline_ = Clock::time_point::max();
  cancel();
}

void HttpStream::cancel() {
  boost::system::error_code ignored;
  socket_.cancel(ignored);
}

void HttpStream::close() {
  boost::system::error_code ignored;
  socket_.close(ignored);
}

bool HttpStream::is_peer_gone() const {
  tcp_info info{};
  socklen_t size = sizeof info;
  return ::getsockopt(handle_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
         info.tcpi_state != TCP_ESTABLISHED;
}

bool HttpStream::is_http_1_0() const { return parser_->message->get().version() < 11; }
bool HttpStream::wants_keep_alive() const { return parser_->message->keep_alive(); }

void HttpStream::release_body() {
  bodies_bytes_ -= held_bytes_;
  held_bytes_ = 0;
}

asio::awaitable<HttpStream::Read> HttpStream::read_head() {
  release_body();
  request_ = {};
  auto& message = parser_->message.emplace();
  message.header_limit(static_cast<uint32_t>(limits_.head_bytes));
  message.body_limit(static_cast<uint64_t>(limits_.body_bytes));
  message.eager(false);
  if (parser_->buffer.size() == 0) parser_->buffer.shrink_to_fit();
  bool has_begun = parser_->buffer.size() > 0;
  allow(has_begun ? limits_.head_seconds : limits_.idle_seconds);
  waits_since_ = Clock::now();
  while (!message.is_header_done()) {
    const auto [error, size] =
        co_await http::async_read_some(socket_, parser_->buffer, message, kAwait);
    if (!has_begun) {
      has_begun = true;
      allow(limits_.head_seconds);
    }
    if (!error) continue;
    waits_since_.reset();
    deadline_ = Clock::time_point::max();
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      co_return failed(Read::head_too_large);
    if (error == http::error::body_limit) co_return failed(Read::body_too_large);
    if (error == asio::error::operation_aborted)
      co_return failed(message.got_some() ? Read::expired : Read::closed);
    if (error == http::error::end_of_stream || error == http::error::partial_message)
      co_return Read::closed;
    if (error.category() == make_error_code(http::error::bad_method).category())
      co_return failed(Read::malformed, fmt::format("HTTP request: {}", error.message()));
    co_return Read::closed;
  }
  waits_since_.reset();
  deadline_ = Clock::time_point::max();
  co_return take_head() ? Read::ok : Read::malformed;
}

// False, with the fault, for what is well-formed and yet refused.
bool HttpStream::take_head() {
  const auto& message = parser_->message->get();
  if (message.count(http::field::host) > 1) {
    fault_ = "HTTP request: expected one Host header, found several";
    return false;
  }
  // RFC 9112 6.1: anything but "chunked" would leave the body's end in doubt.
  for (const auto& field : message) {
    if (field.name() == http::field::transfer_encoding &&
        !equals_ignoring_case(std::string_view(field.value()), "chunked")) {
      fault_ = "Transfer-Encoding: expected chunked, found another coding";
      return false;
    }
  }
  request_.method = std::string_view(message.method_string());
  request_.target = std::string_view(message.target());
  for (const auto& field : message) {
    request_.headers.push_back({std::string(std::string_view(field.name_string())),
                                std::string(std::string_view(field.value()))});
  }
  has_body_ = !parser_->message->is_done();
  expects_continue_ =
      !is_http_1_0() && equals_ignoring_case(request_.header("Expect"), "100-continue");
  return true;
}

asio::awaitable<HttpStream::Read> HttpStream::read_body() {
  auto& message = *parser_->message;
  if (expects_continue_ && parser_->buffer.size() == 0) {
    const bool is_written = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
    if (!is_written) co_return Read::closed;
  }
  message.eager(true);
  const Clock::time_point last =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(limits_.body_seconds));
  while (!message.is_done()) {
    allow(limits_.body_stall_seconds);
    deadline_ = std::min(deadline_, last);
    const auto [error, size] =
        co_await http::async_read_some(socket_, parser_->buffer, message, kAwait);
    deadline_ = Clock::time_point::max();
    const auto held = static_cast<int64_t>(message.get().body().size());
    bodies_bytes_ += held - held_bytes_;
    held_bytes_ = held;
    if (bodies_bytes_ > limits_.all_bodies_bytes) co_return failed(Read::too_busy);
    if (!error) continue;
    if (error == http::error::body_limit) co_return failed(Read::body_too_large);
    if (error == asio::error::operation_aborted) co_return failed(Read::expired);
    if (error == http::error::end_of_stream || error == http::error::partial_message)
      co_return Read::closed;
    if (error.category() == make_error_code(http::error::bad_method).category())
      co_return failed(Read::malformed, fmt::format("HTTP body: {}", error.message()));
    co_return Read::closed;
  }
  request_.body = std::move(message.get().body());
  co_return Read::ok;
}

asio::awaitable<bool> HttpStream::write(std::string_view bytes) {
  while (!bytes.empty()) {
    // Most pieces fit the system's buffer: no need to wait for the socket, nor for our turn.
    boost::system::error_code failed;
    const size_t taken = socket_.write_some(asio::buffer(bytes.data(), bytes.size()), failed);
    bytes.remove_prefix(taken);
    if (!failed) continue;
    if (failed != asio::error::would_block) co_return false;
    allow(limits_.write_stall_seconds);
    const auto [error, size] =
        co_await socket_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kAwait);
    deadline_ = Clock::time_point::max();
    if (error) co_return false;
    bytes.remove_prefix(size);
  }
  co_return true;
}

asio::awaitable<void> HttpStream::linger() {
  boost::system::error_code failed;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, failed);
  if (failed) co_return;
  std::array<char, 16384> rest;
  allow(kLingerSeconds);
  while (true) {
    const auto [error, size] =
        co_await socket_.async_read_some(asio::buffer(rest.data(), rest.size()), kAwait);
    if (error) break;
  }
  deadline_ = Clock::time_point::max();
}

}  // namespace cachalot::server
