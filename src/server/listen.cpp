#include "server/listen.h"

#include <fmt/format.h>

namespace cachalot::server {

Status listen_on(boost::asio::ip::tcp::acceptor& acceptor, const std::string& host, uint16_t port) {
  using Tcp = boost::asio::ip::tcp;
  boost::system::error_code failed;
  Tcp::resolver resolver(acceptor.get_executor());
  const auto found =
      resolver.resolve(host, fmt::format("{}", port), Tcp::resolver::passive, failed);
  if (failed || found.empty()) {
    return invalid_argument(
        fmt::format("host: expected an address or name of this machine, found \"{}\"", host));
  }
  const Tcp::endpoint endpoint = found.begin()->endpoint();
  const auto step = [&](auto&& action) {
    if (!failed) action();
  };
  step([&] { acceptor.open(endpoint.protocol(), failed); });
  step([&] { acceptor.set_option(Tcp::acceptor::reuse_address(true), failed); });
  step([&] { acceptor.bind(endpoint, failed); });
  step([&] { acceptor.listen(boost::asio::socket_base::max_listen_connections, failed); });
  if (!failed) return {};
  return io_error(fmt::format("{}:{}: cannot listen: {}", host, port, failed.message()));
}

}  // namespace cachalot::server
