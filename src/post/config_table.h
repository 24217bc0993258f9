// A table of a configuration, each of whose keys a reader names once; others are errors that name
// the closest known one.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_fields.h"
#include "train/config_tree.h"

namespace cachalot::post {

// Borrows object and tree. A key that is missing leaves its value as it was.
class ConfigTable {
 public:
  // path: of the table, for errors; empty: the whole configuration.
  ConfigTable(const json::object& object, const train::ConfigTree& tree, std::string path);
  ConfigTable(const ConfigTable&) = delete;
  ConfigTable& operator=(const ConfigTable&) = delete;

  bool has(std::string_view name) const { return object_.contains(name); }
  formats::JsonFields& key(const char* name);
  void integer(const char* name, int64_t* out, int64_t min, int64_t max) {
    key(name).integer(name, out, min, max);
  }
  void real(const char* name, double* out, double min, double max) {
    key(name).real(name, out, min, max);
  }
  void boolean(const char* name, bool* out) { key(name).boolean(name, out); }
  void text(const char* name, std::string* out) { key(name).text(name, out); }
  void texts(const char* name, std::vector<std::string>* out, size_t most) {
    key(name).texts(name, out, most);
  }
  void choice(const char* name, std::string* out, const std::vector<std::string_view>& allowed) {
    key(name).choice(name, out, allowed);
  }
  // An array of at least one table, each of which `read` reads.
  void tables(const char* name, const std::function<void(ConfigTable&)>& read);
  // Something else that is wrong; told after what is wrong with single keys.
  void add_error(Status error) { more_errors_.push_back(std::move(error)); }
  // After the last key: all errors.
  Status finish();

 private:
  const json::object& object_;
  const train::ConfigTree& tree_;
  std::string path_, origin_, prefix_;
  formats::JsonFields fields_;
  std::vector<std::string> known_;
  std::vector<Status> more_errors_;
};

}  // namespace cachalot::post
