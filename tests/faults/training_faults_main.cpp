// Tests of training in a build with switches. --faults lists the switches of training; --fault=NAME
// turns one on, those of the forward pass included.
#include <gtest/gtest.h>

#include <cstdio>
#include <span>
#include <string_view>

#include "base/faults.h"

namespace {

struct Planted {
  cachalot::Fault fault;
  std::string_view name;
};
#define CACHALOT_FAULT_ENTRY(name) {cachalot::Fault::name, #name},
constexpr Planted kTraining[] = {CACHALOT_TRAINING_FAULT_LIST(CACHALOT_FAULT_ENTRY)};
constexpr Planted kForward[] = {CACHALOT_FORWARD_FAULT_LIST(CACHALOT_FAULT_ENTRY)};
#undef CACHALOT_FAULT_ENTRY

bool turn_on(std::string_view name) {
  for (const auto list :
       {std::span<const Planted>(kTraining), std::span<const Planted>(kForward)}) {
    for (const Planted& planted : list) {
      if (planted.name != name) continue;
      cachalot::planted_fault = planted.fault;
      return true;
    }
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    constexpr std::string_view kFault = "--fault=";
    if (argument == "--faults") {
      for (const Planted& planted : kTraining) std::puts(planted.name.data());
      return 0;
    }
    if (!argument.starts_with(kFault) || !turn_on(argument.substr(kFault.size()))) {
      std::fprintf(stderr, "expected --faults or --fault=NAME of base/faults.h, found %s\n",
                   argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
