#include "api/router.h"

#include <fmt/format.h>

#include <array>

#include "api/chat_completions.h"
#include "api/completions.h"
#include "api/error.h"
#include "api/messages.h"
#include "api/models.h"
#include "api/responses.h"
#include "api/tokenize.h"
#include "text/dsml_arguments.h"

namespace cachalot::api {
namespace {

struct Route {
  std::string_view method;
  std::string_view path;  // without /v1
  Routed (*handle)(const HttpRequest&, const ServedModel&);
};
constexpr std::array kRoutes = {
    Route{"POST", "/chat/completions", chat_completions},
    Route{"POST", "/completions", completions},
    Route{"POST", "/messages", messages},
    Route{"POST", "/messages/count_tokens", count_message_tokens},
    Route{"POST", "/responses", responses},
    Route{"GET", "/models", list_models},
    Route{"POST", "/tokenize", tokenize},
    Route{"POST", "/detokenize", detokenize},
};
constexpr std::string_view kOneModel = "/models/";

HttpAnswer refused(int status, std::string message, const HttpRequest& request) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  return error_answer(error, error_shape(request.path()));
}

HttpAnswer wrong_method(std::string_view path, std::string_view method,
                        const HttpRequest& request) {
  HttpAnswer answer = refused(405,
                              fmt::format("{}: expected the method {}, found {}", path, method,
                                          text::valid_utf8(request.method.substr(0, 32))),
                              request);
  answer.headers.push_back({"Allow", std::string(method)});
  return answer;
}

}  // namespace

Routed route(const HttpRequest& request, const ServedModel& model) {
  std::string_view path = request.path();
  if (path.starts_with("/v1/")) path.remove_prefix(3);
  // Where Anthropic's API lies beside OpenAI's.
  if (path.starts_with("/anthropic/v1/")) path.remove_prefix(13);
  for (const Route& route : kRoutes) {
    if (route.path != path) continue;
    if (route.method != request.method) return wrong_method(path, route.method, request);
    return route.handle(request, model);
  }
  if (path.starts_with(kOneModel) && path.size() > kOneModel.size()) {
    if (request.method != "GET") return wrong_method(kOneModel, "GET", request);
    return show_model(request, path.substr(kOneModel.size()), model);
  }
  constexpr size_t kMaxShown = 256;
  return refused(404,
                 fmt::format("There is no {} here. This server speaks OpenAI's chat completions, "
                             "completions, responses and models, and Anthropic's messages, under "
                             "/v1; it has one model, \"{}\", and pulls none.",
                             text::valid_utf8(path.substr(0, kMaxShown)), model.options().name),
                 request);
}

}  // namespace cachalot::api
