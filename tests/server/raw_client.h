// A client that sends the bytes it is told to, for tests of what a server does with them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace cachalot::server::testing {

struct Response {
  int status = 0;                              // 0: the connection ended before a whole answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without its chunks' marks
};

class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False: the server has closed the connection.
  bool send(std::string_view bytes);
  // Fails after so long without a byte.
  Response read(bool is_head = false);
  // What is there within the time, up to `most` bytes; an ended connection gives nothing.
  std::string read_some(double seconds, size_t most = 1 << 16);
  // Whether the server ends the connection within the time; what it sends before is dropped.
  bool is_closed_within(double seconds);
  void close();
  void shut_down_writing();

 private:
  bool fill(double seconds);
  std::optional<std::string> take_line();

  int fd_ = -1;
  std::string buffer_;
};

// One request on a connection of its own.
Response get(uint16_t port, std::string_view path, std::string_view more_headers = "");
std::string post_bytes(std::string_view path, std::string_view body,
                       std::string_view more_headers = "");
Response post(uint16_t port, std::string_view path, std::string_view body,
              std::string_view more_headers = "");

}  // namespace cachalot::server::testing
