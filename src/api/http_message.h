// What a client sent and what it gets, without sockets.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cachalot::api {

struct HttpHeader {
  std::string name;
  std::string value;

  bool operator==(const HttpHeader&) const = default;
};

struct HttpRequest {
  std::string method;  // upper case
  std::string target;  // as sent: path and query
  std::vector<HttpHeader> headers;
  std::string body;

  // Names are compared without regard to case. Empty where there is none.
  std::string_view header(std::string_view name) const;
  // The target without its query and without a slash at the end ("/" stays).
  std::string_view path() const;
};

struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;  // beside content type and length
  std::string body;
};

}  // namespace cachalot::api
