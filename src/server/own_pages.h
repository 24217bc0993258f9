// What the server answers itself: its health, its numbers, its administration, its files.
//   GET    /health             200 once it serves; 503 while it loads, and once it stops
//   GET    /metrics            Prometheus
//   GET    /admin/cache        counters of the prefix cache
//   POST   /admin/cache/clear  forget what memory keeps
//   GET    /admin/sessions     the calls under way
//   DELETE /admin/sessions/ID  end one, with what it has
//   POST   /admin/drain        take no more calls, finish those under way, end
#pragma once

#include <optional>
#include <string_view>

#include "api/http_message.h"
#include "server/server_state.h"

namespace cachalot::server {

// Who may have a page: everyone, whoever has a key (where there are keys), or an administrator (a
// key with `admin`; without keys, this machine).
enum class Audience { everyone, callers, administrators };
// Nothing: the path is not the server's own.
std::optional<Audience> own_page_audience(const ServerState& state, std::string_view path);

// `path` is the server's own.
api::HttpAnswer answer_own_page(ServerState& state, std::string_view method, std::string_view path);

// An error in the shape of the API that the path belongs to; none is OpenAI's.
api::HttpAnswer error_answer(std::string_view path, int status, std::string message,
                             std::string code = "");
// 405, with what may be asked instead ("GET, HEAD").
api::HttpAnswer wrong_method(std::string_view path, std::string_view method,
                             std::string_view allowed);

}  // namespace cachalot::server
