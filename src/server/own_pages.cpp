#include "server/own_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "api/error.h"
#include "server/connection.h"
#include "text/dsml_arguments.h"

namespace cachalot::server {
namespace {

constexpr std::string_view kSessions = "/admin/sessions/";
// Of pages: nothing from elsewhere, nothing inline, in nobody's frame.
constexpr std::string_view kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

api::HttpAnswer json_answer(const json::value& value, int status = 200) {
  return {.status = status, .headers = {}, .body = json::serialize(value)};
}

api::HttpAnswer health(const ServerState& state) {
  switch (state.phase) {
    case Phase::loading: return json_answer(json::object{{"status", "loading model"}}, 503);
    case Phase::serving: return json_answer(json::object{{"status", "ok"}});
    case Phase::draining: return json_answer(json::object{{"status", "stopping"}}, 503);
  }
  return {};
}

api::HttpAnswer cache_numbers(const ServerState& state) {
  const cache::PrefixCounters n = state.engine->numbers().prefix;
  return json_answer(json::object{{"lookups", n.lookups},
                                  {"hits", n.hits},
                                  {"partial_hits", n.partial_hits},
                                  {"disk_hits", n.disk_hits},
                                  {"reused_tokens", n.reused_tokens},
                                  {"recomputed_tokens", n.recomputed_tokens},
                                  {"memory_blocks", n.memory_blocks},
                                  {"disk_blocks", n.disk_blocks},
                                  {"disk_read_bytes", n.disk_read_bytes},
                                  {"disk_written_bytes", n.disk_written_bytes},
                                  {"stored_blocks", n.stored_blocks},
                                  {"evicted_blocks", n.evicted_blocks},
                                  {"damaged_records", n.damaged_records},
                                  {"failed_writes", n.failed_writes}});
}

api::HttpAnswer sessions(const ServerState& state) {
  json::array rows;
  for (const Connection* connection : state.connections) {
    const std::optional<Session> session = connection->session();
    if (!session) continue;
    rows.push_back(json::object{{"id", session->id},
                                {"path", session->path},
                                {"key", session->key},
                                {"seconds", session->seconds},
                                {"prompt_tokens", session->prompt_tokens},
                                {"completion_tokens", session->completion_tokens}});
  }
  return json_answer(json::object{{"sessions", std::move(rows)}});
}

api::HttpAnswer end_session(const ServerState& state, std::string_view path) {
  const std::string_view id = path.substr(kSessions.size());
  for (Connection* connection : state.connections) {
    const std::optional<Session> session = connection->session();
    if (!session || session->id != id) continue;
    connection->end_call();
    return json_answer(json::object{{"id", id}, {"status", "cancelled"}});
  }
  return error_answer(path, 404, fmt::format("session: expected one under way, found \"{}\"", id));
}

const StaticFile* find_file(const ServerState& state, std::string_view path) {
  const auto found = std::find_if(state.options.files.begin(), state.options.files.end(),
                                  [&](const StaticFile& file) { return file.path == path; });
  return found != state.options.files.end() ? &*found : nullptr;
}

api::HttpAnswer front_page() {
  return {.content_type = "text/plain; charset=utf-8",
          .headers = {},
          .body =
              "Cachalot serves POST /v1/chat/completions, /v1/completions, /v1/responses and "
              "/v1/messages,\nGET /v1/models, /health and /metrics.\n"};
}

api::HttpAnswer administer(ServerState& state, std::string_view method, std::string_view path) {
  const bool reads = method == "GET";
  if (path == "/admin/drain") {
    if (method != "POST") return wrong_method(path, method, "POST");
    state.drain();
    return json_answer(json::object{{"status", "stopping"}}, 202);
  }
  if (path.starts_with(kSessions)) {
    return method == "DELETE" ? end_session(state, path) : wrong_method(path, method, "DELETE");
  }
  if (path == "/admin/sessions")
    return reads ? sessions(state) : wrong_method(path, method, "GET, HEAD");
  const bool clears = path == "/admin/cache/clear";
  if (path != "/admin/cache" && !clears)
    return error_answer(path, 404, fmt::format("no such page: {}", path));
  if (clears ? method != "POST" : !reads)
    return wrong_method(path, method, clears ? "POST" : "GET, HEAD");
  if (state.phase == Phase::loading) return error_answer(path, 503, "the model is being loaded");
  if (!clears) return cache_numbers(state);
  state.engine->post([](engine::Engine& engine) { engine.forget_prefixes(); });
  return json_answer(json::object{{"status", "cleared"}}, 202);
}

}  // namespace

api::HttpAnswer error_answer(std::string_view path, int status, std::string message,
                             std::string code) {
  return api::error_answer(
      {.status = status,
       .message = text::valid_utf8(message),  // it may show bytes of the request
       .param = "",
       .code = std::move(code)},
      api::error_shape(path));
}

api::HttpAnswer wrong_method(std::string_view path, std::string_view method,
                             std::string_view allowed) {
  api::HttpAnswer answer =
      error_answer(path, 405, fmt::format("{}: expected {}, found {}", path, allowed, method));
  answer.headers.push_back({"Allow", fmt::format("{}, OPTIONS", allowed)});
  return answer;
}

std::optional<Audience> own_page_audience(const ServerState& state, std::string_view path) {
  if (path == "/admin" || path.starts_with("/admin/")) return Audience::administrators;
  if (path == "/metrics") return Audience::callers;
  if (path == "/health" || path == "/" || find_file(state, path) != nullptr)
    return Audience::everyone;
  return std::nullopt;
}

api::HttpAnswer answer_own_page(ServerState& state, std::string_view method,
                                std::string_view path) {
  if (path.starts_with("/admin")) return administer(state, method, path);
  if (method != "GET") return wrong_method(path, method, "GET, HEAD");
  if (path == "/health") return health(state);
  if (path == "/metrics") {
    return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
            .headers = {},
            .body = metrics_page(state.metrics, state.engine->numbers(),
                                 static_cast<int64_t>(state.connections.size()))};
  }
  const StaticFile* file = find_file(state, path);
  if (file == nullptr) return front_page();
  return {.content_type = std::string(file->content_type),
          .headers = {{"Content-Security-Policy", std::string(kPolicy)},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}},
          .body = std::string(file->bytes)};
}

}  // namespace cachalot::server
