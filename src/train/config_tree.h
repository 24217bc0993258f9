// Configuration files as one tree: TOML files laid over each other from left to right, then
// assignments of the command line.
// Source  design.md 2 (config is TOML with left-to-right overlays and --a.b=c).
// Overlay  tables merge key by key; everything else, arrays of tables too, replaces what was there.
// Assignments  "a.b=c": c is read as a TOML value, and where it is none taken as a string; a number
//              after a dot is a place in an array.
// Errors  invalid_argument, naming file and line (or the assignment), what was expected and what
//         was found. Any bytes are safe to give; those that are not UTF-8 are refused.
// Threads  pure.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::train {

// Of "a.b": "run.toml:12", "--a.b=c"; of a table, what gave some of it last. What is replaced
// leaves none.
using Origins = std::map<std::string, std::string>;

struct ConfigTree {
  json::object root;
  Origins origins;
};

// Where "a.b" comes from: where it is given, else where the nearest table around it is, else
// "configuration".
std::string origin_of(const Origins& origins, std::string_view path);
// "a.b" of "a" and "b", which is quoted where TOML needs it; of "" and "b" it is "b".
std::string path_below(std::string_view table, std::string_view key);
// An error "a.b: expected ..." with the origin of a.b before it, printable.
Status located(const Status& error, const Origins& origins);
// The error in UTF-8 that a terminal only shows: control characters escaped ("\u007f"), other bytes
// replaced by U+FFFD.
Status printable(const Status& error);

// `origin` names the text in errors.
Result<ConfigTree> parse_config_tree(std::string_view text, const std::string& origin);
void overlay(ConfigTree& base, const ConfigTree& over);
// What stands at "a.b", tables only on the way; null where nothing does.
const json::value* find(const ConfigTree& tree, std::string_view path);
Status assign(ConfigTree& tree, const std::string& assignment);
// "a.b" becomes `value` where the tree says nothing about it.
void set_if_absent(ConfigTree& tree, std::string_view path, json::value value,
                   const std::string& origin);

// All of it: files, then assignments without their leading dashes.
Result<ConfigTree> read_config_tree(std::span<const std::string> files,
                                    std::span<const std::string> assignments);

// The tree as TOML: keys in their order, values before tables. Reading it gives the tree again.
std::string to_toml(const json::object& root);

// "a.b: 1 -> 2" for each key whose values differ, "nothing" where there is none.
std::vector<std::string> config_differences(const json::object& before, const json::object& after);

}  // namespace cachalot::train
