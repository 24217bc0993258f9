// Text of a SWORD module from what mod2imp prints: "$$$Genesis 1:1" before each verse, then the
// verse with its markup.
// Threads  pure. Any bytes give some text.
#pragma once

#include <string>
#include <string_view>

namespace cachalot::data {

// A chapter is a paragraph under its name, without footnotes, cross references and titles;
// clean_text() is still to come.
std::string sword_text(std::string_view imp);

}  // namespace cachalot::data
