// Where the tests' data lies; only tests link it (tests/test_data.cpp).
#pragma once

#include <string>
#include <string_view>

namespace cachalot {

// The path of `path` in tests/ of the source folder.
std::string test_data(std::string_view path);

}  // namespace cachalot
