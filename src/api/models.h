// GET /v1/models and /v1/models/NAME, in OpenAI's shape, or in Anthropic's where the request has
// the header anthropic-version.
// Source  reference/chat 5.9.
#pragma once

#include "api/router.h"

namespace cachalot::api {

Routed list_models(const HttpRequest& request, const ServedModel& model);
// `name`: as the path has it.
Routed show_model(const HttpRequest& request, std::string_view name, const ServedModel& model);

}  // namespace cachalot::api
