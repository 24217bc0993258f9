// The text of an HTML page: what a reader sees, block by block on lines of its own.
// Left out  script, style, head, nav, header, footer, svg, button, comments. `pre` keeps its white
//           space; elsewhere runs of it become one space. List items begin with "- ", headings
//           stand between blank lines, cells of a row between tabs.
// Input     any bytes: unclosed, misnested and broken markup gives some text, in time linear in its
//           length.
// Threads   pure.
#pragma once

#include <string>
#include <string_view>

namespace cachalot::data {

// Lines of `pre` are marked with a leading '\x01', which strip_pre_marks() takes off: what drops
// repeated lines must spare them.
std::string html_text(std::string_view html);
std::string strip_pre_marks(std::string_view text);

}  // namespace cachalot::data
