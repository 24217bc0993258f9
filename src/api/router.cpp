#include "api/router.h"

#include <fmt/format.h>

#include <array>

#include "api/completions.h"
#include "api/error.h"

namespace cachalot::api {
namespace {

struct Route {
  std::string_view method;
  std::string_view path;  // without /v1
  Routed (*handle)(const HttpRequest&, const ServedModel&);
};
constexpr std::array kRoutes = {
    Route{"POST", "/completions", completions},
};

HttpAnswer refused(int status, std::string message, const HttpRequest& request) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  return error_answer(error, error_shape(request.path()));
}

}  // namespace

Routed route(const HttpRequest& request, const ServedModel& model) {
  std::string_view path = request.path();
  if (path.starts_with("/v1/")) path.remove_prefix(3);
  const Route* other_method = nullptr;
  for (const Route& route : kRoutes) {
    if (route.path != path) continue;
    if (route.method == request.method) return route.handle(request, model);
    other_method = &route;
  }
  if (other_method != nullptr) {
    HttpAnswer answer = refused(405,
                                fmt::format("{}: expected the method {}, found {}", path,
                                            other_method->method, request.method.substr(0, 32)),
                                request);
    answer.headers.push_back({"Allow", std::string(other_method->method)});
    return answer;
  }
  return refused(404,
                 fmt::format("There is no {} here. This server speaks OpenAI's chat completions, "
                             "completions, responses and models, and Anthropic's messages, under "
                             "/v1.",
                             std::string_view(path).substr(0, 256)),
                 request);
}

}  // namespace cachalot::api
