// Tests of training in a build of the planted faults; --fault=NAME turns one on.
#include <gtest/gtest.h>

#include <cstdio>
#include <string_view>

#include "planted.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    constexpr std::string_view kFault = "--fault=";
    if (!argument.starts_with(kFault) ||
        !cachalot::planted::turn_on(argument.substr(kFault.size()))) {
      std::fprintf(stderr, "expected --fault=NAME of tests/faults/patches, found %s\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
