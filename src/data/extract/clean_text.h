// What every extracted text passes before it is a document.
// Threads  pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cachalot::data {

// Bytes that are no UTF-8 are read as Latin-1; NUL and other control characters go, but for tab and
// line break; white space at the ends of lines goes; more than two line breaks in a row become two.
std::string clean_text(std::string_view text);

// The same bytes where they are UTF-8, Latin-1 where they are not.
std::string utf8_of(std::string_view bytes);

// Whether it holds a NUL in its first 4096 bytes: no text.
bool looks_binary(std::string_view bytes);

// Drops from all texts the lines that stand in `least` or more of them (menus, footers), but for
// lines of fewer than two characters and those that begin with `spared`.
void drop_repeated_lines(std::vector<std::string>& texts, int least, char spared);

}  // namespace cachalot::data
