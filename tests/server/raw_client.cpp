#include "server/raw_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>

#include "server/ascii.h"

namespace cachalot::server::testing {
namespace {

constexpr double kPatienceSeconds = 60;

}  // namespace

RawClient::RawClient(uint16_t port, int receive_buffer_bytes) {
  fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
  if (receive_buffer_bytes > 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) close();
}

RawClient::~RawClient() { close(); }

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void RawClient::shut_down_writing() { ::shutdown(fd_, SHUT_WR); }

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawClient::fill(double seconds) {
  pollfd one{fd_, POLLIN, 0};
  if (fd_ < 0 || ::poll(&one, 1, static_cast<int>(seconds * 1000)) != 1) return false;
  char bytes[65536];
  const ssize_t count = ::recv(fd_, bytes, sizeof bytes, 0);
  if (count <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(count));
  return true;
}

std::optional<std::string> RawClient::take_line() {
  size_t end = 0;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!fill(kPatienceSeconds)) return std::nullopt;
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

Response RawClient::read(bool is_head) {
  Response response;
  const auto first = take_line();
  if (!first || first->size() < 12) return {};
  const int status = std::atoi(first->c_str() + 9);
  while (true) {
    const auto line = take_line();
    if (!line) return {};
    if (line->empty()) break;
    const size_t colon = line->find(": ");
    if (colon == std::string::npos) return {};
    response.headers[to_lower(line->substr(0, colon))] = line->substr(colon + 2);
  }
  const auto take = [&](size_t count) {
    while (buffer_.size() < count) {
      if (!fill(kPatienceSeconds)) return false;
    }
    response.body += buffer_.substr(0, count);
    buffer_.erase(0, count);
    return true;
  };
  if (response.headers.count("transfer-encoding") > 0) {
    while (true) {
      const auto size = take_line();
      if (!size) return {};
      const auto count = std::strtoull(size->c_str(), nullptr, 16);
      if (!take(count)) return {};
      if (const auto end = take_line(); !end || !end->empty()) return {};
      if (count == 0) break;
    }
  } else if (response.headers.count("content-length") > 0) {
    if (!is_head && !take(std::strtoull(response.headers["content-length"].c_str(), nullptr, 10)))
      return {};
  } else if (status != 204 && status != 100) {
    while (fill(kPatienceSeconds)) {
    }
    response.body = std::exchange(buffer_, {});
  }
  response.status = status;
  return response;
}

std::string RawClient::read_some(double seconds, size_t most) {
  if (buffer_.empty()) fill(seconds);
  std::string out = buffer_.substr(0, most);
  buffer_.erase(0, out.size());
  return out;
}

bool RawClient::is_closed_within(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    pollfd one{fd_, POLLIN, 0};
    if (::poll(&one, 1, 20) != 1) continue;
    char bytes[65536];
    if (::recv(fd_, bytes, sizeof bytes, 0) <= 0) return true;
  }
  return false;
}

Response get(uint16_t port, std::string_view path, std::string_view more_headers) {
  RawClient client(port);
  client.send(fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", path, more_headers));
  return client.read();
}

std::string post_bytes(std::string_view path, std::string_view body,
                       std::string_view more_headers) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n{}\r\n{}",
      path, body.size(), more_headers, body);
}

Response post(uint16_t port, std::string_view path, std::string_view body,
              std::string_view more_headers) {
  RawClient client(port);
  client.send(post_bytes(path, body, more_headers));
  return client.read();
}

}  // namespace cachalot::server::testing
