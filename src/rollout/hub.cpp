#include "rollout/hub.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cstring>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "server/access.h"
#include "server/answer_head.h"
#include "server/http_stream.h"
#include "server/listen.h"
#include "server/target.h"
#include "train/checkpoint.h"

namespace cachalot::rollout {
namespace {

namespace asio = boost::asio;
using server::Clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr auto kTick = std::chrono::milliseconds(500);
constexpr auto kLookTime = std::chrono::milliseconds(20);  // between two looks at wants_pause()
constexpr auto kFarewellTime = std::chrono::seconds(2);
// A worker that waits for a trainer asks several times a second: by then all are known.
constexpr auto kGreetingTime = std::chrono::seconds(1);
constexpr size_t kMaxName = 128;
constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr int kNotAcceptedTime = 100;  // milliseconds until accept() is tried again

struct Answer {
  int status = 200;
  std::string body;
  std::string file;  // in the body's place
};

int status_of(StatusCode code) {
  switch (code) {
    case StatusCode::invalid_argument:
    case StatusCode::data_loss: return 400;
    case StatusCode::not_found: return 404;
    case StatusCode::cancelled: return 410;
    default: return 500;
  }
}

Answer error_answer(int status, std::string_view message) {
  return {status, boost::json::serialize(json::object{{"error", message}}), {}};
}
Answer answer_of(const Status& status) {
  return status.ok() ? Answer{204, {}, {}}
                     : error_answer(status_of(status.code()), status.message());
}

// As train::parse_training_precision() reads it.
std::string level_name(train::TrainingPrecision::Level level) {
  switch (level) {
    case train::TrainingPrecision::Level::fp32: return "fp32";
    case train::TrainingPrecision::Level::bf16: return "bf16";
    case train::TrainingPrecision::Level::fp8: return "fp8";
  }
  return "";
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// "a/b/c" in its parts.
std::vector<std::string_view> parts_of(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    path.remove_prefix(1);  // the slash
    const size_t end = std::min(path.find('/'), path.size());
    parts.push_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  return parts;
}

// -1: no number.
int64_t number_of(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 ? value : -1;
}

// Of "a=1&b=2"; empty where it is not there.
std::string_view query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    if (pair.starts_with(name) && pair.substr(name.size()).starts_with('='))
      return pair.substr(name.size() + 1);
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return {};
}

}  // namespace

class Hub::Listener {
 public:
  Listener(const HubOptions& options, LeaseDesk& desk, server::AccessRules rules)
      : options_(options), keys_(options.keys), desk_(desk), rules_(std::move(rules)) {}

  Status listen() { return server::listen_on(acceptor_, options_.host, options_.port); }
  boost::asio::ip::tcp::endpoint endpoint() const { return acceptor_.local_endpoint(); }

  void run() {
    asio::co_spawn(io_, accept(), asio::detached);
    asio::co_spawn(io_, tick(), asio::detached);
    io_.run();
  }
  void stop() { io_.stop(); }

 private:
  asio::awaitable<void> accept() {
    while (true) {
      auto [failed, socket] = co_await acceptor_.async_accept(kAwait);
      if (!failed) {
        asio::co_spawn(io_, serve(std::move(socket)), asio::detached);
        continue;
      }
      log_warning(fmt::format("workers: accept: {}", failed.message()));
      asio::steady_timer pause(io_, std::chrono::milliseconds(kNotAcceptedTime));
      co_await pause.async_wait(kAwait);
    }
  }

  asio::awaitable<void> tick() {
    asio::steady_timer timer(io_);
    while (true) {
      timer.expires_after(kTick);
      co_await timer.async_wait(kAwait);
      for (server::HttpStream* stream : streams_) stream->tick(Clock::now());
    }
  }

  asio::awaitable<void> serve(asio::ip::tcp::socket socket) {
    server::HttpStream stream(std::move(socket), limits_, bodies_bytes_);
    streams_.insert(&stream);
    while (true) {
      server::HttpStream::Read read = co_await stream.read_head();
      if (read == server::HttpStream::Read::ok && stream.has_body())
        read = co_await stream.read_body();
      if (read == server::HttpStream::Read::closed) break;
      const bool is_read = read == server::HttpStream::Read::ok;
      const Answer answer = is_read ? answer_to(stream.request())
                                    : error_answer(400,
                                                   "expected an HTTP request within the "
                                                   "limits, found another");
      const bool goes_on = is_read && stream.wants_keep_alive();
      const bool is_written = co_await write(stream, answer, goes_on);
      if (!is_written || !goes_on) break;
    }
    streams_.erase(&stream);
    stream.close();
  }

  asio::awaitable<bool> write(server::HttpStream& stream, const Answer& answer, bool goes_on) {
    server::AnswerHead head;
    head.status = answer.status;
    head.content_type = answer.status == 200 ? "application/octet-stream" : "application/json";
    head.keeps_alive = goes_on;
    if (answer.file.empty()) {
      head.length = static_cast<int64_t>(answer.body.size());
      co_return co_await stream.write(server::head_bytes(head, {}) + answer.body);
    }
    const Result<MappedFile> file = MappedFile::open(answer.file);
    if (!file) co_return co_await write(stream, answer_of(file.error()), goes_on);
    const std::span<const std::byte> bytes = file->bytes();
    head.length = static_cast<int64_t>(bytes.size());
    bool is_written = co_await stream.write(server::head_bytes(head, {}));
    for (size_t at = 0; is_written && at < bytes.size(); at += kPieceBytes) {
      const std::span<const std::byte> piece =
          bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
      is_written =
          co_await stream.write({reinterpret_cast<const char*>(piece.data()), piece.size()});
    }
    co_return is_written;
  }

  Answer answer_to(const api::HttpRequest& request) {
    if (!request.header("Origin").empty() ||
        !server::is_allowed_host(rules_, request.header("Host"))) {
      return error_answer(403,
                          "expected a worker that calls this machine by an address or its "
                          "name, found another");
    }
    if (!keys_.empty() &&
        keys_.find(request.header("Authorization"), request.header("x-api-key")) == nullptr)
      return error_answer(401, "expected a worker with a key of this trainer, found none");
    const std::optional<server::Target> target = server::parse_target(request.target);
    if (!target) return error_answer(400, "expected a path, found another target");
    const std::vector<std::string_view> path = parts_of(target->path);
    const auto is = [&](std::string_view method, size_t size, std::string_view second) {
      return request.method == method && path.size() == size && path[0] == "rollout" &&
             path[1] == second;
    };
    const auto number = [&](size_t part) { return number_of(path[part]); };
    const LeaseDesk::Clock::time_point now = LeaseDesk::Clock::now();
    if (is("POST", 2, "claim")) return claim(query_value(target->query, "worker"), now);
    if (is("POST", 2, "frames")) return take(request.body, target->query, now);
    if (is("GET", 3, "plans")) {
      const Result<std::vector<int64_t>> words = desk_.plan_words(number(2));
      return words ? Answer{200, bytes_of(*words), {}} : answer_of(words.error());
    }
    if (is("GET", 4, "weights")) return weights(number(2), path[3]);
    if (is("GET", 4, "leases") && path[3] == "frames") {
      Result<std::string> batch = desk_.logged(number(2), now);
      return batch ? Answer{200, *std::move(batch), {}} : answer_of(batch.error());
    }
    if (is("POST", 5, "leases") && path[3] == "turns") {
      const Result<std::vector<int32_t>> tokens = desk_.turn(number(2), number(4), now);
      return tokens ? Answer{200, bytes_of(*tokens), {}} : answer_of(tokens.error());
    }
    if (is("DELETE", 3, "leases")) {
      desk_.give_back(number(2));
      return {204, {}, {}};
    }
    return error_answer(404, fmt::format("{} {}: expected a call of workers, found another",
                                         request.method, target->path));
  }

  Answer claim(std::string_view worker, LeaseDesk::Clock::time_point now) {
    if (worker.empty() || worker.size() > kMaxName)
      return error_answer(400, "claim: expected a worker's name, found none");
    const Result<std::optional<Offer>> offer = desk_.claim(std::string(worker), now);
    if (!offer) return answer_of(offer.error());
    return *offer ? Answer{200, offer_json(**offer), {}} : Answer{204, {}, {}};
  }

  Answer take(std::string_view body, std::string_view query, LeaseDesk::Clock::time_point now) {
    Result<std::vector<SentFrame>> frames = frames_of_batch(body);
    if (!frames) return answer_of(frames.error());
    const auto count = [&](std::string_view name) {
      return std::max<int64_t>(0, number_of(query_value(query, name)));
    };
    return answer_of(desk_.take({*std::move(frames), count("drafted"), count("accepted")}, now));
  }

  Answer weights(int64_t version, std::string_view file) const {
    // The path's parts have no slash; of the others none leads out.
    const std::string directory =
        train::checkpoint_directory(options_.directory, std::max<int64_t>(0, version));
    const Result<std::vector<std::string>> names = list_directory(directory);
    if (version >= 0 && names && std::ranges::find(*names, file) != names->end())
      return {200, {}, fmt::format("{}/{}", directory, file)};
    return error_answer(404, fmt::format("weights {}: expected a file of the version at hand, "
                                         "found none of the name \"{}\"",
                                         version, file));
  }

  const HubOptions& options_;
  server::ApiKeys keys_;
  LeaseDesk& desk_;
  const server::AccessRules rules_;
  const server::HttpLimits limits_;
  int64_t bodies_bytes_ = 0;
  std::set<server::HttpStream*> streams_;
  asio::io_context io_{1};  // its coroutines go before what they use
  asio::ip::tcp::acceptor acceptor_{io_};
};

Hub::Hub(HubOptions options) : options_(std::move(options)), desk_(options_.lease_seconds) {}

Result<std::unique_ptr<Hub>> Hub::listen(HubOptions options) {
  CACHALOT_ASSIGN_OR_RETURN(server::AccessRules rules, server::make_access_rules(options.host, {}));
  std::unique_ptr<Hub> hub(new Hub(std::move(options)));
  hub->listener_ = std::make_unique<Listener>(hub->options_, hub->desk_, std::move(rules));
  CACHALOT_RETURN_IF_ERROR(hub->listener_->listen());
  hub->thread_ = std::jthread([listener = hub->listener_.get()] { listener->run(); });
  return hub;
}

Hub::~Hub() {
  const auto end = Clock::now() + kFarewellTime;
  while (desk_.is_closed() && Clock::now() < end &&
         (desk_.num_untold() > 0 || Clock::now() < listened_ + kGreetingTime))
    std::this_thread::sleep_for(kLookTime);
  listener_->stop();
  thread_ = {};
}

uint16_t Hub::port() const { return listener_->endpoint().port(); }
bool Hub::is_local() const { return listener_->endpoint().address().is_loopback(); }

Status Hub::set_weights(const post::SamplerWeights& weights) {
  CACHALOT_RETURN_IF_ERROR(
      train::save_checkpoint(options_.directory, {weights.config,
                                                  weights.parameters,
                                                  {},
                                                  json::object{},
                                                  "",
                                                  std::string(weights.tokenizer_json),
                                                  weights.version,
                                                  ""}));
  CACHALOT_RETURN_IF_ERROR(train::drop_checkpoints_after(options_.directory, weights.version));
  CACHALOT_RETURN_IF_ERROR(train::prune_checkpoints(options_.directory, 1, 0));
  const std::string directory = train::checkpoint_directory(options_.directory, weights.version);
  CACHALOT_ASSIGN_OR_RETURN(const std::string manifest,
                            read_text_file(directory + "/manifest.json"));
  weights_ = {};
  weights_.weights_version = weights.version;
  weights_.manifest_sha256 = sha256_hex(manifest);
  weights_.precision = level_name(weights.precision.level);
  weights_.qat = weights.precision.qat;
  return {};
}

Result<bool> Hub::sample(const post::RolloutPlan& plan, post::RolloutLog& log,
                         const post::OnTurn& on_turn, const std::function<bool()>& wants_pause) {
  CACHALOT_CHECK(weights_.weights_version == plan.weights_version);
  desk_.begin(plan, log, on_turn, weights_);
  bool is_paused = false;
  while (!is_paused && !desk_.wait(kLookTime)) is_paused = wants_pause && wants_pause();
  counts_ = desk_.counts();
  CACHALOT_RETURN_IF_ERROR(desk_.end());
  return !is_paused;
}

}  // namespace cachalot::rollout
