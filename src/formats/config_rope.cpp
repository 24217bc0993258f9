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

// "yarn" or "default"; without a name, YaRN where any of its values stands.
std::string read_type(JsonFields& fields) {
  std::string type = "default";
  for (const char* key : {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}) {
    if (fields.find(key) != nullptr) type = "yarn";
  }
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

RopeParameters read_nested(JsonFields& both, std::string_view origin, const std::string& prefix) {
  RopeParameters found;
  const json::object* main = both.object("main");
  const json::object* compress = both.object("compress");
  if (main == nullptr) both.fail("main", "an object", "no such key");
  if (compress == nullptr) both.fail("compress", "an object", "no such key");
  if (main == nullptr || compress == nullptr) return found;

  const std::string main_prefix = prefix + "main.", compress_prefix = prefix + "compress.";
  JsonFields main_fields(*main, origin, main_prefix);
  if (read_type(main_fields) != "default")
    main_fields.fail("rope_type", "default", "yarn", StatusCode::unsupported);
  read_theta(main_fields, "rope_theta", &found.theta);
  both.add_errors(main_fields);

  JsonFields compress_fields(*compress, origin, compress_prefix);
  read_scaling(compress_fields, found.scaling);
  read_theta(compress_fields, "rope_theta", &found.compress_theta);
  both.add_errors(compress_fields);
  return found;
}

RopeParameters read_parameters(JsonFields& outer, const json::object& object,
                               std::string_view origin, const std::string& prefix) {
  JsonFields fields(object, origin, prefix);
  RopeParameters found;
  if (fields.find("main") != nullptr || fields.find("compress") != nullptr) {
    found = read_nested(fields, origin, prefix);
  } else {
    read_scaling(fields, found.scaling);
    read_theta(fields, "rope_theta", &found.theta);
    read_theta(fields, "compress_rope_theta", &found.compress_theta);
  }
  outer.add_errors(fields);
  return found;
}

// A value that stands in another place too must be the same there.
void agree(JsonFields& fields, std::string_view key, std::optional<double>& known,
           std::optional<double> found) {
  if (known && found && *known != *found)
    fields.fail(key, fmt::format("{}, as elsewhere in the file", *found),
                fmt::format("{}", *known));
  if (found) known = found;
}

void agree(JsonFields& fields, const RopeScaling& known, const RopeScaling& found) {
  const auto check = [&](std::string_view key, auto a, auto b) {
    std::optional<double> value = static_cast<double>(a);
    agree(fields, key, value, static_cast<double>(b));
  };
  check("rope_scaling.factor", known.factor, found.factor);
  check("rope_scaling.original_max_position_embeddings", known.original_max_position_embeddings,
        found.original_max_position_embeddings);
  check("rope_scaling.beta_fast", known.beta_fast, found.beta_fast);
  check("rope_scaling.beta_slow", known.beta_slow, found.beta_slow);
}

}  // namespace

void read_rope_scaling(JsonFields& fields, RopeScaling& rope) {
  fields.real("factor", &rope.factor, 1.0, 1e6);
  fields.integer("original_max_position_embeddings", &rope.original_max_position_embeddings, 1,
                 kMaxTokens);
  fields.real("beta_fast", &rope.beta_fast, 1e-6, 1e9);
  fields.real("beta_slow", &rope.beta_slow, 1e-6, 1e9);
}

void read_rope(JsonFields& fields, std::string_view origin, ModelConfig& config) {
  std::optional<double> theta, compress_theta;
  if (fields.find("rope_theta") != nullptr) theta = config.rope_theta;
  if (fields.find("compress_rope_theta") != nullptr) compress_theta = config.compress_rope_theta;
  std::optional<RopeScaling> scaling;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::object* object = fields.object(key);
    if (object == nullptr) continue;
    const RopeParameters found = read_parameters(fields, *object, origin, std::string(key) + ".");
    if (scaling) agree(fields, *scaling, found.scaling);
    agree(fields, "rope_theta", theta, found.theta);
    agree(fields, "compress_rope_theta", compress_theta, found.compress_theta);
    scaling = found.scaling;
  }
  config.rope_theta = theta.value_or(config.rope_theta);
  config.compress_rope_theta = compress_theta.value_or(config.compress_rope_theta);
  config.rope_scaling = scaling.value_or(config.rope_scaling);
}

}  // namespace cachalot::formats
