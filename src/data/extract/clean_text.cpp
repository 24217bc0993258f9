#include "data/extract/clean_text.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>

namespace cachalot::data {
namespace {

// Bytes of the UTF-8 character that begins here; 0: none does.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 && lead < 0xF5 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
  if (length == 0 || lead >= 0xF5 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(at + 1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool out_of_range = (lead == 0xED && second >= 0xA0) || (lead == 0xF4 && second >= 0x90);
  return overlong || out_of_range ? 0 : length;
}

void append_latin1(std::string& out, unsigned char byte) {
  out += static_cast<char>(0xC0 | byte >> 6);
  out += static_cast<char>(0x80 | (byte & 0x3F));
}

template <typename Fn>
void for_each_line(std::string_view text, Fn&& fn) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    fn(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace

std::string clean_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  int breaks = 2;  // none at the start
  const auto end_line = [&] {
    while (!out.empty() && (out.back() == ' ' || out.back() == '\t')) out.pop_back();
    if (breaks++ < 2) out += '\n';
  };
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte == '\n') {
      end_line();
      ++at;
      continue;
    }
    const size_t length = utf8_length(text, at);
    if (length == 0) {
      append_latin1(out, byte);
      breaks = 0;
      ++at;
      continue;
    }
    if (byte == '\t' || (byte >= 0x20 && byte != 0x7F)) {
      out += text.substr(at, length);
      if (byte != ' ' && byte != '\t') breaks = 0;
    }
    at += length;
  }
  end_line();
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

std::string utf8_of(std::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = utf8_length(bytes, at);
    if (length == 0) {
      append_latin1(out, static_cast<unsigned char>(bytes[at++]));
    } else {
      out += bytes.substr(at, length);
      at += length;
    }
  }
  return out;
}

bool looks_binary(std::string_view bytes) {
  return bytes.substr(0, 4096).find('\0') != std::string_view::npos;
}

void drop_repeated_lines(std::vector<std::string>& texts, int least, char spared) {
  const auto counts_as_menu = [&](std::string_view line) {
    return line.size() >= 2 && line[0] != spared;
  };
  std::unordered_map<std::string_view, int> files_with;
  for (const std::string& text : texts) {
    std::unordered_set<std::string_view> seen;
    for_each_line(text, [&](std::string_view line) {
      if (counts_as_menu(line) && seen.insert(line).second) ++files_with[line];
    });
  }
  std::vector<std::string> kept;
  for (const std::string& text : texts) {
    std::string& out = kept.emplace_back();
    for_each_line(text, [&](std::string_view line) {
      if (counts_as_menu(line) && files_with.at(line) >= least) return;
      out += line;
      out += '\n';
    });
  }
  texts = std::move(kept);
}

}  // namespace cachalot::data
