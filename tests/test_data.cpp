#include "base/test_data.h"

namespace cachalot {

// The one file whose command line names the source folder: every other object may come from another clone's cache.
std::string test_data(std::string_view path) { return CACHALOT_TEST_DATA "/" + std::string(path); }

}  // namespace cachalot
