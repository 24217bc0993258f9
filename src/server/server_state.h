// What the connections of a server have in common.
// Threads  one: the I/O thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/access.h"
#include "server/api_keys.h"
#include "server/engine_thread.h"
#include "server/http_stream.h"
#include "server/metrics.h"
#include "server/workers.h"

namespace cachalot::server {

// A page of the binary itself.
struct StaticFile {
  std::string_view path;  // "/", "/page.js"
  std::string_view content_type;
  std::string_view bytes;
};

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: any that is free
  std::vector<std::string> origins = {};
  ApiKeys keys = {};  // none: everyone may call
  std::span<const StaticFile> files = {};
  HttpLimits http = {};
  size_t max_connections = 4096;
  double keep_alive_seconds = 5;      // of silence in a stream
  double drain_seconds = 10;          // that answers under way have to end in when the server stops
  size_t max_untaken_events = 16384;  // of a stream whose client reads too slowly
};

enum class Phase { loading, serving, draining };

class Connection;

struct ServerState {
  ServerState(boost::asio::io_context& the_io, ServerOptions the_options, AccessRules the_rules)
      : io(the_io), options(std::move(the_options)), rules(std::move(the_rules)), workers(the_io) {}

  boost::asio::io_context& io;
  ServerOptions options;
  AccessRules rules;
  Phase phase = Phase::loading;
  Metrics metrics;
  int64_t bodies_bytes = 0;
  uint64_t num_requests = 0;  // since the start: their ids
  std::set<Connection*> connections;
  std::function<void()> drain;  // begins to stop the server
  Workers workers;
  std::unique_ptr<EngineThread> engine;
};

}  // namespace cachalot::server
