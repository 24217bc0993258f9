#include "server/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>
#include <variant>

#include "api/error.h"
#include "api/router.h"
#include "server/answer_head.h"
#include "server/ascii.h"
#include "server/own_pages.h"
#include "server/target.h"

namespace cachalot::server {
namespace {

namespace asio = boost::asio;

// How long a stream's first bytes wait for an error, which could still have a status of its own.
constexpr auto kHeadPatience = std::chrono::milliseconds(250);
constexpr int kTicksPerLook = 4;
// A token as text, with what surrounds it, at the most; for choosing a worker.
constexpr size_t kAnswerBytesPerToken = 64;

Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

Connection::Connection(ServerState& state, asio::ip::tcp::socket socket)
    : state_(state),
      stream_(std::move(socket), state.options.http, state.bodies_bytes),
      is_local_(stream_.is_from_this_machine()) {
  state_.connections.insert(this);
}

Connection::~Connection() { state_.connections.erase(this); }

void Connection::tick(Clock::time_point now) {
  stream_.tick(now);
  if (live_ == nullptr || is_gone_) return;
  // The system is asked every now and then only: it is a call for each connection.
  const bool asks = ++num_ticks_ % kTicksPerLook == 0;
  if (!(asks && stream_.is_peer_gone()) &&
      live_->num_untaken() <= state_.options.max_untaken_events)
    return;
  is_gone_ = true;
  stream_.cancel();
  live_->wake();
}

void Connection::end_waiting() {
  if (waits_since()) stream_.cancel();
}

void Connection::end_call() {
  if (live_ == nullptr) return;
  wants_end_ = true;
  live_->wake();
}

std::optional<Session> Connection::session() const {
  if (live_ == nullptr) return std::nullopt;
  return Session{.id = exchange_.id,
                 .path = exchange_.path,
                 .key = exchange_.key != nullptr ? exchange_.key->name() : "",
                 .seconds = std::chrono::duration<double>(Clock::now() - exchange_.begun).count(),
                 .prompt_tokens = prompt_tokens_,
                 .completion_tokens = live_->num_tokens()};
}

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  do {
    exchange_ = {};
    const HttpStream::Read read = co_await stream_.read_head();
    if (read == HttpStream::Read::ok) {
      co_await serve();
    } else {
      co_await report(read);
    }
  } while (!is_gone_ && exchange_.keeps_alive && state_.phase != Phase::draining);
  if (!is_gone_) co_await stream_.linger();
  stream_.close();
}

// A request that could not be read. What follows it cannot either.
asio::awaitable<void> Connection::report(HttpStream::Read read) {
  using Read = HttpStream::Read;
  exchange_.keeps_alive = false;
  const HttpLimits& limits = state_.options.http;
  api::HttpAnswer answer;
  switch (read) {
    case Read::ok:
    case Read::closed: is_gone_ = true; co_return;
    case Read::expired:
      answer = error_answer(exchange_.path, 408, "the request did not arrive in time");
      break;
    case Read::malformed: answer = error_answer(exchange_.path, 400, stream_.fault()); break;
    case Read::head_too_large:
      answer = error_answer(
          exchange_.path, 431,
          fmt::format("HTTP headers: expected at most {} bytes, found more", limits.head_bytes));
      break;
    case Read::body_too_large:
      answer = error_answer(
          exchange_.path, 413,
          fmt::format("HTTP body: expected at most {} bytes, found more", limits.body_bytes));
      break;
    case Read::too_busy:
      answer = error_answer(exchange_.path, 503,
                            fmt::format("bodies of all requests together: expected at most {} "
                                        "bytes, found more; try again",
                                        limits.all_bodies_bytes));
      answer.headers.push_back({"Retry-After", "2"});
      break;
  }
  co_await write_answer(std::move(answer));
}

asio::awaitable<void> Connection::serve() {
  api::HttpRequest& request = stream_.request();
  exchange_.begun = Clock::now();
  exchange_.id = fmt::format("req_{:016x}", ++state_.num_requests);
  // Before what a client may have sent: the error of a stream names it.
  request.headers.insert(request.headers.begin(), {"request-id", exchange_.id});
  exchange_.is_head = request.method == "HEAD";
  if (exchange_.is_head) request.method = "GET";
  exchange_.keeps_alive = stream_.wants_keep_alive() && state_.phase != Phase::draining;
  if (std::optional<api::HttpAnswer> answer = judge()) {
    if (stream_.has_body()) exchange_.keeps_alive = false;
    co_await write_answer(*std::move(answer));
    co_return;
  }
  if (stream_.has_body()) {
    const HttpStream::Read read = co_await stream_.read_body();
    if (read != HttpStream::Read::ok) {
      co_await report(read);
      co_return;
    }
  }
  api::Routed routed;
  const std::shared_ptr<const api::ServedModel> model = state_.engine->model();
  const bool has_run = co_await state_.workers.run(request.body.size(), [&] {
    routed = api::route(request, *model);
    std::string().swap(request.body);
  });
  stream_.release_body();
  if (!has_run)
    routed = error_answer(exchange_.path, 503, "there is no memory for this request now");
  if (auto* call = std::get_if<std::unique_ptr<api::Call>>(&routed)) {
    co_await answer_call(std::move(*call));
  } else {
    co_await write_answer(std::get<api::HttpAnswer>(std::move(routed)));
  }
}

std::optional<api::HttpAnswer> Connection::judge() {
  api::HttpRequest& request = stream_.request();
  const std::optional<Target> target = parse_target(request.target);
  if (!target) return error_answer("", 400, "HTTP target: expected a path, found none");
  exchange_.path = target->path;
  request.target = target->query.empty() ? target->path : target->path + "?" + target->query;

  const std::string host(target->host.empty() ? request.header("Host") : target->host);
  if (std::optional<api::HttpAnswer> refused = judge_origin(host)) return refused;
  if (request.method == "OPTIONS") return answer_options();
  if (!request.header("Expect").empty() &&
      !equals_ignoring_case(request.header("Expect"), "100-continue"))
    return error_answer(exchange_.path, 417, "Expect: expected 100-continue, found another");
  if (const std::string_view coding = request.header("Content-Encoding");
      !coding.empty() && !equals_ignoring_case(coding, "identity")) {
    return error_answer(exchange_.path, 415,
                        fmt::format("Content-Encoding: expected none, found \"{}\"", coding));
  }

  const std::optional<Audience> audience = own_page_audience(state_, exchange_.path);
  if (audience != Audience::everyone) {
    if (std::optional<api::HttpAnswer> refused = judge_key(audience == Audience::administrators))
      return refused;
  }
  if (audience) return answer_own_page(state_, request.method, exchange_.path);
  if (state_.phase != Phase::serving) {
    api::HttpAnswer answer =
        error_answer(exchange_.path, 503,
                     state_.phase == Phase::loading ? "the model is being loaded; try again"
                                                    : "the server is stopping");
    answer.headers.push_back({"Retry-After", "2"});
    return answer;
  }
  return std::nullopt;
}

std::optional<api::HttpAnswer> Connection::judge_origin(std::string_view host) {
  const api::HttpRequest& request = stream_.request();
  if (host.empty() && !stream_.is_http_1_0())
    return error_answer(exchange_.path, 400, "HTTP request: expected a Host header, found none");
  if (!host.empty() && !is_allowed_host(state_.rules, host)) {
    return error_answer(
        exchange_.path, 403,
        fmt::format("Host: expected an address or a name that this server was told of (--host, "
                    "--allow-origin), found \"{}\"",
                    host));
  }
  const std::string origin(request.header("Origin"));
  if (!is_allowed_origin(state_.rules, origin, host)) {
    return error_answer(
        exchange_.path, 403,
        fmt::format("Origin: expected one of --allow-origin, found \"{}\"", origin));
  }
  exchange_.origin = origin;
  return std::nullopt;
}

std::optional<api::HttpAnswer> Connection::judge_key(bool is_admin_page) {
  const api::HttpRequest& request = stream_.request();
  if (state_.options.keys.empty()) {
    if (!is_admin_page || is_local_) return std::nullopt;
    return error_answer(exchange_.path, 403,
                        "administration: expected a client on the server's own machine, or a key "
                        "with `admin`");
  }
  exchange_.key =
      state_.options.keys.find(request.header("Authorization"), request.header("x-api-key"));
  if (exchange_.key == nullptr) {
    api::HttpAnswer answer = error_answer(
        exchange_.path, 401,
        "API key: expected a valid one as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"",
        "invalid_api_key");
    answer.headers.push_back({"WWW-Authenticate", "Bearer"});
    return answer;
  }
  if (is_admin_page && !exchange_.key->is_admin())
    return error_answer(exchange_.path, 403, "administration: expected a key with `admin`");
  return std::nullopt;
}

api::HttpAnswer Connection::answer_options() const {
  const api::HttpRequest& request = stream_.request();
  api::HttpAnswer answer{.status = 204, .content_type = "", .headers = {}, .body = ""};
  answer.headers.push_back({"Allow", "GET, HEAD, POST, DELETE, OPTIONS"});
  if (exchange_.origin.empty()) return answer;
  for (api::HttpHeader& header : preflight_headers(
           request.header("Access-Control-Request-Headers"),
           equals_ignoring_case(request.header("Access-Control-Request-Private-Network"), "true")))
    answer.headers.push_back(std::move(header));
  return answer;
}

asio::awaitable<void> Connection::answer_call(std::unique_ptr<api::Call> call) {
  const auto now_s = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  ApiKey* const key = exchange_.key;
  if (key != nullptr) {
    if (std::optional<ApiKey::Refusal> refusal = key->refusal(now_s)) {
      api::HttpAnswer answer =
          error_answer(exchange_.path, 429, std::move(refusal->why), "rate_limit_exceeded");
      answer.headers.push_back({"Retry-After", fmt::format("{}", refusal->retry_after_s)});
      co_await write_answer(std::move(answer));
      co_return;
    }
    key->begin();
  }
  co_await run_call(*call);
  live_ = nullptr;
  const api::Usage usage = call->usage();
  state_.metrics.add(usage);
  if (key == nullptr) co_return;
  key->spend(usage.completion_tokens);
  key->end();
}

asio::awaitable<void> Connection::run_call(api::Call& call) {
  std::string out;
  if (call.streams()) call.head(out);
  submit_requests(call, out);
  bool has_head = false;
  bool has_events = false;
  Clock::time_point last_write = Clock::now();
  const Clock::duration patience = duration_of(state_.options.keep_alive_seconds);
  while (true) {
    for (const Arrived& arrived : live_->take_inbox()) {
      has_events = true;
      call.take(arrived.request, arrived.event, out);
    }
    cancel_requests(call);
    if (call.is_done() || (is_gone_ && live_->are_all_finished())) break;
    Clock::time_point next = Clock::time_point::max();
    if (is_gone_) {
      stream_.close();
      out.clear();
    } else if (call.streams()) {
      const Clock::duration silence = Clock::now() - last_write;
      if (!has_head && !call.failure() && (has_events || silence >= kHeadPatience)) {
        has_head = true;
        co_await write_stream_head(call);
      }
      if (has_head && out.empty() && silence >= patience) out = call.keep_alive();
      if (has_head && !out.empty()) {
        co_await write_piece(std::exchange(out, {}));
        last_write = Clock::now();
        continue;
      }
      next = last_write + (has_head ? patience : Clock::duration(kHeadPatience));
    }
    co_await live_->wait_until(next);
  }
  live_->abandon();
  if (is_gone_) co_return;
  if (!call.streams() || (!has_head && call.failure())) {
    co_await finish_plain(call);
    co_return;
  }
  if (!has_head) co_await write_stream_head(call);
  co_await write_piece(std::move(out));
  if (!stream_.is_http_1_0()) co_await write(std::string(kLastChunk));
}

void Connection::submit_requests(api::Call& call, std::string& out) {
  std::vector<engine::Request> requests = call.take_requests();
  live_ = std::make_shared<LiveCall>(state_.io, state_.metrics, requests.size(), exchange_.begun);
  is_cancelled_.assign(requests.size(), false);
  wants_end_ = false;
  prompt_tokens_ = 0;
  uint64_t num_answers = 0;
  for (const engine::Request& request : requests)
    num_answers += static_cast<uint64_t>(request.num_answers);
  for (size_t i = 0; i < requests.size(); ++i) {
    // A call may ask for more answers than run at once: who asks for fewer does not wait for it.
    requests[i].priority = -std::bit_width(num_answers - 1);
    prompt_tokens_ += static_cast<int64_t>(requests[i].prompt.size());
    const Status submitted = state_.engine->submit(live_, i, std::move(requests[i]));
    if (!submitted.ok()) call.refuse(i, submitted, out);
  }
  if (exchange_.key != nullptr) exchange_.key->spend(prompt_tokens_);
}

asio::awaitable<void> Connection::finish_plain(api::Call& call) {
  api::HttpAnswer answer;
  if (std::optional<api::HttpAnswer> failure = call.failure()) {
    answer = *std::move(failure);
  } else {
    const auto num_tokens = static_cast<size_t>(prompt_tokens_ + live_->num_tokens());
    const bool has_run = co_await state_.workers.run(num_tokens * kAnswerBytesPerToken,
                                                     [&] { answer = call.answer(); });
    if (!has_run)
      answer = error_answer(exchange_.path, 503, "there is no memory for this answer now");
  }
  co_await write_answer(std::move(answer));
}

// All that are under way, where nobody waits for them; else those that the call needs no more.
void Connection::cancel_requests(const api::Call& call) {
  const bool all = is_gone_ || wants_end_;
  for (size_t i = 0; i < is_cancelled_.size(); ++i) {
    const std::optional<engine::RequestId> id = live_->unfinished_id(i);
    if (!id || is_cancelled_[i] || !(all || call.is_done() || call.wants_cancel(i))) continue;
    is_cancelled_[i] = true;
    state_.engine->cancel(*id);
    if (all && !call.is_done()) ++state_.metrics.num_cancelled;
  }
}

Headers Connection::common_headers() const {
  Headers headers = cors_headers(exchange_.origin);
  if (!exchange_.id.empty()) {
    headers.push_back({"x-request-id", exchange_.id});  // as OpenAI's clients read it
    headers.push_back({"request-id", exchange_.id});    // as Anthropic's do
  }
  headers.push_back({"X-Content-Type-Options", "nosniff"});
  return headers;
}

asio::awaitable<void> Connection::write(std::string bytes) {
  const bool is_written = co_await stream_.write(bytes);
  if (!is_written) is_gone_ = true;
}

asio::awaitable<void> Connection::write_answer(api::HttpAnswer answer) {
  ++state_.metrics.answers[answer.status];
  api::add_request_id(answer, exchange_.id, api::error_shape(exchange_.path));
  Headers headers = common_headers();
  std::move(answer.headers.begin(), answer.headers.end(), std::back_inserter(headers));
  AnswerHead head{.status = answer.status,
                  .content_type = answer.content_type,
                  .length = static_cast<int64_t>(answer.body.size()),
                  .keeps_alive = exchange_.keeps_alive};
  if (answer.status == 204) head.length.reset();
  std::string bytes = head_bytes(head, headers);
  if (!exchange_.is_head) bytes += answer.body;
  co_await write(std::move(bytes));
}

asio::awaitable<void> Connection::write_stream_head(const api::Call& call) {
  ++state_.metrics.answers[200];
  Headers headers = common_headers();
  headers.push_back({"Cache-Control", "no-cache"});
  headers.push_back({"X-Accel-Buffering", "no"});
  headers.insert(headers.end(), call.headers().begin(), call.headers().end());
  if (stream_.is_http_1_0()) exchange_.keeps_alive = false;
  const AnswerHead head{.content_type = "text/event-stream; charset=utf-8",
                        .length = std::nullopt,
                        .is_chunked = !stream_.is_http_1_0(),
                        .keeps_alive = exchange_.keeps_alive};
  co_await write(head_bytes(head, headers));
}

asio::awaitable<void> Connection::write_piece(std::string bytes) {
  if (!stream_.is_http_1_0()) bytes = chunk(bytes);
  co_await write(std::move(bytes));
}

}  // namespace cachalot::server
