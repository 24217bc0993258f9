// The switches of the planted faults, one for each patch of tests/faults/patches, in a build of the
// patched copies that tests/faults/plant.py makes (library cachalot_faults). The product has none.
#pragma once

#include <span>
#include <string_view>

namespace cachalot::planted {

struct Switch {
  std::string_view fault;  // its patch's name
  bool* on;
};
std::span<const Switch> switches();  // in order of their names

// Turns on this fault alone; with "" none is on. False if there is no such fault: none is on then.
// Not while anything runs that could read a switch.
inline bool turn_on(std::string_view fault) {
  bool found = fault.empty();
  for (const Switch& each : switches()) {
    *each.on = each.fault == fault;
    found |= *each.on;
  }
  return found;
}

}  // namespace cachalot::planted
