#include "post/config_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/closest.h"

namespace cachalot::post {

ConfigTable::ConfigTable(const json::object& object, const train::ConfigTree& tree,
                         std::string path)
    : object_(object),
      tree_(tree),
      path_(std::move(path)),
      origin_(train::origin_of(tree.origins, path_)),
      prefix_(path_.empty() ? "" : path_ + "."),
      fields_(object, origin_, prefix_) {}

formats::JsonFields& ConfigTable::key(const char* name) {
  known_.emplace_back(name);
  return fields_;
}

void ConfigTable::tables(const char* name, const std::function<void(ConfigTable&)>& read) {
  const json::value* array = key(name).find(name);
  if (array == nullptr || !array->is_array() || array->get_array().empty()) {
    fields_.fail(name, "an array of tables", array == nullptr ? "none" : "another value");
    return;
  }
  size_t place = 0;
  for (const json::value& value : array->get_array()) {
    const std::string path = fmt::format("{}{}.{}", prefix_, name, place++);
    if (!value.is_object()) {
      add_error(invalid_argument(
          fmt::format("{}: expected a table, found {}", path, formats::json_excerpt(value))));
      continue;
    }
    ConfigTable table(value.get_object(), tree_, path);
    read(table);
    if (const Status status = table.finish(); !status.ok()) add_error(status);
  }
}

Status ConfigTable::finish() {
  for (const auto& [name, value] : object_) {
    if (std::ranges::find(known_, std::string_view(name)) != known_.end()) continue;
    const std::string near = closest(std::string(name), known_);
    fields_.fail(name, near.empty() ? "a known key" : fmt::format("a known key (\"{}\"?)", near),
                 fmt::format("\"{}\"", std::string_view(name)));
  }
  std::vector<Status> errors = more_errors_;
  if (const Status status = fields_.status(); !status.ok()) errors.insert(errors.begin(), status);
  return formats::joined(errors);
}

}  // namespace cachalot::post
