#include "base/test_data.h"

#include <cstdlib>

namespace cachalot {

// A file of its own, since its command line names the source folder: the objects of the other tests
// may come from another clone's cache.
// CACHALOT_TEST_DATA in the environment comes first: a test program may be carried to another
// machine.
std::string test_data(std::string_view path) {
  const char* folder = std::getenv("CACHALOT_TEST_DATA");
  return std::string(folder == nullptr ? CACHALOT_TEST_DATA : folder) + "/" + std::string(path);
}

}  // namespace cachalot
