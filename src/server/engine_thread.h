// The engine on a thread of its own. Calls go in from the I/O thread; what comes of a step goes
// back to it as one message.
#pragma once

#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "api/served_model.h"
#include "base/status.h"
#include "engine/engine.h"
#include "server/live_call.h"
#include "server/metrics.h"

namespace cachalot::server {

struct ServedEngine {
  std::unique_ptr<engine::Engine> engine;
  std::shared_ptr<const api::ServedModel> model;
};

class EngineThread {
 public:
  // Opens the model there, then tells the I/O thread, once, what came of it.
  using Open = std::function<Result<ServedEngine>()>;
  EngineThread(boost::asio::io_context& io, Open open, std::function<void(Status)> on_open);
  // Cancels what is under way and waits for the step that runs.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Those below after on_open has told of success; the I/O thread's.
  const std::shared_ptr<const api::ServedModel>& model() const { return opened_.model; }
  // Submits the call's request of this place; its events arrive() there.
  Status submit(const std::shared_ptr<LiveCall>& call, size_t place, engine::Request request);
  void cancel(engine::RequestId id);
  // Runs `task` between two steps.
  void post(std::function<void(engine::Engine&)> task);
  // As of the end of the last step.
  EngineNumbers numbers() const;

 private:
  struct Sent {
    std::shared_ptr<LiveCall> call;
    Arrived arrived;
  };
  void run(const std::stop_token& stop, const Open& open,
           const std::function<void(Status)>& on_open);
  void work(const std::stop_token& stop);
  void take_numbers();
  void deliver();

  boost::asio::io_context& io_;
  ServedEngine opened_;
  std::vector<Sent> sent_;  // the engine's thread's: in this step

  mutable std::mutex mutex_;  // of those below
  std::condition_variable_any changed_;
  bool has_work_ = false;
  std::vector<std::function<void(engine::Engine&)>> tasks_;
  EngineNumbers numbers_;

  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace cachalot::server
