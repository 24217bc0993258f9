// From a request to what answers it: the paths of the APIs, each with and without /v1.
// Threads  Any. Reading, rendering and tokenizing happen here: a prompt of a million tokens takes a
//          second or two.
#pragma once

#include <memory>
#include <variant>

#include "api/call.h"
#include "api/http_message.h"
#include "api/served_model.h"

namespace cachalot::api {

using Routed = std::variant<HttpAnswer, std::unique_ptr<Call>>;

// Nothing that a client sends gives a status of 500 or above.
Routed route(const HttpRequest& request, const ServedModel& model);

}  // namespace cachalot::api
