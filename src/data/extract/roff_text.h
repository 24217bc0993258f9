// The text of a manual page in roff's man or mdoc macros, a paragraph a line: nothing is justified
// or broken.
// Left out  comments, preambles, fonts, requests that print nothing, table formats of tbl. Escapes
//           become the characters they stand for.
// Input     any bytes, in time linear in their length.
// Threads   pure.
#pragma once

#include <string>
#include <string_view>

namespace cachalot::data {

std::string roff_text(std::string_view page);

}  // namespace cachalot::data
