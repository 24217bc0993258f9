#include "api/model_field.h"

#include <fmt/format.h>

namespace cachalot::api {

ApiError unknown_model(std::string_view asked, const ServedModel& model) {
  ApiError error;
  error.status = 404;
  error.message =
      fmt::format("model: expected \"{}\", found \"{}\", which this server does not have",
                  model.options().name, asked.substr(0, 256));
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

std::optional<ApiError> read_model(Fields& fields, ErrorShape shape, const ServedModel& model,
                                   ServedModel::Name* name) {
  std::string asked;
  fields.text("model", &asked);
  if (!fields.status().ok()) return ApiError::of(fields.status());
  *name = model.name(asked, shape == ErrorShape::anthropic);
  if (name->is_known) return std::nullopt;
  return unknown_model(asked, model);
}

}  // namespace cachalot::api
