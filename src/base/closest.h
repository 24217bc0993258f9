// What a misspelt name was probably meant to be.
// Threads  pure.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace cachalot {

// The one of `known` with the fewest edits to `name`, the first of equals, if they are few enough
// to be a slip: at most two, or a third of the name. Else empty.
std::string closest(std::string_view name, std::span<const std::string> known);

}  // namespace cachalot
