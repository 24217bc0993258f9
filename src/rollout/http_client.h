// Calls to one HTTP server over one connection, which is made anew where it has broken: what was
// sent over a connection that had been kept is then sent again, and may arrive twice.
// Time    A call that gets nothing for kCallSeconds has failed.
// Errors  io_error: host and port, and what failed; the server may have had the request or not.
// Threads one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace cachalot::rollout {

inline constexpr double kCallSeconds = 60;

struct HttpReply {
  int status = 0;
  std::string body;
};

class HttpClient {
 public:
  // `key`: sent as a bearer token; empty: none.
  HttpClient(std::string host, uint16_t port, std::string key);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  const std::string& name() const { return name_; }  // "host:port"
  Result<HttpReply> call(std::string_view method, std::string_view target,
                         std::string_view body = {});
  // The body of an answer of status 200 goes to take() in pieces, whose error ends the call.
  using Take = std::function<Status(std::string_view piece)>;
  Result<HttpReply> download(std::string_view target, const Take& take);

 private:
  struct Connection;
  Result<HttpReply> call(std::string_view method, std::string_view target, std::string_view body,
                         const Take* take);
  Result<HttpReply> try_call(std::string_view method, std::string_view target,
                             std::string_view body, const Take* take);
  Status failed(std::string_view what, const std::string& why);

  std::string host_, key_, name_;
  uint16_t port_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace cachalot::rollout
