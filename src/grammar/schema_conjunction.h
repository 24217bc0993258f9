// Schemas that must hold together: a schema with its $ref, allOf and boolean schemas resolved into
// a list of plain ones, and questions to that list.
// Source   JSON Schema 2020-12, the keywords of json_schema.h; those of older drafts with another
//          meaning are refused.
// Threads  One at a time; schemas are borrowed.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::grammar {

// Kinds of JSON values. kNumber alone is a number that need not be whole.
using Kinds = uint32_t;
inline constexpr Kinds kNull = 1, kBoolean = 2, kInteger = 4, kNumber = 8, kString = 16,
                       kArray = 32, kObject = 64, kAllKinds = 127;
Kinds kind_of(const json::value& value);

// Where one of a conjunction's schemas has alternatives that have been chosen from.
struct Facet {
  const json::object* schema = nullptr;
  bool any_of_done = false, one_of_done = false;

  auto operator<=>(const Facet&) const = default;
};

class Conjunction {
 public:
  explicit Conjunction(const json::value& document) : document_(&document) {}

  // Errors name the place: an unknown keyword, a keyword's value of the wrong kind, a $ref that
  // leads nowhere or to itself.
  Status add(const json::value& schema, const std::string& where);

  bool is_never() const { return is_never_; }
  // Something that was added is named by a $ref: only through these can schemas contain themselves.
  bool has_reference() const { return has_reference_; }
  void forget_reference() { has_reference_ = false; }
  const std::vector<Facet>& facets() const { return facets_; }
  std::vector<Facet>& facets() { return facets_; }
  const json::value& document() const { return *document_; }

  // What the "type" keywords leave; where there is none, what the other keywords speak of.
  Kinds kinds() const;
  // What the "type" keywords leave: every other value is refused.
  Kinds declared_kinds() const;
  // A keyword that asks something of values of these kinds; empty if there is none.
  std::string_view keyword_about(Kinds kinds) const;
  // The first facet whose anyOf or oneOf has not been chosen from; facets().size() if none is.
  size_t find_alternatives() const;
  // The values that every "enum" and "const" allows; nothing if there is neither.
  std::optional<std::vector<json::value>> values() const;
  // The keyword in each schema that has it.
  std::vector<const json::value*> all(std::string_view keyword) const;

 private:
  Status add(const json::value& schema, const std::string& where, std::vector<const void*>& path);

  const json::value* document_;
  std::vector<Facet> facets_;
  bool is_never_ = false;
  bool has_reference_ = false;
};

}  // namespace cachalot::grammar
