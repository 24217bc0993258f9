// What the first bytes of a file say that it is.
// Threads  pure.
#pragma once

#include <optional>
#include <string_view>

#include "data/document_reader.h"

namespace cachalot::data {

// A name for what is no text: "xz data", "UTF-16 text", ...; nothing where the bytes may be text.
std::optional<std::string_view> not_text(std::string_view head);

// How to read bytes that may be text, by their beginning and what their name promises. `whole`: no
// more bytes follow. Never by_content.
DocumentOptions::Format text_format(std::string_view head, bool whole, std::string_view path);

}  // namespace cachalot::data
