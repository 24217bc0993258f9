#include "grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "base/check.h"
#include "grammar/json_formats.h"
#include "grammar/regex.h"

namespace cachalot::grammar {
namespace {

constexpr int64_t kMaxSchemas = 50'000;  // written, those written twice counted twice
constexpr size_t kMaxNames = 1024;
constexpr Kinds kNumbers = kInteger | kNumber;

Status combination(const std::string& where, std::string_view keyword, std::string_view other) {
  return unsupported(fmt::format("{}: keyword \"{}\": expected it without \"{}\", found both",
                                 where, keyword, other));
}

int64_t count_of(const json::value& value) {
  const double count = value.to_number<double>();
  return count >= static_cast<double>(kUnbounded) ? kUnbounded : static_cast<int64_t>(count);
}
struct Counts {
  int64_t min = 0, max = kUnbounded;
};
Counts counts_of(const Conjunction& schema, std::string_view min, std::string_view max) {
  Counts out;
  for (const json::value* value : schema.all(min)) out.min = std::max(out.min, count_of(*value));
  for (const json::value* value : schema.all(max)) out.max = std::min(out.max, count_of(*value));
  return out;
}

// The whole number next to a bound, in the direction that the rounding has.
int64_t whole(const json::value& bound, double (*round)(double)) {
  if (bound.is_int64()) return bound.get_int64();
  constexpr double kEdge = 4e18;
  return static_cast<int64_t>(std::clamp(round(bound.to_number<double>()), -kEdge, kEdge));
}

bool have_common(const std::vector<json::value>& a, const std::vector<json::value>& b) {
  return std::any_of(a.begin(), a.end(), [&b](const json::value& value) {
    return std::find(b.begin(), b.end(), value) != b.end();
  });
}

}  // namespace

JsonSchemaWriter::JsonSchemaWriter(GrammarSource& source, JsonText& text,
                                   const json::value& document)
    : source_(source), text_(text), document_(document) {}

Result<Expression> JsonSchemaWriter::write(const json::value& schema, const std::string& where,
                                           Kinds kinds, const BareStrings* bare) {
  if (!schema.is_object() && !schema.is_bool()) {
    return invalid_argument(
        fmt::format("{}: expected a schema (an object, true or false), found {}", where,
                    json_kind_name(schema)));
  }
  Conjunction all(document_);
  CACHALOT_RETURN_IF_ERROR(all.add(schema, where));
  return write(Task{std::move(all), where, kinds, bare});
}

Result<Expression> JsonSchemaWriter::write(const Property& property, Kinds kinds,
                                           const BareStrings* bare) {
  return write(Task{property.schema, property.where, kinds, bare});
}

Result<Expression> JsonSchemaWriter::write(Task task) {
  if (++work_ > kMaxSchemas) {
    return resource_exhausted(
        fmt::format("{}: expected at most {} schemas in all, found more", task.where, kMaxSchemas));
  }
  if (task.schema.is_never()) return source_.never();
  if (!task.schema.has_reference()) return write_body(task);
  const Key key = {task.schema.facets(), task.kinds, task.bare};
  auto it = rules_.find(key);
  if (it == rules_.end()) {
    it = rules_.emplace(key, source_.add_rule(task.where)).first;
    task.schema.forget_reference();
    tasks_.emplace_back(it->second, std::move(task));
  }
  return source_.call(it->second);
}

Status JsonSchemaWriter::finish() {
  for (size_t i = 0; i < tasks_.size(); ++i) {
    const auto [rule, task] = tasks_[i];  // a copy: writing adds tasks
    CACHALOT_ASSIGN_OR_RETURN(const Expression body, write_body(task));
    source_.set_body(rule, body);
  }
  tasks_.clear();
  return {};
}

Result<Expression> JsonSchemaWriter::write_body(const Task& task) {
  const Conjunction& schema = task.schema;
  if (const size_t facet = schema.find_alternatives(); facet < schema.facets().size()) {
    const Facet& found = schema.facets()[facet];
    return write_alternatives(task, facet, found.any_of_done || !found.schema->contains("anyOf"));
  }
  const Kinds kinds = schema.kinds() & task.kinds;
  auto values = schema.values();
  if (!values) return write_kinds(task, kinds);
  std::erase_if(*values, [&](const json::value& v) { return (kind_of(v) & kinds) == 0; });
  return write_values(task, *values);
}

Result<Expression> JsonSchemaWriter::write_alternatives(const Task& task, size_t facet,
                                                        bool is_one_of) {
  const std::string_view keyword = is_one_of ? "oneOf" : "anyOf";
  const json::array& list = task.schema.facets()[facet].schema->at(keyword).get_array();
  std::vector<Conjunction> options;
  for (size_t i = 0; i < list.size(); ++i) {
    Conjunction option = task.schema;
    Facet& chosen = option.facets()[facet];
    (is_one_of ? chosen.one_of_done : chosen.any_of_done) = true;
    CACHALOT_RETURN_IF_ERROR(option.add(list[i], fmt::format("{}.{}[{}]", task.where, keyword, i)));
    if (!option.is_never()) options.push_back(std::move(option));
  }
  if (is_one_of) CACHALOT_RETURN_IF_ERROR(check_exclusive(task, options));
  std::vector<Expression> written;
  for (size_t i = 0; i < options.size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(
        const Expression e,
        write(Task{std::move(options[i]), fmt::format("{}.{}[{}]", task.where, keyword, i),
                   task.kinds, task.bare}));
    written.push_back(e);
  }
  return source_.choice(std::move(written));
}

// What is known of a schema's values, as far as it tells them from another's.
struct JsonSchemaWriter::Summary {
  Kinds kinds = 0;
  std::optional<std::vector<json::value>> values;
  struct Property {
    std::vector<json::value> values;
    bool is_required = false;
  };
  std::map<std::string, Property> properties;  // those with values

  bool excludes(const Summary& other) const {
    const Kinds common = kinds & other.kinds;
    if (common == 0) return true;
    const auto none_in = [](const Summary& a, Kinds kinds) {
      return a.values && std::none_of(a.values->begin(), a.values->end(), [&](const auto& value) {
               return (kind_of(value) & kinds) != 0;
             });
    };
    if (none_in(*this, other.kinds) || none_in(other, kinds)) return true;
    if (values && other.values && !have_common(*values, *other.values)) return true;
    if (common != kObject) return false;
    return std::any_of(properties.begin(), properties.end(), [&](const auto& entry) {
      const auto it = other.properties.find(entry.first);
      return it != other.properties.end() && (entry.second.is_required || it->second.is_required) &&
             !have_common(entry.second.values, it->second.values);
    });
  }
};

Result<JsonSchemaWriter::Summary> JsonSchemaWriter::summary(const Conjunction& schema,
                                                            const std::string& where) {
  Summary out;
  out.kinds = schema.declared_kinds();
  out.values = schema.values();
  if ((out.kinds & kObject) == 0) return out;
  CACHALOT_ASSIGN_OR_RETURN(const Properties properties, properties_of(schema, where));
  for (const Property& property : properties.declared) {
    if (auto values = property.schema.values())
      out.properties[property.name] = {*std::move(values), property.is_required};
  }
  return out;
}

Status JsonSchemaWriter::check_exclusive(const Task& task,
                                         const std::vector<Conjunction>& options) {
  constexpr size_t kMaxOptions = 256;
  if (options.size() > kMaxOptions) {
    return resource_exhausted(
        fmt::format("{}: keyword \"oneOf\": expected at most {} schemas, found {}", task.where,
                    kMaxOptions, options.size()));
  }
  std::vector<Summary> summaries;
  for (const Conjunction& option : options) {
    CACHALOT_ASSIGN_OR_RETURN(Summary one, summary(option, task.where));
    for (size_t i = 0; i < summaries.size(); ++i) {
      if (summaries[i].excludes(one)) continue;
      return unsupported(
          fmt::format("{}: keyword \"oneOf\": expected schemas that exclude each other by type, by "
                      "values or by "
                      "a required property's values, found that {} and {} do not",
                      task.where, i, summaries.size()));
    }
    summaries.push_back(std::move(one));
  }
  return {};
}

Result<Expression> JsonSchemaWriter::write_values(const Task& task,
                                                  const std::vector<json::value>& values) {
  Kinds kinds = 0;
  for (const json::value& value : values) kinds |= kind_of(value);
  if (const std::string_view keyword = task.schema.keyword_about(kinds); !keyword.empty())
    return combination(task.where, keyword, "enum");
  std::vector<Expression> options;
  for (const json::value& value : values)
    options.push_back(task.bare ? task.bare->text(value.get_string()) : text_.value(value));
  return source_.choice(std::move(options));
}

Result<Expression> JsonSchemaWriter::write_kinds(const Task& task, Kinds kinds) {
  if (kinds == kAllKinds && task.schema.keyword_about(kAllKinds).empty()) return text_.any_value();
  std::vector<Expression> options;
  const auto add = [&options](Result<Expression> written) {
    if (written.has_value()) options.push_back(*written);
    return written.has_value() ? Status() : written.error();
  };
  if ((kinds & kNull) != 0) options.push_back(source_.literal("null"));
  if ((kinds & kBoolean) != 0)
    options.push_back(source_.choice({source_.literal("true"), source_.literal("false")}));
  if ((kinds & kNumber) != 0) {
    if (const std::string_view keyword = task.schema.keyword_about(kNumbers); !keyword.empty()) {
      return unsupported(
          fmt::format("{}: keyword \"{}\": expected it on type integer, found it on type number",
                      task.where, keyword));
    }
    options.push_back(text_.number());
  } else if ((kinds & kInteger) != 0) {
    CACHALOT_RETURN_IF_ERROR(add(write_integer(task)));
  }
  if ((kinds & kString) != 0) CACHALOT_RETURN_IF_ERROR(add(write_string(task)));
  if ((kinds & kArray) != 0) CACHALOT_RETURN_IF_ERROR(add(write_array(task)));
  if ((kinds & kObject) != 0) CACHALOT_RETURN_IF_ERROR(add(write_object(task)));
  return source_.choice(std::move(options));
}

Result<Expression> JsonSchemaWriter::write_integer(const Task& task) {
  std::optional<int64_t> min, max;
  const auto at_least = [&min](int64_t bound) { min = std::max(min.value_or(bound), bound); };
  const auto at_most = [&max](int64_t bound) { max = std::min(max.value_or(bound), bound); };
  const auto up = [](double x) { return std::ceil(x); };
  const auto down = [](double x) { return std::floor(x); };
  for (const json::value* bound : task.schema.all("minimum")) at_least(whole(*bound, up));
  for (const json::value* bound : task.schema.all("maximum")) at_most(whole(*bound, down));
  for (const json::value* bound : task.schema.all("exclusiveMinimum")) {
    const int64_t below = whole(*bound, down);
    if (below == INT64_MAX) return source_.never();
    at_least(below + 1);
  }
  for (const json::value* bound : task.schema.all("exclusiveMaximum")) {
    const int64_t above = whole(*bound, up);
    if (above == INT64_MIN) return source_.never();
    at_most(above - 1);
  }
  return text_.integer(min, max);
}

Result<Expression> JsonSchemaWriter::write_string(const Task& task) {
  const Counts length = counts_of(task.schema, "minLength", "maxLength");
  if (length.max < length.min) return source_.never();
  struct Pattern {
    std::string text;
    bool matches_whole;
    std::string_view keyword;
    auto operator<=>(const Pattern&) const = default;
  };
  std::vector<Pattern> patterns;
  for (const json::value* pattern : task.schema.all("pattern"))
    patterns.push_back({std::string(pattern->get_string()), false, "pattern"});
  for (const json::value* format : task.schema.all("format")) {
    const std::string name(format->get_string());
    const auto pattern = json_format_pattern(name);
    if (!pattern) {
      return unsupported(fmt::format(
          "{}: keyword \"format\": expected date, time, date-time or uuid, found \"{}\"",
          task.where, name));
    }
    patterns.push_back({*pattern, true, "format"});
  }
  std::sort(patterns.begin(), patterns.end());
  patterns.erase(std::unique(patterns.begin(), patterns.end()), patterns.end());
  if (patterns.size() > 1) return combination(task.where, patterns[0].keyword, patterns[1].keyword);
  const auto character = [&](const CodePoints& set) {
    return task.bare ? task.bare->character(set) : text_.character(set);
  };
  if (patterns.empty()) {
    if (!task.bare) return text_.string(length.min, length.max);
    if (length.min == 0 && length.max == kUnbounded) return task.bare->any;
    return source_.repeat(character({{0, kMaxCodePoint}}), length.min, length.max);
  }
  const auto regex = parse_regex(patterns[0].text, source_,
                                 {.matches_whole = patterns[0].matches_whole, .write = character});
  if (!regex) {
    return Status(regex.error().code(), fmt::format("{}: keyword \"{}\": {}", task.where,
                                                    patterns[0].keyword, regex.error().message()));
  }
  if (regex->min_length < length.min)
    return combination(task.where, patterns[0].keyword, "minLength");
  if (regex->max_length > length.max)
    return combination(task.where, patterns[0].keyword, "maxLength");
  return task.bare ? regex->expression : text_.quoted(regex->expression);
}

Result<Expression> JsonSchemaWriter::write_array(const Task& task) {
  Counts count = counts_of(task.schema, "minItems", "maxItems");
  size_t num_prefix = 0;
  for (const json::value* prefix : task.schema.all("prefixItems"))
    num_prefix = std::max(num_prefix, prefix->get_array().size());
  if (num_prefix > kMaxNames) {
    return resource_exhausted(
        fmt::format("{}: keyword \"prefixItems\": expected at most {}, found {}", task.where,
                    kMaxNames, num_prefix));
  }
  // The last round is for the items after the prefixes.
  std::vector<Expression> written;
  for (size_t i = 0; i <= num_prefix; ++i) {
    const std::string where =
        i < num_prefix ? fmt::format("{}.prefixItems[{}]", task.where, i) : task.where + ".items";
    Conjunction item(document_);
    for (const Facet& facet : task.schema.facets()) {
      const json::value* prefix = facet.schema->if_contains("prefixItems");
      const json::value* items = facet.schema->if_contains("items");
      if (prefix && i < prefix->get_array().size()) {
        CACHALOT_RETURN_IF_ERROR(item.add(prefix->get_array()[i], where));
      } else if (items) {
        CACHALOT_RETURN_IF_ERROR(item.add(*items, where));
      }
    }
    if (item.is_never()) {
      count.max = std::min(count.max, static_cast<int64_t>(i));
      break;
    }
    CACHALOT_ASSIGN_OR_RETURN(const Expression e,
                              write(Task{std::move(item), where, kAllKinds, nullptr}));
    written.push_back(e);
  }
  const Expression rest = written.size() > num_prefix ? written.back() : source_.never();
  written.resize(std::min(written.size(), num_prefix));
  return text_.array(written, rest, count.min, count.max);
}

Result<JsonSchemaWriter::Properties> JsonSchemaWriter::properties(const json::value& schema,
                                                                  const std::string& where) {
  Conjunction all(document_);
  CACHALOT_RETURN_IF_ERROR(all.add(schema, where));
  if (all.find_alternatives() < all.facets().size()) {
    return unsupported(
        fmt::format("{}: expected properties without anyOf or oneOf around them, found it", where));
  }
  if (all.values()) return combination(where, "properties", "enum");
  Properties out;
  if (all.is_never() || (all.kinds() & kObject) == 0) {
    out.is_never = true;
    return out;
  }
  return properties_of(all, where);
}

Result<JsonSchemaWriter::Properties> JsonSchemaWriter::properties_of(const Conjunction& schema,
                                                                     const std::string& where) {
  std::vector<std::string> names;
  std::set<std::string> known, required;
  const auto declare = [&](std::string_view name) {
    if (known.insert(std::string(name)).second) names.emplace_back(name);
  };
  for (const json::value* properties : schema.all("properties")) {
    for (const auto& member : properties->get_object()) declare(member.key());
  }
  for (const json::value* list : schema.all("required")) {
    for (const json::value& name : list->get_array()) {
      required.insert(std::string(name.get_string()));
      declare(name.get_string());
    }
  }
  if (names.size() > kMaxNames) {
    return resource_exhausted(
        fmt::format("{}: keyword \"properties\": expected at most {}, found {}", where, kMaxNames,
                    names.size()));
  }
  Properties out;
  for (const std::string& name : names) {
    Property property = {name, Conjunction(document_), required.contains(name),
                         where + ".properties." + name};
    for (const Facet& facet : schema.facets()) {
      const json::value* properties = facet.schema->if_contains("properties");
      const json::value* own = properties ? properties->get_object().if_contains(name) : nullptr;
      const json::value* others = facet.schema->if_contains("additionalProperties");
      if (own) {
        CACHALOT_RETURN_IF_ERROR(property.schema.add(*own, property.where));
      } else if (others) {
        CACHALOT_RETURN_IF_ERROR(property.schema.add(*others, where + ".additionalProperties"));
      }
    }
    if (!property.schema.is_never()) {
      out.declared.push_back(std::move(property));
    } else if (property.is_required) {
      out.is_never = true;
    }
  }
  const auto others = schema.all("additionalProperties");
  if (others.empty() && !names.empty()) return out;
  Property other = {"", Conjunction(document_), false, where + ".additionalProperties"};
  for (const json::value* one : others)
    CACHALOT_RETURN_IF_ERROR(other.schema.add(*one, other.where));
  if (!other.schema.is_never()) out.others = std::move(other);
  out.others_are_asked_for = !others.empty();
  return out;
}

Result<Expression> JsonSchemaWriter::write_object(const Task& task) {
  if (task.schema.keyword_about(kObject).empty()) return text_.any_object();
  CACHALOT_ASSIGN_OR_RETURN(const Properties properties, properties_of(task.schema, task.where));
  if (properties.is_never) return source_.never();
  std::vector<JsonText::Member> members;
  std::vector<std::string> names;
  for (const Property& property : properties.declared) {
    CACHALOT_ASSIGN_OR_RETURN(const Expression value, write(property, kAllKinds, nullptr));
    members.push_back({text_.text(property.name), value, property.is_required});
    names.push_back(property.name);
  }
  std::optional<JsonText::Member> others;
  if (properties.others) {
    // Names that are declared and impossible are no others either.
    for (const json::value* declared : task.schema.all("properties")) {
      for (const auto& member : declared->get_object()) names.emplace_back(member.key());
    }
    CACHALOT_ASSIGN_OR_RETURN(const Expression value,
                              write(*properties.others, kAllKinds, nullptr));
    others = JsonText::Member{text_.text_other_than(names), value, false};
  }
  return text_.object(members, others);
}

Result<GrammarSource> json_schema_grammar(const json::value& schema) {
  GrammarSource source;
  const RuleId root = source.add_rule("schema");
  source.set_max_nesting(kMaxJsonNesting);
  JsonText text(source);
  JsonSchemaWriter writer(source, text, schema);
  CACHALOT_ASSIGN_OR_RETURN(const Expression body, writer.write(schema, "schema"));
  source.set_body(root, body);
  CACHALOT_RETURN_IF_ERROR(writer.finish());
  return source;
}

GrammarSource json_object_grammar() {
  GrammarSource source;
  const RuleId root = source.add_rule("object");
  source.set_max_nesting(kMaxJsonNesting);
  JsonText text(source);
  source.set_body(root, text.any_object());
  return source;
}

}  // namespace cachalot::grammar
