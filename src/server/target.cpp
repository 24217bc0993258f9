#include "server/target.h"

#include <algorithm>

#include "server/ascii.h"

namespace cachalot::server {
namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = to_lower(c);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const int high = hex_value(text[i + 1]);
    const int low = hex_value(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<char>(high << 4 | low));
    i += 2;
  }
  return out;
}

}  // namespace

std::optional<Target> parse_target(std::string_view text) {
  const auto is_refused = [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; };
  if (std::any_of(text.begin(), text.end(), is_refused)) return std::nullopt;
  Target target;
  if (text == "*") {
    target.path = "*";
    return target;
  }
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!equals_ignoring_case(text.substr(0, scheme.size()), scheme)) continue;
    text.remove_prefix(scheme.size());
    const size_t end = std::min(text.find_first_of("/?#"), text.size());
    if (end == 0) return std::nullopt;
    target.host = text.substr(0, end);
    text.remove_prefix(end);
    if (text.empty() || text[0] != '/') {
      target.path = "/";
      if (!text.empty() && text[0] == '?') target.query = text.substr(1, text.find('#') - 1);
      return target;
    }
    break;
  }
  if (text.empty() || text[0] != '/') return std::nullopt;
  text = text.substr(0, text.find('#'));
  const size_t question = text.find('?');
  if (question != std::string_view::npos) target.query = text.substr(question + 1);
  std::optional<std::string> path = percent_decoded(text.substr(0, question));
  if (!path) return std::nullopt;
  while (path->size() > 1 && path->back() == '/') path->pop_back();
  target.path = *std::move(path);
  return target;
}

}  // namespace cachalot::server
