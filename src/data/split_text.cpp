#include "data/split_text.h"

#include "base/check.h"

namespace cachalot::data {
namespace {

// Where the first piece ends; the text is longer than max_bytes.
size_t first_cut(std::string_view text, size_t max_bytes) {
  const std::string_view room = text.substr(0, max_bytes);
  for (const std::string_view mark : {"\n\n", "\n"}) {
    const size_t at = room.rfind(mark);
    if (at != std::string_view::npos && at + mark.size() > max_bytes / 2) return at + mark.size();
  }
  size_t cut = max_bytes;
  // A UTF-8 character has at most three bytes after its first.
  for (int i = 0; i < 3 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80; ++i) --cut;
  return cut;
}

}  // namespace

std::vector<std::string_view> split_text(std::string_view text, size_t max_bytes) {
  CACHALOT_CHECK(max_bytes >= 4);
  std::vector<std::string_view> pieces;
  while (text.size() > max_bytes) {
    const size_t cut = first_cut(text, max_bytes);
    pieces.push_back(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  if (!text.empty()) pieces.push_back(text);
  return pieces;
}

}  // namespace cachalot::data
