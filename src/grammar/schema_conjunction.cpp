#include "grammar/schema_conjunction.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace cachalot::grammar {
namespace {

enum class Form { note, any, kinds, schema, schemas, schema_map, names, count, number, text, list };
struct Keyword {
  std::string_view name;
  Form form;
  Kinds kinds = 0;  // of values that it speaks of
};
constexpr Kinds kNumbers = kInteger | kNumber;
constexpr Keyword kKeywords[] = {
    {"type", Form::kinds},
    {"enum", Form::list},
    {"const", Form::any},
    {"$ref", Form::text},
    {"allOf", Form::schemas},
    {"anyOf", Form::schemas},
    {"oneOf", Form::schemas},
    {"properties", Form::schema_map, kObject},
    {"required", Form::names, kObject},
    {"additionalProperties", Form::schema, kObject},
    {"items", Form::schema, kArray},
    {"prefixItems", Form::schemas, kArray},
    {"minItems", Form::count, kArray},
    {"maxItems", Form::count, kArray},
    {"minLength", Form::count, kString},
    {"maxLength", Form::count, kString},
    {"pattern", Form::text, kString},
    {"format", Form::text, kString},
    {"minimum", Form::number, kNumbers},
    {"maximum", Form::number, kNumbers},
    {"exclusiveMinimum", Form::number, kNumbers},
    {"exclusiveMaximum", Form::number, kNumbers},
    // They say nothing about what is valid.
    {"title", Form::note},
    {"description", Form::note},
    {"default", Form::note},
    {"examples", Form::note},
    {"example", Form::note},
    {"deprecated", Form::note},
    {"readOnly", Form::note},
    {"writeOnly", Form::note},
    {"$comment", Form::note},
    {"$schema", Form::note},
    {"$id", Form::note},
    {"$defs", Form::note},
    {"definitions", Form::note},
};

const Keyword* find_keyword(std::string_view name) {
  const auto* const it = std::find_if(std::begin(kKeywords), std::end(kKeywords),
                                      [&](const Keyword& k) { return k.name == name; });
  return it == std::end(kKeywords) ? nullptr : it;
}

constexpr std::pair<std::string_view, Kinds> kKindNames[] = {
    {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kNumbers},
    {"string", kString}, {"array", kArray},     {"object", kObject}};

// 0 for what is no type.
Kinds kinds_of(const json::value& type) {
  Kinds kinds = 0;
  const auto add = [&kinds](const json::value& name) {
    for (const auto& [known, kind] : kKindNames) {
      if (name.is_string() && std::string_view(name.get_string()) == known) {
        kinds |= kind;
        return true;
      }
    }
    return false;
  };
  if (!type.is_array()) return add(type) ? kinds : 0;
  for (const json::value& name : type.get_array()) {
    if (!add(name)) return 0;
  }
  return kinds;
}

bool is_schema(const json::value& value) { return value.is_object() || value.is_bool(); }

bool is_count(const json::value& value) {
  if (value.is_int64()) return value.get_int64() >= 0;
  if (value.is_uint64()) return true;
  return value.is_double() && value.get_double() >= 0 &&
         value.get_double() ==
             static_cast<double>(static_cast<int64_t>(std::min(value.get_double(), 9e15)));
}

// What the form expects; empty if the value is of that form.
std::string_view wanted(Form form, const json::value& value) {
  const auto all = [&value](auto is) {
    return value.is_array() && std::all_of(value.get_array().begin(), value.get_array().end(), is);
  };
  const auto is_string = [](const json::value& v) { return v.is_string(); };
  switch (form) {
    case Form::note:
    case Form::any: return "";
    case Form::kinds: return kinds_of(value) ? "" : "a JSON type, or a list of them";
    case Form::schema: return is_schema(value) ? "" : "a schema (an object, true or false)";
    case Form::schemas: return all(is_schema) ? "" : "a list of schemas";
    case Form::schema_map:
      return value.is_object() && std::all_of(value.get_object().begin(), value.get_object().end(),
                                              [](const auto& m) { return is_schema(m.value()); })
                 ? ""
                 : "an object of schemas";
    case Form::names: return all(is_string) ? "" : "a list of strings";
    case Form::count: return is_count(value) ? "" : "a whole number that is not negative";
    case Form::number: return value.is_number() ? "" : "a number";
    case Form::text: return value.is_string() ? "" : "a string";
    case Form::list: return value.is_array() ? "" : "a list";
  }
  return "";
}

Status check_keywords(const json::object& schema, const std::string& where) {
  for (const auto& [key, value] : schema) {
    const Keyword* keyword = find_keyword(key);
    if (!keyword) {
      return unsupported(fmt::format("{}: keyword \"{}\": expected one that is supported, found it",
                                     where, std::string_view(key)));
    }
    if (const std::string_view expected = wanted(keyword->form, value); !expected.empty()) {
      return invalid_argument(fmt::format("{}: keyword \"{}\": expected {}, found {}", where,
                                          std::string_view(key), expected, json_kind_name(value)));
    }
  }
  return {};
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// "#", "#/a/b": what it names in the document; null if that is nothing.
const json::value* resolve(const json::value& document, std::string_view reference) {
  if (!reference.starts_with('#')) return nullptr;
  std::string pointer;
  for (size_t i = 1; i < reference.size(); ++i) {
    if (reference[i] == '%' && i + 2 < reference.size() && hex_value(reference[i + 1]) >= 0 &&
        hex_value(reference[i + 2]) >= 0) {
      pointer += static_cast<char>(hex_value(reference[i + 1]) * 16 + hex_value(reference[i + 2]));
      i += 2;
    } else {
      pointer += reference[i];
    }
  }
  const json::value* at = &document;
  for (size_t begin = 0; begin < pointer.size();) {
    if (pointer[begin] != '/') return nullptr;
    const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
    std::string key;
    for (size_t i = begin + 1; i < end; ++i) {
      if (pointer[i] == '~' && i + 1 < end && (pointer[i + 1] == '0' || pointer[i + 1] == '1')) {
        key += pointer[++i] == '0' ? '~' : '/';
      } else {
        key += pointer[i];
      }
    }
    if (at->is_object()) {
      at = at->get_object().if_contains(key);
    } else if (at->is_array()) {
      const bool is_index = !key.empty() && key.size() < 7 &&
                            key.find_first_not_of("0123456789") == std::string::npos;
      at = is_index ? at->get_array().if_contains(std::stoul(key)) : nullptr;
    } else {
      return nullptr;
    }
    if (!at) return nullptr;
    begin = end;
  }
  return is_schema(*at) ? at : nullptr;
}

}  // namespace

Kinds kind_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return kNull;
    case json::kind::bool_: return kBoolean;
    case json::kind::int64:
    case json::kind::uint64: return kInteger;
    case json::kind::double_: {
      const double d = value.get_double();
      return d == static_cast<double>(static_cast<int64_t>(std::clamp(d, -9e15, 9e15))) ? kInteger
                                                                                        : kNumber;
    }
    case json::kind::string: return kString;
    case json::kind::array: return kArray;
    case json::kind::object: return kObject;
  }
  return 0;
}

Status Conjunction::add(const json::value& schema, const std::string& where) {
  std::vector<const void*> path;
  return add(schema, where, path);
}

Status Conjunction::add(const json::value& schema, const std::string& where,
                        std::vector<const void*>& path) {
  if (schema.is_bool()) {
    is_never_ |= !schema.get_bool();
    return {};
  }
  const json::object& object = schema.get_object();
  const auto is_same = [&object](const Facet& facet) { return facet.schema == &object; };
  constexpr size_t kMaxPath = 200;
  if (std::find(path.begin(), path.end(), &object) != path.end() || path.size() > kMaxPath) {
    return invalid_argument(fmt::format(
        "{}: \"$ref\": expected a schema that is not made of itself, found it is", where));
  }
  if (std::any_of(facets_.begin(), facets_.end(), is_same)) return {};
  constexpr size_t kMaxFacets = 256;
  if (facets_.size() >= kMaxFacets) {
    return resource_exhausted(fmt::format(
        "{}: expected at most {} schemas to hold together, found more", where, kMaxFacets));
  }
  CACHALOT_RETURN_IF_ERROR(check_keywords(object, where));
  path.push_back(&object);
  if (const json::value* reference = object.if_contains("$ref")) {
    has_reference_ = true;
    const std::string name(reference->get_string());
    const json::value* target = resolve(*document_, name);
    if (!target) {
      return unsupported(fmt::format(
          "{}: \"$ref\": expected # or #/ and the path of a schema in this document, found \"{}\"",
          where, name));
    }
    CACHALOT_RETURN_IF_ERROR(add(*target, "schema " + name, path));
  }
  if (const json::value* parts = object.if_contains("allOf")) {
    size_t i = 0;
    for (const json::value& part : parts->get_array())
      CACHALOT_RETURN_IF_ERROR(add(part, fmt::format("{}.allOf[{}]", where, i++), path));
  }
  path.pop_back();
  facets_.push_back({&object});
  return {};
}

std::vector<const json::value*> Conjunction::all(std::string_view keyword) const {
  std::vector<const json::value*> out;
  for (const Facet& facet : facets_) {
    if (const json::value* value = facet.schema->if_contains(keyword)) out.push_back(value);
  }
  return out;
}

Kinds Conjunction::declared_kinds() const {
  Kinds kinds = kAllKinds;
  for (const json::value* type : all("type")) kinds &= kinds_of(*type);
  return kinds;
}

Kinds Conjunction::kinds() const {
  Kinds spoken_of = 0;
  for (const Facet& facet : facets_) {
    for (const auto& member : *facet.schema) spoken_of |= find_keyword(member.key())->kinds;
  }
  return spoken_of == 0 || !all("type").empty() ? declared_kinds() : spoken_of;
}

std::string_view Conjunction::keyword_about(Kinds kinds) const {
  for (const Facet& facet : facets_) {
    for (const auto& member : *facet.schema) {
      const Keyword& keyword = *find_keyword(member.key());
      if ((keyword.kinds & kinds) != 0) return keyword.name;
    }
  }
  return {};
}

size_t Conjunction::find_alternatives() const {
  const auto it = std::find_if(facets_.begin(), facets_.end(), [](const Facet& facet) {
    return (!facet.any_of_done && facet.schema->contains("anyOf")) ||
           (!facet.one_of_done && facet.schema->contains("oneOf"));
  });
  return static_cast<size_t>(it - facets_.begin());
}

std::optional<std::vector<json::value>> Conjunction::values() const {
  std::optional<std::vector<json::value>> out;
  const auto allow = [&out](const json::value* first, const json::value* last) {
    if (!out) {
      out.emplace(first, last);
      return;
    }
    std::erase_if(*out, [&](const json::value& v) { return std::find(first, last, v) == last; });
  };
  for (const json::value* value : all("const")) allow(value, value + 1);
  for (const json::value* values : all("enum")) {
    const json::array& list = values->get_array();
    allow(list.data(), list.data() + list.size());
  }
  return out;
}

}  // namespace cachalot::grammar
