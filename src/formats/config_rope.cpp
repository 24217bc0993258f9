// Rotary embeddings in config.json: rope_scaling and rope_parameters.
#include <fmt/format.h>

#include <optional>

#include "formats/config_internal.h"

namespace cachalot::formats {
namespace {

struct RopeParameters {
  std::optional<double> theta;
  std::optional<double> compress_theta;
  RopeScaling scaling;
};

void read_theta(JsonFields& fields, std::string_view key, std::optional<double>* out) {
  if (fields.find(key) == nullptr) return;
  fields.real(key, &out->emplace(), 1.0, kMaxTheta);
}

// "yarn" or "default"; without a name, what a factor says.
std::string read_type(JsonFields& fields) {
  std::string type = fields.find("factor") != nullptr ? "yarn" : "default";
  std::string older = type;
  fields.choice("type", &older, {"yarn", "default"});
  if (fields.find("type") != nullptr) type = older;
  fields.choice("rope_type", &type, {"yarn", "default"});
  if (fields.find("type") != nullptr && type != older)
    fields.fail("type", fmt::format("{}, as rope_type says", type), older);
  return type;
}

void read_scaling(JsonFields& fields, RopeScaling& rope) {
  if (read_type(fields) != "yarn") return;
  if (fields.find("factor") == nullptr) fields.fail("factor", "a number", "no such key");
  read_rope_scaling(fields, rope);
  double attention_factor = 1;
  fields.real("attention_factor", &attention_factor, 0.0, 1e6);
  if (attention_factor != 1) {
    fields.fail("attention_factor", "1", fmt::format("{}", attention_factor),
                StatusCode::unsupported);
  }
}

Result<RopeParameters> read_nested(JsonFields& both, std::string_view origin) {
  RopeParameters found;
  const json::object* main = both.object("main");
  const json::object* compress = both.object("compress");
  if (main == nullptr) both.fail("main", "an object", "no such key");
  if (compress == nullptr) both.fail("compress", "an object", "no such key");
  CACHALOT_RETURN_IF_ERROR(both.status());

  JsonFields main_fields(*main, origin, "rope_parameters.main.");
  if (read_type(main_fields) != "default")
    main_fields.fail("rope_type", "default", "yarn", StatusCode::unsupported);
  read_theta(main_fields, "rope_theta", &found.theta);
  CACHALOT_RETURN_IF_ERROR(main_fields.status());

  JsonFields compress_fields(*compress, origin, "rope_parameters.compress.");
  read_scaling(compress_fields, found.scaling);
  read_theta(compress_fields, "rope_theta", &found.compress_theta);
  CACHALOT_RETURN_IF_ERROR(compress_fields.status());
  return found;
}

Result<RopeParameters> read_parameters(const json::object& object, std::string_view origin) {
  JsonFields fields(object, origin, "rope_parameters.");
  if (fields.find("main") != nullptr || fields.find("compress") != nullptr)
    return read_nested(fields, origin);
  RopeParameters found;
  read_scaling(fields, found.scaling);
  read_theta(fields, "rope_theta", &found.theta);
  read_theta(fields, "compress_rope_theta", &found.compress_theta);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  return found;
}

// What rope_parameters says must be what stands elsewhere.
void expect_same(JsonFields& fields, std::string_view key, double elsewhere, double parameter) {
  if (elsewhere == parameter) return;
  fields.fail(key, fmt::format("{}, as rope_parameters says", parameter),
              fmt::format("{}", elsewhere));
}

}  // namespace

void read_rope_scaling(JsonFields& fields, RopeScaling& rope) {
  fields.real("factor", &rope.factor, 1.0, 1e6);
  fields.integer("original_max_position_embeddings", &rope.original_max_position_embeddings, 1,
                 kMaxTokens);
  fields.real("beta_fast", &rope.beta_fast, 1e-6, 1e9);
  fields.real("beta_slow", &rope.beta_slow, 1e-6, 1e9);
}

Status read_rope(JsonFields& fields, std::string_view origin, ModelConfig& config) {
  const json::object* scaling = fields.object("rope_scaling");
  const json::object* parameters = fields.object("rope_parameters");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  RopeScaling& rope = config.rope_scaling;
  if (scaling != nullptr) {
    JsonFields inner(*scaling, origin, "rope_scaling.");
    read_scaling(inner, rope);
    CACHALOT_RETURN_IF_ERROR(inner.status());
  }
  if (parameters == nullptr) return {};
  CACHALOT_ASSIGN_OR_RETURN(const RopeParameters found, read_parameters(*parameters, origin));
  if (scaling != nullptr) {
    const RopeScaling& same = found.scaling;
    expect_same(fields, "rope_scaling.factor", rope.factor, same.factor);
    expect_same(fields, "rope_scaling.original_max_position_embeddings",
                static_cast<double>(rope.original_max_position_embeddings),
                static_cast<double>(same.original_max_position_embeddings));
    expect_same(fields, "rope_scaling.beta_fast", rope.beta_fast, same.beta_fast);
    expect_same(fields, "rope_scaling.beta_slow", rope.beta_slow, same.beta_slow);
  }
  if (found.theta && fields.find("rope_theta") != nullptr)
    expect_same(fields, "rope_theta", config.rope_theta, *found.theta);
  if (found.compress_theta && fields.find("compress_rope_theta") != nullptr)
    expect_same(fields, "compress_rope_theta", config.compress_rope_theta, *found.compress_theta);
  config.rope_theta = found.theta.value_or(config.rope_theta);
  config.compress_rope_theta = found.compress_theta.value_or(config.compress_rope_theta);
  rope = found.scaling;
  return fields.status();
}

}  // namespace cachalot::formats
