#include "apps/version.h"

#include <fmt/ranges.h>

#include "apps/commit.h"
#include "device/isa.h"

namespace cachalot::apps {

std::string version_text() {
  std::vector<std::string_view> runs;
  for (const device::Isa isa : device::machine_isas()) runs.push_back(device::isa_name(isa));
  return fmt::format("cachalot {} (commit {})\ninstruction sets of this machine: {}",
                     CACHALOT_VERSION, kCommit, fmt::join(runs, ", "));
}

}  // namespace cachalot::apps
