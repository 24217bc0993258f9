// JSON Schema as a grammar: every text that matches is a document that the schema accepts.
// Keywords type, enum, const, properties, required, additionalProperties, items, prefixItems,
//          minItems, maxItems, minLength, maxLength, pattern, format (date, time, date-time, uuid),
//          minimum, maximum, exclusiveMinimum, exclusiveMaximum (on integers), anyOf, oneOf (of
//          schemas that exclude each other by type, by values, or by a required property's values),
//          allOf, $ref within the document, recursion included; notes (title, ...) are passed over.
// Narrower Documents that the schema accepts and the grammar does not: properties in another order
//          than the schema's; properties that are not declared, unless additionalProperties says so
//          or none are declared; values of other types than the keywords speak of; the limits and
//          white space of json_text.h; keys and enum values spelled with other escapes.
// Errors   unsupported for any other keyword or combination, invalid_argument for a malformed
//          schema, resource_exhausted for one that is too large: each names the place and keyword.
// Threads  One at a time; the schemas are borrowed while the grammar is written.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "grammar/expression.h"
#include "grammar/json_text.h"
#include "grammar/schema_conjunction.h"

namespace cachalot::grammar {

// Nesting of calls that a JSON grammar allows: readers give up at depths not far above it.
inline constexpr int32_t kMaxJsonNesting = 56;

// Strings that stand alone, without quotes.
struct BareStrings {
  Expression any = 0;                                      // one of which nothing is asked
  std::function<Expression(const CodePoints&)> character;  // of those of which something is
  std::function<Expression(std::string_view)> text;        // this one; never() if it cannot stand
};

class JsonSchemaWriter {
 public:
  // `document` is where $ref leads.
  JsonSchemaWriter(GrammarSource& source, JsonText& text, const json::value& document);

  // Values of these kinds that the schema accepts. With `bare`, the kinds are strings only.
  Result<Expression> write(const json::value& schema, const std::string& where,
                           Kinds kinds = kAllKinds, const BareStrings* bare = nullptr);

  struct Property {
    std::string name;
    Conjunction schema;
    bool is_required = false;
    std::string where;
  };
  struct Properties {
    std::vector<Property> declared;     // those that no value satisfies are left out
    std::optional<Property> others;     // what else there may be
    bool others_are_asked_for = false;  // by additionalProperties
    bool is_never = false;
  };
  // The properties of the objects that the schema accepts. Unsupported where it has alternatives.
  Result<Properties> properties(const json::value& schema, const std::string& where);
  Result<Expression> write(const Property& property, Kinds kinds, const BareStrings* bare);

  // Schemas that contain themselves are written as rules; this writes what is left to be written,
  // at the end.
  Status finish();

 private:
  struct Task {
    Conjunction schema;
    std::string where;
    Kinds kinds;
    const BareStrings* bare;
  };
  struct Summary;

  Result<Expression> write(Task task);
  Result<Expression> write_body(const Task& task);
  Result<Expression> write_kinds(const Task& task, Kinds kinds);
  Result<Expression> write_values(const Task& task, const std::vector<json::value>& values);
  Result<Expression> write_integer(const Task& task);
  Result<Expression> write_string(const Task& task);
  Result<Expression> write_array(const Task& task);
  Result<Expression> write_object(const Task& task);
  Result<Expression> write_alternatives(const Task& task, size_t facet, bool is_one_of);
  Result<Properties> properties_of(const Conjunction& schema, const std::string& where);
  Status check_exclusive(const Task& task, const std::vector<Conjunction>& options);
  Result<Summary> summary(const Conjunction& schema, const std::string& where);

  GrammarSource& source_;
  JsonText& text_;
  const json::value& document_;
  using Key = std::tuple<std::vector<Facet>, Kinds, const BareStrings*>;
  std::map<Key, RuleId> rules_;
  std::vector<std::pair<RuleId, Task>> tasks_;
  int64_t work_ = 0;
};

Result<GrammarSource> json_schema_grammar(const json::value& schema);
// Any JSON object.
GrammarSource json_object_grammar();

}  // namespace cachalot::grammar
