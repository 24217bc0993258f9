#include "api/models.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "api/model_field.h"
#include "base/python_json.h"
#include "text/dsml_arguments.h"

namespace cachalot::api {
namespace {

json::object entry(std::string_view name, ErrorShape shape, const ServedModel& model) {
  const ServedModelOptions& options = model.options();
  if (shape == ErrorShape::anthropic) {
    const std::tm created = fmt::gmtime(static_cast<std::time_t>(options.created));
    return {{"type", "model"},
            {"id", name},
            {"display_name", name},
            {"created_at", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", created)},
            {"max_input_tokens", options.context_tokens}};
  }
  return {{"id", name},
          {"object", "model"},
          {"created", options.created},
          {"owned_by", "cachalot"},
          {"max_model_len", options.context_tokens},
          {"context_length", options.context_tokens}};
}

std::vector<std::string> names(const ServedModel& model) {
  std::vector<std::string> out = {model.options().name};
  out.push_back(model.options().name + std::string(ServedModel::kNoThinking));
  for (const std::string& alias : model.options().aliases) out.push_back(alias);
  return out;
}

ErrorShape shape_of(const HttpRequest& request) {
  return request.header("anthropic-version").empty() ? ErrorShape::openai : ErrorShape::anthropic;
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}
// Undoes %XX.
std::string plain(std::string_view encoded) {
  std::string out;
  for (size_t i = 0; i < encoded.size(); ++i) {
    if (encoded[i] == '%' && i + 2 < encoded.size() && digit(encoded[i + 1]) >= 0 &&
        digit(encoded[i + 2]) >= 0) {
      out += static_cast<char>(digit(encoded[i + 1]) * 16 + digit(encoded[i + 2]));
      i += 2;
    } else {
      out += encoded[i];
    }
  }
  return out;
}

HttpAnswer answer_of(const json::value& body) {
  HttpAnswer answer;
  answer.body = python_json(body);
  return answer;
}

}  // namespace

Routed list_models(const HttpRequest& request, const ServedModel& model) {
  const ErrorShape shape = shape_of(request);
  const std::vector<std::string> all = names(model);
  json::array data;
  for (const std::string& name : all) data.push_back(entry(name, shape, model));
  if (shape == ErrorShape::anthropic) {
    return answer_of(json::object{{"data", std::move(data)},
                                  {"has_more", false},
                                  {"first_id", all.front()},
                                  {"last_id", all.back()}});
  }
  return answer_of(json::object{{"object", "list"}, {"data", std::move(data)}});
}

Routed show_model(const HttpRequest& request, std::string_view name, const ServedModel& model) {
  const ErrorShape shape = shape_of(request);
  const std::string asked = plain(name);
  if (!model.name(asked, shape == ErrorShape::anthropic).is_known)
    return error_answer(unknown_model(text::valid_utf8(asked), model), shape);
  return answer_of(entry(asked, shape, model));
}

}  // namespace cachalot::api
