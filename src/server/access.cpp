#include "server/access.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "server/ascii.h"

namespace cachalot::server {
namespace {

// The name of "name:port" or "[address]:port", lower case; empty where it is malformed.
std::string host_name(std::string_view text) {
  std::string_view name = text;
  std::string_view rest;
  if (!text.empty() && text[0] == '[') {
    const size_t end = text.find(']');
    if (end == std::string_view::npos) return {};
    name = text.substr(1, end - 1);
    rest = text.substr(end + 1);
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    name = text.substr(0, colon);
    rest = text.substr(colon);
  }
  if (!rest.empty() && rest[0] != ':') return {};
  if (!rest.empty()) rest.remove_prefix(1);
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (rest.size() > 5 || !std::all_of(rest.begin(), rest.end(), is_digit)) return {};
  if (!name.empty() && name.back() == '.') name.remove_suffix(1);
  return to_lower(name);
}

bool is_address(const std::string& name) {
  std::array<unsigned char, 16> bytes;
  return ::inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

}  // namespace

Result<std::string> normal_origin(std::string_view text) {
  if (text == "*") return std::string(text);
  const auto wrong = [&] {
    return invalid_argument(fmt::format(
        "origin: expected SCHEME://HOST or SCHEME://HOST:PORT, as in http://localhost:3000, or *, "
        "found \"{}\"",
        text));
  };
  std::string origin = to_lower(text);
  if (!origin.empty() && origin.back() == '/') origin.pop_back();
  const size_t slashes = origin.find("://");
  if (slashes == std::string::npos || slashes == 0) return wrong();
  const std::string scheme = origin.substr(0, slashes);
  const std::string authority = origin.substr(slashes + 3);
  if (authority.find_first_of("/?#@ ") != std::string::npos || host_name(authority).empty())
    return wrong();
  for (const auto& [name, port] : {std::pair("http", ":80"), std::pair("https", ":443")}) {
    if (scheme == name && authority.ends_with(port))
      origin.resize(origin.size() - std::string_view(port).size());
  }
  return origin;
}

Result<AccessRules> make_access_rules(std::string_view host, std::span<const std::string> origins) {
  AccessRules rules;
  rules.hosts.push_back(to_lower(host));
  std::array<char, 256> own_name{};
  if (::gethostname(own_name.data(), own_name.size() - 1) == 0)
    rules.hosts.push_back(to_lower(std::string_view(own_name.data())));
  for (const std::string& text : origins) {
    const Result<std::string> origin = normal_origin(text);
    if (!origin) return origin.error();
    const size_t slashes = origin->find("://");
    if (slashes != std::string::npos) rules.hosts.push_back(host_name(origin->substr(slashes + 3)));
    rules.origins.push_back(*origin);
  }
  return rules;
}

bool is_allowed_host(const AccessRules& rules, std::string_view host_header) {
  const std::string name = host_name(host_header);
  if (name.empty()) return false;
  return name == "localhost" || name.ends_with(".localhost") || is_address(name) ||
         std::find(rules.hosts.begin(), rules.hosts.end(), name) != rules.hosts.end();
}

bool is_allowed_origin(const AccessRules& rules, std::string_view origin,
                       std::string_view host_header) {
  if (origin.empty()) return true;
  const Result<std::string> normal = normal_origin(origin);
  // "null" (a file, a sandboxed frame) is nobody's.
  if (!normal || *normal == "*") return false;
  for (const std::string_view scheme : {"http://", "https://"}) {
    const Result<std::string> own = normal_origin(fmt::format("{}{}", scheme, host_header));
    if (own && *own == *normal) return true;
  }
  return std::any_of(rules.origins.begin(), rules.origins.end(), [&](const std::string& allowed) {
    return allowed == "*" || allowed == *normal;
  });
}

Headers cors_headers(std::string_view origin) {
  if (origin.empty()) return {};
  return {
      {"Access-Control-Allow-Origin", std::string(origin)},
      {"Access-Control-Expose-Headers", "x-request-id, request-id, retry-after, x-ignored-tools"},
      {"Vary", "Origin"}};
}

Headers preflight_headers(std::string_view requested_headers, bool wants_private_network) {
  Headers headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS"},
                     {"Access-Control-Max-Age", "600"}};
  if (!requested_headers.empty())
    headers.push_back({"Access-Control-Allow-Headers", std::string(requested_headers)});
  if (wants_private_network) headers.push_back({"Access-Control-Allow-Private-Network", "true"});
  return headers;
}

}  // namespace cachalot::server
