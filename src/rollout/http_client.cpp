#include "rollout/http_client.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <limits>

namespace cachalot::rollout {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr size_t kMaxReplyBytes = size_t{1} << 30;

}  // namespace

struct HttpClient::Connection {
  asio::io_context io{1};
  beast::tcp_stream stream{io};
  beast::flat_buffer buffer;

  // Runs what `start` begins to its end, or to the end of its time.
  template <typename Start>
  boost::system::error_code wait(const Start& start) {
    boost::system::error_code result;
    stream.expires_after(std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::duration<double>(kCallSeconds)));
    start([&](const boost::system::error_code& error, auto&&...) { result = error; });
    io.restart();
    io.run();
    return result;
  }
};

HttpClient::HttpClient(std::string host, uint16_t port, std::string key)
    : host_(std::move(host)), key_(std::move(key)), port_(port) {
  const bool is_v6 = host_.find(':') != std::string::npos;
  name_ = fmt::format("{}:{}", is_v6 ? fmt::format("[{}]", host_) : host_, port_);
}

HttpClient::~HttpClient() = default;

Status HttpClient::failed(std::string_view what, const std::string& why) {
  connection_.reset();
  return io_error(fmt::format("{}: {}: {}", name_, what, why));
}

Result<HttpReply> HttpClient::call(std::string_view method, std::string_view target,
                                   std::string_view body) {
  return call(method, target, body, nullptr);
}

Result<HttpReply> HttpClient::download(std::string_view target, const Take& take) {
  return call("GET", target, {}, &take);
}

Result<HttpReply> HttpClient::call(std::string_view method, std::string_view target,
                                   std::string_view body, const Take* take) {
  const bool is_kept = connection_ != nullptr;
  Result<HttpReply> reply = try_call(method, target, body, take);
  // A connection that was kept may have been closed meanwhile.
  if (!reply && is_kept && take == nullptr && connection_ == nullptr)
    return try_call(method, target, body, take);
  return reply;
}

Result<HttpReply> HttpClient::try_call(std::string_view method, std::string_view target,
                                       std::string_view body, const Take* take) {
  if (connection_ == nullptr) {
    connection_ = std::make_unique<Connection>();
    boost::system::error_code error;
    asio::ip::tcp::resolver resolver(connection_->io);
    const auto found = resolver.resolve(host_, fmt::format("{}", port_), error);
    if (error) return failed("resolve", error.message());
    error = connection_->wait(
        [&](auto done) { connection_->stream.async_connect(found, std::move(done)); });
    if (error) return failed("connect", error.message());
    connection_->stream.socket().set_option(asio::ip::tcp::no_delay(true), error);
  }
  Connection& c = *connection_;
  http::request<http::string_body> request(http::string_to_verb(method), target, 11);
  request.set(http::field::host, name_);
  if (!key_.empty()) request.set(http::field::authorization, "Bearer " + key_);
  request.body() = body;
  request.prepare_payload();
  boost::system::error_code error =
      c.wait([&](auto done) { http::async_write(c.stream, request, std::move(done)); });
  if (error) return failed("send", error.message());

  http::response_parser<http::buffer_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  error = c.wait(
      [&](auto done) { http::async_read_header(c.stream, c.buffer, parser, std::move(done)); });
  if (error) return failed("receive", error.message());
  HttpReply reply;
  reply.status = static_cast<int>(parser.get().result_int());
  const bool is_taken = take != nullptr && reply.status == 200;
  std::string piece(kPieceBytes, '\0');
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    error =
        c.wait([&](auto done) { http::async_read(c.stream, c.buffer, parser, std::move(done)); });
    if (error == http::error::need_buffer) error = {};
    if (error) return failed("receive", error.message());
    const std::string_view read(piece.data(), piece.size() - parser.get().body().size);
    if (is_taken) {
      const Status status = (*take)(read);
      if (!status.ok()) {
        connection_.reset();  // the rest of the body is on its way
        return status;
      }
    } else if (reply.body.size() + read.size() > kMaxReplyBytes) {
      return failed("receive",
                    fmt::format("expected at most {} bytes, found more", kMaxReplyBytes));
    } else {
      reply.body += read;
    }
  }
  if (!parser.keep_alive()) connection_.reset();
  return reply;
}

}  // namespace cachalot::rollout
