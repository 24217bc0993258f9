// The model that a body names.
#pragma once

#include <optional>

#include "api/error.h"
#include "api/fields.h"
#include "api/served_model.h"

namespace cachalot::api {

// 404 for a name that is not this model's. On Anthropic's paths every "claude..." is.
std::optional<ApiError> read_model(Fields& fields, ErrorShape shape, const ServedModel& model,
                                   ServedModel::Name* name);

ApiError unknown_model(std::string_view asked, const ServedModel& model);

}  // namespace cachalot::api
