#include "data/extract/sword_text.h"

#include <algorithm>

#include "data/extract/html_text.h"

namespace cachalot::data {

std::string sword_text(std::string_view imp) {
  std::string out, chapter;
  for (size_t begin = 0; begin < imp.size();) {
    const size_t end = std::min(imp.find('\n', begin), imp.size());
    const std::string_view line = imp.substr(begin, end - begin);
    if (line.starts_with("$$$")) {
      const std::string name(line.substr(3, std::min(line.rfind(':'), line.size()) - 3));
      if (name != chapter) out += "\n\n" + name + "\n\n";
      chapter = name;
    } else if (!line.empty()) {
      // Footnotes and cross references stand in elements of their own.
      std::string verse(line);
      for (const char* element : {"<note", "<title"}) {
        for (size_t at; (at = verse.find(element)) != std::string::npos;) {
          const std::string close = std::string("</") + (element + 1) + ">";
          const size_t stop = verse.find(close, at);
          verse.erase(at, stop == std::string::npos ? std::string::npos : stop + close.size() - at);
        }
      }
      std::string text = html_text(verse);
      std::replace(text.begin(), text.end(), '\n', ' ');
      out += text;
    }
    begin = end + 1;
  }
  return out;
}

}  // namespace cachalot::data
