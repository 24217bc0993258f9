#include "api/thinking_fields.h"

#include <fmt/format.h>

#include <optional>

#include "base/python_json.h"

namespace cachalot::api {
namespace {

struct Asked {
  std::optional<bool> thinks;
  std::string effort;
  std::string effort_place;
};

void read_effort(Fields& fields, std::string_view key, Asked* out) {
  const json::value* value = fields.filled(key);
  if (value == nullptr) return;
  if (value->is_string()) {
    out->effort = std::string_view(value->get_string());
  } else if (value->is_number()) {
    out->effort = python_json(*value);
  } else {
    return fields.fail(key, "the name of an effort", *value);
  }
  out->effort_place = fields.place(key);
}

void read_switch(Fields& fields, std::string_view key, Asked* out) {
  if (fields.find(key) == nullptr) return;
  bool thinks = true;
  fields.boolean(key, &thinks);
  out->thinks = thinks;
}

void read_type(Fields& fields, Asked* out) {
  std::string type;
  fields.text("type", &type);
  if (type.empty()) return;
  if (type != "enabled" && type != "disabled" && type != "adaptive" && type != "auto") {
    return fields.fail("type", "enabled, disabled or adaptive", json::value(type));
  }
  out->thinks = type != "disabled";
}

}  // namespace

ThinkingFields read_thinking(Fields& fields, const ServedModel& model, bool thinks_otherwise) {
  Asked asked;
  ThinkingFields out;
  const auto nested = [&](std::string_view key, const auto& read) {
    if (const json::object* object = fields.object(key)) {
      Fields inner(*object, fields.place(key));
      read(inner);
      fields.fail(inner.status());
    }
  };
  // What stands later wins.
  nested("chat_template_kwargs", [&](Fields& inner) {
    read_switch(inner, "thinking", &asked);
    read_switch(inner, "enable_thinking", &asked);
    read_effort(inner, "reasoning_effort", &asked);
    inner.boolean("drop_thinking", &out.drops_earlier);
  });
  read_switch(fields, "enable_thinking", &asked);
  if (const json::value* think = fields.find("think"); think != nullptr && think->is_string()) {
    read_effort(fields, "think", &asked);
  } else {
    read_switch(fields, "think", &asked);
  }
  nested("reasoning", [&](Fields& inner) {
    read_switch(inner, "enabled", &asked);
    read_effort(inner, "effort", &asked);
    bool is_excluded = false;
    inner.boolean("exclude", &is_excluded);
    if (is_excluded) out.is_shown = false;
  });
  read_effort(fields, "reasoning_effort", &asked);
  nested("output_config", [&](Fields& inner) { read_effort(inner, "effort", &asked); });
  if (const json::value* thinking = fields.find("thinking"); thinking && thinking->is_bool()) {
    read_switch(fields, "thinking", &asked);
  } else {
    nested("thinking", [&](Fields& inner) { read_type(inner, &asked); });
  }
  fields.boolean("include_reasoning", &out.is_shown);

  const bool says_effort = !asked.effort.empty();
  const std::string& name = says_effort ? asked.effort : model.options().effort;
  const auto effort = text::resolve_client_effort(name, model.options().family);
  if (!effort) {
    fields.fail(
        invalid_argument(fmt::format("{}: {}", asked.effort_place, effort.error().message())));
    return out;
  }
  out.effort = effort->effort;
  const bool thinks = asked.thinks.value_or(says_effort || thinks_otherwise);
  out.thinks = thinks && (effort->thinking || (asked.thinks.value_or(false) && !says_effort));
  return out;
}

}  // namespace cachalot::api
