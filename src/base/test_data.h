// Where the tests' data lies; only tests link it (tests/test_data.cpp).
#pragma once

#include <string>
#include <string_view>

namespace cachalot {

// The absolute path of a file or folder, given relative to tests/ of the source folder. Nothing is
// opened or checked. Any thread.
std::string test_data(std::string_view path);

}  // namespace cachalot
