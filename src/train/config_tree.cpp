#include "train/config_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/file.h"
#include "base/python_json.h"
#include "text/dsml_arguments.h"
#include "train/toml.h"

namespace cachalot::train {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int kMaxDepth = 32;  // of tables and arrays
constexpr char kDel = '\x7f';

// The parser, and whoever walks what it makes, calls itself once for each name of a dotted key: the
// names are counted before. Strings and comments are passed over; anything that belongs to no key
// begins the count again.
Status check_key_depth(std::string_view text, const std::string& origin) {
  int64_t line = 1;
  int names = 1;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      const std::string three(3, c);
      const std::string_view quote =
          text.substr(i).starts_with(three) ? std::string_view(three) : text.substr(i, 1);
      for (i += quote.size(); i < text.size() && !text.substr(i).starts_with(quote); ++i) {
        if (text[i] == '\n') ++line;
        if (text[i] == '\n' && quote.size() == 1) break;  // never closed: the parser's to tell
        if (text[i] == '\\' && c == '"') ++i;
      }
      i += quote.size() - 1;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '.') {
      if (++names > kMaxDepth) {
        return invalid_argument(fmt::format("{}:{}: expected a key of at most {} names, found more",
                                            origin, line, kMaxDepth));
      }
    } else if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_' && c != '-' &&
               c != ' ' && c != '\t') {
      names = 1;
      if (c == '\n') ++line;
    }
  }
  return {};
}

class Converter {
 public:
  Converter(const std::string& origin, Origins* origins) : origin_(origin), origins_(origins) {}

  json::object table(const toml::table& table, const std::string& path, int depth = 0) {
    json::object out;
    for (const auto& [key, node] : table) {
      out[std::string(key.str())] = value(node, path_below(path, key.str()), depth);
    }
    return out;
  }
  const Status& status() const { return status_; }

 private:
  json::value value(const toml::node& node, const std::string& path, int depth) {
    if (depth > kMaxDepth) {
      status_ = invalid_argument(
          fmt::format("{}:{}: expected tables and arrays at most {} deep, found more", origin_,
                      node.source().begin.line, kMaxDepth));
      return nullptr;
    }
    if (origins_ != nullptr)
      (*origins_)[path] = fmt::format("{}:{}", origin_, node.source().begin.line);
    if (const auto* v = node.as_table()) return table(*v, path, depth + 1);
    if (const auto* v = node.as_string()) return json::string(v->get());
    if (const auto* v = node.as_integer()) return v->get();
    if (const auto* v = node.as_floating_point()) return v->get();
    if (const auto* v = node.as_boolean()) return v->get();
    if (const auto* v = node.as_array()) {
      json::array out;
      for (const toml::node& element : *v)
        out.push_back(value(element, fmt::format("{}.{}", path, out.size()), depth + 1));
      return out;
    }
    status_ = invalid_argument(
        fmt::format("{}:{}: {}: expected a string, number, boolean, array or table, found a date",
                    origin_, node.source().begin.line, path));
    return nullptr;
  }

  const std::string& origin_;
  Origins* origins_;
  Status status_;
};

void forget_below(Origins& origins, const std::string& path) {
  const std::string inside = path + ".";
  auto it = origins.lower_bound(inside);
  while (it != origins.end() && it->first.starts_with(inside)) it = origins.erase(it);
}

// The origins of what stays; those of `over` come after.
void merge(json::object& base, const json::object& over, const std::string& path,
           Origins& origins) {
  for (const auto& [key, value] : over) {
    const std::string inner = path_below(path, key);
    json::value* old = base.if_contains(key);
    if (old != nullptr && old->is_object() && value.is_object()) {
      merge(old->get_object(), value.get_object(), inner, origins);
    } else {
      base[key] = value;
      forget_below(origins, inner);
    }
  }
}

// The right side of an assignment.
json::value assigned_value(const std::string& text) {
  const toml::parse_result parsed = toml::parse("v = " + text);
  if (parsed && parsed.table().size() == 1) {
    Converter converter(text, nullptr);
    json::object object = converter.table(parsed.table(), "");
    if (converter.status().ok()) return object["v"];
  }
  return json::string(text);
}

bool is_bare_key(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-';
  });
}
// TOML's strings are JSON's, but for DEL.
std::string toml_quoted(std::string_view text) {
  std::string out;
  for (const char c : json_quoted(text)) {
    if (c == kDel) {
      out += "\\u007f";
    } else {
      out += c;
    }
  }
  return out;
}
std::string key_text(std::string_view key) {
  return is_bare_key(key) ? std::string(key) : toml_quoted(key);
}

std::string value_text(const json::value& value);
std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return python_float(value);
}
std::string value_text(const json::value& value) {
  if (value.is_string()) return toml_quoted(value.get_string());
  if (value.is_double()) return number_text(value.get_double());
  std::vector<std::string> parts;
  if (value.is_array()) {
    for (const json::value& element : value.get_array()) parts.push_back(value_text(element));
    return fmt::format("[{}]", fmt::join(parts, ", "));
  }
  if (value.is_object()) {
    for (const auto& [key, element] : value.get_object())
      parts.push_back(fmt::format("{} = {}", key_text(key), value_text(element)));
    return parts.empty() ? "{}" : fmt::format("{{ {} }}", fmt::join(parts, ", "));
  }
  return python_json(value);  // integers, booleans
}

void print_table(const json::object& table, const std::string& path, std::string& out) {
  for (const auto& [key, value] : table) {
    if (!value.is_object()) out += fmt::format("{} = {}\n", key_text(key), value_text(value));
  }
  for (const auto& [key, value] : table) {
    if (!value.is_object()) continue;
    const std::string name = path.empty() ? key_text(key) : path + "." + key_text(key);
    out += fmt::format("\n[{}]\n", name);
    print_table(value.get_object(), name, out);
  }
}

// Values by path; arrays of tables by place.
void flatten(const json::value& value, const std::string& path,
             std::map<std::string, std::string>& out) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.get_object()) flatten(inner, path_below(path, key), out);
    return;
  }
  if (value.is_array() && !value.get_array().empty() && value.get_array()[0].is_object()) {
    const json::array& items = value.get_array();
    for (size_t i = 0; i < items.size(); ++i) flatten(items[i], fmt::format("{}.{}", path, i), out);
    return;
  }
  out[path] = value_text(value);
}

Status assign_text(ConfigTree& tree, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  const auto fail = [&](std::string_view what) {
    return invalid_argument(fmt::format("--{}: expected {}", assignment, what));
  };
  if (text::valid_utf8(assignment) != assignment) return fail("UTF-8, found other bytes");
  if (equals == std::string::npos || path.empty()) return fail("key=value");
  if (std::count(path.begin(), path.end(), '.') >= kMaxDepth) {
    return invalid_argument(fmt::format("--{}...: expected a key of at most {} names, found more",
                                        path.substr(0, 60), kMaxDepth));
  }
  CACHALOT_RETURN_IF_ERROR(
      check_key_depth(assignment.substr(equals + 1), "--" + path.substr(0, 60)));
  const std::string origin = "--" + assignment;
  std::string at_path;
  json::value* at = nullptr;
  json::object* table = &tree.root;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (key.empty()) return fail("names between the dots");
    if (at != nullptr && at->is_array()) {
      size_t place = 0;
      const auto [rest, error] = std::from_chars(key.data(), key.data() + key.size(), place);
      if (error != std::errc() || rest != key.data() + key.size() ||
          place >= at->get_array().size()) {
        return fail(
            fmt::format("a place below {} where it says \"{}\"", at->get_array().size(), key));
      }
      at = &at->get_array()[place];
    } else {
      if (at != nullptr && !at->is_object()) {
        if (!at->is_null()) return fail(fmt::format("a table before \"{}\"", key));
        at->emplace_object();
      }
      table = at == nullptr ? table : &at->get_object();
      at = &(*table)[key];
    }
    at_path = path_below(at_path, key);
    tree.origins[at_path] = origin;
    begin = end + 1;
  }
  *at = assigned_value(assignment.substr(equals + 1));
  forget_below(tree.origins, at_path);
  return {};
}

}  // namespace

std::string origin_of(const Origins& origins, std::string_view path) {
  while (!path.empty()) {
    if (const auto found = origins.find(std::string(path)); found != origins.end())
      return found->second;
    path = path.substr(0, std::max<size_t>(path.rfind('.') + 1, 1) - 1);
  }
  return "configuration";
}

std::string path_below(std::string_view table, std::string_view key) {
  return table.empty() ? key_text(key) : fmt::format("{}.{}", table, key_text(key));
}

Status located(const Status& error, const Origins& origins) {
  if (error.ok()) return error;
  // A key may be followed by what it is part of: "compress_ratios[3]", "n_routed_experts times
  // layers".
  const std::string_view key =
      std::string_view(error.message()).substr(0, error.message().find_first_of(":[ "));
  return printable({error.code(), fmt::format("{}: {}", origin_of(origins, key), error.message())});
}

Status printable(const Status& error) {
  std::string out;
  unsigned char before = 0;
  for (const char c : text::valid_utf8(error.message())) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || c == kDel) {
      out += fmt::format("\\u{:04x}", byte);
    } else if (before == 0xC2 && byte < 0xA0) {  // U+0080 to U+009F
      out.back() = '\\';
      out += fmt::format("u{:04x}", byte);
    } else {
      out += c;
    }
    before = byte;
  }
  return {error.code(), out};
}

Result<ConfigTree> parse_config_tree(std::string_view text, const std::string& origin) {
  CACHALOT_RETURN_IF_ERROR(printable(check_key_depth(text, origin)));
  const toml::parse_result parsed = toml::parse(text, origin);
  if (!parsed) {
    return printable(invalid_argument(fmt::format("{}:{}: expected TOML, found: {}", origin,
                                                  parsed.error().source().begin.line,
                                                  parsed.error().description())));
  }
  ConfigTree tree;
  Converter converter(origin, &tree.origins);
  tree.root = converter.table(parsed.table(), "");
  CACHALOT_RETURN_IF_ERROR(printable(converter.status()));
  return tree;
}

void overlay(ConfigTree& base, const ConfigTree& over) {
  merge(base.root, over.root, "", base.origins);
  for (const auto& [path, origin] : over.origins) base.origins[path] = origin;
}

const json::value* find(const ConfigTree& tree, std::string_view path) {
  const json::object* table = &tree.root;
  while (true) {
    const size_t dot = path.find('.');
    const json::value* value = table->if_contains(path.substr(0, dot));
    if (value == nullptr || dot == std::string_view::npos) return value;
    if (!value->is_object()) return nullptr;
    table = &value->get_object();
    path.remove_prefix(dot + 1);
  }
}

Status assign(ConfigTree& tree, const std::string& assignment) {
  return printable(assign_text(tree, assignment));
}

void set_if_absent(ConfigTree& tree, std::string_view path, json::value value,
                   const std::string& origin) {
  if (find(tree, path) != nullptr) return;
  json::object* table = &tree.root;
  const std::string all(path);
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    json::value& inner = (*table)[path.substr(0, dot)];
    if (!inner.is_object()) {
      if (!inner.is_null()) return;  // the reader tells what is wrong with it
      inner.emplace_object();
    }
    table = &inner.get_object();
    path.remove_prefix(dot + 1);
  }
  (*table)[path] = std::move(value);
  tree.origins[all] = origin;
}

Result<ConfigTree> read_config_tree(std::span<const std::string> files,
                                    std::span<const std::string> assignments) {
  ConfigTree tree;
  for (const std::string& file : files) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(file, kMaxConfigBytes));
    CACHALOT_ASSIGN_OR_RETURN(const ConfigTree over, parse_config_tree(text, file));
    overlay(tree, over);
  }
  for (const std::string& assignment : assignments)
    CACHALOT_RETURN_IF_ERROR(assign(tree, assignment));
  return tree;
}

std::string to_toml(const json::object& root) {
  std::string out;
  print_table(root, "", out);
  return out;
}

std::vector<std::string> config_differences(const json::object& before, const json::object& after) {
  std::map<std::string, std::string> old_values, new_values;
  flatten(before, "", old_values);
  flatten(after, "", new_values);
  std::map<std::string, std::pair<std::string, std::string>> both;
  for (const auto& [path, text] : old_values) both[path] = {text, "nothing"};
  for (const auto& [path, text] : new_values)
    both.try_emplace(path, "nothing", "").first->second.second = text;
  std::vector<std::string> out;
  for (const auto& [path, texts] : both) {
    if (texts.first != texts.second)
      out.push_back(fmt::format("{}: {} -> {}", path, texts.first, texts.second));
  }
  return out;
}

}  // namespace cachalot::train
