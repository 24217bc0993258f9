// Which pages may reach the server from a browser. A page elsewhere can send requests to this
// machine: under its own name, whose address it has changed to ours (DNS rebinding: the Host header
// gives it away), or across origins (the Origin header does).
//
// Host    an address, "localhost", a name that the server was told: no other name is ours. Who
//         serves on a public name lists that name's origin.
// Origin  none (no browser, or a plain GET), the page's own server, or one of the list.
// Pure functions; threads: any.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/http_message.h"
#include "base/status.h"

namespace cachalot::server {

struct AccessRules {
  std::vector<std::string> hosts;    // names beside addresses and localhost, lower case
  std::vector<std::string> origins;  // as normal_origin() gives them; "*": all
};

// "https://Chat.example:443/" as "https://chat.example". invalid_argument for what is no origin.
Result<std::string> normal_origin(std::string_view text);

// `host`: the --host. The names of the origins are hosts too: a proxy passes them on.
Result<AccessRules> make_access_rules(std::string_view host, std::span<const std::string> origins);

// "name:port", "name", "[::1]:port".
bool is_allowed_host(const AccessRules& rules, std::string_view host_header);

// An empty `origin`: none was sent.
bool is_allowed_origin(const AccessRules& rules, std::string_view origin,
                       std::string_view host_header);

using Headers = std::vector<api::HttpHeader>;

// For every answer to an allowed origin, errors and streams with it; none where there was no
// origin.
Headers cors_headers(std::string_view origin);
// For the answer to a preflight; requested: Access-Control-Request-Headers, which come back as they
// are, since "*" does not cover Authorization.
Headers preflight_headers(std::string_view requested_headers, bool wants_private_network);

}  // namespace cachalot::server
