// A port to take connections on.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace cachalot::server {

// Opens the acceptor there; port 0: any that is free.
// Errors  invalid_argument: a host that is not of this machine; io_error: the port is taken.
Status listen_on(boost::asio::ip::tcp::acceptor& acceptor, const std::string& host, uint16_t port);

}  // namespace cachalot::server
