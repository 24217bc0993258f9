#include "data/corpus_recipe.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "formats/json_fields.h"

namespace cachalot::data {
namespace {

constexpr size_t kMaxRecipeBytes = size_t{16} << 20;

Result<json::object> read_object(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxRecipeBytes));
  CACHALOT_ASSIGN_OR_RETURN(json::value document, parse_json(text, path, 16));
  if (!document.is_object())
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", path, json_kind_name(document)));
  return std::move(document.get_object());
}

ExtractKind kind_of(const std::string& name) {
  constexpr std::string_view kNames[] = {"text", "html", "roff", "dict", "sword", "pdf"};
  return static_cast<ExtractKind>(std::find(std::begin(kNames), std::end(kNames), name) -
                                  std::begin(kNames));
}

Result<RecipePart> read_part(const json::value& value, const std::string& origin,
                             const std::string& prefix) {
  if (!value.is_object())
    return invalid_argument(
        fmt::format("{}: {}: expected an object, found {}", origin, prefix, json_kind_name(value)));
  formats::JsonFields fields(value.get_object(), origin, prefix);
  RecipePart part;
  std::string kind = "text";
  fields.text("package", &part.package);
  fields.choice("kind", &kind, {"text", "html", "roff", "dict", "sword", "pdf"});
  fields.text("tar", &part.tar);
  fields.texts("include", &part.include, 64);
  fields.texts("exclude", &part.exclude, 64);
  fields.integer("max_bytes", &part.max_bytes, 0, int64_t{1} << 40);
  fields.boolean("held_out", &part.held_out);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  part.kind = kind_of(kind);
  if (part.package.empty() || part.include.empty()) {
    fields.fail("package, include", "a name and at least one pattern", "none");
    return fields.status();
  }
  return part;
}

Result<LockedPackage> read_package(const json::object& packages, const std::string& origin,
                                   const std::string& name) {
  const json::value* value = packages.if_contains(name);
  if (value == nullptr || !value->is_object())
    return invalid_argument(fmt::format(
        "{}: packages: expected {}, found none (tools/lock_corpus adds it)", origin, name));
  const std::string prefix = "packages." + name + ".";
  formats::JsonFields fields(value->get_object(), origin, prefix);
  LockedPackage package;
  fields.text("version", &package.version);
  fields.text("architecture", &package.architecture);
  fields.text("sha256", &package.sha256);
  fields.text("licence", &package.licence);
  fields.boolean("permissive", &package.permissive);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (package.sha256.size() != 64 || package.version.empty()) {
    fields.fail("version, sha256", "a version and 64 hexadecimal digits", package.sha256);
    return fields.status();
  }
  return package;
}

}  // namespace

Result<CorpusRecipe> read_recipe(const std::string& recipes_path, const std::string& lock_path,
                                 const std::string& name) {
  CACHALOT_ASSIGN_OR_RETURN(const json::object recipes, read_object(recipes_path));
  CACHALOT_ASSIGN_OR_RETURN(const json::object lock, read_object(lock_path));
  const json::value* parts = recipes.if_contains(name);
  if (parts == nullptr || !parts->is_array()) {
    std::vector<std::string> known;
    for (const auto& [key, value] : recipes)
      if (value.is_array()) known.emplace_back(key);
    return invalid_argument(fmt::format("{}: expected one of the recipes {}, found \"{}\"",
                                        recipes_path, fmt::join(known, ", "), name));
  }
  const json::value* packages = lock.if_contains("packages");
  if (packages == nullptr || !packages->is_object())
    return invalid_argument(lock_path + ": packages: expected an object, found none");
  CorpusRecipe recipe;
  recipe.name = name;
  for (const json::value& value : parts->get_array()) {
    CACHALOT_ASSIGN_OR_RETURN(
        RecipePart part,
        read_part(value, recipes_path, fmt::format("{}[{}].", name, recipe.parts.size())));
    CACHALOT_ASSIGN_OR_RETURN(recipe.packages[part.package],
                              read_package(packages->get_object(), lock_path, part.package));
    recipe.parts.push_back(std::move(part));
  }
  return recipe;
}

}  // namespace cachalot::data
