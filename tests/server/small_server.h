// A server over a small made-up model, in this process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "server/raw_client.h"
#include "server/server.h"

namespace cachalot::server::testing {

struct SmallServerOptions {
  ServerOptions server = {};
  int64_t max_sequences = 16;
  int64_t max_requests = 1024;
  int64_t context_tokens = 4096;
  std::function<void()> before_load = {};  // on the engine's thread
  bool waits = true;                       // until the model is there
};

class SmallServer {
 public:
  explicit SmallServer(SmallServerOptions options = {});
  ~SmallServer();  // stops it

  uint16_t port() const { return server_->port(); }
  Server& server() { return *server_; }
  void wait_until_ready() const;
  // Stops it and waits; what run() gave.
  Status stop();
  // Whether run() has returned within the time.
  bool ends_within(double seconds);

  // Of /metrics; -1: there is none of the name.
  double metric(std::string_view name) const;
  // Whether it comes to the value within the time.
  bool comes_to(std::string_view name, double value, double seconds = 20) const;

 private:
  std::unique_ptr<Server> server_;
  Status status_;
  std::atomic<bool> has_ended_ = false;
  std::thread thread_;
};

// {"prompt": [ids...], "max_tokens": ..., greedy, which ignores the end of the text}
std::string completion(int64_t prompt_tokens, int64_t max_tokens, std::string_view more = "");

}  // namespace cachalot::server::testing
