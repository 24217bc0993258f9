#include "base/test_data.h"

namespace cachalot {

// A file of its own, since its command line names the source folder: the objects of the other tests
// may come from another clone's cache.
std::string test_data(std::string_view path) { return CACHALOT_TEST_DATA "/" + std::string(path); }

}  // namespace cachalot
