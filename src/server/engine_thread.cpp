#include "server/engine_thread.h"

#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

namespace cachalot::server {

EngineThread::EngineThread(boost::asio::io_context& io, Open open,
                           std::function<void(Status)> on_open)
    : io_(io),
      thread_([this, open = std::move(open), on_open = std::move(on_open)](
                  const std::stop_token& stop) { run(stop, open, on_open); }) {}

EngineThread::~EngineThread() = default;

void EngineThread::run(const std::stop_token& stop, const Open& open,
                       const std::function<void(Status)>& on_open) {
  Status status;
  // Libraries and the allocator may throw.
  try {
    Result<ServedEngine> opened = open();
    if (opened) {
      opened_ = *std::move(opened);
      take_numbers();
    } else {
      status = opened.error();
    }
  } catch (const std::exception& e) {
    status = io_error(std::string("model: ") + e.what());
  }
  const bool is_open = status.ok();
  boost::asio::post(io_, [on_open, status = std::move(status)] { on_open(status); });
  if (!is_open) return;
  work(stop);
  // With it go the calls that its requests hold.
  opened_.engine.reset();
}

void EngineThread::work(const std::stop_token& stop) {
  engine::Engine& engine = *opened_.engine;
  while (!stop.stop_requested()) {
    std::vector<std::function<void(engine::Engine&)>> tasks;
    {
      const std::scoped_lock lock(mutex_);
      tasks.swap(tasks_);
      has_work_ = false;
    }
    for (const auto& task : tasks) task(engine);
    const bool has_more = engine.step();
    deliver();
    take_numbers();
    std::unique_lock lock(mutex_);
    if (!has_more) changed_.wait(lock, stop, [&] { return has_work_; });
  }
}

void EngineThread::take_numbers() {
  const EngineNumbers numbers{opened_.engine->counts(), opened_.engine->prefix_counters()};
  const std::scoped_lock lock(mutex_);
  numbers_ = numbers;
}

void EngineThread::deliver() {
  if (sent_.empty()) return;
  boost::asio::post(io_, [sent = std::exchange(sent_, {})]() mutable {
    for (Sent& one : sent) one.call->arrive(std::move(one.arrived));
  });
}

Status EngineThread::submit(const std::shared_ptr<LiveCall>& call, size_t place,
                            engine::Request request) {
  const int64_t num_answers = request.num_answers;
  request.on_event = [this, call, place](const engine::Event& event) {
    sent_.push_back({call, {place, api::AnswerEvent::copy_of(event), Clock::now()}});
    return true;
  };
  CACHALOT_ASSIGN_OR_RETURN(const engine::RequestId id, opened_.engine->submit(std::move(request)));
  // Its events come by a message to this thread, so later than this.
  call->add_request(place, id, num_answers);
  const std::scoped_lock lock(mutex_);
  has_work_ = true;
  changed_.notify_one();
  return {};
}

void EngineThread::cancel(engine::RequestId id) {
  opened_.engine->cancel(id);
  const std::scoped_lock lock(mutex_);
  has_work_ = true;
  changed_.notify_one();
}

void EngineThread::post(std::function<void(engine::Engine&)> task) {
  const std::scoped_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  has_work_ = true;
  changed_.notify_one();
}

EngineNumbers EngineThread::numbers() const {
  const std::scoped_lock lock(mutex_);
  return numbers_;
}

}  // namespace cachalot::server
