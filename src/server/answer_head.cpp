#include "server/answer_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>

namespace cachalot::server {
namespace {

std::string_view reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    default: return "Status";
  }
}

// RFC 9110 5.6.7, in English whatever the locale.
std::string date() {
  constexpr std::array kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
                     kDays[static_cast<size_t>(parts.tm_wday)], parts.tm_mday,
                     kMonths[static_cast<size_t>(parts.tm_mon)], parts.tm_year + 1900,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

void append(std::string& out, std::string_view name, std::string_view value) {
  fmt::format_to(std::back_inserter(out), "{}: ", name);
  std::transform(value.begin(), value.end(), std::back_inserter(out), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  });
  out += "\r\n";
}

}  // namespace

std::string head_bytes(const AnswerHead& head, const Headers& headers) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", head.status, reason(head.status));
  append(out, "Date", date());
  if (!head.content_type.empty()) append(out, "Content-Type", head.content_type);
  if (head.length) append(out, "Content-Length", fmt::format("{}", *head.length));
  if (head.is_chunked) append(out, "Transfer-Encoding", "chunked");
  append(out, "Connection", head.keeps_alive ? "keep-alive" : "close");
  for (const api::HttpHeader& header : headers) append(out, header.name, header.value);
  out += "\r\n";
  return out;
}

std::string chunk(std::string_view bytes) {
  return bytes.empty() ? std::string() : fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

}  // namespace cachalot::server
